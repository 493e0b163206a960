"""What waits, as it is shown: why, until when, and what can be done."""

import time
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import ClientSession

from agents.settling import Parked
from agents.work import ItemWork
from port.client import Answer, AnswerKind
from streams.records import ItemDeferred, Settled
from tests.web.conftest import NewClient
from tests.web.fakes import NOON, FakeWorker, an_id, halves
from tests.web.serving import paired
from tests.web.sites import Around
from tests.web.test_site import BROWSER, Elements


async def test_each_says_why_and_has_its_action(new_client: NewClient, worker: FakeWorker) -> None:
    dispatch = worker.here.dispatch
    worker.arrive("wfnr_retry")
    worker.defer("wfnr_retry", error="password=hunter2")
    worker.arrive("wfnr_callback")
    deferred = ItemDeferred(
        node_run_id="wfnr_callback", index=0, message=0, attempt=1, until=NOON, worker="w", started_at=1.0, at=2.0
    )
    worker.outcome(deferred)
    dispatch.due.set(worker.here.partition_of("wfnr_callback"), ("wfnr_callback", 0), 4e9, lambda: None)
    worker.arrive("wfnr_held")
    assert worker.holding.hold(worker.wait("wfnr_held"), 4e9, lambda: None)
    worker.arrive("wfnr_refused")
    worker.end("wfnr_refused")
    worker.settle("wfnr_refused", Settled.REFUSED, "not known")
    worker.arrive("wfnr_parked")
    worker.end("wfnr_parked")
    answer = Answer(AnswerKind.UNAVAILABLE, 500, "HTTP 500: token=hunter2")
    worker.parked.append(Parked(0, "wfnr_parked", NOON, answer))
    worker.arrive("wfnr_fine")
    # The end of a grace is nobody's item.
    dispatch.due.set(worker.here.partition_of("wfnr_fine"), ("wfnr_fine", -1), 4e9, lambda: None)

    client = await new_client()
    shown = await (await client.get("/api/stuck")).json()
    told = [(line["nodeRunId"], line["why"], line["said"]) for line in shown["lines"][-2:]]
    assert told == [("wfnr_parked", "parked", "HTTP 500: token=***"), ("wfnr_refused", "refused", "not known")]
    assert shown["lines"][-2]["until"].startswith("2027-01-15T08:15:00")
    whys = {line["nodeRunId"]: line["why"] for line in shown["lines"]}
    expected = {"wfnr_retry": "retry", "wfnr_callback": "callback", "wfnr_held": "handler", "wfnr_refused": "refused"}
    expected["wfnr_parked"] = "parked"
    assert (whys, shown["waiting"]) == (expected, 3)
    text = await (await client.get("/stuck", headers=BROWSER)).text()
    assert "hunter2" not in text
    actions = {form["action"] for form in Elements(text).named("form")}
    assert {
        "/node-runs/wfnr_retry/items/0/retry",
        "/node-runs/wfnr_callback/items/0/complete",
        "/node-runs/wfnr_held/items/0/complete",
        "/node-runs/wfnr_refused/retry",
        "/node-runs/wfnr_parked/retry",
        "/node-runs/wfnr_parked/give-up",
    } <= actions


def lines(shown: dict[str, Any]) -> dict[str, str]:
    return {line["nodeRunId"]: line["why"] for line in shown["lines"]}


