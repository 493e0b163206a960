"""A program that the demo starts, watches and stops."""

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from local.demo.errors import DemoError
from local.demo.interrupts import deferred
from local.kafka.child import Child
from streams.exits import RESTART

_LONGEST_DELAY = 30.0
_HEALTHY_SECONDS = 60.0
_LAST_LINES = 8


class Program:
    """A child process under a guard: it ends with the demo however that ends, and a Ctrl-C does not reach it.

    Where it ends with status 70 it is started again with backoff, as a service manager would do; else that is an error.
    """

    def __init__(
        self, name: str, command: Sequence[str], *, log: Path, environment: Mapping[str, str], folder: Path
    ) -> None:
        self.name = name
        self._command = command
        self._log = log
        self._environment = environment
        self._folder = folder
        self._hold: IO[str] | None = None
        self._child: Child | None = None
        self._log_start = 0
        self._started_at = 0.0
        self._again_at: float | None = None
        self._delay = 1.0

    @property
    def subject(self) -> str:
        """Its name at the start of a sentence."""
        return self.name[0].upper() + self.name[1:]

    @property
    def started(self) -> bool:
        """Whether it was started and not yet stopped."""
        return self._child is not None

    @property
    def running(self) -> bool:
        """Whether it is alive now."""
        return self._child is not None and self._child.exit_status() is None

    def start(self, hold: IO[str]) -> None:
        """Start it; `hold` is a file that it holds open as long as it runs."""
        self._hold = hold
        self._log_start = self._log.stat().st_size if self._log.exists() else 0
        self._again_at = None
        self._started_at = time.monotonic()
        with deferred():  # a child that is half made could not be ended
            self._child = Child(
                self._command, log=self._log, environment=self._environment, folder=self._folder, hold=hold
            )

    def check(self, say: Callable[[str], None]) -> None:
        """Start it again when that is due. Raises DemoError where it has ended for good."""
        if self._again_at is not None:
            self._start_again()
            return
        status = None if self._child is None else self._child.exit_status()
        if status == RESTART:
            self._plan_restart(say)
        elif status is not None:
            raise DemoError(f"{self.subject} has ended with status {status}. {self.last_lines()}")

    def last_lines(self) -> str:
        """Name the log and quote its end, as far as it is of this start."""
        with self._log.open("rb") as log:
            log.seek(max(self._log_start, self._log.stat().st_size - 20_000))
            lines = log.read().decode("utf-8", "replace").splitlines()[-_LAST_LINES:]
        quoted = "".join(f"\n  {line}" for line in lines)
        return (
            f"Its log is {self._log}, and ends with:{quoted}" if lines else f"It wrote nothing to its log, {self._log}."
        )

    def stop(self, seconds: float) -> bool:
        """End it, with SIGKILL where it takes longer than `seconds`. Returns whether it ended by itself."""
        if self._child is None:
            return True
        self._child.send(signal.SIGTERM)
        ended = self._child.wait(seconds)
        self.kill()
        return ended

    def kill(self) -> None:
        """End it at once."""
        if self._child is None:
            return
        self._child.send(signal.SIGKILL)
        self._child.wait(10.0)
        self._child.close()
        self._child = None

    def _plan_restart(self, say: Callable[[str], None]) -> None:
        if time.monotonic() - self._started_at > _HEALTHY_SECONDS:
            self._delay = 1.0
        again = f"has ended with status {RESTART} and starts again in {self._delay:g} s"
        say(f"{self.subject} {again}. {self.last_lines()}")
        self._again_at = time.monotonic() + self._delay
        self._delay = min(2 * self._delay, _LONGEST_DELAY)

    def _start_again(self) -> None:
        if self._again_at is None or self._hold is None or time.monotonic() < self._again_at:
            return
        if self._child is not None:
            self._child.close()
        self.start(self._hold)
