"""The parser of fetched records: names of headers that are not UTF-8."""

from collections.abc import Iterator
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import CorruptRecordException
from aiokafka.record.memory_records import MemoryRecords

from streams.transport import Fetched, PartitionRecords
from tests.batches import GZIP, NO_UTF_8, NONE, Unsent, batch

# Not what a worker of the same process may have put in its place.
[AIOKafkas] = PartitionRecords.__bases__
REPLACED = NO_UTF_8.decode(errors="replace")


def records(raw: bytes, start: int = 0) -> Iterator[Any]:
    """The records that were fetched from an offset on, as our consumers read them."""
    found: Iterator[Any] = PartitionRecords(TopicPartition("t", 0), Fetched(raw), None, start, None, None, True, 0)
    return found


def read(raw: bytes, start: int = 0) -> list[tuple[int, bytes | None, str]]:
    return [(one.offset, one.value, one.headers[0][0]) for one in records(raw, start)]


def values(*bad: int, count: int, start: int = 0) -> list[Unsent]:
    """Records with their offsets as values; those at these offsets have bad names."""
    return [Unsent(b"%d" % n * 50, NO_UTF_8 if n in bad else b"a") for n in range(start, start + count)]


def expected(*bad: int, count: int, start: int = 0) -> list[tuple[int, bytes | None, str]]:
    return [(n, b"%d" % n * 50, REPLACED if n in bad else "a") for n in range(start, count)]


@pytest.mark.parametrize("compression", [NONE, GZIP])
def test_good_records_are_read_as_aiokafka_reads_them(compression: int) -> None:
    raw = b"".join(batch(values(count=7, start=start), start, compression) for start in (0, 7, 14))
    plain = AIOKafkas(TopicPartition("t", 0), MemoryRecords(raw), None, 0, None, None, True, 0)
    assert list(records(raw)) == list(plain)


@pytest.mark.parametrize("compression", [NONE, GZIP])
@pytest.mark.parametrize("bad", [(0,), (6,), (13,), (20,), (6, 7), (2, 9, 16), tuple(range(21))])
def test_a_name_that_is_no_utf_8_is_replaced(bad: tuple[int, ...], compression: int) -> None:
    batches = [batch(values(*bad, count=7, start=start), start, compression) for start in (0, 7, 14)]
    for start in range(21):
        # A broker begins with the batch that has the offset.
        assert read(b"".join(batches[start // 7 :]), start) == expected(*bad, count=21, start=start)


def test_nothing_else_of_such_a_record_is_changed() -> None:
    [good] = records(batch([Unsent(b"\xff\x00", b"a")]))
    [bad] = records(batch([Unsent(b"\xff\x00", NO_UTF_8)]))
    assert (bad.value, bad.headers) == (b"\xff\x00", ((REPLACED, b"1"),))
    bad.headers = good.headers
    assert bad == good
    [tombstone] = records(batch([Unsent(None, NO_UTF_8)]))
    assert tombstone.value is None


def test_where_offsets_are_missing() -> None:
    raw = batch(values(6, count=3, start=5), 5) + batch(values(20, count=2, start=20), 20)
    assert [offset for offset, *_ in read(raw)] == [5, 6, 7, 20, 21]


def test_a_batch_that_was_cut_off_is_left_for_the_next_fetch() -> None:
    raw = batch(values(1, count=3)) + batch(values(count=3, start=3), 3)[:-1]
    assert read(raw) == expected(1, count=3)


def test_many_bad_batches_cost_no_more_than_their_number() -> None:
    raw = b"".join(batch([Unsent(b"", NO_UTF_8)], start) for start in range(20_000))
    assert sum(1 for _ in records(raw)) == 20_000


def test_damaged_bytes_are_still_an_error() -> None:
    damaged = bytearray(batch(values(count=3, start=3), 3))
    damaged[-1] ^= 1
    found = records(batch(values(1, count=3)) + bytes(damaged))
    assert [one.offset for one in (next(found), next(found), next(found))] == [0, 1, 2]
    with pytest.raises(CorruptRecordException, match="Invalid CRC"):
        next(found)


def test_aiokafka_cannot_read_them_still() -> None:
    """Where this fails, what `streams/transport.py` does about it can go."""
    raw = batch(values(1, count=3))
    plain = AIOKafkas(TopicPartition("t", 0), MemoryRecords(raw), None, 0, None, None, True, 0)
    with pytest.raises(UnicodeDecodeError):
        list(plain)
