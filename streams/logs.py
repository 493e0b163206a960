"""Keeps the log readable while Kafka or Port is away: aiokafka says so hundreds of times a second."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

SECONDS: Final = 10.0
_MOST_FORMS: Final = 1000


class Seldom(logging.Filter):
    """Lets a message of one form (its text before the arguments) through once in `SECONDS`.

    The next one that is let through says how many were held back. Concerns the loggers under `name` only.
    """

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(name)
        self._clock = clock
        self._last: dict[str, float] = {}
        self._held_back: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Called for each record of a handler."""
        if not super().filter(record) or record.levelno < logging.INFO:
            return True
        form, now = str(record.msg), self._clock()
        if now - self._last.get(form, -SECONDS) < SECONDS:
            self._held_back[form] = self._held_back.get(form, 0) + 1
            return False
        if len(self._last) >= _MOST_FORMS:
            self._last.clear()
            self._held_back.clear()
        self._last[form] = now
        if held_back := self._held_back.pop(form, 0):
            record.msg, record.args = f"{record.getMessage()} (and {held_back} more like it)", ()
        return True


def quieten() -> None:
    """Apply it to aiokafka's loggers; called when Faust has set its log up."""
    # It says that something is tried again, but not what or why; who tries again says that.
    logging.getLogger("stamina").setLevel(logging.ERROR)
    for handler in logging.getLogger().handlers:
        handler.addFilter(Seldom("aiokafka"))
