"""The last hour in steps of ten seconds, for charts: kept in memory, of this worker alone, and gone with it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter as Numbers
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol

from aiohttp import web
from prometheus_client import Counter, Histogram

from streams.samples import Quantiles
from web.data import Shown, instant

STEP_SECONDS: Final = 10
STEPS: Final = 360


class Latency(Shown):
    """Of what ended in a step, in seconds."""

    count: int
    p50: float
    p99: float


class Step(Shown):
    """Ten seconds."""

    at: datetime | None
    """When they began."""
    received: int
    """Node runs, and further items of some, that this worker read from the runs topic."""
    completed: dict[str, int]
    """Node runs that Port has answered for good, by result."""
    open: int
    """Unfinished node runs at the end of the step, in the partitions of this worker."""
    handler: Latency | None
    """Calls of handlers that ended their item; null where there was none."""
    report: Latency | None
    """From the end of the last item to Port's answer; null where there was none."""
    loop_lag: float
    """The most that the event loop was late, in seconds."""


class SeriesShown(Shown):
    """The steps of the last hour, the oldest first. Steps before the start of the worker are not there."""

    worker: str
    step_seconds: int
    steps: list[Step]


def count_of(counter: Counter | Histogram, label: str, ending: str = "_total", **labels: str) -> dict[str, int]:
    """Return what a metric has counted, summed up by the values of one label, of the samples with these labels."""
    counted: Numbers[str] = Numbers()
    for metric in counter.collect():
        for sample in metric.samples:
            if sample.name.endswith(ending) and labels.items() <= sample.labels.items():
                counted[sample.labels[label]] += int(sample.value)
    return dict(counted)


class Sampled(Protocol):
    """Durations since the last look."""

    def take(self) -> Quantiles | None:
        """Return their quantiles, None where nothing came; begin anew."""


@dataclass
class Series:
    """Makes the steps.

    Args:
        worker: the identity of the worker.
        received: how many node runs were received since the start.
        completed: how many were completed since the start, by result.
        open: how many are not finished now.
        handler: how long calls of handlers took since the last step.
        report: the same of reports.
        clock: epoch seconds.
    """

    worker: str
    received: Callable[[], int]
    completed: Callable[[], dict[str, int]]
    open: Callable[[], int]
    handler: Sampled
    report: Sampled
    clock: Callable[[], float] = time.time
    _steps: deque[Step] = field(default_factory=lambda: deque(maxlen=STEPS))
    _received: int = 0
    _completed: dict[str, int] = field(default_factory=dict)
    _loop_lag: float = 0.0

    def late(self, seconds: float) -> None:
        """Take note that the event loop was late."""
        self._loop_lag = max(self._loop_lag, seconds)

    def step(self) -> None:
        """End a step, and begin the next."""
        received, completed = self.received(), self.completed()
        before = self._completed
        self._steps.append(
            Step(
                at=instant(self.clock() - STEP_SECONDS),
                received=received - self._received,
                completed={how: n - before.get(how, 0) for how, n in completed.items() if n > before.get(how, 0)},
                open=self.open(),
                handler=latency_of(self.handler.take()),
                report=latency_of(self.report.take()),
                loop_lag=self._loop_lag,
            )
        )
        self._received, self._completed, self._loop_lag = received, completed, 0.0

    def shown(self) -> SeriesShown:
        """Return the steps."""
        return SeriesShown(worker=self.worker, step_seconds=STEP_SECONDS, steps=list(self._steps))

    async def run(self) -> None:
        """Make a step at each ten seconds of the clock, so that those of several workers fit together."""
        while True:
            await asyncio.sleep(STEP_SECONDS - self.clock() % STEP_SECONDS)
            self.step()

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the routes."""
        return [web.get("/api/series", self.answer)]

    async def answer(self, _request: web.Request) -> web.Response:
        """Return the steps as JSON."""
        return web.Response(body=self.shown().to_json(), content_type="application/json")


def latency_of(of: Quantiles | None) -> Latency | None:
    """Return quantiles as they are shown."""
    return None if of is None else Latency(count=of.count, p50=of.p50, p99=of.p99)
