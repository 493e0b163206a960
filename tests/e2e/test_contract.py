"""What a handler can do beside its work, with a real worker: patterns, middleware, resources, lines, progress."""

from tests.e2e.conftest import NewCluster
from tests.e2e.record import Record
from tests.processes import STARTS_WITHIN, eventually, ready

HANDLERS = """
import asyncio
from collections.abc import AsyncIterator
from agents import CallNext, Context, Fail, Output, handles, middleware, on_startup, telling

telling.PROGRESS_SECONDS = 0.5
closed = []

@on_startup
async def prefix() -> AsyncIterator[str]:
    yield "opened"
    print("the resource is closed", flush=True)

@middleware
async def signed(ctx: Context, call_next: CallNext) -> Output:
    output = await call_next()
    return {**output, "by": f"middleware of {ctx.event_type}"}

@handles("deploy.*")
async def deploy(event: dict, ctx: Context) -> dict:
    ctx.log("%s %s", ctx.resource(prefix), event["eventType"])
    ctx.log("careful", level="WARN")
    async with ctx.session.get(event["url"]) as answer:
        return {"status": answer.status, "session": id(ctx.session)}

@handles("deploy.exact")
async def exact(event: dict) -> dict:
    return {"exact": True}

@handles("slow")
def slow(event: dict, ctx: Context) -> dict:
    for step in range(6):
        ctx.progress(step, 6)
        ctx.wait(0.25)
    return {"stopped": ctx.should_stop}

@handles("until told")
def until_told(event: dict, ctx: Context) -> dict:
    ctx.progress(1)
    ctx.log("waiting")
    while not ctx.wait(60):
        pass
    ctx.log("told to stop")
    return {"stopped": ctx.should_stop}
"""


def test_what_a_handler_can_do_beside_its_work(new_cluster: NewCluster) -> None:
    cluster = new_cluster(handlers=HANDLERS)
    record = Record(cluster)
    with cluster.worker("one") as worker:
        eventually(lambda: ready(worker), "the worker is ready", STARTS_WITHIN)
        url = f"http://127.0.0.1:{worker.port}/healthz"
        slow = cluster.publish({"eventType": "slow"})
        many = cluster.publish([{"eventType": f"deploy.{name}", "url": url} for name in ("one", "two")])
        exact = cluster.publish({"eventType": "deploy.exact"})

        items = record.completed(many)["output"]["items"]
        assert [item["eventType"] for item in items] == ["deploy.one", "deploy.two"]
        outputs = [item["output"] for item in items]
        assert [one["status"] for one in outputs] == [200, 200]
        assert [one["by"] for one in outputs] == ["middleware of deploy.one", "middleware of deploy.two"]
        assert outputs[0]["session"] == outputs[1]["session"]
        eventually(lambda: len(record.logs(many)) == 4, "the lines are told")
        told = [one["body"]["logs"] for one in record.calls if one["call"] == "logs"]
        assert len(told) <= 2, "one call for each item at most"
        assert sorted((line["level"], line["message"]) for lines in told for line in lines) == [
            ("INFO", "opened deploy.one"),
            ("INFO", "opened deploy.two"),
            ("WARN", "careful"),
            ("WARN", "careful"),
        ]

        assert record.completed(exact)["output"] == {"exact": True, "by": "middleware of deploy.exact"}
        assert len(record.reports(exact)) == 1, "who says nothing costs one call"

        def slow_ended() -> bool:
            record.read_on()
            return any(one["body"]["status"] == "COMPLETED" for one in record.reports(slow))

        eventually(slow_ended, "the slow one is completed")
        *updates, last = record.reports(slow)
        assert last["body"]["output"] == {"stopped": False, "by": "middleware of slow"}
        assert 1 <= len(updates) <= 3
        for update in updates:
            assert (update["body"]["status"], update["status"]) == ("IN_PROGRESS", 200)
            assert update["body"]["output"]["progress"]["total"] == 6

        metrics = worker.get("/metrics").text
        assert 'port_runs_items_total{ended="SUCCESS",event_type="deploy.*"} 2.0' in metrics

        waits = cluster.publish({"eventType": "until told"})
        eventually(lambda: record.read_on() and record.reports(waits), "it tells that it runs")
        shown = worker.get(f"/api/node-runs/{waits}").json
        [item] = shown["items"]
        assert (shown["state"], item["state"], item["calls"]) == ("running", "running", [])
        assert [line["text"] for line in item["logs"]["latest"]] == ["waiting"]
        assert shown["receivedAt"] <= item["calledAt"] <= item["logs"]["latest"][0]["at"]
        assert worker.stop() == 0
    eventually(lambda: record.logs(waits) == ["waiting", "told to stop"], "its last line is told")
    assert record.reports(waits)[-1]["body"]["output"] == {"stopped": True, "by": "middleware of until told"}
    assert "the resource is closed" in worker.log.read_text()
