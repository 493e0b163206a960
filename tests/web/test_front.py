"""The front page and its JSON, of two workers over real HTTP: numbers of both, reasons, and who is missing."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import aiohttp
from pydantic import JsonValue

from port.models import Result
from streams.bridge import SourceState
from streams.lag import Behind
from streams.records import Action, ItemFinished, Settled, TypePaused
from tests.web.conftest import NewClient
from tests.web.fakes import NOON, FakeWorker, an_id, halves
from tests.web.pairs import BEARER, Pair
from tests.web.seeding import last_hour
from tests.web.serving import Served, paired
from tests.web.sites import Around
from tests.web.test_site import BROWSER, Elements


@asynccontextmanager
async def two(around: Around) -> AsyncIterator[tuple[FakeWorker, FakeWorker, Served, aiohttp.ClientSession]]:
    """Serve two workers with an index each; the second has the odd partitions."""
    one, other = FakeWorker(), FakeWorker("host-other")
    halves(one, other)
    async with paired(one, other, around) as (first, _), aiohttp.ClientSession() as session:
        yield one, other, first, session


async def told(session: aiohttp.ClientSession, served: Served) -> dict[str, JsonValue]:
    answer: dict[str, JsonValue] = await (await session.get(f"{served.url}/api/overview")).json()
    return answer


async def test_numbers_are_of_both_workers() -> None:
    async with two(Around(steps=last_hour())) as (one, other, served, session):
        for number, worker in enumerate((one, other)):
            ids = [an_id(worker, f"{word}_") for word in ("runs", "waits", "failed", "refused", "reporting")]
            for node_run_id in ids:
                worker.arrive(node_run_id)
            worker.run(ids[0])
            worker.wait(ids[1])
            worker.end(ids[2], error=f"no host {number}")
            worker.settle(ids[2])
            worker.end(ids[3])
            worker.settle(ids[3], Settled.REFUSED, "no such node run")
            worker.end(ids[4])
            worker.report(ids[4])
            worker.behind = {"o.runs": Behind(3 + number, 2 + number, 3, 1.5)}
            worker.app.port.budget.remaining, worker.app.port.budget.limit = 9000 + number, 15_000
        shown = await told(session, served)
        work, failed, latest = shown["work"], shown["failed"], shown["latest"]
        assert isinstance(work, dict)
        assert isinstance(failed, dict)
        assert isinstance(latest, dict)
        assert (work["running"], work["queued"]) == (2, 2)
        assert isinstance(work["oldest"], dict)
        assert str(work["oldest"]["nodeRunId"]).startswith("wfnr_waits_")
        assert (failed["number"], len(failed["latest"])) == (4, 4)  # type: ignore[arg-type]
        assert shown["lags"] == [
            {"topic": "o.runs", "records": 7, "worstPartition": 2, "worstRecords": 3, "oldestSeconds": 1.5}
        ]
        port = latest["port"]
        assert isinstance(port, dict)
        assert (port["reportsWaiting"], port["rateLimitRemaining"], port["rateLimit"]) == (2, 9000, 15_000)
        assert port["oldestWaitsSince"] == "2027-01-15T08:00:21.500000Z"
        page = await (await session.get(served.url, headers=BROWSER)).text()
        for text in (
            "Port has refused 2 reports.",
            "no host 0",
            "no host 1",
            "9,000 of 15,000 calls left",
            "1,108/min",
        ):
            assert text in page, text
        links = {link["href"] for link in Elements(page).named("a")}
        assert {"/stuck", "/failures?within=hour", "/node-runs?state=reporting", "/workers"} <= links


async def test_failures_of_more_than_an_hour_ago_are_not_counted() -> None:
    async with two(Around()) as (one, other, served, session):
        for worker, hours in ((one, 1.1), (other, 0.9)):
            node_run_id = an_id(worker)
            worker.arrive(node_run_id)
            at = time.time() - 3600 * hours
            worker.outcome(
                ItemFinished(
                    node_run_id=node_run_id,
                    index=0,
                    message=0,
                    event_type="greet",
                    attempt=1,
                    result=Result.FAILED,
                    error="no host",
                    worker="w",
                    started_at=at,
                    ended_at=at,
                )
            )
        failed = (await told(session, served))["failed"]
        assert isinstance(failed, dict)
        assert failed["number"] == 1
        for within, number in (("hour", 1), ("day", 2), ("all", 2)):
            answer = await (await session.get(f"{served.url}/api/failures?within={within}")).json()
            assert [(group["count"], group["nodeRuns"]) for group in answer["failures"]] == [(number, number)]


async def test_who_is_missing_is_the_first_reason(pair: Pair) -> None:
    page = await (await pair.first.get("/", headers=BEARER)).text()
    assert "All is well" in page
    await pair.second.close()
    shown = await (await pair.first.get("/api/overview", headers=BEARER)).json()
    assert shown["missing"] == [1, 3, 5, 7]
    assert [(one["severity"], one["text"]) for one in shown["problems"]] == [
        ("bad", "Worker host-other gives no answer: nobody listens there."),
        ("bad", "No worker shows partitions 1, 3, 5, 7."),
    ]
    page = await (await pair.first.get("/", headers=BEARER)).text()
    assert "Needs a look" in page
    assert "gives no answer: nobody listens there" in page


async def test_a_worker_asked_for_itself_gathers_nothing(pair: Pair) -> None:
    await pair.second.close()
    own = await (await pair.first.get("/api/overview?scope=worker", headers=BEARER)).json()
    assert (own["scope"], own["missing"], own["missingWorkers"]) == ("this worker", [1, 3, 5, 7], [])
    assert [one["worker"] for one in own["workers"]] == ["host-0123abcd"]


async def test_what_needs_a_look_is_said(new_client: NewClient, worker: FakeWorker) -> None:
    action = Action(id="a", who="ann")
    for partition in worker.here.partitions:
        worker.pausing.change(partition, TypePaused(event_type="greet", paused=True, action=action, at=NOON))
    worker.post.add(1, b"{", "it is bad")
    worker.behind = {"o.runs": Behind(9, 1, 9, 75.0)}
    status = SourceState(
        was_connected=True, problem="no broker answers", since=NOON, lag={0: 2, 1: 10}, lag_seconds=120.0
    )
    worker.app.bridge = SimpleNamespace(status=status)
    client = await new_client()
    shown = await (await client.get("/api/overview")).json()
    assert [one["text"] for one in shown["problems"]] == [
        "Worker host-0123abcd cannot copy from the source: no broker answers.",
        "9 records of o.runs wait, the oldest for 1 min 15 s.",
        "12 records of source wait, the oldest for 2 min 0 s.",
        "1 dead letter came in the last hour.",
        "Handler greet is paused: 0 items wait.",
    ]


async def test_an_empty_page_says_what_to_do(new_client: NewClient) -> None:
    client = await new_client()
    page = await (await client.get("/", headers=BROWSER)).text()
    for text in ("No node run has come yet", "node-json", "docs/handlers.md", "The charts begin"):
        assert text in page
