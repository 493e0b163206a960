"""The ledger's table: one Faust table whose changelog is written first, and whose local store follows it.

One table and not several, because what an event writes must be whole after a crash: the records of one changelog
partition keep their order, so that whoever reads it sees a prefix of the writes. The records of two changelogs do not.

A row is sent to the changelog and kept *pending* in memory; it enters the local store when the broker has acknowledged
it. So the store, too, is a prefix of the changelog at any moment. (Faust itself writes the store at once: after a crash
it may hold rows that the changelog never got, and recovery then puts older records on top of newer rows.)

Kept apart here, because it leans on how faust-streaming 0.15.3 behaves: where the store's partitions are, and the key
under which a store keeps the offset up to which it follows the changelog.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, takewhile
from pathlib import Path
from typing import Any, Final, Protocol, cast

import faust
from aiokafka import AIOKafkaProducer
from faust.types import TP
from faust.types.stores import StoreT
from rocksdict import Rdict, WriteBatch

from streams.exits import stop_process
from streams.topics import LEDGER_TABLE
from streams.worker import Worker
from tables.changelog import Changelog, Write, batches, found_at


class RowError(LookupError):
    """A row cannot be had, or not be written. See its kinds."""


class NotOwnedError(RowError):
    """The partition belongs to another worker now, or to none yet: not the same as "no such row"."""


class Readable(Protocol):
    """Rows of bytes, by partition and key."""

    def get(self, partition: int, key: bytes) -> bytes | None:
        """Return a row, None if there is none. Raises NotOwnedError."""

    def scan(self, partition: int, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Return the rows whose keys begin with `prefix`, in the order of their keys, as they stand at this moment.

        Raises NotOwnedError.
        """


class Rows(Readable, Protocol):
    """Rows that can be written."""

    def put(self, partition: int, key: bytes, value: bytes) -> None:
        """Write a row. Raises NotOwnedError."""

    def delete(self, partition: int, key: bytes) -> None:
        """Delete a row; writes a tombstone even where there is no row. Raises NotOwnedError."""


ROCKSDB_OPTIONS: Final = {
    "write_buffer_size": 2 << 20,
    "max_write_buffer_number": 2,
    "block_cache_size": 4 << 20,
}
"""Per partition. Faust's defaults would take up to 192 MiB of buffers and a cache of 2 GiB for each. Larger ones than
these fill up with finished node runs: eight partitions took 180 MiB more after 300,000 of them, and were no faster."""


logger = logging.getLogger(__name__)
MOST_UNACKNOWLEDGED: Final = 4000
"""Writes; beyond it whoever can wait, waits."""


STORE_SECONDS: Final = 43_200.0
"""Age from which on a local store is not used any more. Half of what `streams.topics` says for how long the changelog
keeps the marks of deleted rows (`delete.retention.ms`): a store that misses some would hold rows that are gone."""


def _open_recent(path_of: Callable[[int], Path], open_store: Callable[[int], Rdict], partition: int) -> Rdict:
    """Open a partition's local store; one that has not been written to for long is deleted first, and read anew."""
    path = path_of(partition)
    written = max((file.stat().st_mtime for file in path.glob("*")), default=None) if path.is_dir() else None
    if written is not None and time.time() - written > STORE_SECONDS:
        logger.warning("the local store of partition %d is old, and is read anew from the changelog", partition)
        shutil.rmtree(path)
    return open_store(partition)


