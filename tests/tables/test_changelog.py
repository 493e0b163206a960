"""The changelog: what is on its way, what follows its acknowledgement, and what does not fit into one batch."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from aiokafka import AIOKafkaProducer, ConsumerRecord
from aiokafka.producer.message_accumulator import BatchBuilder
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from tables import changelog
from tables.changelog import Changelog, Write, batches, found_at
from tests.tables.histories import profile

ROOT = Path(__file__).parents[2]


class Broker:
    """Takes batches of at most `most` records, and acknowledges them when it is told to."""

    def __init__(self, most: int = 1000) -> None:
        self.most = most
        self.log: dict[int, list[Write]] = {}
        self.sent: asyncio.Queue[asyncio.Future[int]] = asyncio.Queue()
        self.stored: list[tuple[int, list[Write], int]] = []
        self.changelog = Changelog(self.send, lambda *batch: self.stored.append(batch))

    async def send(self, partition: int, writes: list[Write]) -> tuple[int, Awaitable[int]]:
        log = self.log.setdefault(partition, [])
        offset: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        offset.add_done_callback(lambda _: None)
        self.sent.put_nowait(offset)
        count = min(self.most, len(writes))
        base = len(log)
        log += writes[:count]

        async def acknowledged() -> int:
            await offset
            return base

        return count, acknowledged()

    async def acknowledge(self, batches: int = 1) -> None:
        """Acknowledge the next batches, as soon as they are sent."""
        for _ in range(batches):
            (await self.sent.get()).set_result(0)

    async def written(self, partition: int = 0) -> None:
        """Wait until all that is written so far is acknowledged."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.changelog.then(partition, partial(done.set_result, None))
        async with asyncio.timeout(10):
            while not done.done():
                await asyncio.wait({done, asyncio.create_task(self.acknowledge())}, return_when="FIRST_COMPLETED")


def row(number: int) -> Write:
    return b"o/%d" % number, b"%d" % number


async def test_what_is_written_while_a_round_is_on_its_way_goes_with_the_next() -> None:
    broker = Broker()
    broker.changelog.write(0, *row(1))
    first = await broker.sent.get()
    for number in (2, 3):
        broker.changelog.write(0, *row(number))
    assert broker.log == {0: [row(1)]}
    assert broker.changelog.unacknowledged == 3
    first.set_result(0)
    await broker.written()
    assert broker.stored == [(0, [row(1)], 0), (0, [row(2), row(3)], 2)]
    assert broker.changelog.unacknowledged == 0


async def test_a_round_takes_all_partitions_along() -> None:
    broker = Broker()
    for partition in (0, 1):
        broker.changelog.write(partition, *row(partition))
    await broker.acknowledge(2)
    await broker.written(1)
    assert broker.stored == [(0, [row(0)], 0), (1, [row(1)], 0)]
    assert sorted(broker.changelog.partitions) == [0, 1]


async def test_what_does_not_fit_into_a_batch_goes_first_with_the_next() -> None:
    broker = Broker(most=2)
    for number in range(3):
        broker.changelog.write(0, *row(number))
    first = await broker.sent.get()
    broker.changelog.write(0, *row(3))
    first.set_result(0)
    await broker.written()
    assert broker.log == {0: [row(number) for number in range(4)]}
    assert broker.stored == [(0, [row(0), row(1)], 1), (0, [row(2), row(3)], 3)]


async def test_a_deletion_is_a_write() -> None:
    broker = Broker()
    broker.changelog.write(0, b"o/1", None)
    await broker.written()
    assert broker.stored == [(0, [(b"o/1", None)], 0)]


async def test_where_nothing_is_on_its_way_the_call_comes_at_once() -> None:
    broker, called = Broker(), list[str]()
    broker.changelog.then(0, lambda: called.append("new"))
    broker.changelog.write(0, *row(1))
    broker.changelog.then(1, lambda: called.append("another partition"))
    broker.changelog.then(0, lambda: called.append("written"))
    assert called == ["new", "another partition"]
    await broker.written()
    broker.changelog.then(0, lambda: called.append("again"))
    assert called[2:] == ["written", "again"]


async def test_calls_keep_their_order_and_those_they_add_come_behind() -> None:
    broker, called = Broker(), list[str]()

    def first() -> None:
        called.append("first")
        broker.changelog.then(0, lambda: called.append("added"))

    broker.changelog.write(0, *row(1))
    broker.changelog.then(0, first)
    broker.changelog.then(0, lambda: called.append("second"))
    await broker.written()
    assert called == ["first", "second", "added"]


async def test_a_call_waits_for_what_was_written_before_it_alone() -> None:
    broker, called = Broker(most=1), list[int]()
    for number in range(3):
        broker.changelog.write(0, *row(number))
        broker.changelog.then(0, lambda number=number: called.append(len(broker.stored) - number))  # type: ignore[misc]
    await broker.written()
    assert called == [1, 1, 1]


async def test_a_call_may_write() -> None:
    broker = Broker()
    broker.changelog.write(0, *row(1))
    broker.changelog.then(0, lambda: broker.changelog.write(0, *row(2)))
    await broker.acknowledge(2)
    await broker.written()
    assert broker.log == {0: [row(1), row(2)]}


async def test_a_partition_is_dropped_with_word_of_what_is_missing() -> None:
    broker = Broker()
    assert not broker.changelog.drop(0)
    broker.changelog.write(0, *row(1))
    await broker.written()
    assert not broker.changelog.drop(0)
    assert broker.changelog.partitions == []
    broker.changelog.write(0, *row(2))
    assert broker.changelog.drop(0)


@profile(60)
@given(steps=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=30), most=st.integers(1, 4))
def test_the_log_and_the_store_are_what_was_written(steps: list[tuple[int, int]], most: int) -> None:
    asyncio.run(_history(steps, most))


