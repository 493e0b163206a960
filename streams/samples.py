"""A bounded share of how long things took, of which quantiles are made: for charts, where a histogram is too coarse."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

MOST: Final = 1000
"""So many are kept at most between two looks, each as likely as any other."""
HOUR: Final = 3600.0
MOST_A_LOOK: Final = 10
"""So many of a name are kept at most of each look, for the quantiles of the hour."""


@dataclass(frozen=True)
class Quantiles:
    """What became of the samples between two looks, in seconds."""

    count: int
    p50: float
    p99: float


@dataclass(frozen=True)
class _Share:
    """Some of the samples of a time, and how many they stand for."""

    count: int
    kept: list[float]


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
        return _quantiles([self.empty()])

    def empty(self) -> _Share:
        """Return what is kept since the last look, and begin anew."""
        share = _Share(self._count, self._kept)
        self._kept, self._count = [], 0
        return share


class SamplesByName:
    """Durations by name: of all names since the last look, and of each in the last hour.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[str, Samples] = {}
        self._hours: dict[str, deque[tuple[float, _Share]]] = {}

    def of(self, name: str) -> Samples:
        """Return where the durations of a name are taken note of."""
        return self._since.setdefault(name, Samples())

    def take(self) -> Quantiles | None:
        """Return the quantiles of all names since the last look, None where nothing came; begin anew.

        The quantiles of the hour are of what was looked at so.
        """
        shares = {name: samples.empty() for name, samples in self._since.items()}
        for name, share in shares.items():
            if share.kept:
                some = random.sample(share.kept, min(len(share.kept), MOST_A_LOOK))
                self._hours.setdefault(name, deque()).append((self._clock(), _Share(share.count, some)))
            self._looks(name)
        return _quantiles(shares.values())

    def hour(self, name: str) -> Quantiles | None:
        """Return the quantiles of a name in the last hour, None where nothing came."""
        return _quantiles(share for _, share in self._looks(name))

    def _looks(self, name: str) -> deque[tuple[float, _Share]]:
        """Return the looks of the last hour; older ones are forgotten."""
        looks = self._hours.get(name, deque())
        while looks and looks[0][0] < self._clock() - HOUR:
            looks.popleft()
        return looks


def _quantiles(shares: Iterable[_Share]) -> Quantiles | None:
    """Return the quantiles of several shares, in which each sample stands for as many as its share says."""
    shares = [share for share in shares if share.kept]
    total = sum(share.count for share in shares)
    weighted = sorted((seconds, share.count / len(share.kept)) for share in shares for seconds in share.kept)
    if not weighted:
        return None
    return Quantiles(total, *(_at(weighted, round((total - 1) * wanted)) for wanted in (0.5, 0.99)))


def _at(weighted: list[tuple[float, float]], place: int) -> float:
    """Return the sample at a place of what they all stand for, counted from 0."""
    passed = 0.0
    for seconds, weight in weighted:
        passed += weight
        if passed > place:
            return seconds
    return weighted[-1][0]


HANDLER_SAMPLES: Final = SamplesByName()
"""How long calls of handlers took that ended their item, by what the handlers are declared for."""
REPORT_SAMPLES: Final = Samples()
"""From the end of the last item to Port's answer to the report."""
