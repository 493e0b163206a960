"""What stood at which offset of a partition, in bounded memory: to know its log again, and what in it is new.

A log that lost its end, or all of it, gives the same offsets to other records. So a record has been seen where the same
offset held the same content. The latest records are remembered one by one; of older ones a few, the sparser the older
they are. Those few go with each commit into its metadata, so that the next reader of the partition knows them, too.

A log only ever differs from some offset on: where a landmark stands as it stood, so does everything before it.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

REMEMBERED: Final = 4096
"""Records of a partition that are remembered one by one: twice as many as may wait for their acknowledgement."""
_SPACING: Final = 4
"""Landmarks are so many times sparser with each step back."""
_GAP: Final = 64
"""Offsets without records (markers of transactions) that are looked past for the next one that is remembered."""
_FORMAT: Final = "1"
_DIGEST_BYTES: Final = 6


class Landmark(NamedTuple):
    """A record as it stood: its offset, and the digest of its content."""

    offset: int
    digest: int


class Commit(NamedTuple):
    """What the metadata of a commit says."""

    landmarks: tuple[Landmark, ...] = ()
    """By offset, all of them before the committed one."""
    checked: int = -1
    """The offset of the latest that was found again in the log after more had been read."""

    def encode(self) -> str:
        """Return it as metadata: some 250 characters."""
        found = ",".join(f"{one.offset:x}:{one.digest:x}" for one in self.landmarks)
        return f"{_FORMAT};{self.checked};{found}" if found else ""

    @classmethod
    def decode(cls, metadata: str | None) -> Commit:
        """Read metadata; those of another program say nothing."""
        try:
            form, checked, found = (metadata or "").split(";")
            pairs = (one.split(":") for one in found.split(","))
            landmarks = sorted(Landmark(int(offset, 16), int(digest, 16)) for offset, digest in pairs)
            return cls(tuple(landmarks), int(checked)) if form == _FORMAT else cls()
        except ValueError:
            return cls()


NOTHING_SAID: Final = Commit()


def digest_of(timestamp: float, key: bytes | None, value: bytes | None) -> int:
    """Return the digest of a record's content; `timestamp` is Kafka's, in epoch seconds."""
    lengths = (-1 if part is None else len(part) for part in (key, value))
    hashed = blake2b(b"%d %d %d " % (round(timestamp * 1000), *lengths), digest_size=_DIGEST_BYTES)
    hashed.update(key or b"")
    hashed.update(value or b"")
    return int.from_bytes(hashed.digest())


class Landmarks:
    """Those of one partition. Written by the event loop; a commit may read them from the consumer's thread."""

    def __init__(self, commit: Commit = NOTHING_SAID) -> None:
        self._older = commit.landmarks
        self.pinned = commit.landmarks[-1:]
        """Those that stay whatever comes: at them it is seen that the log is another one."""
        self._offsets: array[int] = array("q")
        self._digests: array[int] = array("Q")
        self.checked = commit.checked
        """As of `Commit`."""

    def saw(self, offset: int, digest: int) -> None:
        """Remember a record."""
        if not self._offsets:
            self._offsets, self._digests = array("q", [-1]) * REMEMBERED, array("Q", [0]) * REMEMBERED
        self._digests[offset % REMEMBERED] = digest
        self._offsets[offset % REMEMBERED] = offset

    def at(self, offset: int) -> int | None:
        """Return the digest of what stood at an offset; None where that is not remembered."""
        place = offset % REMEMBERED
        if self._offsets and self._offsets[place] == offset:
            return self._digests[place]
        return next((one.digest for one in self._older if one.offset == offset), None)

    def before(self, end: int) -> tuple[Landmark, ...]:
        """Return the few that are remembered for long, by offset: the last one before `end`, and ever sparser ones."""
        older = sorted(one for one in {*self._older, *self.pinned} if one.offset < end)
        found = {one for target in _targets(end) if (one := self._nearest(target, older)) is not None}
        return tuple(sorted({*found, *(one for one in self.pinned if one.offset < end)}))

    def commit(self, offset: int) -> Commit:
        """Return what a commit of this offset says, and remember that for long."""
        self._older = self.before(offset)
        return Commit(self._older, self.checked)

    def _nearest(self, offset: int, older: Sequence[Landmark]) -> Landmark | None:
        """Return the latest that is remembered up to an offset."""
        for candidate in range(offset, max(-1, offset - _GAP), -1):
            if self._offsets and self._offsets[candidate % REMEMBERED] == candidate:
                return Landmark(candidate, self._digests[candidate % REMEMBERED])
        return next((one for one in reversed(older) if one.offset <= offset), None)


def common(landmarks: Sequence[Landmark], standing: Mapping[int, int | None], beginning: int) -> int:
    """Return up to where a log is the one that it was: the offset behind the last landmark before any that differs.

    Args:
        landmarks: by offset.
        standing: the digest of what stands there now, by offset; None where no record does. What is not named cannot
            be said, as it is before the log's beginning or behind its end.
        beginning: that of the log, returned where no landmark says more.
    """
    found = beginning
    for one in landmarks:
        if one.offset not in standing:
            continue
        if standing[one.offset] != one.digest:
            break
        found = one.offset + 1
    return found


def _targets(end: int) -> set[int]:
    """Return the offsets before the last two multiples of 1, 4, 16…: each stays one for long while the log moves on."""
    found, size = set[int](), 1
    while size <= end:
        latest = end // size * size
        found |= {latest - 1, latest - size - 1}
        size *= _SPACING
    return {offset for offset in found if offset >= 0}
