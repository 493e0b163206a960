"""Test messages with a real worker: dry runs that nobody hears of, and a message for a node run that waits."""

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import NewCluster
from tests.e2e.load import Load
from tests.processes import STARTS_WITHIN, Cluster, Got, Process, call, eventually, ready

HANDLERS = """
import threading, time
from pydantic import BaseModel
from agents import Context, handles

class Greeting(BaseModel):
    name: str
    times: int = 2

@handles("greet", concurrency=1, deadline="20s")
async def greet(event: Greeting, ctx: Context) -> dict:
    ctx.log("hello %s", event.name)
    return {"said": [f"hello {event.name}"] * event.times, "for": ctx.node_run_id}

@handles("hangs", concurrency=1, deadline="500ms")
def hangs(event: dict) -> dict:
    time.sleep(8)
    return {}
"""


class Desk:
    def __init__(self, cluster: Cluster, worker: Process) -> None:
        self.cluster, self.worker = cluster, worker

    def post(self, path: str, body: object) -> Got:
        token = self.worker.get("/api/session").json["csrfToken"]
        headers = {"Content-Type": "application/json", "X-CSRF-Token": token}
        return call(self.worker.port, "POST", path, headers, body)

    def handler(self, name: str) -> dict[str, object]:
        [shown] = self.worker.get(f"/api/handlers/{name}").json["handlers"]
        return dict(shown)


@pytest.fixture
def desk(new_cluster: NewCluster) -> Iterator[Desk]:
    cluster = new_cluster(handlers=HANDLERS)
    with cluster.worker("one", WEB_TEST_MESSAGES="on") as worker:
        eventually(lambda: ready(worker), "the worker is ready", STARTS_WITHIN)
        yield Desk(cluster, worker)


def test_test_messages(desk: Desk) -> None:
    said = desk.post("/api/handlers/greet/try", {"payload": {"eventType": "greet", "name": "Ada"}}).json
    assert (said["result"], said["output"]["said"]) == ("SUCCESS", ["hello Ada"] * 2)
    assert said["output"]["for"].startswith("wfnr_dry-run-")
    assert [line["message"] for line in said["lines"]] == ["hello Ada"]
    wrong = desk.post("/api/handlers/greet/try", {"payload": {"eventType": "greet"}}).json
    assert (wrong["result"], wrong["error"]) == ("FAILED", "the item does not fit its model: name: Field required")

    # A call past its deadline keeps its place: the next one finds none, and the worker answers all the while.
    late = desk.post("/api/handlers/hangs/try", {"payload": {}}).json
    assert (late["result"], late["error"]) == ("FAILED", "the deadline of 0.5 s passed")
    busy = desk.post("/api/handlers/hangs/try", {"payload": {}})
    assert (busy.status, "nothing was called" in busy.json["message"]) == (409, True)
    assert desk.worker.get("/healthz").status == 200

    # Nobody has heard of any of it.
    assert desk.worker.get("/api/node-runs").json["nodeRuns"] == []
    assert desk.handler("greet")["sinceStart"]["succeeded"] == 0  # type: ignore[index]

    # A node run that waits at Port gets its message, and is completed.
    [(run_id, node_run_id)] = Load(desk.cluster).register(1)
    ids = {"nodeRunId": node_run_id, "workflowRunId": run_id}
    sent = desk.post("/api/handlers/greet/publish", {"payload": {"eventType": "greet", "name": "Cy"}} | ids)
    assert sent.status == 200, sent.text
    assert eventually(lambda: _reported(desk, node_run_id), "it is reported")["result"] == "SUCCESS"
    assert desk.handler("greet")["sinceStart"]["succeeded"] == 1  # type: ignore[index]
    what = {one["what"] for one in desk.worker.get("/api/audit").json["actions"]}
    assert what == {"dry run", "publish test message"}


def _reported(desk: Desk, node_run_id: str) -> dict[str, object] | None:
    got = desk.worker.get(f"/api/node-runs/{node_run_id}")
    return dict(got.json) if got.status == 200 and got.json["state"] == "reported" else None
