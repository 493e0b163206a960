"""Cancelled workflow runs and arrays that need not succeed as a whole, on a real Kafka and a real worker."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from local.kafka import EmbeddedKafka, free_port
from tests.e2e.record import Record
from tests.processes import STARTS_WITHIN, Cluster, Process, call, eventually, ready

HANDLERS = """
import asyncio
import os
import time
from agents import Array, Context, Deferred, Fail, RetryLater, handles

def begun(ctx: Context) -> None:
    with open(os.environ["BEGUN"], "a") as out:
        out.write(f"{ctx.idempotency_key} {os.getpid()}\\n")

@handles("long", deadline="1h")
async def long(event: dict, ctx: Context) -> dict:
    begun(ctx)
    try:
        # On until somebody lets it end, after its cancellation.
        while not (ctx.cancelled and os.path.exists(os.environ["GO"])):
            await asyncio.sleep(0.05)
    finally:
        ctx.log("let go of it")
    return {"cancelled": ctx.cancelled}

@handles("urgent", deadline="1h", cancel="at once")
async def urgent(event: dict, ctx: Context) -> None:
    begun(ctx)
    await asyncio.sleep(3600)

@handles("thread", deadline="1h")
def thread(event: dict, ctx: Context) -> dict:
    begun(ctx)
    ctx.wait(3600)
    ctx.log("cancelled: %s", ctx.cancelled)
    if event.get("gives") == "up":
        raise RetryLater("1h", "given up")
    return {"came": "to its end"}

@handles("stubborn", deadline="1h")
async def stubborn(event: dict, ctx: Context) -> None:
    begun(ctx)
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

async def one(event: dict, ctx: Context) -> dict:
    do = event["do"]
    if do == "fail":
        raise Fail("it cannot be done")
    if do == "later":
        raise RetryLater("1h", "not yet")
    if do == "defer":
        return Deferred("1h")
    if do == "flaky" and ctx.attempt == 1:
        raise RetryLater("100ms", "not yet")
    if do == "hang":
        await asyncio.sleep(3600)
    if do == "slow":
        await asyncio.sleep(0.5)
    return {"did": do}

for name, array in {
    "any": "any", "half": 0.5, "all": "all", "strict": Array("all", cancel_rest=True), "soft": Array(0.5, False)
}.items():
    async def handler(event: dict, ctx: Context) -> dict:
        return await one(event, ctx)
    handles(name, array=array, concurrency=2 if name == "strict" else 10, deadline="1h")(handler)
