"""The last hour in steps of ten seconds, for charts: each worker keeps its own in memory, and they go with it."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter as Numbers
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol

from aiohttp import web
from prometheus_client import Counter, Histogram

from streams.samples import Quantiles
from web.data import SCOPE, SCOPE_ALL, MissingWorker, Shown, instant
from web.others import Gathered, Others, is_local

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
    """The steps of the last hour, the oldest first. Steps before the start of a worker are not there."""

    scope: str = SCOPE
    worker: str
    """The incarnation of the worker that answers."""
    step_seconds: int
    steps: list[Step]
    missing: list[int] = []
    """Partitions of whose workers nothing is in these numbers."""
    missing_workers: list[MissingWorker] = []


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
                # To the second: steps of several workers are added up by it.
                at=instant((round(self.clock() / STEP_SECONDS) - 1) * STEP_SECONDS),
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


@dataclass(frozen=True)
class SeriesViews:
    """The steps of all workers, added up."""

    own: Callable[[], SeriesShown]
    others: Others

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the routes."""
        return [web.get("/api/series", self.answer)]

    async def answer(self, request: web.Request) -> web.Response:
        """Return the steps as JSON."""
        shown = self.own() if is_local(request) else await self.of_all()
        return web.Response(body=shown.to_json(), content_type="application/json")

    async def of_all(self) -> SeriesShown:
        """Return the steps of all workers."""
        gathered = await self.others.gather("/api/series", SeriesShown)
        own = self.own()
        # Hours of several workers take some milliseconds.
        return await asyncio.to_thread(_gathered, own, gathered) if gathered.answers else _gathered(own, gathered)


def _gathered(own: SeriesShown, gathered: Gathered[SeriesShown]) -> SeriesShown:
    series = [own, *gathered.answers]
    return SeriesShown(
        scope=SCOPE_ALL,
        worker=own.worker,
        step_seconds=own.step_seconds,
        steps=added_up([one.steps for one in series]),
        missing=gathered.missing.partitions,
        missing_workers=gathered.missing.workers,
    )


def added_up(series: Sequence[Sequence[Step]]) -> list[Step]:
    """Return the steps of several workers as those of one.

    What only some have made yet is left out: one that is behind by some milliseconds would show as a dip.
    """
    by_time: defaultdict[datetime, list[Step]] = defaultdict(list)
    for step in itertools.chain.from_iterable(series):
        if step.at is not None:
            by_time[step.at].append(step)
    ends = [steps[-1].at for steps in series if steps and steps[-1].at is not None]
    until = min((at for at in ends if at is not None), default=None)
    return [_added(by_time[at]) for at in sorted(by_time) if until is None or at <= until][-STEPS:]


def _added(steps: Sequence[Step]) -> Step:
    completed: Numbers[str] = Numbers()
    for one in steps:
        completed.update(one.completed)
    return Step(
        at=steps[0].at,
        received=sum(one.received for one in steps),
        completed=dict(completed),
        open=sum(one.open for one in steps),
        handler=_worst([one.handler for one in steps if one.handler is not None]),
        report=_worst([one.report for one in steps if one.report is not None]),
        loop_lag=max(one.loop_lag for one in steps),
    )


def _worst(of: Sequence[Latency]) -> Latency | None:
    # Quantiles cannot be added up: the worst of them is the honest one.
    if not of:
        return None
    return Latency(count=sum(one.count for one in of), p50=max(one.p50 for one in of), p99=max(one.p99 for one in of))


def latency_of(of: Quantiles | None) -> Latency | None:
    """Return quantiles as they are shown."""
    return None if of is None else Latency(count=of.count, p50=of.p50, p99=of.p99)
