"""Rows of the ledger that are there and cannot be read: set aside, so that all others go on, and told to people."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from tables.rows import RowError

logger = logging.getLogger(__name__)


class RowKind(StrEnum):
    """The rows of the ledger, in the words of the views and of the metric."""

    OPEN = "open node run"
    FINISHED = "finished node run"
    MESSAGE = "message"
    DIGEST = "digest"
    ITEM = "item"
    OWNER = "owner"
    PAUSED = "paused handler"


_KINDS: Final = {
    "o": RowKind.OPEN,
    "f": RowKind.FINISHED,
    "m": RowKind.MESSAGE,
    "d": RowKind.DIGEST,
    "i": RowKind.ITEM,
}
_EFFECTS: Final = {
    RowKind.OPEN: "nothing is done with this node run until a person completes it at Port",
    RowKind.FINISHED: "this node run has ended; what comes again of it goes to the dead letters",
    RowKind.MESSAGE: "those of its items that have not ended are FAILED",
    RowKind.DIGEST: "its node run's messages are read instead",
    RowKind.ITEM: "the item counts as FAILED: whether its handler has succeeded is not known",
    RowKind.OWNER: "the partition is taken over as after a crash",
    RowKind.PAUSED: "the handler stays paused",
}
"""What is done instead of what the row would have said."""


@dataclass(frozen=True)
class UnreadableRow:
    """A row that is there and cannot be read. No value that stands in it is in `why`."""

    partition: int
    key: str
    kind: RowKind
    node_run_id: str | None
    why: str

    @classmethod
    def at(cls, partition: int, key: bytes, why: str) -> UnreadableRow:
        """Return what is known of the row with this key."""
        text = key.decode(errors="replace")
        first, _, rest = text.partition("/")
        if first == "p":
            kind = RowKind.PAUSED if rest.startswith("paused/") else RowKind.OWNER
            return cls(partition, text, kind, None, why)
        return cls(partition, text, _KINDS[first], rest.partition("/")[0], why)

    @property
    def effect(self) -> str:
        """What is done instead."""
        return _EFFECTS[self.kind]

    def __str__(self) -> str:
        return f"row {self.key} of partition {self.partition} cannot be read ({self.why}): {self.effect}"


class UnreadableRowError(RowError):
    """The row of a node run is there and cannot be read: nothing may be done with the node run but by hand."""

    def __init__(self, row: UnreadableRow) -> None:
        self.row = row
        super().__init__(str(row))


class UnwritableRowError(RowError):
    """What an event would write could not be read back. It is not written."""


@dataclass
class UnreadableRows:
    """The unreadable rows that were met in the partitions of this worker."""

    _rows: dict[int, dict[bytes, UnreadableRow]] = field(default_factory=dict)

    def add(self, partition: int, key: bytes, why: str) -> UnreadableRow:
        """Take note of one; it is logged when it is met first."""
        rows = self._rows.setdefault(partition, {})
        if (known := rows.get(key)) is not None:
            return known
        row = rows[key] = UnreadableRow.at(partition, key, why)
        logger.error("ledger: %s", row)
        return row

    def written(self, partition: int, key: bytes) -> None:
        """Take note that a row is written anew, or deleted."""
        if (rows := self._rows.get(partition)) is not None:
            rows.pop(key, None)

    def lost(self, partition: int) -> None:
        """Forget a partition that another worker owns now."""
        self._rows.pop(partition, None)

    def counts(self) -> dict[RowKind, int]:
        """Return how many there are of each kind."""
        found = Counter(row.kind for row in self)
        return {kind: found[kind] for kind in RowKind}

    def __iter__(self) -> Iterator[UnreadableRow]:
        for rows in list(self._rows.values()):
            yield from list(rows.values())