class Late:
    """A handler with calls of every age: its deadline is 30 seconds."""

    def __init__(self, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
        self.worker, self.now = worker, 1000.0
        monkeypatch.setattr("agents.feeding.time", SimpleNamespace(monotonic=lambda: self.now))

    def begins(self, node_run_id: str, before: float) -> None:
        """One begins so many seconds before now."""
        self.worker.arrive(node_run_id)
        self.now = 1000.0 - before
        self.worker.run(node_run_id)
        self.now = 1000.0

    def waits(self, node_run_id: str, before: float) -> None:
        self.worker.arrive(node_run_id)
        self.now = 1000.0 - before
        self.worker.wait(node_run_id)
        self.now = 1000.0


@pytest.fixture
def late(worker: FakeWorker, monkeypatch: pytest.MonkeyPatch) -> Late:
    made = Late(worker, monkeypatch)
    worker.clock = lambda: made.now
    return made


async def test_calls_near_their_deadline_and_past_it(new_client: NewClient, worker: FakeWorker, late: Late) -> None:
    late.begins("wfnr_young", 23.9)
    late.begins("wfnr_near", 24.1)
    late.begins("wfnr_nearer", 29.0)
    late.begins("wfnr_past", 40.0)
    worker.end("wfnr_past", error="the deadline of 30 s passed")
    client = await new_client()
    shown = await (await client.get("/api/stuck")).json()
    assert [(line["nodeRunId"], line["why"]) for line in shown["lines"]] == [
        ("wfnr_past", "overdue"),
        ("wfnr_nearer", "deadline"),
        ("wfnr_near", "deadline"),
    ]
    assert (shown["examined"], shown["waiting"]) == (3, 3)
    assert shown["lines"][1]["handler"] == "greet"
    left = datetime.fromisoformat(shown["lines"][2]["until"]).timestamp() - time.time()
    assert 4 < left < 6.1
    page = await (await client.get("/stuck", headers=BROWSER)).text()
    actions = {form["action"] for form in Elements(page).named("form")}
    assert {
        "/node-runs/wfnr_past/items/0/retry",
        "/node-runs/wfnr_near/items/0/complete",
        "/node-runs/wfnr_near/cancel",
    } <= actions
    assert "/node-runs/wfnr_past/items/0/complete" not in actions


async def test_what_waits_behind_calls_that_do_not_end(new_client: NewClient, worker: FakeWorker, late: Late) -> None:
    late.waits("wfnr_first", 50.0)
    late.waits("wfnr_later", 5.0)
    client = await new_client()
    assert lines(await (await client.get("/api/stuck")).json()) == {}
    worker.feeder.blocked_since = 980.0
    shown = await (await client.get("/api/stuck")).json()
    assert lines(shown) == {"wfnr_first": "place", "wfnr_later": "place"}
    ends = [datetime.fromisoformat(line["until"]).timestamp() - time.time() for line in shown["lines"]]
    # What waited when the last place was taken has one deadline from then, what came later the next one.
    assert 9 < ends[0] <= 10 < 39 < ends[1] <= 40


async def test_items_of_paused_handlers(new_client: NewClient, worker: FakeWorker) -> None:
    worker.arrive("wfnr_a")
    worker.pausing.keep("greet", ItemWork(worker.here.partition_of("wfnr_a"), "wfnr_a", 0, 0, "greet", 1))
    worker.arrive("wfnr_b")
    worker.defer("wfnr_b")
    client = await new_client()
    shown = await (await client.get("/api/stuck")).json()
    # What has no end comes last.
    assert list(lines(shown).items()) == [("wfnr_b", "retry"), ("wfnr_a", "paused")]
    page = await (await client.get("/stuck", headers=BROWSER)).text()
    assert "/handlers/greet/resume" in {form["action"] for form in Elements(page).named("form")}


async def test_by_reason(new_client: NewClient, worker: FakeWorker) -> None:
    worker.arrive("wfnr_a")
    worker.pausing.keep("greet", ItemWork(worker.here.partition_of("wfnr_a"), "wfnr_a", 0, 0, "greet", 1))
    worker.arrive("wfnr_b")
    worker.defer("wfnr_b")
    worker.arrive("wfnr_c")
    worker.end("wfnr_c")
    worker.settle("wfnr_c", Settled.REFUSED, "not known")
    client = await new_client()
    for why, expected in (("paused", "wfnr_a"), ("retry", "wfnr_b"), ("refused", "wfnr_c")):
        shown = await (await client.get(f"/api/stuck?why={why}")).json()
        assert lines(shown) == {expected: why}
        page = Elements(await (await client.get(f"/stuck?why={why}", headers=BROWSER)).text())
        assert {"href": f"/stuck?why={why}", "aria-current": "true"} in page.named("a")
    assert lines(await (await client.get("/api/stuck?why=callback")).json()) == {}
    assert (await client.get("/api/stuck?why=nothing")).status == 400


async def test_it_is_bounded(new_client: NewClient, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.stuck._MOST_EXAMINED", 3)
    for number in range(8):
        worker.arrive(f"wfnr_{number}")
        worker.defer(f"wfnr_{number}")
    reads = worker.rows.reads
    client = await new_client()
    shown = await (await client.get("/api/stuck?why=retry")).json()
    assert (len(shown["lines"]), shown["examined"], shown["waiting"]) == (3, 3, 8)
    assert worker.rows.reads - reads <= 6


async def test_what_waits_at_two_workers() -> None:
    one, other = FakeWorker("one"), FakeWorker("other")
    halves(one, other)
    ids = [an_id(one, "r"), an_id(other, "r")]
    for worker, node_run_id in zip((one, other), ids, strict=True):
        worker.arrive(node_run_id)
        worker.pausing.keep("greet", ItemWork(worker.here.partition_of(node_run_id), node_run_id, 0, 0, "greet", 1))
    async with paired(one, other, Around()) as (first, _), ClientSession(first.url) as client:
        shown = await (await client.get("/api/stuck?why=paused")).json()
    assert (set(lines(shown)), shown["scope"], shown["missing"]) == (set(ids), "all workers", [])
