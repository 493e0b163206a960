"""What waits for somebody or something, or is about to fail: callbacks, handlers, retries, deadlines, places, pauses,
and reports that Port fails at, or has refused.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import chain, islice
from math import inf
from typing import Final, NamedTuple, cast

from aiohttp import web

from agents.feeding import Feeder
from agents.pausing import Pausing
from agents.work import ItemWork
from tables.rows import RowError
from tables.state import Item, NodeRun, seen_of
from web.answers import choice_of, limit_of
from web.auth import access_of
from web.data import SCOPE, SCOPE_ALL, MissingWorker, Shown, instant
from web.declared import Declaration
from web.here import Here
from web.masking import masked_text
from web.others import Missing, Others, is_local
from web.pages import Pages

NEAR: Final = 0.8
"""The share of its deadline after which a call is near it."""
_MOST_EXAMINED: Final = 5000
"""How many items of each kind are looked at for one list."""
_CHUNK: Final = 100


class Why(StrEnum):
    """What something waits for."""

    OVERDUE = "overdue"
    """For its call, which goes on past its deadline or its cancellation, and keeps a place of the handler."""
    DEADLINE = "deadline"
    """For its call, which has used most of its deadline."""
    PLACE = "place"
    """For a place: all are kept by calls past their deadlines. It has one more deadline, then it fails."""
    CALLBACK = "callback"
    HANDLER = "handler"
    RETRY = "retry"
    PAUSED = "paused"
    """For its handler to be resumed, without a limit."""
    PARKED = "parked"
    """For Port to take its report: Port fails at it while it takes others."""
    REFUSED = "refused"
    """For nothing: Port has refused the report."""


class StuckLine(Shown):
    """An item that waits, or a node run whose report was refused."""

    node_run_id: str
    index: int | None
    event_type: str | None
    handler: str | None = None
    """What its handler is declared for; null where it waits for none."""
    why: Why
    until: datetime | None
    """When it ends by itself, or is called again; of an overdue call, when it ought to have ended."""
    said: str | None
    """The error of the last call, or what Port last said of the report."""
    reported: bool = False
    """Whether the result of the node run is fixed, so that it can be cancelled no more."""
    attempt: int = 0
    """How many calls of the item there were: what an action on it brings along."""
    seen: str = ""
    """What an action on the node run brings along."""


class StuckList(Shown):
    """What waits: what ends soonest first, then the reports that Port fails at, and those that it has refused."""

    scope: str = SCOPE
    lines: list[StuckLine]
    examined: int
    """How many waiting items were looked at."""
    waiting: int
    """How many there are, of those that were asked for."""
    missing: list[int] = []
    """Partitions of which nothing is in this list."""
    missing_workers: list[MissingWorker] = []


class _Waits(NamedTuple):
    """An item that may be stuck; where `why` is not known yet its row says it."""

    partition: int
    node_run_id: str
    item: int
    why: Why | None = None
    until: float | None = None
    handler: str | None = None


@dataclass(frozen=True)
class Stuck:
    """The views of what waits.

    Args:
        handlers: how they are declared, by what they are declared for.
        refused: returns the ids of so many node runs of this worker whose report Port has refused, the latest first.
        clock: monotonic seconds.
    """

    here: Here
    pages: Pages
    others: Others
    pausing: Pausing
    handlers: Mapping[str, Declaration]
    refused: Callable[[int], Awaitable[Sequence[str]]]
    clock: Callable[[], float] = time.monotonic

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the routes."""
        return [web.get("/stuck", self.page), web.get("/api/stuck", self.api)]

    async def page(self, request: web.Request) -> web.Response:
        """Show it, each with what can be done."""
        shown, why = await self._list(request), choice_of(request, "why", Why)
        return self.pages.answer("stuck.html", list=shown, why=why, whys=list(Why), access=access_of(request))

    async def api(self, request: web.Request) -> web.Response:
        """Return it as JSON."""
        shown = await self._list(request)
        return web.Response(body=shown.to_json(), content_type="application/json")

    async def _list(self, request: web.Request) -> StuckList:
        limit, why = limit_of(request), choice_of(request, "why", Why)
        own = await self._own(limit, why)
        if is_local(request):
            return own
        asked = {"limit": limit} if why is None else {"limit": limit, "why": why.value}
        gathered = await self.others.gather("/api/stuck", StuckList, asked)
        return _together([own, *gathered.answers], limit, gathered.missing)

    async def _own(self, limit: int, why: Why | None) -> StuckList:
        items, waiting = await self._items(limit, why)
        found = list[tuple[float, StuckLine]]()
        for number, waits in enumerate(items, 1):
            line = self._line(waits)
            if line is not None and why in (None, line.why):
                found.append((_ends(line), line))
            if number % _CHUNK == 0:
                await asyncio.sleep(0)
        soonest = [line for _, line in heapq.nsmallest(limit, found, key=lambda one: one[0])]
        refused = list[StuckLine]()
        if why in (None, Why.REFUSED):
            refused = [self._refused(node_run_id) for node_run_id in await self.refused(limit)]
        return StuckList(lines=soonest + self._parked(limit, why) + refused, examined=len(items), waiting=waiting)

    # What may be stuck.

    async def _items(self, limit: int, why: Why | None) -> tuple[list[_Waits], int]:
        """Return what is to be looked at, and how much there is; from memory, and no more than can be looked at."""
        # What waits for a place stands in the order in which it ends, and what is paused has no end: no more is needed
        # of these than is shown.
        sources: list[tuple[set[Why], Iterable[_Waits], int, int]] = [
            ({Why.OVERDUE, Why.DEADLINE}, self._called(), _MOST_EXAMINED, 0),
            ({Why.PLACE}, self._without_places(limit), _MOST_EXAMINED, self._behind_blocked()),
            ({Why.CALLBACK, Why.HANDLER, Why.RETRY}, self._due(), _MOST_EXAMINED, 0),
            ({Why.PAUSED}, self._paused(), limit, sum(self.pausing.waiting().values())),
        ]
        items, waiting = list[_Waits](), 0
        for whys, source, most, number in sources:
            if why is None or why in whys:
                some = list(islice(source, most))
                items += some
                waiting += max(number, len(some))
                await asyncio.sleep(0)
        if why in (None, Why.CALLBACK, Why.HANDLER, Why.RETRY):
            waiting += max(0, len(self.here.dispatch.due) - _MOST_EXAMINED)
        return items, waiting

    def _called(self) -> Iterator[_Waits]:
        """Yield the items whose calls are near their deadline, or past it."""
        for name, feeder, deadline in self._feeders():
            for since, work in list(feeder.since()):
                used = self.clock() - since
                if used >= NEAR * deadline and work.partition in self.here.dispatch.active:
                    why = Why.DEADLINE if used < deadline else Why.OVERDUE
                    yield _waits(work, why, time.time() + deadline - used, name)

    def _without_places(self, limit: int) -> Iterator[_Waits]:
        """Yield the items that wait behind calls past their deadlines: what waited then has one deadline from then."""
        for name, feeder, deadline in self._feeders():
            blocked = feeder.blocked_since
            if blocked is None:
                continue
            for since, work in list(islice(feeder.waiting_since(), limit)):
                rounds = 1 if since <= blocked else 2
                if work.partition in self.here.dispatch.active:
                    yield _waits(work, Why.PLACE, time.time() + blocked + rounds * deadline - self.clock(), name)

    def _behind_blocked(self) -> int:
        return sum(feeder.waiting for _, feeder, _ in self._feeders() if feeder.blocked_since is not None)

    def _feeders(self) -> Iterator[tuple[str, Feeder[ItemWork], float]]:
        for name, feeder in self.here.feeders.items():
            yield name, feeder, self.handlers[name].deadline_seconds

    def _due(self) -> Iterator[_Waits]:
        """Yield what is in the due index; its rows say for what it waits."""
        due = self.here.dispatch.due
        for partition in self.here.dispatch.active:
            for key in due.keys(partition):
                node_run_id, index = cast("tuple[str, int]", key)
                # What ends the grace before a report is no item.
                if index >= 0:
                    yield _Waits(partition, node_run_id, index)

    def _paused(self) -> Iterator[_Waits]:
        return (_waits(work, Why.PAUSED, None, name) for name, work in self.pausing.kept())

    # How it is shown.

    def _line(self, waits: _Waits) -> StuckLine | None:
        """Return an item as it is shown; None where it does not wait any more."""
        try:
            run = self.here.node_runs.run(waits.partition, waits.node_run_id)
            item = None if run is None else self.here.node_runs.item(waits.partition, run, waits.item)
        except RowError:
            return None
        if run is None:
            return None
        if waits.why is None:
            why, until = self._row_says(waits, item)
            if until is None:
                return None
        else:
            why, until = waits.why, waits.until
        return StuckLine(
            node_run_id=waits.node_run_id,
            index=waits.item,
            event_type=_event_type(item, run),
            handler=waits.handler,
            why=why,
            until=instant(until),
            said=None if item is None or item.error is None else masked_text(item.error),
            reported=run.covered is not None,
            attempt=0 if item is None else item.attempt,
            seen=seen_of(run),
        )

    def _row_says(self, waits: _Waits, item: Item | None) -> tuple[Why, float | None]:
        held = self.here.holding.until(waits.partition, waits.node_run_id, waits.item)
        if held is not None:
            return Why.HANDLER, held
        if item is not None and item.deferred_until is not None:
            return Why.CALLBACK, item.deferred_until
        return Why.RETRY, None if item is None else item.due_at

    def _parked(self, limit: int, why: Why | None) -> list[StuckLine]:
        if why not in (None, Why.PARKED):
            return []
        return [
            StuckLine(
                node_run_id=one.node_run_id,
                index=None,
                event_type=None,
                why=Why.PARKED,
                until=instant(self.here.next_try(one.node_run_id)),
                said=masked_text(one.answer.reason),
                reported=True,
                seen=self._seen(one.node_run_id),
            )
            for one in islice(self.here.parked(), limit)
        ]

    def _seen(self, node_run_id: str) -> str:
        run = self._run(node_run_id)
        return "" if run is None else seen_of(run)

    def _run(self, node_run_id: str) -> NodeRun | None:
        with suppress(RowError):
            return self.here.node_runs.run(self.here.partition_of(node_run_id), node_run_id)
        return None

    def _refused(self, node_run_id: str) -> StuckLine:
        run = self._run(node_run_id)
        said = None if run is None or run.reason is None else masked_text(run.reason)
        return StuckLine(
            node_run_id=node_run_id,
            index=None,
            event_type=None,
            why=Why.REFUSED,
            until=None,
            said=said,
            reported=True,
            seen="" if run is None else seen_of(run),
        )


