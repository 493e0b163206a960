"""How far a worker is behind, held against a log of real lists."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import pytest
from faust.types import TP

from streams import lag as module
from streams.lag import Behind, Ends, Lag
from streams.offsets import EveryOffset
from tests.streams.test_offsets import SPEC, RecordingLog, event, record, stream

ZERO, ONE = TP("t", 0), TP("t", 1)


async def followed(log: RecordingLog) -> EveryOffset:
    offsets = EveryOffset(log)
    await offsets.assigned([ZERO, ONE])
    return offsets


async def test_it_is_what_has_had_no_turn() -> None:
    log = RecordingLog(commits={ZERO: 3, ONE: 5}, end={ZERO: 10, ONE: 5})
    lag = Lag(offsets := await followed(log), log)
    await lag.look()
    assert lag.by_topic() == {"t": 7}
    async for _ in offsets.turns(stream([event(ZERO, 3), event(ZERO, 4)]), SPEC):
        pass
    assert lag.by_topic() == {"t": 5}
    assert lag.answers


async def test_the_worst_partition_and_for_how_long_at_least_its_oldest_record_waits() -> None:
    now = 100.0
    log = RecordingLog(commits={ZERO: 3, ONE: 5}, end={ZERO: 5, ONE: 9})
    lag = Lag(offsets := await followed(log), log, lambda: now)
    assert lag.behind() == {}
    await lag.look()
    now += 5
    log.end[ZERO] = 8
    await lag.look()
    now += 2
    assert lag.behind() == {"t": Behind(9, 0, 5, 7.0)}
    async for _ in offsets.turns(stream([event(ONE, offset) for offset in range(5, 9)]), SPEC):
        pass
    assert lag.behind() == {"t": Behind(5, 0, 5, 7.0)}
    # What was there at the first look has had its turn: the oldest that is left was seen at the second.
    async for _ in offsets.turns(stream([event(ZERO, 3), event(ZERO, 4)]), SPEC):
        pass
    assert lag.behind() == {"t": Behind(3, 0, 3, 2.0)}
    async for _ in offsets.turns(stream([event(ZERO, offset) for offset in range(5, 8)]), SPEC):
        pass
    await lag.look()
    assert lag.behind() == {"t": Behind(0, 0, 0, 0.0)}


def test_ends_that_are_never_reached_do_not_grow_without_bound() -> None:
    now = 0.0
    ends = Ends(lambda: now)
    for number in range(1, 10_000):
        now = float(number)
        ends.saw(ZERO, number, 0)
    assert ends.seconds(ZERO, 0) == 9998.0
    assert sum(map(len, ends._seen.values())) < 1000


async def test_a_record_has_its_turn_until_the_next_is_asked_for() -> None:
    log = RecordingLog(end={ZERO: 2})
    offsets = await followed(log)
    turns = offsets.turns(stream([event(ZERO, 0), event(ZERO, 1)]), SPEC)
    assert not offsets.in_hand("t")
    await anext(turns)
    assert offsets.in_hand("t")
    assert offsets.turns_ended["t"] == 0
    await anext(turns)
    assert (offsets.in_hand("t"), offsets.turns_ended["t"]) == (True, 1)
    assert [turn async for turn in turns] == []
    assert (offsets.in_hand("t"), offsets.turns_ended["t"]) == (False, 2)


async def test_a_record_that_is_read_again_has_one_too() -> None:
    log = RecordingLog(records={ZERO: [record(ZERO, offset) for offset in range(3)]}, end={ZERO: 3})
    offsets = await followed(log)
    seen = [offsets.in_hand("t") async for _ in offsets.catch_up(SPEC, 0)]
    assert seen == [True, True, True]
    assert (offsets.in_hand("t"), offsets.turns_ended["t"]) == (False, 3)


async def test_a_partition_that_went_does_not_count() -> None:
    log = RecordingLog(end={ZERO: 10, ONE: 10})
    lag = Lag(offsets := await followed(log), log)
    await lag.look()
    await offsets.assigned([ONE])
    assert lag.by_topic() == {"t": 10}


async def test_while_kafka_does_not_answer_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.05)
    log = Silent(end={ZERO: 10})
    lag = Lag(await followed(log), log)
    await lag.look()
    assert lag.answers
    log.silent = True
    await lag.look()
    assert (lag.answers, lag.by_topic()) == (False, {})
    log.silent, log.end = False, {}
    await lag.look()
    assert not lag.answers


async def test_without_partitions_nobody_is_asked() -> None:
    lag = Lag(EveryOffset(log := RecordingLog()), log)
    await lag.look()
    assert (lag.answers, lag.by_topic()) == (True, {})


class Silent(RecordingLog):
    """A log that may stop to answer."""

    silent = False

    async def ends(self, partitions: Iterable[TP]) -> Mapping[TP, int]:
        if self.silent:
            await asyncio.Event().wait()
        return await super().ends(partitions)
