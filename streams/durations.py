"""Durations as people write them: `250ms`, `30s`, `5m`, `12h`, `7d`, or a plain number of seconds."""

from __future__ import annotations

import math
import re
from typing import Final

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}
_FORM: Final = re.compile(r"\s*(\d{1,9}(?:\.\d{1,6})?)\s*(ms|s|m|h|d|)\s*", re.ASCII)


def seconds(value: str | float) -> float:
    """Return a duration in seconds.

    Raises:
        ValueError: the text is no number followed by `ms`, `s`, `m`, `h` or `d`, or the number is negative or infinite.
    """
    if isinstance(value, int | float):
        if not 0 <= value < math.inf:
            raise ValueError("a duration is a number of seconds, not negative and not infinite")
        return float(value)
    found = _FORM.fullmatch(value)
    if found is None:
        raise ValueError(f"{value[:40]!r} is no duration; write a number with ms, s, m, h or d, for example 5m")
    return float(found[1]) * _SECONDS[found[2]]