def _waits(work: ItemWork, why: Why, until: float | None, handler: str) -> _Waits:
    return _Waits(work.partition, work.node_run_id, work.index, why, until, handler)


def _event_type(item: Item | None, run: NodeRun) -> str | None:
    """Return the event type of an item: nothing is written of one that was not called yet."""
    if item is not None and item.event_type is not None:
        return item.event_type
    return run.event_types[0] if len(run.event_types) == 1 else None


_REPORTS: Final = (Why.PARKED, Why.REFUSED)


def _ends(line: StuckLine) -> float:
    return inf if line.until is None else line.until.timestamp()


def _together(lists: Sequence[StuckList], limit: int, missing: Missing) -> StuckList:
    # While a partition moves two workers may show the same.
    lines = {(line.node_run_id, line.index): line for line in chain.from_iterable(one.lines for one in reversed(lists))}
    waits = [line for line in lines.values() if line.why not in _REPORTS]
    parked = [line for line in lines.values() if line.why is Why.PARKED]
    refused = [line for line in lines.values() if line.why is Why.REFUSED]
    return StuckList(
        scope=SCOPE_ALL,
        lines=heapq.nsmallest(limit, waits, key=_ends) + parked[:limit] + refused[:limit],
        examined=sum(one.examined for one in lists),
        waiting=sum(one.waiting for one in lists),
        missing=missing.partitions,
        missing_workers=missing.workers,
    )
