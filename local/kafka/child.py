"""A child process that ends with this one, however this one ends, and that a Ctrl-C in the terminal does not reach."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

_GUARD = Path(__file__).with_name("guard.py")


class Child:
    """A running command under a guard, in a session of its own.

    Its output is appended to `log`; without one, `lines` has it. `environment` is all that it gets of one. `hold` is a
    file, a lock say, that stays open as long as the command runs. The guard (guard.py) holds the other end of a pipe:
    when this process ends, even by SIGKILL, the command is ended too.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path | None = None,
        environment: Mapping[str, str],
        folder: Path,
        hold: IO[str] | None = None,
    ) -> None:
        with contextlib.ExitStack() as opened:
            self._guard = subprocess.Popen(  # noqa: S603
                [sys.executable, "-I", str(_GUARD), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE if log is None else opened.enter_context(log.open("ab")),
                env=dict(environment),
                cwd=folder,
                pass_fds=[hold.fileno()] if hold else [],
                bufsize=0,  # no byte may wait in a buffer that nobody reads any more
                start_new_session=True,
            )
        try:
            self.pid = int(self._answers.readline() or 0)  # 0: the command could not be run; its output says why
        except BaseException:  # an interrupt too: whoever did not get the child cannot end it
            self.end()
            raise

    @property
    def _answers(self) -> IO[bytes]:
        if self._guard.stdout is None:
            raise RuntimeError("the guard was started without a pipe")
        return self._guard.stdout

    def exit_status(self) -> int | None:
        """Return the command's exit status, 128 + n for signal n, or None while it runs."""
        return self._guard.poll()

    def send(self, number: signal.Signals) -> None:
        """Send the command a signal, and return when it is sent; nothing happens if it has ended."""
        pipe = self._guard.stdin
        if pipe is None:
            raise RuntimeError("the guard was started without a pipe")
        try:
            pipe.write(bytes([number]))
            pipe.flush()
            self._answers.readline()
        except BrokenPipeError:
            return

    def wait(self, timeout: float) -> bool:
        """Wait for the command's end, and return whether it came within `timeout` seconds."""
        try:
            self._guard.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def lines(self) -> Iterator[str]:
        """Yield the lines of the command's output as they come, to its end. There are none where it has a log."""
        for line in self._guard.stderr or ():
            yield line.decode("utf-8", "replace").rstrip("\n")

    def close(self) -> None:
        """Let go of the pipes; a command that still runs is ended by its guard."""
        for pipe in (self._guard.stdin, self._guard.stdout, self._guard.stderr):
            if pipe is not None:
                pipe.close()

    def end(self) -> None:
        """End the command if it still runs, and return when it is gone: at once, or after the guard's few seconds."""
        self.close()
        self._guard.wait()
