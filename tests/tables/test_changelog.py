"""The changelog: what is on its way, what follows its acknowledgement, and what does not fit into one batch."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tables.changelog import Changelog, Write
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
