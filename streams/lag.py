"""How far this worker is behind the topics that it reads, and whether Kafka answers at all."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

from faust.types import TP

from streams.offsets import EveryOffset, Log

LOOK_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 5.0


class Lag:
    """Asks for the ends of this worker's partitions, and holds them against what has had its turn.

    Attributes:
        answers: whether Kafka answered when it was asked last.
    """

    def __init__(self, offsets: EveryOffset, log: Log) -> None:
        self._offsets = offsets
        self._log = log
        self._ends: dict[TP, int] = {}
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

    def by_topic(self) -> dict[str, int]:
        """Return how many records have not had their turn, by topic; topics whose ends are not known are left out."""
        expected, behind = self._offsets.expected, Counter[str]()
        for tp, end in self._ends.items():
            # What was assigned since is not known yet, what was lost is another's.
            if tp in expected:
                behind[tp.topic] += max(0, end - expected[tp])
        return dict(behind)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)