class LedgerTable(faust.Table[bytes, bytes]):
    """A Faust table that is written by partition, changelog first. Not to be written as a mapping."""

    def __init__(self, app: Worker) -> None:
        super().__init__(
            app,
            name=LEDGER_TABLE,
            partitions=app.settings.partitions,
            key_type=bytes,
            value_type=bytes,
            options=dict(ROCKSDB_OPTIONS),
            beacon=app.beacon,
            help="The state of every node run, with its items and messages.",
        )

    def _new_store(self) -> StoreT[bytes, bytes]:
        """Called by Faust when the store is first used; made any earlier, it would create DATA_DIR at the import."""
        store = cast("Any", super()._new_store())
        store._open_for_partition = partial(_open_recent, store.partition_path, store._open_for_partition)
        return cast("StoreT[bytes, bytes]", store)

    def store(self, partition: int) -> Rdict | None:
        """Return the local store of a partition, None where it is not open here."""
        return cast("Rdict | None", cast("Any", self.data)._dbs.get(partition))

    def followed(self, partition: int) -> int:
        """Return the offset up to which the local store follows the changelog; -1 where it holds nothing.

        Raises NotOwnedError where the store is not open here.
        """
        store = self.store(partition)
        if store is None:
            raise NotOwnedError(f"partition {partition} of the ledger is not here")
        offset = cast("bytes | None", store.get(self._offset_key))
        return -1 if offset is None else int(offset)

    def follow(self, partition: int, writes: Sequence[Write], offset: int) -> None:
        """Put what the changelog has acknowledged into the store, and that it follows up to this offset, in one."""
        if self.store(partition) is None:
            stop_process(f"partition {partition} of the ledger went while it was written")
        if offset - len(writes) != self.followed(partition):
            # A worker that stood still, say, and whose last records came after its partition had gone. This store
            # lacks them, and that it does would be hidden by the offset of what follows.
            stop_process(f"partition {partition} of the ledger was written by another worker, too")
        self.restore(partition, writes, offset)

    def restore(self, partition: int, writes: Sequence[Write], offset: int) -> None:
        """Put what the changelog holds behind `followed` up to this offset into the store, in one; compaction may have
        left gaps.

        Raises NotOwnedError where the store is not open here.
        """
        store = self.store(partition)
        if store is None:
            raise NotOwnedError(f"partition {partition} of the ledger is not here")
        batch = WriteBatch(raw_mode=True)
        for key, value in writes:
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        batch.put(self._offset_key, str(offset).encode())
        try:
            store.write(batch)
        except Exception as error:
            # A full disk, say. The next record's offset would hide the hole for ever.
            stop_process(f"the local store of the ledger cannot be written: {type(error).__name__}: {error}")

    @property
    def _offset_key(self) -> bytes:
        return cast("bytes", cast("Any", self.data).offset_key)


