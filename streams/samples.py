"""A bounded share of how long things took, of which quantiles are made: for charts, where a histogram is too coarse."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

MOST: Final = 1000
"""So many are kept at most between two looks, each as likely as any other."""


@dataclass(frozen=True)
class Quantiles:
    """What became of the samples between two looks, in seconds."""

    count: int
    p50: float
    p99: float


class Samples:
    """Durations since the last look."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._count = 0
        self._kept: list[float] = []

    def add(self, seconds: float) -> None:
        """Take note of a duration."""
        self._count += 1
        if len(self._kept) < self._most:
            self._kept.append(seconds)
        elif (place := int(random.random() * self._count)) < self._most:  # noqa: S311
            self._kept[place] = seconds

    def take(self) -> Quantiles | None:
        """Return the quantiles since the last look, None where nothing came; begin anew."""
        kept, count = sorted(self._kept), self._count
        self._kept, self._count = [], 0
        if not kept:
            return None
        last = len(kept) - 1
        return Quantiles(count, kept[round(last * 0.5)], kept[round(last * 0.99)])


HANDLER_SAMPLES: Final = Samples()
"""How long calls of handlers took that ended their item."""
REPORT_SAMPLES: Final = Samples()
"""From the end of the last item to Port's answer to the report."""
