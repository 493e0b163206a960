"""The latest lines that one call of a handler has logged: few enough to stay with its item."""

from __future__ import annotations

import time
from collections import deque
from threading import Lock
from typing import Final

from port.models import LogLevel
from streams.records import Line, Lines

MOST_LINES: Final = 50
MAX_TEXT_CHARACTERS: Final = 500
MAX_CHARACTERS: Final = 16_384
"""Of all of them, with what each takes beside its text."""
_CUT: Final = "…"


class LatestLines:
    """Takes lines from any thread, and keeps the latest."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._latest: deque[Line] = deque()
        self._size = 0
        self._left_out = 0

    def add(self, level: LogLevel, text: str) -> None:
        """Take a line, in which secrets are masked."""
        if len(text) > MAX_TEXT_CHARACTERS:
            text = text[: MAX_TEXT_CHARACTERS - len(_CUT)] + _CUT
        # A lone surrogate could not be written as UTF-8.
        line = Line(at=time.time(), level=level, text=text.encode(errors="replace").decode())
        with self._lock:
            self._latest.append(line)
            self._size += line.size
            while len(self._latest) > MOST_LINES or self._size > MAX_CHARACTERS:
                self._size -= self._latest.popleft().size
                self._left_out += 1

    def kept(self) -> Lines:
        """Return those that are kept now."""
        with self._lock:
            return Lines(latest=tuple(self._latest), left_out=self._left_out)