async def _history(steps: list[tuple[int, int]], most: int) -> None:
    broker = Broker(most)
    written: dict[int, list[Write]] = {}
    called: dict[int, list[int]] = {}
    for number, (partition, pauses) in enumerate(steps):
        broker.changelog.write(partition, *row(number))
        written.setdefault(partition, []).append(row(number))
        call: Callable[[], None] = partial(called.setdefault(partition, []).append, len(written[partition]))
        broker.changelog.then(partition, call)
        for _ in range(pauses):
            await asyncio.sleep(0)
            while not broker.sent.empty():
                broker.sent.get_nowait().set_result(0)
    for partition in written:
        await broker.written(partition)
    assert broker.log == written
    stored: dict[int, list[Write]] = {}
    for partition, writes, last in broker.stored:
        stored.setdefault(partition, []).extend(writes)
        assert last == len(stored[partition]) - 1
    assert stored == written
    assert called == {partition: list(range(1, len(writes) + 1)) for partition, writes in written.items()}
    assert broker.changelog.unacknowledged == 0


TP0 = TP("changelog", 0)


@dataclass
class Log:
    """What stands in the changelog's partition."""

    records: list[tuple[int, Write]]
    answers: int = 1
    """The call by which it answers."""

    async def ends(self, partitions: Iterable[TP]) -> dict[TP, int]:
        self.answers -= 1
        return {} if self.answers > 0 else dict.fromkeys(partitions, self.records[-1][0] + 1)

    async def batches(
        self, partition: TP, start: int, end: int
    ) -> AsyncGenerator[tuple[Sequence[ConsumerRecord[bytes, bytes]], int], None]:
        for offset, (key, value) in self.records:
            if start <= offset < end:
                one = SimpleNamespace(offset=offset, key=key, value=value)
                yield [cast("ConsumerRecord[bytes, bytes]", one)], offset + 1


def written(*numbers: int, start: int = 0) -> list[tuple[int, Write]]:
    return [(start + place, row(number)) for place, number in enumerate(numbers)]


@pytest.mark.parametrize(
    ("there", "start", "batch", "at"),
    [
        (written(1, 2), 0, (1, 2), 0),
        # What was before it, and behind it, another worker's that writes there, too: the offset tells.
        (written(7, 8, 1, 2), 2, (1, 2), 2),
        (written(7, 1, 2, 9), 0, (1, 2), 1),
        (written(1, 1, 2), 0, (1, 2), 1),
    ],
)
async def test_a_batch_that_was_acknowledged_without_an_offset_is_read_back(
    there: list[tuple[int, Write]], start: int, batch: tuple[int, ...], at: int
) -> None:
    assert await found_at(Log(there), TP0, start, [row(number) for number in batch]) == at


async def test_one_that_is_not_there_is_no_acknowledgement() -> None:
    with pytest.raises(LookupError, match="was acknowledged, and is not there"):
        await found_at(Log(written(1, 3, 2)), TP0, 0, [row(1), row(2)])


async def test_a_cluster_that_does_not_answer_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changelog, "_ASK_AGAIN_SECONDS", 0.001)
    assert await found_at(Log(written(1), answers=5), TP0, 0, [row(1)]) == 0


class Producer:
    """Acknowledges each batch with these offsets."""

    def __init__(self, *offsets: int) -> None:
        self._offsets = list(offsets)
        self.sent: list[int] = []

    def create_batch(self) -> BatchBuilder:
        return BatchBuilder(1000, 0)

    async def send_batch(self, batch: BatchBuilder, topic: str, *, partition: int) -> asyncio.Future[SimpleNamespace]:
        self.sent.append(batch.record_count())
        future: asyncio.Future[SimpleNamespace] = asyncio.get_running_loop().create_future()
        future.set_result(SimpleNamespace(offset=self._offsets.pop(0)))
        return future


async def test_a_duplicate_without_an_offset_ends_no_healthy_worker() -> None:
    """The broker had the second batch before: it says no more than that."""
    producer, asked, stored = Producer(0, -1, 3), list[list[Write]](), list[tuple[int, int]]()

    async def find(partition: int, writes: list[Write]) -> int:
        asked.append(writes)
        return 1

    send = batches(lambda: cast("AIOKafkaProducer", producer), "changelog", find)
    log = Changelog(send, lambda partition, writes, last: stored.append((len(writes), last)))
    for some in ((1,), (2, 3), (4,)):
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for number in some:
            log.write(0, *row(number))
        log.then(0, partial(done.set_result, None))
        await done
    assert stored == [(1, 0), (2, 2), (1, 3)]
    assert asked == [[row(2), row(3)]]


_FAILING = """
import asyncio, sys
from aiokafka.errors import ProducerClosed
from tables.changelog import Changelog

async def refused():
    raise {error}

async def send(partition, writes):
    return 1, refused()

async def main():
    changelog = Changelog(send, lambda *batch: None)
    changelog.write(0, b"o/1", b"1")
    await changelog._pump
    sys.exit(0)

asyncio.run(main())
"""


def _fails_with(error: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    program = [sys.executable, "-c", _FAILING.format(error=error)]
    return subprocess.run(program, capture_output=True, text=True, timeout=60, env=environment, check=False)


def test_a_write_that_fails_ends_the_process() -> None:
    ended = _fails_with("ValueError('no room')")
    assert ended.returncode == 70
    assert ended.stderr == "port-runs: stopped: the ledger could not be written: ValueError: no room\n"


def test_a_producer_that_is_closed_ends_the_writing_alone() -> None:
    ended = _fails_with("ProducerClosed()")
    assert (ended.returncode, ended.stderr) == (0, "")
