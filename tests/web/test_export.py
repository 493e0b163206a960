"""An export: all that a search finds, over all pages and workers; what is missing or cut off is said, and nothing is
kept in memory meanwhile."""

import asyncio
import csv
import io
import json
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from tests.web.fakes import FakeWorker, halves
from tests.web.serving import Served, paired, running
from tests.web.sites import Around
from web import export
from web.others import Peer
from web.search import FoundNodeRuns, Lists

MANY = 700
"""More than two pages."""


def arrive(*workers: FakeWorker) -> list[str]:
    """Bring node runs; returns their ids, the latest first."""
    ids = [f"wfnr_{number:04d}" for number in range(MANY)]
    for number, node_run_id in enumerate(ids):
        owner = next(one for one in workers if one.here.partition_of(node_run_id) in one.here.partitions)
        for one in workers:
            one._offset = number
        owner.arrive(node_run_id, workflow=f"flow-{number % 2}")
    return ids[::-1]


async def fetched(views: Served, query: str) -> tuple[aiohttp.ClientResponse, str]:
    async with aiohttp.ClientSession() as session, session.get(f"{views.url}/api/node-runs/export{query}") as answer:
        return answer, await answer.text()


def of_csv(text: str) -> tuple[list[str], list[str]]:
    """Return the node-run ids of a table, and what stands under it."""
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    last = [row["nodeRunId"] for row in rows if row["nodeRunId"].startswith("#")]
    return [row["nodeRunId"] for row in rows][: len(rows) - len(last)], last


async def test_all_pages_of_all_workers() -> None:
    one, other = FakeWorker("host-1"), FakeWorker("host-2")
    halves(one, other)
    ids = arrive(one, other)
    async with paired(one, other, Around()) as (views, _):
        answer, text = await fetched(views, "?format=json")
        assert (answer.status, answer.content_type) == (200, "application/json")
        assert answer.headers["Content-Disposition"] == 'attachment; filename="node-runs.json"'
        assert "Content-Length" not in answer.headers
        told = json.loads(text)
        assert [run["nodeRunId"] for run in told.pop("nodeRuns")] == ids
        assert told == {"count": MANY, "complete": True, "note": None, "missing": [], "missingWorkers": []}
        answer, text = await fetched(views, "?workflow=flow-1")
        assert answer.headers["Content-Disposition"] == 'attachment; filename="node-runs.csv"'
        assert of_csv(text) == (ids[::2], [])
        _, text = await fetched(views, "?format=json&text=nowhere")
        assert json.loads(text)["nodeRuns"] == []


@pytest.mark.parametrize("limit", [1, 250, 300, MANY - 1])
async def test_what_is_cut_off_is_said(limit: int) -> None:
    worker = FakeWorker()
    async with running(worker, Around()) as views:
        ids = arrive(worker)
        _, text = await fetched(views, f"?limit={limit}")
        note = f"it ends after {limit:,} node runs, and there are more"
        assert of_csv(text) == (ids[:limit], [f"# not complete: {note}"])
        told = json.loads((await fetched(views, f"?limit={limit}&format=json"))[1])
        assert [run["nodeRunId"] for run in told["nodeRuns"]] == ids[:limit]
        assert (told["count"], told["complete"], told["note"]) == (limit, False, note)
        exact = json.loads((await fetched(views, f"?limit={MANY}&format=json"))[1])
        assert (exact["count"], exact["complete"]) == (MANY, True)


async def test_the_part_of_a_dead_worker_is_missing() -> None:
    one, other = FakeWorker("host-1"), FakeWorker("host-2")
    halves(one, other)
    arrive(one, other)
    gone = Peer("host-2", "http://127.0.0.1:1", frozenset(other.here.partitions))
    async with running(one, Around(peers=[gone])) as views:
        answer, text = await fetched(views, "?format=json")
        told, away = json.loads(text), sorted(other.here.partitions)
        assert answer.headers["X-Missing-Partitions"] == ",".join(map(str, away))
        assert (told["complete"], told["missing"]) == (False, away)
        assert [missing["worker"] for missing in told["missingWorkers"]] == ["host-2"]
        assert {run["partition"] for run in told["nodeRuns"]} == set(one.here.partitions)
        _, text = await fetched(views, "")
        _, last = of_csv(text)
        assert last == [f"# not complete: nobody showed all of the partitions {', '.join(map(str, away))}"]


class Broken(Lists):
    """Lists of which the second page fails, or the worker stops then."""

    stops = False

    async def _of_all(self, *args: Any) -> FoundNodeRuns:
        if args[3] is None:
            return await super()._of_all(*args)
        if not self.stops:
            raise OSError("the disk is gone")
        raise AssertionError("no further page is asked for")


async def test_what_breaks_off_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = FakeWorker()
    ids = arrive(worker)
    monkeypatch.setattr("tests.web.serving.Lists", Broken)
    async with running(worker, Around()) as views:
        told = json.loads((await fetched(views, "?format=json"))[1])
        assert [run["nodeRunId"] for run in told["nodeRuns"]] == ids[: export.PAGE]
        assert (told["complete"], told["note"]) == (False, "the view failed; the worker's log says why")
        monkeypatch.setattr(Broken, "stops", True)
        worker.app.should_stop = True
        _, last = of_csv((await fetched(views, ""))[1])
        assert last == ["# not complete: the worker that wrote it was stopped"]


async def test_many_at_a_time_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    worker, turn = FakeWorker(), asyncio.Event()
    arrive(worker)

    class Slow(Lists):
        async def _of_all(self, *args: Any) -> FoundNodeRuns:
            await turn.wait()
            return await super()._of_all(*args)

    monkeypatch.setattr("tests.web.serving.Lists", Slow)
    async with running(worker, Around()) as views, aiohttp.ClientSession() as session:
        path = f"{views.url}/api/node-runs/export"
        asked = [asyncio.ensure_future(session.get(path)) for _ in range(export.MOST_EXPORTS + 1)]
        [refused], _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        assert (refused.result().status, refused.result().headers["Retry-After"]) == (503, "10")
        assert (await refused.result().json())["error"] == "busy"
        turn.set()
        for one in asked:
            assert await (await one).read()
        async with session.get(path) as again:
            assert again.status == 200


async def test_who_goes_away_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    worker, pages, ended = FakeWorker(), list[object](), asyncio.Event()

    class Endless(Lists):
        async def export(self, request: web.Request) -> web.StreamResponse:
            try:
                return await super().export(request)
            finally:
                ended.set()

        async def _all_pages(self, *args: Any) -> AsyncGenerator[FoundNodeRuns, None]:
            async for page in super()._all_pages(*args):
                while True:
                    pages.append(page)
                    yield page.model_copy(update={"after": "1,wfnr_a"})

    arrive(worker)
    monkeypatch.setattr("tests.web.serving.Lists", Endless)
    async with running(worker, Around()) as views:
        host, port = URL(views.url).host, URL(views.url).port
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET /api/node-runs/export HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        await reader.readexactly(1000)
        writer.transport.abort()
        await asyncio.wait_for(ended.wait(), 10)
        # Who does not read is not written for without end.
        assert len(pages) * export.PAGE < export.MOST_EXPORTED


@pytest.mark.parametrize("query", ["format=xml", "limit=0", "limit=100001", "state=odd", "repeated=yes"])
async def test_what_cannot_be_asked_for(query: str) -> None:
    async with running(FakeWorker(), Around()) as views:
        answer, text = await fetched(views, f"?{query}")
        assert (answer.status, json.loads(text)["error"]) == (400, "bad-query")
