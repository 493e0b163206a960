"""The lists that one searches in: node runs by filters and in pages, and failures by event type and message."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from http import HTTPStatus
from typing import Final, Protocol, TypeVar

from aiohttp import web
from yarl import URL

from tables.state import State
from web.answers import (
    MOST_LIMIT,
    Cursor,
    after_of,
    choice_of,
    cursor_of,
    flag_in,
    limit_of,
    refused,
    state_of,
    text_in,
    time_in,
    whole,
    written,
)
from web.data import SCOPE, SCOPE_ALL, MissingWorker, NodeRunInList, Shown, instant
from web.export import MOST_EXPORTED, PAGE, Export, Exports, format_of
from web.grouping import is_group
from web.here import MOST_EXAMINED, Here
from web.index import Failures, Page, Query, TooWideError
from web.others import Missing, Others, is_local
from web.pages import Pages

_FROM_MEMORY: Final = frozenset({State.WAITING, State.RUNNING, State.DEFERRED})
"""States that the rows do not tell apart."""
_FIELDS: Final = ("state", "eventType", "workflow", "since", "until", "text", "repeated", "failure")
_CHUNK: Final = 50
"""Node runs that are read before all else has its turn."""
_LEAST: Final = 100
"""Node runs that are looked for at a time, at least."""
T = TypeVar("T")
Filters = Mapping[str, str]


class Searched(Protocol):
    """What is searched in."""

    async def search(self, query: Query, limit: int, after: Cursor | None = None) -> Page:
        """Return a page of node runs."""

    async def failures(self, limit: int, since: float = 0.0) -> list[Failures]:
        """Return the groups of items that have FAILED since then."""


class Within(StrEnum):
    """How far back one looks at failures."""

    HOUR = "hour"
    DAY = "day"
    ALL = "all"

    def since(self, now: float) -> float:
        """Return from when on, in epoch seconds."""
        return {Within.HOUR: now - 3600, Within.DAY: now - 86_400, Within.ALL: 0.0}[self]


class FoundNodeRuns(Shown):
    """A page of node runs, the latest first."""

    scope: str = SCOPE
    node_runs: list[NodeRunInList]
    after: str | None
    """Where the next page begins: to be given as `after`; null where this is the last."""
    missing: list[int] = []
    """Partitions whose node runs are not in this answer."""
    missing_workers: list[MissingWorker] = []


class FailureGroup(Shown):
    """Items that have FAILED with the same event type, and with messages that differ in ids and numbers alone."""

    failure: str
    """The id of the group: what `failure` of `/api/search` takes."""
    event_type: str
    message: str
    """That of the latest of them."""
    count: int
    """Items."""
    node_runs: int
    latest_at: datetime | None
    latest: str
    """The node-run id of the latest of them."""


class FailureList(Shown):
    """The most frequent failures."""

    scope: str = SCOPE
    within: Within = Within.ALL
    failures: list[FailureGroup]
    missing: list[int] = []
    missing_workers: list[MissingWorker] = []


@dataclass(frozen=True)
class Lists:
    """The views."""

    here: Here
    index: Searched
    others: Others
    pages: Pages
    exports: Exports = field(default_factory=Exports)
    clock: Callable[[], float] = time.time
    """Epoch seconds."""

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the routes."""
        return [
            web.get("/node-runs", self.page),
            web.get("/api/search", self.api),
            # Who only asks for its headers is not to have it made.
            web.get("/api/node-runs/export", self.export, allow_head=False),
            web.get("/failures", self.failures_page),
            web.get("/api/failures", self.api_failures),
        ]

    async def page(self, request: web.Request) -> web.Response:
        """Show the node runs that were searched for."""
        shown = await self._found(request)
        asked = {name: request.query.get(name, "") for name in _FIELDS}
        given = {name: value for name, value in request.query.items() if value}
        export = URL("/api/node-runs/export").with_query({name: given[name] for name in _FIELDS if name in given})
        return self.pages.answer(
            "node_runs.html",
            list=shown,
            asked=asked,
            next=str(URL("/node-runs").with_query(given | {"after": shown.after or ""})),
            as_json=str(export.update_query(format="json")),
            as_csv=str(export.update_query(format="csv")),
            most=MOST_EXPORTED,
        )

    async def api(self, request: web.Request) -> web.Response:
        """Return them as JSON."""
        return _json(await self._found(request))

    async def export(self, request: web.Request) -> web.StreamResponse:
        """Return all that are found, of all pages, as one file."""
        form, most = format_of(request), limit_of(request, MOST_EXPORTED, MOST_EXPORTED)
        async with aclosing(self._all_pages(_query(request), _filters(request))) as pages:
            return await self.exports.write(request, Export(pages, form, most, lambda: self.here.worker.should_stop))

    async def failures_page(self, request: web.Request) -> web.Response:
        """Show what fails."""
        return self.pages.answer("failures.html", list=await self._failures(request))

    async def api_failures(self, request: web.Request) -> web.Response:
        """Return it as JSON."""
        return _json(await self._failures(request))

    async def _found(self, request: web.Request) -> FoundNodeRuns:
        query, limit, after = _query(request), limit_of(request), after_of(request)
        if is_local(request):
            return await self._own(query, limit, after)
        return await self._of_all(query, _filters(request), limit, after)

    async def _all_pages(self, query: Query, filters: Filters) -> AsyncGenerator[FoundNodeRuns, None]:
        after: Cursor | None = None
        while True:
            page = await self._of_all(query, filters, PAGE, after)
            yield page
            if page.after is None:
                return
            after = cursor_of(page.after)

    async def _of_all(self, query: Query, filters: Filters, limit: int, after: Cursor | None) -> FoundNodeRuns:
        own = await self._own(query, limit, after)
        place = {} if after is None else {"after": written(after)}
        gathered = await self.others.gather("/api/search", FoundNodeRuns, {**filters, **place, "limit": limit})
        return _together([own, *gathered.answers], limit, gathered.missing)

    async def _own(self, query: Query, limit: int, after: Cursor | None) -> FoundNodeRuns:
        now, found = self.here.now(), list[NodeRunInList]()
        wanted, examined = query.state, 0
        if wanted in _FROM_MEMORY:
            query = replace(query, state=State.WAITING)
        while True:
            # Where few of a page are in the state, many short pages would take long.
            page = await self._in_time(self.index.search(query, max(limit, _LEAST), after))
            examined += len(page.node_runs)
            for number, line in enumerate(self.here.lines(page.node_runs, now), 1):
                if number % _CHUNK == 0:
                    await asyncio.sleep(0)
                if wanted in (None, line.state):
                    found.append(line)
                if len(found) == limit:
                    more = page.after is not None or line.node_run_id != page.node_runs[-1][1]
                    return FoundNodeRuns(node_runs=found, after=_cursor(found[-1]) if more else None)
            after = page.after
            if after is None or examined >= MOST_EXAMINED:
                return FoundNodeRuns(node_runs=found, after=None if after is None else written(after))

    async def _in_time(self, asked: Awaitable[T]) -> T:
        try:
            return await asked
        except TooWideError:
            message = "this takes too long among so many: narrow it down, by since and until say"
            raise refused(HTTPStatus.BAD_REQUEST, "too-wide", message) from None

    async def _failures(self, request: web.Request) -> FailureList:
        limit, within = limit_of(request), _within(request)
        # What is rare here may be frequent elsewhere: few are left out before they are added up.
        asked = MOST_LIMIT if not is_local(request) else limit
        groups = await self._in_time(self.index.failures(asked, within.since(self.clock())))
        own = FailureList(failures=[_group(one) for one in groups], within=within)
        if is_local(request):
            return own
        gathered = await self.others.gather("/api/failures", FailureList, {"limit": asked, "within": within.value})
        lists, missing = [own, *gathered.answers], gathered.missing
        return FailureList(
            scope=SCOPE_ALL,
            within=within,
            failures=_summed(group for one in lists for group in one.failures)[:limit],
            missing=missing.partitions,
            missing_workers=missing.workers,
        )


