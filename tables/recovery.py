"""Faust's recovery, with the ledger's changelog read in bulk.

Faust hands on each record of a changelog by itself, as if it were an event of a stream: some 2,500 a second. Here a
consumer of its own reads up to the end that Faust has asked for, and each batch enters the local store with its offset
in one write. Faust then finds that nothing is left to be read. The consumer of the streams, and what a rebalance does
to the records that it has fetched, has no part in it.

Kept apart, because it leans on the stages of recovery in faust-streaming 0.15.3.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from typing import Any, Protocol, cast

from aiokafka import ConsumerRecord
from faust.tables import recovery as faust_recovery
from faust.types import TP

from streams.worker import Worker
from tables.changelog import Write
from tables.rows import LedgerTable, NotOwnedError

logger = logging.getLogger(__name__)


class Log(Protocol):
    """Reads partitions in bulk."""

    def batches(
        self, partition: TP, start: int, end: int
    ) -> AsyncGenerator[tuple[Iterable[ConsumerRecord[bytes, bytes]], int], None]:
        """Read a range in batches, maybe empty, each with the offset behind it; that of the last one is `end`."""


class Store(Protocol):
    """The local stores of a table."""

    def followed(self, partition: int) -> int:
        """Return the offset up to which the store follows the changelog, -1 for nothing. Raises NotOwnedError."""

    def restore(self, partition: int, writes: list[Write], offset: int) -> None:
        """Write rows of the changelog, and up to which offset the store follows it. Raises NotOwnedError."""


class Recovery(faust_recovery.Recovery):
    """Faust's recovery of the one table."""

    def __init__(self, tables: Any, log: Log, store: Store) -> None:
        super().__init__(tables.app, tables, beacon=tables.beacon, loop=tables.loop)
        self._log = log
        self._store = store

    async def _wait(self, coro: Any, timeout: Any = None) -> None:  # noqa: ASYNC109 - Faust's name
        # Faust takes a stage that did not end in time for one that is done, and would start the streams on a store
        # that lacks rows. A rebalance, or a stop, ends the waiting as before.
        await super()._wait(coro)

    async def _build_offsets(self, consumer: Any, tps: set[TP], destination: Any, title: str) -> None:
        """Called by Faust, which has the ends by now, to learn where the recovery is to begin."""
        await super()._build_offsets(consumer, tps, destination, title)
        if title != "active":
            return
        for tp in sorted(tps):
            start, end = int(destination[tp]) + 1, int(self.active_highwaters.get(tp, -1)) + 1
            try:
                async for offset in restored(tp, start, end, self._log, self._store):
                    destination[tp] = offset
            except NotOwnedError:
                # The next rebalance has begun, and recovers what is left here.
                raise faust_recovery.RebalanceAgain from None

    async def _verify_remaining(self, now: float, stats: Any) -> None:
        # Called every few seconds. Faust's own looks for what it would do itself, and complains that it did not.
        logger.info("%d records of the changelog are still to be recovered", self.active_remaining_total())


def recover_in_bulk(app: Worker, table: LedgerTable) -> None:
    """Have a worker recover its table so. Called before the worker starts."""
    # Faust would make its own at the first use.
    cast("Any", app.tables)._recovery = Recovery(app.tables, app.log_reader, table)


async def restored(tp: TP, start: int, end: int, log: Log, store: Store) -> AsyncIterator[int]:
    """Bring the local store of a changelog's partition up to its end; yield the offset of each step.

    What stops it on the way, a rebalance say, leaves a store that ends sooner, and is true to the changelog so far.

    Args:
        tp: the changelog's partition.
        start: the first offset that is wanted: behind what the store has, and not before the changelog's beginning.
        end: the offset behind the last one that is wanted.
        log: reads the changelog.
        store: the local store.

    Raises NotOwnedError where the partition went meanwhile.
    """
    if store.followed(tp.partition) >= end - 1:
        return
    if start >= end:
        # All of it was deleted: there is nothing to be read, but what is written next follows on this.
        store.restore(tp.partition, [], end - 1)
        return
    began = time.monotonic()
    async with aclosing(log.batches(tp, start, end)) as batches:
        async for records, behind in batches:
            store.restore(tp.partition, [(one.key, one.value) for one in records], behind - 1)
            yield behind - 1
            # Where the next batch is there already nothing else would have its turn.
            await asyncio.sleep(0)
    logger.info("%s[%d]: offsets %d to %d recovered in %.1f s", *tp, start, end - 1, time.monotonic() - began)
