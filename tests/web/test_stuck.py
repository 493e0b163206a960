"""What waits, as it is shown: why, until when, and what can be done."""

from streams.records import ItemDeferred, Settled
from tests.web.conftest import NewClient
from tests.web.fakes import NOON, FakeWorker
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
    worker.arrive("wfnr_fine")
    # The end of a grace is nobody's item.
    dispatch.due.set(worker.here.partition_of("wfnr_fine"), ("wfnr_fine", -1), 4e9, lambda: None)

    client = await new_client()
    shown = await (await client.get("/api/stuck")).json()
    assert [(line["nodeRunId"], line["why"]) for line in shown["lines"][-1:]] == [("wfnr_refused", "refused")]
    whys = {line["nodeRunId"]: line["why"] for line in shown["lines"]}
    expected = {"wfnr_retry": "retry", "wfnr_callback": "callback", "wfnr_held": "handler", "wfnr_refused": "refused"}
    assert (whys, shown["waiting"]) == (expected, 3)
    text = await (await client.get("/stuck", headers=BROWSER)).text()
    assert "hunter2" not in text
    actions = {form["action"] for form in Elements(text).named("form")}
    assert {
        "/node-runs/wfnr_retry/items/0/retry",
        "/node-runs/wfnr_callback/items/0/complete",
        "/node-runs/wfnr_held/items/0/complete",
        "/node-runs/wfnr_refused/retry",
    } <= actions
