"""Rows in memory, with the changelog that they write."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

Write: TypeAlias = tuple[bytes, bytes | None]
"""A changelog record: a key with its value, None where the row is deleted."""


class DictRows:
    """`tables.rows.Rows` of one partition. `written` is its changelog, in order, deletions included.

    `store` is what a surviving local store holds, where that is not the same as the changelog. `scanned` counts the
    rows that scans found.
    """

    def __init__(self, changelog: Sequence[Write] = (), store: Iterable[Write] | None = None) -> None:
        self._rows: dict[bytes, bytes] = {}
        self.scanned = 0
        self.written: list[Write] = []
        for write in changelog if store is None else store:
            self.apply(*write)
        self.written = list(changelog)

    def get(self, partition: int, key: bytes) -> bytes | None:
        return self._rows.get(key)

    def scan(self, partition: int, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        found = sorted((key, value) for key, value in self._rows.items() if key.startswith(prefix))
        self.scanned += len(found)
        return iter(found)

    def put(self, partition: int, key: bytes, value: bytes) -> None:
        self.apply(key, value)

    def delete(self, partition: int, key: bytes) -> None:
        self.apply(key, None)

    def keys(self, prefix: bytes) -> list[bytes]:
        return [key for key, _ in self.scan(0, prefix)]

    def apply(self, key: bytes, value: bytes | None) -> None:
        """Write a row, or delete it."""
        self.written.append((key, value))
        if value is None:
            self._rows.pop(key, None)
        else:
            self._rows[key] = value
