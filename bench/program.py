"""A process that is measured or measured with, and what it takes of the machine."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psutil

from bench.errors import BenchError
from local.kafka.child import Child

_ROOT: Final = Path(__file__).parents[1]
_PASSED_ON: Final = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL")
_STOP_SECONDS: Final = 20.0
_LAST_LINES: Final = 15


class Program:
    """Python with these arguments, as a child that ends with this process. Its output stands in `<name>.log`."""

    def __init__(self, name: str, arguments: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        inherited = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        self._child = Child(
            [sys.executable, *arguments],
            log=self._log,
            environment=inherited | {"PYTHONPATH": str(_ROOT)} | dict(environment),
            folder=folder,
        )
        self.pid = self._child.pid
        self._stopped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End it, with SIGKILL where it takes too long; nothing happens where it was stopped before. Blocks."""
        if self._stopped:
            return
        self._stopped = True
        self._child.send(signal.SIGTERM)
        if not self._child.wait(_STOP_SECONDS):
            self._child.send(signal.SIGKILL)
        self._child.end()

    def check(self) -> None:
        """Raise BenchError where it has ended."""
        status = self._child.exit_status()
        if status is not None:
            raise BenchError(f"{self.name} has ended with status {status}. {self.last_lines()}")

    def last_lines(self) -> str:
        """Quote the end of its log."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
        return f"The end of {self._log}:" + "".join(f"\n  {line}" for line in lines)


def wait_until(ready: Callable[[], bool], program: Program, seconds: float) -> None:
    """Wait for a program. Blocks. Raises BenchError where it ends or takes too long."""
    deadline = time.monotonic() + seconds
    while not ready():
        program.check()
        if time.monotonic() > deadline:
            raise BenchError(f"{program.name} was not ready within {seconds:g} s. {program.last_lines()}")
        time.sleep(0.05)


class Neighbours:
    """What other processes take of the machine, from now on: figures taken beside busy ones are to be doubted."""

    def __init__(self) -> None:
        self._own = Usage(os.getpid())
        self._before = self._now()

    def cores(self) -> float:
        """Return how many cores they have kept busy on average."""
        taken, at = self._now()
        return max(0.0, (taken - self._before[0]) / (at - self._before[1]))

    def _now(self) -> tuple[float, float]:
        times = psutil.cpu_times()
        # What runs with a low priority is counted apart.
        taken = times.user + times.nice + times.system
        return taken - self._own.cpu_seconds(), time.monotonic()


class Usage:
    """What a process takes, its children included."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)

    def cpu_seconds(self) -> float:
        """Return the user and system time so far, 0 where it has ended."""
        with contextlib.suppress(psutil.NoSuchProcess):
            times = [one.cpu_times() for one in self._family()]
            # What its ended children have taken is in the first.
            ended = times[0].children_user + times[0].children_system
            return float(ended + sum(one.user + one.system for one in times))
        return 0.0

    def memory(self) -> int:
        """Return the bytes that it has resident, 0 where it has ended."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return sum(one.memory_info().rss for one in self._family())
        return 0

    def _family(self) -> list[psutil.Process]:
        return [self._process, *self._process.children(recursive=True)]
