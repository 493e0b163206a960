"""Notices that the whole process stood still: it was stopped, or its machine was.

Kafka takes a worker for dead that was silent for longer than its session, and gives its partitions to others. One that
wakes up after that knows nothing of it yet, and must not write or report any more. A blocked event loop is no such
case: the heartbeats go on in another thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from streams.exits import stop_process

_BEAT_SECONDS: Final = 0.25


def uptime() -> float:
    """Return seconds on a clock that goes on while the machine sleeps, where the system has one."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


class StandStill:
    """Ends the process, with status 70, when it stood still for longer than `longest` seconds.

    A thread looks four times a second; `check` looks at once, for whoever is about to do what cannot be undone.
    """

    def __init__(
        self, longest: float, clock: Callable[[], float] = uptime, stop: Callable[[str], object] = stop_process
    ) -> None:
        self._longest = longest
        self._clock = clock
        self._stop = stop
        self._last: float | None = None
        self._ended = threading.Event()

    def start(self) -> None:
        """Look from now on."""
        self._last = self._clock()
        threading.Thread(target=self._watch, name="standstill", daemon=True).start()

    def _watch(self) -> None:
        while not self._ended.wait(_BEAT_SECONDS):
            self.check()
            self._last = self._clock()

    def check(self) -> None:
        """End the process if it stands just after a standstill."""
        if self._last is None:
            return
        stood = self._clock() - self._last
        if stood > self._longest:
            self._stop(f"the process stood still for {stood:.1f} s; its partitions may have other owners now")

    def end(self) -> None:
        """Look no more."""
        self._ended.set()
