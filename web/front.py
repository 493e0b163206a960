"""The front page: whether it is well now, over all workers, whichever one is asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, Protocol

from aiohttp import web

from agents.pausing import Pausing
from port.models import Result
from streams.lag import Behind
from streams.progress import Watch
from tables.state import State
from tables.unreadable import RowKind, UnreadableRow
from web.answers import limit_of, state_of
from web.charts import Bucket, Charts, charts
from web.data import NodeRunList, instant
from web.here import Here
from web.index import FailedRun
from web.letterbox import Letters
from web.masking import masked_text
from web.others import Others, is_local
from web.overview import (
    SHOWN_FAILED,
    SHOWN_UNREADABLE,
    FailedLine,
    FailedShown,
    OldestShown,
    OverviewShown,
    Pulse,
    SourceStatus,
    TopicLag,
    UnreadableShown,
    WorkShown,
    added_up,
)
from web.pages import Pages
from web.series import SeriesShown, SeriesViews
from web.status import Status
from web.wellness import NEAR_SHARE, problems

HOUR: Final = 3600.0
_LINES: Final = 15
"""How many of the latest node runs it lists where `limit` does not say."""


class Failed(Protocol):
    """Knows what has failed lately."""

    async def failed(self, since: float, limit: int) -> tuple[int, list[FailedRun]]:
        """Return how many node runs have FAILED since then (epoch seconds), or were refused; and the latest."""


@dataclass(frozen=True)
class Looked:
    """What the overview looks at beside the node runs."""

    failed: Failed
    behind: Callable[[], Mapping[str, Behind]]
    """How far this worker is behind, by topic."""
    letters: Letters
    series: SeriesViews
    status: Status
    watch: Watch
    pausing: Pausing
    deadlines: Mapping[str, float]
    """How many seconds a call may take, by event type of the handler."""


@dataclass(frozen=True)
class Front:
    """The overview as page and as JSON."""

    here: Here
    looked: Looked
    others: Others
    pages: Pages
    latest: Callable[[int, State | None], Awaitable[NodeRunList]]
    """The latest node runs of this worker."""

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the routes."""
        return [web.get("/", self.page), web.get("/api/overview", self.api)]

    async def page(self, request: web.Request) -> web.Response:
        """Show whether it is well, the charts, and the latest node runs."""
        limit, state = limit_of(request, _LINES), state_of(request)
        shown, series = await asyncio.gather(self._of_all(limit, state), self.looked.series.of_all())
        return self.pages.answer(
            "index.html", shown=judged(shown, series), list=shown.latest, state=state, charts=charts_of(series)
        )

    async def api(self, request: web.Request) -> web.Response:
        """Return it as JSON."""
        limit, state = limit_of(request, _LINES), state_of(request)
        if is_local(request):
            shown = await self._own(limit, state)
        else:
            told, series = await asyncio.gather(self._of_all(limit, state), self.looked.series.of_all())
            shown = judged(told, series)
        return web.Response(body=shown.to_json(), content_type="application/json")

    async def _of_all(self, limit: int, state: State | None) -> OverviewShown:
        asked: dict[str, str | int] = {"limit": limit} if state is None else {"limit": limit, "state": state.value}
        gathered, own = await asyncio.gather(
            self.others.gather("/api/overview", OverviewShown, asked), self._own(limit, state)
        )
        return added_up([own, *gathered.answers], limit, gathered.missing)

    async def _own(self, limit: int, state: State | None) -> OverviewShown:
        now, looked = time.time(), self.looked
        number, runs = await looked.failed.failed(now - HOUR, SHOWN_FAILED)
        status, worker = looked.status.shown(), self.here.worker
        misfit = worker.misfit()
        return OverviewShown(
            at=instant(now),
            workers=[
                Pulse(
                    **dict(status),
                    stuck=looked.watch.problem(),
                    kafka=worker.kafka.sentence(),
                    misfit=None if misfit is None else str(misfit),
                )
            ],
            lags=[*self._lags()],
            incidents=self._incidents(),
            sources=[*self._source()],
            work=self._work(),
            failed=FailedShown(number=number, latest=self._failed(runs)),
            dead_letters=looked.letters.open_since(now - HOUR),
            topic_problems=list(self.here.worker.topic_problems.values()),
            unsure=looked.letters.unsure(),
            unreadable=[_unreadable(row) for row in islice(self._unreadable(), SHOWN_UNREADABLE)],
            unreadable_rows=sum(1 for _ in self.here.node_runs.unreadable),
            latest=await self.latest(limit, state),
            missing=self.here.missing,
        )

    def _unreadable(self) -> Iterable[UnreadableRow]:
        # The open ones need somebody.
        return sorted(self.here.node_runs.unreadable, key=lambda row: row.kind is not RowKind.OPEN)

    def _lags(self) -> Iterable[TopicLag]:
        behind = dict(self.looked.behind())
        bridge = self.here.worker.bridge
        if bridge is not None and (lag := bridge.status.lag):
            worst = max(lag, key=lambda partition: lag[partition])
            behind["source"] = Behind(sum(lag.values()), worst, lag[worst], bridge.status.lag_seconds)
        for topic, one in behind.items():
            yield TopicLag(
                topic=topic,
                records=one.records,
                worst_partition=one.partition,
                worst_records=one.most,
                oldest_seconds=round(one.seconds, 1),
            )

    def _incidents(self) -> list[str]:
        worker = self.here.worker
        hanging = [one.text for one in worker.transactions.hanging()]
        return hanging + [one.text for one in worker.incidents.recent()]

    def _source(self) -> Iterable[SourceStatus]:
        if (bridge := self.here.worker.bridge) is not None:
            status, worker = bridge.status, self.here.worker.incarnation
            yield SourceStatus(
                worker=worker, connected=status.connected, problem=status.problem, since=instant(status.since)
            )

    def _work(self) -> WorkShown:
        feeders, pausing = self.here.feeders, self.looked.pausing
        waiting = pausing.waiting()
        return WorkShown(
            running=sum(feeder.taken for feeder in feeders.values()),
            queued=sum(feeder.waiting for feeder in feeders.values()),
            oldest=self._oldest(),
            held=self.here.holding.items,
            near_deadline=sum(
                feeders[name].running_for(NEAR_SHARE * seconds) for name, seconds in self.looked.deadlines.items()
            ),
            paused={name: waiting.get(name, 0) for name in feeders if pausing.paused(name)},
        )

    def _oldest(self) -> OldestShown | None:
        waits = [(feeder.oldest(), name, feeder.first) for name, feeder in self.here.feeders.items()]
        seconds, name, work = max(waits, key=lambda one: one[0], default=(0.0, "", None))
        if work is None:
            return None
        return OldestShown(node_run_id=work.node_run_id, index=work.index, event_type=name, seconds=round(seconds, 1))

    def _failed(self, runs: Sequence[FailedRun]) -> list[FailedLine]:
        known = {run.node_run_id: run for run in runs}
        lines = self.here.lines([(run.partition, run.node_run_id) for run in runs], self.here.now())
        return [
            FailedLine(run=line, at=instant(known[line.node_run_id].at), message=known[line.node_run_id].message)
            for line in lines
        ]


def _unreadable(row: UnreadableRow) -> UnreadableShown:
    return UnreadableShown(
        partition=row.partition,
        key=masked_text(row.key),
        kind=row.kind.value,
        node_run_id=row.node_run_id,
        why=row.why,
        effect=row.effect,
    )


def judged(shown: OverviewShown, series: SeriesShown) -> OverviewShown:
    """Return it with what is worth a look."""
    completed = [sum(step.completed.get(result.value, 0) for step in series.steps) for result in Result]
    return shown.model_copy(update={"problems": problems(shown, sum(completed))})


def charts_of(series: SeriesShown) -> Charts | None:
    """Return the charts of the last hour."""
    return charts(_buckets(series), series.step_seconds)


def _buckets(series: SeriesShown) -> Sequence[Bucket]:
    return [
        Bucket(
            step.at,
            step.received,
            step.completed.get(Result.SUCCESS.value, 0),
            step.completed.get(Result.FAILED.value, 0),
            None if step.handler is None else step.handler.p50,
            None if step.handler is None else step.handler.p99,
        )
        for step in series.steps
        if step.at is not None
    ]
