"""Whether the logs that are read are those that they were: finds logs that went back, and records that are gone."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from aiokafka.errors import KafkaError
from faust.types import TP
from stamina import AsyncRetryingCaller

from streams.incidents import Incidents
from streams.landmarks import NOTHING_SAID, Commit, Landmark, Landmarks, common

logger = logging.getLogger(__name__)
ALL_AFTER: Final = 12
"""Where nothing was read the latest landmark is looked at in every so many looks only."""
_until_it_answers: Final = AsyncRetryingCaller(attempts=None, timeout=None, wait_max=5.0).on(
    (KafkaError, OSError, TimeoutError)
)


@dataclass(frozen=True)
class Extent:
    """A partition as it stands: its first offset, and the one behind its last readable record."""

    beginning: int
    end: int


@dataclass(frozen=True)
class Committed:
    """What the group has committed of a partition."""

    offset: int
    """-1 where it has committed nothing."""
    said: Commit = NOTHING_SAID


@dataclass(frozen=True)
class Begun:
    """Where partitions begin."""

    expected: Mapping[TP, int]
    """The offset of each that is to be read next."""
    back: Mapping[TP, int]
    """The same of those whose logs went back since the group has committed."""


class Standing(Protocol):
    """What there is of partitions now.

    Every method raises KafkaError, OSError or TimeoutError where the cluster does not answer.
    """

    async def committed(self, partitions: Iterable[TP]) -> Mapping[TP, Committed]:
        """Return what the group has committed."""

    async def extents(self, partitions: Iterable[TP]) -> Mapping[TP, Extent]:
        """Return where the partitions begin and end."""

    async def standing(self, wanted: Mapping[TP, int]) -> Mapping[TP, int | None]:
        """Return the digests of the records at these offsets, all within the logs; None where there is no record."""


class Continuity:
    """Follows the logs of some partitions.

    Args:
        log: tells what there is.
        incidents: is told what was found.
        place: where the topics are, for people; follows their names.
    """

    def __init__(self, log: Standing, incidents: Incidents, place: str = "") -> None:
        self._log = log
        self._incidents = incidents
        self._place = place
        self._landmarks: dict[TP, Landmarks] = {}
        self._due: dict[TP, Landmark] = {}
        self._short: frozenset[TP] = frozenset()
        self._suspects: dict[TP, Landmark] = {}
        self._looks = 0
        self.back: dict[TP, int] = {}
        """From which offset on partitions are to be read again, until `begin`."""

    async def begin(self, partitions: Iterable[TP]) -> Begun:
        """Return where each partition is to be read on, and forget all others. Waits out an absent cluster.

        That is the committed offset, but where the log went back since, or does not hold it any more.
        """
        wanted = list(partitions)
        committed, extents = await _until_it_answers(self._facts, wanted)
        started = {tp: one for tp, one in committed.items() if one.offset >= 0}
        back = await _until_it_answers(self._went_back, started, extents)
        self.back, self._due, self._short, self._suspects = {}, {}, frozenset(), {}
        self._landmarks = {}
        expected = dict[TP, int]()
        for tp in wanted:
            self._landmarks[tp] = Landmarks(_before(committed[tp].said, back.get(tp)))
            expected[tp] = self._first(tp, committed[tp].offset, extents[tp], back.get(tp))
        return Begun(expected, back)

    async def _facts(self, wanted: Sequence[TP]) -> tuple[Mapping[TP, Committed], Mapping[TP, Extent]]:
        # In this order: the log may only have grown since what was committed.
        committed = await self._log.committed(wanted)
        return committed, await self._log.extents(wanted)

    def _first(self, tp: TP, committed: int, extent: Extent, back: int | None) -> int:
        if committed < 0:
            return extent.beginning
        if back is not None:
            self._incidents.went_back(self._named(tp), committed, extent.end, back)
            return back
        if committed < extent.beginning:
            self.deleted(tp, committed, extent.beginning)
        return max(committed, extent.beginning)

    def deleted(self, tp: TP, first: int, end: int) -> None:
        """Take note that the records of a range were deleted before they were read."""
        self._incidents.deleted(self._named(tp), first, end - first)

    def saw(self, tp: TP, offset: int, digest: int) -> None:
        """Remember a record that has its turn."""
        if (landmarks := self._landmarks.get(tp)) is not None:
            landmarks.saw(offset, digest)

    def is_known(self, tp: TP, offset: int, digest: int) -> bool:
        """Tell whether this record was seen; another one at the same offset has the log looked at."""
        landmarks = self._landmarks.get(tp)
        known = None if landmarks is None else landmarks.at(offset)
        if known is not None and known != digest:
            self._suspects[tp] = min(Landmark(offset, known), self._suspects.get(tp, Landmark(offset, known)))
        return known == digest

    def commit(self, tp: TP, offset: int) -> tuple[int, str]:
        """Return what to commit where all is done up to `offset`: an offset and the metadata."""
        landmarks = self._landmarks.get(tp)
        if landmarks is None:
            return offset, ""
        # What went back is not passed by what was read of it before that was found.
        offset = min(offset, self.back.get(tp, offset))
        return offset, landmarks.commit(offset).encode()

    async def look(self, expected: Mapping[TP, int]) -> Mapping[TP, int]:
        """Return from which offset on partitions are to be read again, as their logs went back; most often none.

        Args:
            expected: the offset of each partition that is to be read next.

        Raises KafkaError, OSError or TimeoutError where the cluster does not answer: then nothing is known.
        """
        wanted = {tp: offset for tp, offset in expected.items() if tp not in self.back}
        extents = await self._log.extents(wanted)
        # A leader that is about to step down may tell an old end.
        short = frozenset(tp for tp, extent in extents.items() if extent.end < wanted[tp])
        certain, self._short = short & self._short, short
        suspects, self._suspects = self._suspects, {}
        suspects |= await self._changed(wanted, extents)
        reached = {
            tp: Committed(wanted[tp], self._until(tp, suspects.get(tp), wanted[tp])) for tp in {*certain, *suspects}
        }
        found = await self._went_back(reached, extents)
        for tp, start in found.items():
            self._incidents.went_back(self._named(tp), wanted[tp], extents[tp].end, start)
        self.back |= found
        return found

    async def _changed(self, expected: Mapping[TP, int], extents: Mapping[TP, Extent]) -> dict[TP, Landmark]:
        """Return the latest landmarks of the look before that do not stand any more, by partition."""
        self._looks += 1
        latest = {tp: found[-1] for tp, offset in expected.items() if (found := self._landmarks[tp].before(offset))}
        every = self._looks % ALL_AFTER == 0
        due = {tp: one for tp, one in self._due.items() if tp in latest and (every or one != latest[tp])}
        due = {tp: one for tp, one in due.items() if _is_within(one, extents[tp])}
        standing = await self._log.standing({tp: one.offset for tp, one in due.items()}) if due else {}
        changed = {tp: one for tp, one in due.items() if tp in standing and standing[tp] != one.digest}
        for tp in due.keys() & standing.keys() - changed.keys():
            self._landmarks[tp].checked = due[tp].offset
        for tp in latest.keys() - changed.keys():
            self._landmarks[tp].pinned = (latest[tp],)
        self._due = latest
        return changed

    def _until(self, tp: TP, suspect: Landmark | None, offset: int) -> Commit:
        """Return the landmarks up to one that may not stand any more."""
        before = self._landmarks[tp].before(offset if suspect is None else suspect.offset)
        return Commit(before if suspect is None else (*before, suspect))

    async def _went_back(self, reached: Mapping[TP, Committed], extents: Mapping[TP, Extent]) -> dict[TP, int]:
        """Return from which offset on the logs are new that went back."""
        recent = {tp: _since_checked(one.said) for tp, one in reached.items()}
        standing = await self._look_at(recent, extents)
        changed = [
            tp for tp, one in reached.items() if one.offset > extents[tp].end or _differ(recent[tp], standing[tp])
        ]
        all_of_them = await self._look_at({tp: reached[tp].said.landmarks for tp in changed}, extents)
        return {
            tp: min(common(reached[tp].said.landmarks, all_of_them[tp], extents[tp].beginning), reached[tp].offset)
            for tp in changed
        }

    async def _look_at(
        self, landmarks: Mapping[TP, Sequence[Landmark]], extents: Mapping[TP, Extent]
    ) -> Mapping[TP, Mapping[int, int | None]]:
        """Return what stands where landmarks stood that are within the logs. Each round looks at one of a partition."""
        found: dict[TP, dict[int, int | None]] = {tp: {} for tp in landmarks}
        left = {
            tp: [one.offset for one in several if _is_within(one, extents[tp])] for tp, several in landmarks.items()
        }
        while wanted := {tp: offsets.pop() for tp, offsets in left.items() if offsets}:
            for tp, digest in (await self._log.standing(wanted)).items():
                found[tp][wanted[tp]] = digest
        return found

    def _named(self, tp: TP) -> TP:
        return TP(f"{tp.topic}{self._place}", tp.partition)


def _since_checked(said: Commit) -> tuple[Landmark, ...]:
    """Return the landmarks that were not looked at yet, and the one before them: what is older stands if that does."""
    first = max((one.offset for one in said.landmarks if one.offset <= said.checked), default=-1)
    return tuple(one for one in said.landmarks if one.offset >= first)


def _differ(landmarks: Iterable[Landmark], standing: Mapping[int, int | None]) -> bool:
    return any(one.offset in standing and standing[one.offset] != one.digest for one in landmarks)


def _is_within(one: Landmark, extent: Extent) -> bool:
    return extent.beginning <= one.offset < extent.end


def _before(said: Commit, back: int | None) -> Commit:
    if back is None:
        return said
    return Commit(tuple(one for one in said.landmarks if one.offset < back), min(said.checked, back - 1))
