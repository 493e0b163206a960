"""What became of the calls of each handler of this worker: since its start, and in the last hour."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import Counter

from port.models import Result
from streams.metrics import DEADLINE_MISSES, ITEMS, OVERDUE
from streams.samples import HOUR, Quantiles
from web.data import Shown

LOOK_SECONDS: Final = 60.0

_ENDED: Final[Mapping[str, str]] = {
    Result.SUCCESS.value: "succeeded",
    Result.FAILED.value: "failed",
    Result.CANCELLED.value: "cancelled",
    "retry": "retried",
    "deferred": "deferred",
}


class Counts(Shown):
    """Calls of a handler, by what became of them."""

    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    retried: int = 0
    """Those after which the item waits to be called again."""
    deferred: int = 0
    """Those after which it waits for another system."""
    deadline_missed: int = 0
    """Those of the failed ones that their deadline ended."""
    overdue: int = 0
    """Those that went on past their deadline, or their cancellation."""

    def plus(self, other: Counts) -> Counts:
        """Return the sum."""
        return Counts(**{name: number + getattr(other, name) for name, number in self})

    def minus(self, other: Counts) -> Counts:
        """Return what is more than there was."""
        return Counts(**{name: max(0, number - getattr(other, name)) for name, number in self})


def counts_by_handler() -> dict[str, Counts]:
    """Return what the metrics have counted since the start, by what the handlers are declared for."""
    found: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for labels, number in _samples(ITEMS):
        found[labels["event_type"]][_ENDED[labels["ended"]]] = number
    for counter, name in ((DEADLINE_MISSES, "deadline_missed"), (OVERDUE, "overdue")):
        for labels, number in _samples(counter):
            found[labels["event_type"]][name] = number
    return {event_type: Counts(**counts) for event_type, counts in found.items()}


def _samples(counter: Counter) -> Iterator[tuple[Mapping[str, str], int]]:
    for metric in counter.collect():
        yield from ((one.labels, int(one.value)) for one in metric.samples if one.name.endswith("_total"))


@dataclass
class HandlerCounts:
    """Knows them.

    Args:
        read: what was counted since the start, by handler.
        took: how long the calls of a handler took that ended an item in the last hour.
        clock: monotonic seconds.
    """

    read: Callable[[], Mapping[str, Counts]]
    took: Callable[[str], Quantiles | None]
    clock: Callable[[], float] = time.monotonic
    _looks: deque[tuple[float, Mapping[str, Counts]]] = field(default_factory=deque)

    def look(self) -> None:
        """Take note of where the counts stand now."""
        self._looks.append((self.clock(), self.read()))
        # The last one that is older than an hour is where the hour began.
        while len(self._looks) > 1 and self._looks[1][0] <= self.clock() - HOUR:
            self._looks.popleft()

    async def run(self) -> None:
        """Look every minute, for ever."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_SECONDS)

    def now(self) -> tuple[Mapping[str, Counts], Mapping[str, Counts]]:
        """Return the counts since the start, and those in the last hour, to the minute."""
        since_start = self.read()
        before = self._looks[0][1] if self._looks else {}
        return since_start, {name: counts.minus(before.get(name, Counts())) for name, counts in since_start.items()}
