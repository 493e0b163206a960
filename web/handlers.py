"""The page of the handlers: what each has to do, over all workers, and whether it is paused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce

from aiohttp import web

from agents.pausing import Pausing
from web.actions import HandlerInfo
from web.auth import access_of
from web.data import SCOPE, SCOPE_ALL, MissingWorker, Shown
from web.here import Here
from web.others import Others, is_local
from web.pages import Pages


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


class HandlerList(Shown):
    """The handlers."""

    scope: str = SCOPE
    handlers: list[HandlerShown]
    missing: list[int] = []
    """Partitions whose items are not in these numbers."""
    missing_workers: list[MissingWorker] = []


@dataclass(frozen=True)
class Handlers:
    """The views of the handlers; what can be done to one is in `web.actions`."""

    here: Here
    pages: Pages
    pausing: Pausing
    handlers: Mapping[str, HandlerInfo]
    """By event type."""
    others: Others

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the routes."""
        return [web.get("/handlers", self.page), web.get("/api/handlers", self.api)]

    async def page(self, request: web.Request) -> web.Response:
        """Show the handlers."""
        return self.pages.answer("handlers.html", list=await self._list(request), access=access_of(request))

    async def api(self, request: web.Request) -> web.Response:
        """Return the handlers as JSON."""
        return web.Response(body=(await self._list(request)).to_json(), content_type="application/json")

    async def _list(self, request: web.Request) -> HandlerList:
        if is_local(request):
            return self._own()
        gathered = await self.others.gather("/api/handlers")
        lists = [self._own(), *(HandlerList.model_validate_json(answer.body) for answer in gathered.answers)]
        return HandlerList(
            scope=SCOPE_ALL,
            handlers=_together(one for listed in lists for one in listed.handlers),
            missing=gathered.missing.partitions,
            missing_workers=gathered.missing.workers,
        )

    def _own(self) -> HandlerList:
        waiting = self.pausing.waiting()
        return HandlerList(handlers=[self._handler(name, waiting.get(name, 0)) for name in sorted(self.handlers)])

    def _handler(self, name: str, waiting: int) -> HandlerShown:
        paused, feeder, info = self.pausing.paused(name), self.here.feeders[name], self.handlers[name]
        return HandlerShown(
            event_type=name,
            function=info.function,
            concurrency=info.concurrency,
            running=len(feeder.running),
            queued=feeder.waiting,
            paused=bool(paused),
            paused_partitions=sorted(paused),
            paused_by=next((event.action.who for event in paused.values()), None),
            waiting=waiting,
        )


def _together(handlers: Iterable[HandlerShown]) -> list[HandlerShown]:
    """Return one handler for each event type."""
    by_type: dict[str, list[HandlerShown]] = {}
    for one in handlers:
        by_type.setdefault(one.event_type, []).append(one)
    return [reduce(_added, by_type[name]) for name in sorted(by_type)]


def _added(one: HandlerShown, other: HandlerShown) -> HandlerShown:
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
    )
