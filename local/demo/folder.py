"""The data folder of the demo, which one demo at a time may use."""

import fcntl
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from local.demo.errors import DemoError

# The guard of a process gives it 5 seconds to end when the demo is killed.
_LEFTOVER_SECONDS = 15.0


class DataFolder:
    """The folder and its two locks: one is the demo's own, the other is also held by the processes it starts.

    So the next demo knows whether processes of a killed one are still ending.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.absolute = path.absolute()
        self._own: IO[str] | None = None
        self._children: IO[str] | None = None

    @property
    def children_lock(self) -> IO[str]:
        """The lock for processes to hold."""
        if self._children is None:
            raise RuntimeError("the folder is not open")
        return self._children

    def open(self, say: Callable[[str], None]) -> None:
        """Take the folder; wait for what is left of an earlier demo. Raises DemoError where the folder stays in use."""
        for name in ("logs", "worker", "kafka"):
            (self.absolute / name).mkdir(parents=True, exist_ok=True)
        self._own = _lock(self.absolute / "demo.lock")
        if self._own is None:
            raise DemoError(f"Another demo runs in {self.path}: stop it, or choose another --data-dir.", 2)
        if not self._leftovers_end(0.0):
            say("Waiting for the processes of an earlier demo to end")
        if not self._leftovers_end(_LEFTOVER_SECONDS):
            raise DemoError(
                f"Processes of an earlier demo still use {self.path}: end them, or choose another --data-dir.", 2
            )
        self._children = _lock(self.absolute / "children.lock")

    def close(self) -> bool:
        """Give the folder back. Returns whether every process that was started has ended."""
        ended = True
        if self._children is not None:
            self._children.close()
            ended = self._leftovers_end(_LEFTOVER_SECONDS)
        if self._own is not None:
            self._own.close()
        return ended

    def _leftovers_end(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not all(_is_free(self.absolute / name) for name in ("children.lock", "kafka/lock")):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.1)
        return True


def _lock(path: Path) -> IO[str] | None:
    """Lock the file and return it open, or None where it is locked."""
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _is_free(path: Path) -> bool:
    lock = _lock(path)
    if lock is None:
        return False
    lock.close()
    return True