"""


class Running:
    """A worker that looks at workflow runs every five seconds, and what became of what it was given."""

    def __init__(self, cluster: Cluster, worker: Process) -> None:
        self.cluster = cluster
        self.worker = worker
        self.record = Record(cluster)

    def array(self, event_type: str, *todo: str) -> dict[str, Any]:
        """Return the body that completed a node run with these items."""
        return self.record.completed(self.cluster.publish([{"type": event_type, "do": do} for do in todo]))

    def cancel(self, node_run_id: str, query: str = "") -> None:
        known = call(self.cluster.emulator_port, "GET", f"/emulator/node-runs/{node_run_id}").json
        run_id = known["nodeRun"]["workflowRunId"]
        secrets = {"clientId": "client", "clientSecret": "a-secret-for-tests"}
        token = call(self.cluster.emulator_port, "POST", "/v1/auth/access_token", body=secrets).json["accessToken"]
        path = f"/v1/workflows/runs/{run_id}/cancel{query}"
        got = call(self.cluster.emulator_port, "POST", path, {"Authorization": f"Bearer {token}"})
        assert got.status == 200, got.text

    def callback(self, node_run_id: str, index: int) -> None:
        """Say by hand that a deferred item has succeeded."""
        token = self.worker.get("/api/session").json["csrfToken"]
        headers = {"Content-Type": "application/json", "X-CSRF-Token": token}
        path = f"/api/node-runs/{node_run_id}/items/{index}/complete"
        assert call(self.worker.port, "POST", path, headers, {"result": "SUCCESS"}).status == 200

    def shown(self, node_run_id: str, state: str) -> dict[str, Any]:
        """Return the node run as the web view shows it, when it stands there."""

        def there() -> dict[str, Any] | None:
            got = self.worker.get(f"/api/node-runs/{node_run_id}")
            return got.json if got.status == 200 and got.json["state"] == state else None

        return eventually(there, f"{node_run_id} is shown as {state}")


def begun(cluster: Cluster) -> list[str]:
    """Return the calls of long handlers that were begun, by their keys."""
    file = cluster.folder / "begun"
    return [line.split()[0] for line in file.read_text().splitlines()] if file.exists() else []


def started(cluster: Cluster) -> AbstractContextManager[Process]:
    return cluster.worker(
        "worker", CANCEL_POLL_SECONDS="5s", BEGUN=str(cluster.folder / "begun"), GO=str(cluster.folder / "go")
    )


@pytest.fixture(scope="module")
def running(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("cancel")
    cluster = Cluster(kafka, folder.name, folder, free_port(), HANDLERS)
    with cluster.emulator(), started(cluster) as worker:
        eventually(lambda: ready(worker), "the worker is ready", STARTS_WITHIN)
        yield Running(cluster, worker)


def test_any_item_is_enough_and_the_others_run_to_their_end(running: Running) -> None:
    body = running.array("any", "fail", "flaky", "slow", "fail")
    assert body["result"] == "SUCCESS"
    output = body["output"]
    assert (output["succeeded"], output["failed"], "cancelled" in output, "error" in output) == (2, 2, False, False)
    assert running.array("any", "fail", "fail")["result"] == "FAILED"


def test_the_rest_is_cancelled_when_the_share_cannot_be_reached(running: Running) -> None:
    # Of five items three must succeed: two may fail, and the third failure decides.
    body = running.array("half", "later", "hang", "fail", "fail", "fail")
    assert body["result"] == "FAILED"
    output = body["output"]
    assert (output["succeeded"], output["failed"], output["cancelled"]) == (0, 3, 2)
    assert [item["result"] for item in output["items"]] == ["CANCELLED", "CANCELLED", "FAILED", "FAILED", "FAILED"]
    assert output["items"][1]["error"]["message"] == "cancelled: too many other items have failed"
    assert output["error"]["message"].startswith("3 of 5 items failed, 2 were cancelled; item 2 (half): ")


def test_all_runs_every_item_unless_the_rest_is_to_be_cancelled(running: Running) -> None:
    body = running.array("all", "fail", "flaky", "slow")
    assert (body["result"], body["output"]["succeeded"], body["output"]["failed"]) == ("FAILED", 2, 1)
    # Two at a time: what waits for its turn is not called any more.
    body = running.array("strict", "hang", "fail", *["hang"] * 200)
    assert (body["result"], body["output"]["failed"], body["output"]["cancelled"]) == ("FAILED", 1, 201)
    body = running.array("soft", "fail", "fail", "slow")
    assert (body["result"], body["output"]["succeeded"], body["output"]["failed"]) == ("FAILED", 1, 2)


def test_calls_of_a_run_that_port_cancels_go_on_until_it_is_over(running: Running) -> None:
    cluster = running.cluster
    array = [{"type": "long"}, {"type": "half", "do": "later"}, {"type": "half", "do": "defer"}]
    todo: list[Any] = [{"type": "long"}, array, {"type": "thread"}, {"type": "thread", "gives": "up"}]
    todo += [{"type": "urgent"}, {"type": "long"}, {"type": "long"}]
    whole, mixed, thread, gives_up, urgent, forced, later = (cluster.publish(one) for one in todo)
    eventually(lambda: len(begun(cluster)) == len(todo), "the calls have begun")
    for node_run_id in (whole, mixed, thread, gives_up, urgent, later):
        running.cancel(node_run_id)
    running.cancel(forced, "?force=true")

    # A call that ends says how; one that is not called again, is cut at once, or has gone is cancelled.
    for node_run_id, result in ((thread, "SUCCESS"), (gives_up, "CANCELLED"), (urgent, "CANCELLED")):
        body = running.record.completed(node_run_id)
        assert body["result"] == result
        if result == "CANCELLED":
            assert body["output"]["error"]["message"] == "cancelled: the workflow run was cancelled"
    eventually(lambda: running.record.logs(thread), "its line is told")
    assert running.record.logs(thread) == ["cancelled: True"]
    assert running.shown(forced, "cancelled")["result"] == "CANCELLED"
    # Port goes on to end it: then the call that went on is cut.
    running.cancel(later, "?force=true")
    assert running.shown(later, "cancelled")["result"] == "CANCELLED"
    eventually(lambda: [one["result"] for one in running.shown(mixed, "running")["items"]] == [None, "CANCELLED", None],
               "what waited for its retry is cancelled, what runs and what is deferred is not")  # fmt: skip
    assert running.shown(whole, "running")["softCancelledAt"] is not None
    (cluster.folder / "go").touch()
    body = running.record.completed(whole)
    assert (body["result"], body["output"]) == ("SUCCESS", {"cancelled": True})
    running.callback(mixed, 2)
    body = running.record.completed(mixed)
    assert body["result"] == "CANCELLED"
    assert [item["result"] for item in body["output"]["items"]] == ["SUCCESS", "CANCELLED", "SUCCESS"]
    running.record.read_on()
    assert [running.record.reports(one) for one in (forced, later)] == [[], []], (
        "Port has ended them: nothing to report"
    )


def test_a_run_that_port_cancels_ends_what_waits_for_a_retry(running: Running) -> None:
    waiting = running.cluster.publish({"type": "half", "do": "later"})
    running.shown(waiting, "deferred")
    running.cancel(waiting)
    body = running.record.completed(waiting)
    assert body["result"] == "CANCELLED"
    assert body["output"]["error"]["message"] == "cancelled: the workflow run was cancelled"


def test_what_was_cancelled_is_not_run_again_after_a_crash(running: Running) -> None:
    cluster, before = running.cluster, len(begun(running.cluster))
    # One call goes on, one is cut at once, one waits for its next time.
    todo = [{"type": "stubborn"}, {"type": "urgent"}, {"type": "half", "do": "later"}]
    node_run_id = cluster.publish(todo)
    eventually(lambda: len(begun(cluster)) == before + 2, "both calls have begun")
    running.cancel(node_run_id)
    ends = [None, "CANCELLED", "CANCELLED"]
    eventually(lambda: [one["result"] for one in running.shown(node_run_id, "running")["items"]] == ends, "two end")
    running.worker.kill()
    with started(cluster) as again:
        eventually(lambda: ready(again), "the next worker is ready", STARTS_WITHIN)
        body = running.record.completed(node_run_id)
    assert (body["result"], body["output"]["cancelled"]) == ("CANCELLED", 3)
    assert len(begun(cluster)) == before + 2, "nothing is begun again"
