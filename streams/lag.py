"""How far this worker is behind the topics that it reads, and whether Kafka answers at all."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from faust.types import TP

from streams.offsets import EveryOffset, Log

LOOK_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 5.0
_MOST_SEEN: Final = 120


@dataclass(frozen=True)
class Behind:
    """What of a topic has not had its turn."""

    records: int
    partition: int
    """The one with the most."""
    most: int
    """How many records that has."""
    seconds: float
    """For how long the oldest of them has waited at least: since it was seen first."""


class Ends:
    """The ends of partitions as they were seen, and so for how long at least what is before them has waited."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: defaultdict[TP, deque[tuple[float, int]]] = defaultdict(deque)

    def saw(self, tp: TP, end: int, position: int) -> None:
        """Take note of an end; what is before `position` has had its turn."""
        seen = self._seen[tp]
        while seen and seen[0][1] <= position:
            seen.popleft()
        # With many of them the latest are left out: how old the oldest record is the first ones say.
        if end > position and len(seen) < _MOST_SEEN and (not seen or end > seen[-1][1]):
            seen.append((self._clock(), end))

    def seconds(self, tp: TP, position: int) -> float:
        """Return for how long the record at `position` has waited at least; 0 where none is known of."""
        first = next((at for at, end in self._seen.get(tp, ()) if end > position), None)
        return 0.0 if first is None else self._clock() - first


class Lag:
    """Asks for the ends of this worker's partitions, and holds them against what has had its turn.

    Attributes:
        answers: whether Kafka answered when it was asked last.
    """

    def __init__(self, offsets: EveryOffset, log: Log, clock: Callable[[], float] = time.monotonic) -> None:
        self._offsets = offsets
        self._log = log
        self._ends: dict[TP, int] = {}
        self._seen = Ends(clock)
        self.answers = True

    async def look(self) -> None:
        """Ask once; never takes longer than `ANSWER_SECONDS`."""
        followed = self._offsets.expected
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                self._ends = dict(await self._log.ends(list(followed)))
        except TimeoutError:
            self._ends = {}
        self.answers = bool(self._ends) or not followed
        for tp, end in self._ends.items():
            if (position := self._offsets.expected.get(tp)) is not None:
                self._seen.saw(tp, end, position)

    def by_topic(self) -> dict[str, int]:
        """Return how many records have not had their turn, by topic; topics whose ends are not known are left out."""
        expected, behind = self._offsets.expected, Counter[str]()
        for tp, end in self._ends.items():
            # What was assigned since is not known yet, what was lost is another's.
            if tp in expected:
                behind[tp.topic] += max(0, end - expected[tp])
        return dict(behind)

    def behind(self) -> dict[str, Behind]:
        """Return the same with the worst partition of each topic, and for how long the oldest record has waited."""
        expected, found = self._offsets.expected, dict[str, Behind]()
        for tp, end in self._ends.items():
            if tp in expected:
                records, seconds = max(0, end - expected[tp]), self._seen.seconds(tp, expected[tp])
                found[tp.topic] = together(found.get(tp.topic), Behind(records, tp.partition, records, seconds))
        return found

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)


def together(one: Behind | None, other: Behind) -> Behind:
    """Return what is behind in the partitions of both."""
    if one is None:
        return other
    worst = max(one, other, key=lambda behind: behind.most)
    seconds = max(one.seconds, other.seconds)
    return Behind(one.records + other.records, worst.partition, worst.most, seconds)
