"""Notices that a part of the worker stands still while it has work: what `/healthz` says.

Each part, a *stage*, has a mark: a number that grows with all that it does, and the answer to whether there is
something that it ought to do now. A stage whose mark stays the same for `STUCK_SECONDS`, with work at every look in
between, stands still. What is paused on purpose has no work.

Only time in which the event loop ran is counted: a loop that was blocked has kept everybody from progress. It cannot
answer `/healthz` meanwhile, either; for whoever asks, that is the sign.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

logger = logging.getLogger(__name__)

STUCK_SECONDS: Final = 45.0
"""Longer than anything takes that is well: an answer of Port's API takes 30 s at most, and so does a pause."""
LOOK_SECONDS: Final = 1.0
BEAT_SECONDS: Final = 0.25
"""How often the lag of the event loop is measured."""


@dataclass(frozen=True)
class Stage:
    """A part of the worker that ought to make progress.

    Attributes:
        name: which it is, for the log and the metrics.
        kind: the same for everybody: without what a handler or a topic is called.
        mark: grows with everything that it does.
        has_work: whether there is something that it ought to do now. Cheap, and does not wait.
    """

    name: str
    kind: str
    mark: Callable[[], int]
    has_work: Callable[[], bool]


@dataclass
class _Seen:
    mark: int = -1
    stood: float = 0.0
    told: bool = False


class Watch:
    """Looks at the stages, once a second.

    Args:
        stages: what it looks at.
        paused: tells whether the whole worker is paused on purpose: no stage stands still then.
        limit: seconds after which a stage counts as stuck.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        paused: Callable[[], bool],
        limit: float = STUCK_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stages = stages
        self._paused = paused
        self._limit = limit
        self._clock = clock
        self._last = clock()
        self._seen = {stage.name: _Seen() for stage in stages}

    def look(self) -> None:
        """Take note of who has made progress since the last look."""
        now = self._clock()
        # A look that comes late was late because the loop was blocked, and the stages with it.
        passed, self._last = min(now - self._last, 2 * LOOK_SECONDS), now
        paused = self._paused()
        for stage in self._stages:
            seen, mark = self._seen[stage.name], stage.mark()
            idle = paused or mark != seen.mark or not stage.has_work()
            seen.stood = 0.0 if idle else seen.stood + passed
            seen.mark = mark
            self._tell(stage, seen)

    def _tell(self, stage: Stage, seen: _Seen) -> None:
        stuck = seen.stood >= self._limit
        if stuck and not seen.told:
            logger.error("%s has made no progress for %.0f s, and has work: /healthz fails", stage.name, seen.stood)
        elif seen.told and not stuck:
            logger.info("%s goes on, or has no work any more", stage.name)
        seen.told = stuck

    def standing(self) -> dict[str, float]:
        """Return for each stage for how many seconds it has had work and has made no progress."""
        return {name: seen.stood for name, seen in self._seen.items()}

    def stuck(self) -> list[Stage]:
        """Return the stages that stand still."""
        return [stage for stage in self._stages if self._seen[stage.name].stood >= self._limit]

    def problem(self) -> str | None:
        """Return one line on what stands still, which anybody may read; None where all is well."""
        kinds = sorted({stage.kind for stage in self.stuck()})
        return f"stuck: {', '.join(kinds)}" if kinds else None

    async def run(self, lag: Callable[[float], object]) -> None:
        """Look until cancelled. `lag` is told by how many seconds the event loop was late, four times a second."""
        while True:
            if self._clock() - self._last >= LOOK_SECONDS:
                try:
                    self.look()
                except Exception:
                    # What cannot be looked at is no reason to end a worker that is well.
                    logger.exception("the progress of the worker cannot be looked at")
            before = self._clock()
            await asyncio.sleep(BEAT_SECONDS)
            lag(max(0.0, self._clock() - before - BEAT_SECONDS))
