"""The ledger's table: one Faust table, read by partition and key, written in the turn of an event.

One table and not several, because what an event writes must be whole after a crash: the records of one changelog
partition keep their order, so that a reader of it sees a prefix of the writes. The records of two changelogs do not.

Kept apart here, because it leans on how faust-streaming 0.15.3 behaves: a write goes to the partition of Faust's
current event, and a plain read also searches partitions that this worker does not own.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any, Final, Protocol, cast

import faust
from faust.types import FutureMessage
from rocksdict import Rdict

from streams.topics import LEDGER_TABLE
from streams.worker import Worker


class NotOwnedError(LookupError):
    """The partition belongs to another worker now, or to none yet: not the same as "no such row"."""


class Rows(Protocol):
    """Rows of bytes, by partition and key."""

    def get(self, partition: int, key: bytes) -> bytes | None:
        """Return a row, None if there is none. Raises NotOwnedError."""

    def scan(self, partition: int, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the rows whose keys begin with `prefix`, in the order of their keys. Raises NotOwnedError."""

    def put(self, key: bytes, value: bytes) -> None:
        """Write a row, in the turn of an event of its partition."""

    def delete(self, key: bytes) -> None:
        """Delete a row, in the turn of an event of its partition; writes a tombstone even where there is no row."""


class LedgerTable(faust.Table[bytes, bytes]):
    """A Faust table that keeps the futures of its changelog records until somebody takes them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sent: list[asyncio.Future[object]] = []

    def send_changelog(self, *args: Any, **kwargs: Any) -> FutureMessage:
        """Called by Faust for every write."""
        future = super().send_changelog(*args, **kwargs)
        self._sent.append(cast("asyncio.Future[object]", future))
        return future

    def take_sent(self) -> list[asyncio.Future[object]]:
        """Return the futures of the changelog records written since the last call; each is done when acknowledged."""
        sent, self._sent = self._sent, []
        return sent


ROCKSDB_OPTIONS: Final = {
    "write_buffer_size": 8 << 20,
    "max_write_buffer_number": 2,
    "block_cache_size": 16 << 20,
}
"""Per partition. Faust's defaults would take up to 192 MiB of buffers and a cache of 2 GiB for each."""


class TableRows:
    """`Rows` in the ledger's table."""

    def __init__(self, app: Worker) -> None:
        self._app = app
        self.table = LedgerTable(
            app,
            name=LEDGER_TABLE,
            partitions=app.settings.partitions,
            key_type=bytes,
            value_type=bytes,
            options=dict(ROCKSDB_OPTIONS),
            beacon=app.beacon,
            help="The state of every node run, with its items and messages.",
        )
        app.tables.add(self.table)

    def get(self, partition: int, key: bytes) -> bytes | None:
        """Return a row, None if there is none."""
        return cast("bytes | None", self._store(partition).get(key))

    def scan(self, partition: int, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Return the rows under a prefix, as they stand at this moment."""
        rows = cast("Iterator[tuple[bytes, bytes]]", self._store(partition).items(from_key=prefix))
        return itertools.takewhile(lambda row: row[0].startswith(prefix), rows)

    def put(self, key: bytes, value: bytes) -> None:
        """Write a row."""
        self.table[key] = value

    def delete(self, key: bytes) -> None:
        """Delete a row."""
        del self.table[key]

    def _store(self, partition: int) -> Rdict:
        store = cast("Any", self.table.data)._dbs.get(partition)
        if store is None or partition not in self._app.owned:
            raise NotOwnedError(f"partition {partition} of the ledger is not here")
        return cast("Rdict", store)
