"""The pages of the handlers, over all workers: how each is declared, what it has to do and how it does."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from http import HTTPStatus

from aiohttp import web

from agents.pausing import Pausing
from agents.schemas import example_of
from web.answers import refused
from web.auth import access_of
from web.counted import Counts, HandlerCounts
from web.data import SCOPE, SCOPE_ALL, MissingWorker, Shown
from web.declared import Declaration, differences, example_schema
from web.here import Here
from web.others import Others, is_local
from web.pages import Pages
from web.series import Latency, latency_of
from web.trials import Trials

HANDLER = "/handlers/{event_type:[^/]+}"
"""Braces, too, which aiohttp by itself takes for no part of a name."""


class HandlerAt(Shown):
    """A handler at one worker."""

    worker: str
    concurrency: int
    running: int
    queued: int
    """Items that wait for a free place."""
    oldest_waiting_seconds: float
    """How long the first of them has waited; 0 where none waits."""
    since_start: Counts
    last_hour: Counts
    latency: Latency | None
    """Of the calls that ended an item in the last hour; null where there was none."""
    differs: list[str] = []
    """What this worker declares differently from the first one here: most likely a deploy is under way."""


class HandlerShown(Shown):
    """A handler, and whether its items wait."""

    event_type: str
    function: str
    concurrency: int
    """Calls at a time, of all workers together."""
    running: int
    queued: int
    """Items that wait for a free place."""
    paused: bool
    paused_partitions: list[int]
    """Those in which it is paused: all of them, but for a moment."""
    paused_by: str | None
    waiting: int
    """Items that wait because it is paused."""
    declaration: Declaration
    since_start: Counts
    """Since the start of each worker."""
    last_hour: Counts
    latency: Latency | None
    """The slowest worker's."""
    oldest_waiting_seconds: float
    workers: list[HandlerAt]
    lacking: list[str] = []
    """Workers that answered and do not have it."""


class HandlerList(Shown):
    """The handlers."""

    scope: str = SCOPE
    handlers: list[HandlerShown]
    workers: list[str]
    """The workers that this is of."""
    missing: list[int] = []
    """Partitions whose items are not in these numbers."""
    missing_workers: list[MissingWorker] = []


