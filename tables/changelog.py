"""Writes the changelog of one partition, batch after batch.

While a batch is on its way to the broker the next one gathers: under load the batches grow by themselves, and without
load a record waits for nobody. A batch has one future and one write into the local store, however many records it has;
with a future for each record and Faust's way of sending them, they were the larger part of a node run's cost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, TypeAlias, cast

from aiokafka import AIOKafkaProducer
from aiokafka.errors import ProducerClosed
from aiokafka.structs import RecordMetadata

from streams.exits import stop_process

Write: TypeAlias = tuple[bytes, bytes | None]
"""Key and value of a row; None deletes it."""


class Send(Protocol):
    """Sends records to one partition, in their order."""

    def __call__(self, writes: list[Write]) -> Awaitable[tuple[int, int]]:
        """Send the first few, at least one; return how many when the broker has them, and the offset of the first."""


class ChangelogPartition:
    """The writes of one partition that the broker has not acknowledged yet.

    Args:
        send: sends a batch.
        store: called with each acknowledged batch and the offset of its last record.
    """

    def __init__(self, send: Send, store: Callable[[list[Write], int], None]) -> None:
        self._send = send
        self._store = store
        self._next: list[Write] = []
        self._thens: list[tuple[int, Callable[[], None]]] = []
        self._written = self._acknowledged = 0
        self._pump: asyncio.Task[None] | None = None

    @property
    def unacknowledged(self) -> int:
        """How many writes the broker has not acknowledged yet."""
        return self._written - self._acknowledged

    def write(self, key: bytes, value: bytes | None) -> None:
        """Write a row; it is on its way when this returns, and what is written later is behind it."""
        self._next.append((key, value))
        self._written += 1
        if self._pump is None:
            self._pump = asyncio.get_running_loop().create_task(self._run())

    def then(self, call: Callable[[], None]) -> None:
        """Call when all that is written so far is acknowledged, in the order of these calls; at once if it is."""
        if self._thens or self.unacknowledged:
            self._thens.append((self._written, call))
        else:
            call()

    async def _run(self) -> None:
        try:
            while self._next:
                writes, self._next = self._next, []
                while writes:
                    count, offset = await self._send(writes)
                    self._done(writes[:count], offset + count - 1)
                    del writes[:count]
        except ProducerClosed:
            # The worker has stopped; what is not acknowledged comes again.
            return
        except Exception as error:
            # Going on would leave a hole in the changelog, or in the store behind it.
            stop_process(f"the ledger could not be written: {type(error).__name__}: {error}")
        finally:
            self._pump = None

    def _done(self, writes: list[Write], last: int) -> None:
        self._store(writes, last)
        self._acknowledged += len(writes)
        ready = 0
        # A call may add further ones; those are behind what it has just seen.
        while ready < len(self._thens) and self._thens[ready][0] <= self._acknowledged:
            self._thens[ready][1]()
            ready += 1
        del self._thens[:ready]


_TOO_LARGE: Final = "the record of row %r is larger than a batch may be"


def batches(producer: Callable[[], AIOKafkaProducer], topic: str, partition: int) -> Send:
    """Return what sends batches to a partition of a topic, closed ones that wait for no further records."""

    async def send(writes: list[Write]) -> tuple[int, int]:
        connected = producer()
        batch = connected.create_batch()
        count = 0
        for key, value in writes:
            if batch.append(timestamp=None, key=key, value=value) is None:
                break
            count += 1
        if not count:
            raise ValueError(_TOO_LARGE % writes[0][0])
        batch.close()
        future = await connected.send_batch(batch, topic, partition=partition)
        sent = cast("RecordMetadata", await cast("Any", future))
        return count, sent.offset

    return send
