"""How the worker itself does: what the page of the workers shows of each."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections import deque
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, cast

from faust.types import TP

from streams.worker import Worker
from web.data import WorkerStatus
from web.health import Readiness
from web.here import Here

_TICK: Final = 0.25
_TICKS: Final = 240
"""How many ticks are remembered: those of a minute."""
_STATM: Final = Path("/proc/self/statm")


class LoopLag:
    """Measures how late the event loop wakes who sleeps."""

    def __init__(self) -> None:
        self._late: deque[float] = deque(maxlen=_TICKS)
        self._ticker: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to measure."""
        self._ticker = asyncio.get_running_loop().create_task(self._tick())

    async def stop(self) -> None:
        """End it."""
        if self._ticker is not None:
            self._ticker.cancel()

    @property
    def seconds(self) -> float | None:
        """The worst of the last minute; None before the first measurement."""
        return round(max(self._late), 4) if self._late else None

    async def _tick(self) -> None:
        while True:
            due = time.monotonic() + _TICK
            await asyncio.sleep(_TICK)
            self._late.append(max(0.0, time.monotonic() - due))


class Status:
    """Tells how this worker does."""

    def __init__(self, here: Here, readiness: Readiness, lag: LoopLag) -> None:
        self._here = here
        self._readiness = readiness
        self._lag = lag
        self._began = time.monotonic()
        self._version = version("port-runs")

    def shown(self) -> WorkerStatus:
        """Return it."""
        obstacle = self._readiness.obstacle()
        here = self._here
        return WorkerStatus(
            **dict(here.worker_shown()),
            assigned=sorted(here.worker.owned),
            version=self._version,
            state=self._readiness.word() if obstacle is None else obstacle.value,
            recovery_remaining=remaining(here.worker),
            uptime_seconds=round(time.monotonic() - self._began, 1),
            memory_bytes=memory_bytes(),
            cpu_seconds=round(time.process_time(), 1),
            loop_lag_seconds=self._lag.seconds,
            running={name: len(feeder.running) for name, feeder in sorted(here.feeders.items())},
            waiting=sum(feeder.waiting for feeder in here.feeders.values()),
        )


def remaining(worker: Worker) -> int | None:
    """Return how many records of the changelog are still to be recovered; None while that is not known."""
    if not worker.rebalancing:
        return 0
    recovery = cast("Any", worker.tables).recovery
    left: dict[TP, int] = recovery.active_remaining()
    return sum(max(0, number) for number in left.values()) if left else None


def memory_bytes() -> int:
    """Return the memory of this process that is resident; where the system does not tell, the most it ever was."""
    try:
        return int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
