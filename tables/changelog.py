"""Writes the changelog, round after round.

While a round of batches, one for each partition, is on its way to the broker the next one gathers: under load the
batches grow by themselves, and without load a record waits for nobody. A batch has one future and one write into the
local store, however many records it has; with a future for each record and Faust's way of sending them, they were the
larger part of a node run's cost.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias, cast

from aiokafka import AIOKafkaProducer, ConsumerRecord
from aiokafka.errors import ProducerClosed
from aiokafka.structs import RecordMetadata
from faust.types import TP

from streams.exits import stop_process

logger = logging.getLogger(__name__)

Write: TypeAlias = tuple[bytes, bytes | None]
"""Key and value of a row; None deletes it."""
ROUND_SECONDS: Final = 0.01
"""Rounds begin no sooner after one another; as long as the producer lingers for the other topics."""
BUSY_ROUND_SECONDS: Final = 0.025
"""The same, behind a round of `BUSY_WRITES` and more: fewer and larger batches are what counts then."""
BUSY_WRITES: Final = 12
_ASK_AGAIN_SECONDS: Final = 1.0


class Log(Protocol):
    """Reads the changelog."""

    async def ends(self, partitions: Iterable[TP]) -> Mapping[TP, int]:
        """Return the offset behind the last record of each; nothing while the cluster does not answer."""

    def batches(
        self, partition: TP, start: int, end: int
    ) -> AsyncGenerator[tuple[Sequence[ConsumerRecord[bytes, bytes]], int], None]:
        """Read a range in batches, each with the offset behind it."""


class Send(Protocol):
    """Sends records to a partition."""

    async def __call__(self, partition: int, writes: list[Write]) -> tuple[int, Awaitable[int]]:
        """Send the first few, at least one, in their order; return how many, and what to await for their
        acknowledgement: the offset of the first.
        """


@dataclass
class _Partition:
    next: list[Write] = field(default_factory=list)
    thens: deque[tuple[int, Callable[[], None]]] = field(default_factory=deque)
    written: int = 0
    acknowledged: int = 0


class Changelog:
    """What the broker has not acknowledged yet.

    Args:
        send: sends a batch.
        store: called with each acknowledged batch, its partition, and the offset of its last record.
    """

    def __init__(self, send: Send, store: Callable[[int, list[Write], int], None]) -> None:
        self._send = send
        self._store = store
        self._partitions: dict[int, _Partition] = {}
        self._ready: set[int] = set()
        self._began = 0.0
        self._last_round = 0
        self._pump: asyncio.Task[None] | None = None
        self.unacknowledged = 0
        """How many writes the broker has not acknowledged yet."""
        self.acknowledged = 0
        """How many it has acknowledged since the start."""

    def write(self, partition: int, key: bytes, value: bytes | None) -> None:
        """Write a row; it is on its way when this returns, and what is written later is behind it."""
        place = self._partitions.get(partition)
        if place is None:
            place = self._partitions[partition] = _Partition()
        place.next.append((key, value))
        place.written += 1
        self.unacknowledged += 1
        self._ready.add(partition)
        if self._pump is None:
            self._pump = asyncio.get_running_loop().create_task(self._run())

    def then(self, partition: int, call: Callable[[], None]) -> None:
        """Call when all that is written so far of a partition is acknowledged, in the order of these calls; at once
        if it is.
        """
        place = self._partitions.get(partition)
        if place is not None and (place.thens or place.written > place.acknowledged):
            place.thens.append((place.written, call))
        else:
            call()

    def drop(self, partition: int) -> bool:
        """Forget a partition; returns whether something of it was not acknowledged."""
        place = self._partitions.pop(partition, None)
        return place is not None and place.written > place.acknowledged

    @property
    def partitions(self) -> list[int]:
        """The partitions that were written."""
        return list(self._partitions)

    async def _run(self) -> None:
        try:
            while self._ready:
                pause = BUSY_ROUND_SECONDS if self._last_round >= BUSY_WRITES else ROUND_SECONDS
                early = self._began + pause - time.monotonic()
                if early > 0:
                    await asyncio.sleep(early)
                self._began = time.monotonic()
                await self._round()
        except ProducerClosed:
            # The worker has stopped; what is not acknowledged comes again.
            return
        except Exception as error:
            # Going on would leave a hole in the changelog, or in the store behind it.
            stop_process(f"the ledger could not be written: {type(error).__name__}: {error}")
        finally:
            self._pump = None

    async def _round(self) -> None:
        sent: list[tuple[int, _Partition, list[Write], Awaitable[int]]] = []
        for partition in list(self._ready):
            # While one partition is sent another may be written: that goes along.
            self._ready.discard(partition)
            place = self._partitions[partition]
            writes, place.next = place.next, []
            count, offset = await self._send(partition, writes)
            if count < len(writes):
                place.next[:0] = writes[count:]
                self._ready.add(partition)
            sent.append((partition, place, writes[:count], offset))
        self._last_round = sum(len(writes) for _, _, writes, _ in sent)
        for partition, place, writes, offset in sent:
            self._done(partition, place, writes, await offset + len(writes) - 1)

    def _done(self, partition: int, place: _Partition, writes: list[Write], last: int) -> None:
        self._store(partition, writes, last)
        place.acknowledged += len(writes)
        self.unacknowledged -= len(writes)
        self.acknowledged += len(writes)
        # A call may add further ones; those are behind what it has just seen.
        while place.thens and place.thens[0][0] <= place.acknowledged:
            place.thens[0][1]()
            place.thens.popleft()


Find: TypeAlias = Callable[[int, list[Write]], Awaitable[int]]
"""Finds a batch that stands in a partition already: returns the offset of its first record."""


def batches(producer: Callable[[], AIOKafkaProducer], topic: str, find: Find) -> Send:
    """Return what sends closed batches to the partitions of a topic: they wait for no further records.

    A broker that has had a batch before may acknowledge it without an offset; then `find` says where it stands.
    """

    async def send(partition: int, writes: list[Write]) -> tuple[int, Awaitable[int]]:
        connected = producer()
        batch = connected.create_batch()
        count = 0
        for key, value in writes:
            if batch.append(timestamp=None, key=key, value=value) is None:
                break
            count += 1
        if not count:
            raise ValueError(f"the record of row {writes[0][0]!r} is larger than a batch may be")
        batch.close()
        future = await connected.send_batch(batch, topic, partition=partition)
        return count, offset(cast("Awaitable[Any]", future), partition, writes[:count])

    async def offset(sent: Awaitable[RecordMetadata], partition: int, writes: list[Write]) -> int:
        told = cast("int", (await sent).offset)
        return told if told >= 0 else await find(partition, writes)

    return send


def place_of(writes: Sequence[Write], records: Sequence[ConsumerRecord[bytes, bytes]]) -> int | None:
    """Return the offset at which these writes stand one after the other among the records; None where they do not."""
    for at in range(len(records) - len(writes) + 1):
        run = records[at : at + len(writes)]
        if all((one.key, one.value) == write for one, write in zip(run, writes, strict=True)):
            return int(run[0].offset)
    return None


async def found_at(log: Log, tp: TP, start: int, writes: Sequence[Write]) -> int:
    """Return where a batch stands that the broker has had already, by what is in the changelog from `start` on.

    Waits out a cluster that is away. Raises LookupError where the batch is not there.
    """
    end = None
    while end is None:
        end = (await log.ends([tp])).get(tp)
        await asyncio.sleep(_ASK_AGAIN_SECONDS if end is None else 0)
    records: list[ConsumerRecord[bytes, bytes]] = []
    async for some, _ in log.batches(tp, start, end):
        records += some
    found = place_of(writes, records)
    if found is None:
        raise LookupError(f"a batch of {tp.topic}[{tp.partition}] was acknowledged, and is not there from {start} on")
    logger.info("a batch of %s[%d] was there already, at offset %d", tp.topic, tp.partition, found)
    return found
