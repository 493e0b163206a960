"""What tells the demo to end: Ctrl-C, SIGTERM, and the end or interruption of the process that started it."""

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SAME_SECONDS = 1.0
_WATCH_SECONDS = 0.2


def raise_on_signals() -> None:
    """Let SIGINT and SIGTERM raise KeyboardInterrupt; what follows within a second counts as the same.

    A signal to a process group and its repetition by make, for one, are not meant as two.
    """
    latest = -_SAME_SECONDS

    def interrupt(*_: object) -> None:
        nonlocal latest
        now = time.monotonic()
        if now - latest >= _SAME_SECONDS:
            latest = now
            raise KeyboardInterrupt

    for number in _SIGNALS:
        signal.signal(number, interrupt)


@contextmanager
def deferred() -> Iterator[None]:
    """Let signals wait for the end of the block."""
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    for number in _SIGNALS:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])


def ignore_signals() -> None:
    """Let SIGINT and SIGTERM do nothing: what is left to do is short."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def follow_parent() -> None:
    """Interrupt this process when its parent is gone, or is a make that was interrupted alone.

    make does not pass a SIGINT on: it takes for granted that the terminal sent it to everybody, and waits.
    """
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent and not _is_interrupted(parent):
        time.sleep(_WATCH_SECONDS)
    os.kill(os.getpid(), signal.SIGINT)


def _is_interrupted(process: int) -> bool:
    """Whether a make is inside its handler of SIGINT: blocked, and no longer caught. Only Linux tells."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return _holds_interrupt(status, "SigBlk") and not _holds_interrupt(status, "SigCgt")


def _holds_interrupt(status: str, mask: str) -> bool:
    found = re.search(rf"^{mask}:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> (signal.SIGINT - 1) & 1)
