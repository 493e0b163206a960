"""Up to where a partition may be committed, with gaps of any width."""

from __future__ import annotations

import tracemalloc

import pytest
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from streams.acknowledged import Gaps, passed
from streams.transport import Consumer, _ReadOffsets

T0 = TP("t", 0)
WIDE = 20_000_000


def gaps(*ranges: tuple[int, int]) -> Gaps:
    made = Gaps()
    for start, end in ranges:
        made.add(start, end)
    return made


@pytest.mark.parametrize(
    ("acknowledged", "ranges", "committed", "result"),
    [
        ([], [], None, None),
        ([], [(3, 9)], 3, None),
        ([7, 8, 9], [], None, (10, 3)),
        ([7, 8, 10], [], 7, (9, 2)),
        ([9], [], 7, None),
        ([8], [], 7, (9, 1)),
        ([10], [(7, 10)], 7, (11, 1)),
        ([10], [(8, 10)], 7, (11, 1)),
        ([10], [(9, 10)], 7, None),
        ([4, 9, 10, 20], [(5, 9), (11, 20)], 4, (21, 4)),
        # The record behind a gap is none of it: until it is acknowledged nothing passes it.
        ([4, 10], [(5, 9)], 4, (9, 1)),
        ([11], [(5, 10)], 5, None),
    ],
)
def test_what_may_be_committed(
    acknowledged: list[int], ranges: list[tuple[int, int]], committed: int | None, result: tuple[int, int] | None
) -> None:
    assert passed(acknowledged, gaps(*ranges), committed) == result


@given(st.sets(st.integers(1, 40), min_size=1), st.sets(st.integers(0, 40)), st.integers(0, 20))
def test_no_commit_passes_a_record_that_is_not_acknowledged(held: set[int], done: set[int], begin: int) -> None:
    """Records at some offsets, the others are gaps; some records are acknowledged."""
    records = sorted(offset for offset in held if offset >= begin)
    made, last = Gaps(), begin - 1
    for offset in records:
        made.add(last + 1, offset)
        last = offset
    acknowledged = [offset for offset in records if offset in done]
    found = passed(acknowledged, made, begin)
    open_ones = [offset for offset in records if offset not in done]
    first_open = min(open_ones, default=last + 1)
    if found is not None and open_ones != [begin]:
        # Of the very first offset Faust cannot say whether it is a gap.
        assert begin < found[0] <= first_open or first_open == begin
    if not open_ones and records:
        assert found == (last + 1, len(records))


class Followed(Consumer):
    """Faust's consumer with nothing but its books."""

    def __init__(self, committed: int | None) -> None:
        self._gap = {T0: Gaps()}
        self._acked, self._acked_index = {T0: []}, {T0: set()}
        self._committed_offset = {T0: committed}
        self._read_offset = _ReadOffsets(lambda: None)

    def acknowledge(self, *offsets: int) -> None:
        self._acked[T0].extend(offsets)
        self._acked_index[T0].update(offsets)


async def test_a_gap_of_millions_costs_what_one_of_two_costs() -> None:
    consumer = Followed(10)
    consumer.acknowledge(10)
    tracemalloc.start()
    await consumer._add_gap(T0, 11, WIDE)
    # Once that record is acknowledged, and not before.
    assert consumer._new_offset(T0) in (11, WIDE)
    consumer._committed_offset[T0] = 11
    assert consumer._new_offset(T0) is None
    consumer.acknowledge(WIDE)
    assert consumer._new_offset(T0) == WIDE + 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000
    assert (consumer._acked[T0], consumer._acked_index[T0]) == ([], set())


async def test_the_record_behind_a_gap_is_not_done_with_it() -> None:
    consumer = Followed(10)
    await consumer._add_gap(T0, 11, 15)
    consumer.acknowledge(10, 16)
    assert consumer._new_offset(T0) == 15


async def test_a_gap_behind_offset_0_is_seen() -> None:
    offsets = _ReadOffsets(lambda: None)
    offsets[T0] = 0
    assert offsets[T0] == 0
    # Faust asks so.
    assert offsets[T0]
    assert 3 - (offsets[T0] or 0) == 3


def test_gaps_that_are_behind_are_forgotten() -> None:
    made = gaps((0, 5), (7, 9), (20, WIDE))
    assert (made.beyond(7), len(made)) == (9, 2)
    made.leave_behind(WIDE)
    assert len(made) == 0
    made.add(3, 2)
    assert len(made) == 0
