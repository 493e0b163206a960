"""What waits for somebody or something: callbacks, handlers, retries, and reports that Port refused."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from math import inf
from typing import Final, cast

from aiohttp import web

from tables.rows import NotOwnedError
from tables.state import State
from web.answers import limit_of
from web.auth import access_of
from web.data import SCOPE, SCOPE_ALL, MissingWorker, Shown, instant
from web.here import Here
from web.masking import masked_text
from web.others import Missing, Others, is_local
from web.pages import Pages

_MOST_EXAMINED: Final = 5000
"""How many waiting items are looked at for one list."""
_CHUNK: Final = 100


class Why(StrEnum):
    """What something waits for."""

    CALLBACK = "callback"
    HANDLER = "handler"
    RETRY = "retry"
    REFUSED = "refused"
    """For nothing: Port has refused the report."""


class StuckLine(Shown):
    """An item that waits, or a node run whose report was refused."""

    node_run_id: str
    index: int | None
    event_type: str | None
    why: Why
    until: datetime | None
    """When it ends by itself, or is called again."""
    said: str | None
    """The error of the last call, or why Port refused the report."""


class StuckList(Shown):
    """What waits: what ends soonest first, then the refused reports among the latest node runs."""

    scope: str = SCOPE
    lines: list[StuckLine]
    examined: int
    """How many waiting items were looked at."""
    waiting: int
    """How many there are."""
    missing: list[int] = []
    """Partitions of which nothing is in this list."""
    missing_workers: list[MissingWorker] = []


@dataclass(frozen=True)
class Stuck:
    """The views of what waits."""

    here: Here
    pages: Pages
    others: Others

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the routes."""
        return [web.get("/stuck", self.page), web.get("/api/stuck", self.api)]

    async def page(self, request: web.Request) -> web.Response:
        """Show it, each with what can be done."""
        return self.pages.answer("stuck.html", list=await self._list(request), access=access_of(request))

    async def api(self, request: web.Request) -> web.Response:
        """Return it as JSON."""
        shown = await self._list(request)
        return web.Response(body=shown.to_json(), content_type="application/json")

    async def _list(self, request: web.Request) -> StuckList:
        limit = limit_of(request)
        own = await self._own(limit)
        if is_local(request):
            return own
        gathered = await self.others.gather("/api/stuck", {"limit": limit})
        lists = [own, *(StuckList.model_validate_json(answer.body) for answer in gathered.answers)]
        return _together(lists, limit, gathered.missing)

    async def _own(self, limit: int) -> StuckList:
        due, found = self.here.dispatch.due, list[tuple[float, StuckLine]]()
        keys = [
            (partition, *cast("tuple[str, int]", key))
            for partition in self.here.dispatch.active
            for key in due.keys(partition)
        ]
        # What ends the grace before a report is no item.
        items = [one for one in keys if one[2] >= 0]
        for number, (partition, node_run_id, index) in enumerate(items[:_MOST_EXAMINED], 1):
            if (one := self._waiting(partition, node_run_id, index)) is not None:
                found.append(one)
            if number % _CHUNK == 0:
                await asyncio.sleep(0)
        soonest = [line for _, line in heapq.nsmallest(limit, found, key=lambda one: one[0])]
        refused, _ = await self.here.latest(self.here.now(), limit, State.REFUSED)
        lines = soonest + [self._refused(one.node_run_id) for one in refused]
        return StuckList(lines=lines, examined=min(len(items), _MOST_EXAMINED), waiting=len(items))

    def _waiting(self, partition: int, node_run_id: str, index: int) -> tuple[float, StuckLine] | None:
        try:
            run = self.here.node_runs.run(partition, node_run_id)
            item = None if run is None else self.here.node_runs.item(partition, run, index)
        except NotOwnedError:
            return None
        held = self.here.holding.until(partition, node_run_id, index)
        deferred = None if item is None else item.deferred_until
        retry = None if item is None else item.due_at
        until = next((at for at in (held, deferred, retry) if at is not None), None)
        if until is None:
            return None
        why = Why.HANDLER if held is not None else Why.CALLBACK if deferred is not None else Why.RETRY
        line = StuckLine(
            node_run_id=node_run_id,
            index=index,
            event_type=None if item is None else item.event_type,
            why=why,
            until=instant(until),
            said=None if item is None or item.error is None else masked_text(item.error),
        )
        return until, line

    def _refused(self, node_run_id: str) -> StuckLine:
        try:
            run = self.here.node_runs.run(self.here.partition_of(node_run_id), node_run_id)
        except NotOwnedError:
            run = None
        said = None if run is None or run.reason is None else masked_text(run.reason)
        return StuckLine(node_run_id=node_run_id, index=None, event_type=None, why=Why.REFUSED, until=None, said=said)


def _together(lists: Sequence[StuckList], limit: int, missing: Missing) -> StuckList:
    # While a partition moves two workers may show the same.
    lines = {(line.node_run_id, line.index): line for one in reversed(lists) for line in one.lines}
    waits = [line for line in lines.values() if line.why is not Why.REFUSED]
    refused = [line for line in lines.values() if line.why is Why.REFUSED]
    soonest = heapq.nsmallest(limit, waits, key=lambda line: inf if line.until is None else line.until.timestamp())
    return StuckList(
        scope=SCOPE_ALL,
        lines=soonest + refused[:limit],
        examined=sum(one.examined for one in lists),
        waiting=sum(one.waiting for one in lists),
        missing=missing.partitions,
        missing_workers=missing.workers,
    )