def _query(request: web.Request) -> Query:
    asked = request.query
    return Query(
        state=state_of(request),
        event_type=text_in(asked, "eventType"),
        workflow=text_in(asked, "workflow"),
        since=time_in(asked, "since"),
        until=time_in(asked, "until"),
        repeated=flag_in(asked, "repeated"),
        text=text_in(asked, "text"),
        failure=_failure(asked),
    )


def _failure(asked: Mapping[str, str]) -> str | None:
    given = asked.get("failure", "")
    if given and not is_group(given):
        raise refused(HTTPStatus.BAD_REQUEST, "bad-query", "failure is what the list of failures said, unchanged")
    return given or None


def _within(request: web.Request) -> Within:
    return choice_of(request, "within", Within) or Within.ALL


def _filters(request: web.Request) -> Filters:
    """Return the filters as they were given, to be asked of others."""
    given = {name: request.query.get(name, "") for name in _FIELDS}
    return {name: whole(text) for name, text in given.items() if text}


def _received(run: NodeRunInList) -> float:
    return 0.0 if run.received_at is None else run.received_at.timestamp()


def _cursor(run: NodeRunInList) -> str:
    return written((_received(run), run.node_run_id))


def _together(lists: Sequence[FoundNodeRuns], limit: int, missing: Missing) -> FoundNodeRuns:
    """Return one page made of those of several workers.

    Where one of them has looked at as many as it looks at, and found fewer, what comes after it is not shown yet.
    """
    runs = {run.node_run_id: run for one in reversed(lists) for run in one.node_runs}
    ordered = sorted(runs.values(), key=lambda run: (_received(run), run.node_run_id), reverse=True)
    ends = [cursor_of(one.after) for one in lists if one.after is not None]
    last = max(ends) if ends else None
    shown = [run for run in ordered if last is None or (_received(run), run.node_run_id) >= last][:limit]
    more = last is not None or len(ordered) > len(shown)
    after = None
    if more:
        after = _cursor(shown[-1]) if len(shown) == limit or last is None else written(last)
    return FoundNodeRuns(
        scope=SCOPE_ALL,
        node_runs=shown,
        after=after,
        missing=missing.partitions,
        missing_workers=missing.workers,
    )


def _group(one: Failures) -> FailureGroup:
    return FailureGroup(
        failure=one.failure,
        event_type=one.event_type,
        message=one.message,
        count=one.items,
        node_runs=one.node_runs,
        latest_at=instant(one.latest),
        latest=one.node_run_id,
    )


def _summed(groups: Iterable[FailureGroup]) -> list[FailureGroup]:
    """Return each group once, the most frequent first."""
    by_id: dict[str, FailureGroup] = {}
    for group in groups:
        known = by_id.setdefault(group.failure, group)
        if known is not group:
            latest = max(known, group, key=lambda one: 0.0 if one.latest_at is None else one.latest_at.timestamp())
            numbers = {"count": known.count + group.count, "node_runs": known.node_runs + group.node_runs}
            by_id[group.failure] = latest.model_copy(update=numbers)
    return sorted(by_id.values(), key=lambda group: group.count, reverse=True)


def _json(shown: Shown) -> web.Response:
    return web.Response(body=shown.to_json(), content_type="application/json")