class StoredRows:
    """The rows that the changelog has acknowledged: what may be acted on, and shown."""

    def __init__(self, app: Worker, table: LedgerTable) -> None:
        self._app = app
        self._table = table

    def get(self, partition: int, key: bytes) -> bytes | None:
        """Return a row, None if there is none."""
        return cast("bytes | None", self.of(partition).get(key))

    def scan(self, partition: int, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Return the rows under a prefix."""
        rows = cast("Iterator[tuple[bytes, bytes]]", self.of(partition).items(from_key=prefix))
        return takewhile(lambda row: row[0].startswith(prefix), rows)

    def of(self, partition: int) -> Rdict:
        """Return the local store of a partition. Raises NotOwnedError."""
        store = self._table.store(partition)
        if store is None or partition not in self._app.owned:
            raise NotOwnedError(f"partition {partition} of the ledger is not here")
        return store


class LatestRows:
    """The rows as they were written last, acknowledged or not: what the next event is applied to.

    `stored` holds the acknowledged ones.
    """

    def __init__(self, app: Worker) -> None:
        self.table = LedgerTable(app)
        app.tables.add(self.table)
        self.stored = StoredRows(app, self.table)
        self._pending: dict[int, Pending] = {}
        send = batches(lambda: producer_of(app), self.table.changelog_topic_name, self._find)
        self.changelog = Changelog(send, self._acknowledged)
        self._log = app.log_reader
        self._room = asyncio.Event()
        app.on_lost.append(self._lost)
        app.before_rebalance.append(self.written)

    def get(self, partition: int, key: bytes) -> bytes | None:
        """Return a row, None if there is none."""
        store = self.stored.of(partition)
        pending = self._pending.get(partition)
        if pending is not None and key in pending:
            return pending[key]
        return cast("bytes | None", store.get(key))

    def scan(self, partition: int, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Return the rows under a prefix."""
        stored = self.stored.scan(partition, prefix)
        pending = self._pending.get(partition)
        return stored if pending is None else merged(stored, pending.under(prefix))

    def put(self, partition: int, key: bytes, value: bytes) -> None:
        """Write a row."""
        self._write(partition, key, value)

    def delete(self, partition: int, key: bytes) -> None:
        """Delete a row."""
        self._write(partition, key, None)

    def _write(self, partition: int, key: bytes, value: bytes | None) -> None:
        self.stored.of(partition)
        self.changelog.write(partition, key, value)
        self._pending.setdefault(partition, Pending()).add(key, value)

    def then(self, partition: int, call: Callable[[], None]) -> None:
        """Call when all rows of the partition written so far are acknowledged; these calls keep their order."""
        self.changelog.then(partition, call)

    async def room(self) -> None:
        """Wait while very many writes are not acknowledged yet."""
        while self.changelog.unacknowledged > MOST_UNACKNOWLEDGED:
            self._room.clear()
            await self._room.wait()

    async def written(self) -> None:
        """Wait until everything written so far is acknowledged."""
        waiting = []
        for partition in self.changelog.partitions:
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.changelog.then(partition, partial(resolve, done))
            waiting.append(done)
        await asyncio.gather(*waiting)

    async def _find(self, partition: int, writes: list[Write]) -> int:
        tp = TP(self.table.changelog_topic_name, partition)
        return await found_at(self._log, tp, self.table.followed(partition) + 1, writes)

    def _acknowledged(self, partition: int, writes: list[Write], offset: int) -> None:
        self.table.follow(partition, writes, offset)
        pending = self._pending[partition]
        for key, _ in writes:
            pending.done(key)
        self._room.set()

    def _lost(self, partition: int) -> None:
        if self.changelog.drop(partition):
            # Whether its new owner reads these records is not known. After a restart all is read anew.
            stop_process(f"partition {partition} of the ledger went while it was written")
        self._pending.pop(partition, None)


def resolve(done: asyncio.Future[None]) -> None:
    """Set a future that says only that something is done; whoever waited for it may have been cancelled."""
    if not done.done():
        done.set_result(None)


def producer_of(app: Worker) -> AIOKafkaProducer:
    """Return the producer that Faust's sends, too, go through. It is there while the app runs."""
    return cast("AIOKafkaProducer", cast("Any", app.producer)._producer)


class Pending:
    """The rows of one partition that were sent to the changelog and are not yet acknowledged."""

    def __init__(self) -> None:
        # By what follows the first slash of the key, the node-run id: a scan of one node run looks at its own only.
        self._rows: dict[bytes, dict[bytes, tuple[bytes | None, int]]] = {}

    def __contains__(self, key: bytes) -> bool:
        return key in self._rows.get(_owner(key), ())

    def __getitem__(self, key: bytes) -> bytes | None:
        return self._rows[_owner(key)][key][0]

    def add(self, key: bytes, value: bytes | None) -> None:
        """Take note of a write; None deletes the row."""
        rows = self._rows.setdefault(_owner(key), {})
        _, writes = rows.get(key, (None, 0))
        rows[key] = (value, writes + 1)

    def done(self, key: bytes) -> None:
        """Take note that the oldest write of the row is acknowledged, and in the store."""
        rows = self._rows[_owner(key)]
        value, writes = rows.pop(key)
        if writes > 1:
            rows[key] = (value, writes - 1)
        elif not rows:
            del self._rows[_owner(key)]

    def under(self, prefix: bytes) -> list[tuple[bytes, bytes | None]]:
        """Return the writes under a prefix, in the order of their keys."""
        whole_owner = prefix.count(b"/") > 1
        places: Iterable[dict[bytes, tuple[bytes | None, int]]]
        places = (self._rows.get(_owner(prefix), {}),) if whole_owner else self._rows.values()
        rows = chain.from_iterable(place.items() for place in places)
        return sorted((key, value) for key, (value, _) in rows if key.startswith(prefix))


def _owner(key: bytes) -> bytes:
    return key.split(b"/", 2)[1]


def merged(
    stored: Iterator[tuple[bytes, bytes]], pending: list[tuple[bytes, bytes | None]]
) -> Iterator[tuple[bytes, bytes]]:
    """Yield stored rows with the pending writes over them; both are in the order of their keys."""
    writes = iter(pending)
    write = next(writes, None)
    for row in stored:
        while write is not None and write[0] < row[0]:
            if write[1] is not None:
                yield write[0], write[1]
            write = next(writes, None)
        if write is None or write[0] != row[0]:
            yield row
    while write is not None:
        if write[1] is not None:
            yield write[0], write[1]
        write = next(writes, None)