@dataclass(frozen=True)
class Handlers:
    """The views of the handlers; what can be done to one is in `web.actions` and `web.trials`."""

    here: Here
    pages: Pages
    pausing: Pausing
    handlers: Mapping[str, Declaration]
    """By event type."""
    others: Others
    counts: HandlerCounts
    trials: Trials

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the routes."""
        return [
            web.get("/handlers", self.page),
            web.get("/api/handlers", self.api),
            web.get(HANDLER, self.page_of_one),
            web.get(f"/api{HANDLER}", self.api_of_one),
            *self.trials.routes(),
        ]

    async def page(self, request: web.Request) -> web.Response:
        """Show the handlers."""
        return self.pages.answer("handlers.html", list=await self._list(request), access=access_of(request))

    async def api(self, request: web.Request) -> web.Response:
        """Return the handlers as JSON."""
        return web.Response(body=(await self._list(request)).to_json(), content_type="application/json")

    async def page_of_one(self, request: web.Request) -> web.Response:
        """Show one handler, with all that is known of it."""
        shown = await self._one(request)
        one = shown.handlers[0]
        return self.pages.answer(
            "handler.html",
            list=shown,
            one=one,
            example=example_of(one.event_type, example_schema(one.declaration)),
            tries=self.trials.allowed and one.event_type in self.handlers,
            seconds=self.trials.seconds(one.declaration),
            access=access_of(request),
        )

    async def api_of_one(self, request: web.Request) -> web.Response:
        """Return one handler as JSON."""
        return web.Response(body=(await self._one(request)).to_json(), content_type="application/json")

    async def _one(self, request: web.Request) -> HandlerList:
        shown, event_type = await self._list(request), request.match_info["event_type"]
        found = [one for one in shown.handlers if one.event_type == event_type]
        if not found:
            message = f"no worker that answers has a handler for {event_type[:80]!r}"
            raise refused(HTTPStatus.NOT_FOUND, "unknown", message)
        return shown.model_copy(update={"handlers": found})

    async def _list(self, request: web.Request) -> HandlerList:
        own = await self._own()
        if is_local(request):
            return own
        gathered = await self.others.gather("/api/handlers", HandlerList)
        lists = [own, *gathered.answers]
        workers = [worker for one in lists for worker in one.workers]
        return HandlerList(
            scope=SCOPE_ALL,
            handlers=_together(lists, workers),
            workers=workers,
            missing=gathered.missing.partitions,
            missing_workers=gathered.missing.workers,
        )

    async def _own(self) -> HandlerList:
        waiting, (since_start, last_hour) = self.pausing.waiting(), self.counts.now()
        shown: list[HandlerShown] = []
        for name in sorted(self.handlers):
            here = self._here(name, since_start.get(name, Counts()), last_hour.get(name, Counts()))
            shown.append(self._handler(name, here, waiting.get(name, 0)))
            # The quantiles of a busy hour take a millisecond.
            await asyncio.sleep(0)
        return HandlerList(handlers=shown, workers=[self.here.worker.incarnation])

    def _here(self, name: str, since_start: Counts, last_hour: Counts) -> HandlerAt:
        feeder = self.here.feeders[name]
        return HandlerAt(
            worker=self.here.worker.incarnation,
            concurrency=self.handlers[name].concurrency,
            running=len(feeder.running),
            queued=feeder.waiting,
            oldest_waiting_seconds=round(feeder.oldest(), 1),
            since_start=since_start,
            last_hour=last_hour,
            latency=latency_of(self.counts.took(name)),
        )

    def _handler(self, name: str, here: HandlerAt, waiting: int) -> HandlerShown:
        paused, declaration = self.pausing.paused(name), self.handlers[name]
        return HandlerShown(
            event_type=name,
            function=declaration.function,
            concurrency=here.concurrency,
            running=here.running,
            queued=here.queued,
            paused=bool(paused),
            paused_partitions=sorted(paused),
            paused_by=next((event.action.who for event in paused.values()), None),
            waiting=waiting,
            declaration=declaration,
            since_start=here.since_start,
            last_hour=here.last_hour,
            latency=here.latency,
            oldest_waiting_seconds=here.oldest_waiting_seconds,
            workers=[here],
        )


def _together(lists: Sequence[HandlerList], workers: Sequence[str]) -> list[HandlerShown]:
    """Return one handler for each event type."""
    by_type: dict[str, list[HandlerShown]] = {}
    for one in (one for listed in lists for one in listed.handlers):
        by_type.setdefault(one.event_type, []).append(one)
    added = (reduce(_added, by_type[name]) for name in sorted(by_type))
    return [one.model_copy(update={"lacking": _lacking(one, workers)}) for one in added]


def _lacking(one: HandlerShown, workers: Sequence[str]) -> list[str]:
    having = {at.worker for at in one.workers}
    return [worker for worker in workers if worker not in having]


def _added(one: HandlerShown, other: HandlerShown) -> HandlerShown:
    differs = differences(one.declaration, other.declaration)
    return HandlerShown(
        event_type=one.event_type,
        function=one.function,
        concurrency=one.concurrency + other.concurrency,
        running=one.running + other.running,
        queued=one.queued + other.queued,
        paused=one.paused or other.paused,
        paused_partitions=sorted({*one.paused_partitions, *other.paused_partitions}),
        paused_by=one.paused_by or other.paused_by,
        waiting=one.waiting + other.waiting,
        declaration=one.declaration,
        since_start=one.since_start.plus(other.since_start),
        last_hour=one.last_hour.plus(other.last_hour),
        latency=_slower(one.latency, other.latency),
        oldest_waiting_seconds=max(one.oldest_waiting_seconds, other.oldest_waiting_seconds),
        workers=[*one.workers, *(at.model_copy(update={"differs": differs}) for at in other.workers)],
    )


def _slower(one: Latency | None, other: Latency | None) -> Latency | None:
    """Return the worst of two workers: of quantiles alone there is no common one."""
    if one is None or other is None:
        return one or other
    return Latency(count=one.count + other.count, p50=max(one.p50, other.p50), p99=max(one.p99, other.p99))
