"""What people do by hand, with a real worker: over its API and pages, on a real Kafka, to Port's emulator."""

import asyncio
import html
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from tests.e2e.conftest import NewCluster
from tests.e2e.load import Load
from tests.processes import SECRET, STARTS_WITHIN, Cluster, Got, Process, call, eventually, ready

HANDLERS = """
import os
from pathlib import Path
from agents import Context, Fail, RetryLater, handles

@handles("flaky")
async def flaky(event: dict, ctx: Context) -> dict:
    if not Path(os.environ["WORKS"]).exists():
        raise Fail("the target is down")
    return {"attempt": ctx.attempt}

@handles("later")
async def later(event: dict, ctx: Context) -> dict:
    if ctx.attempt == 1:
        raise RetryLater("1h", "not yet")
    return {"attempt": ctx.attempt}
"""


class Desk:
    """One worker, and who acts on it."""

    def __init__(self, cluster: Cluster, worker: Process, works: Path) -> None:
        self.cluster, self.worker, self.works = cluster, worker, works

    def post(self, path: str, body: object | None = None) -> Got:
        token = self.worker.get("/api/session").json["csrfToken"]
        headers = {"Content-Type": "application/json", "X-CSRF-Token": token}
        return call(self.worker.port, "POST", path, headers, body or {})

    def run(self, node_run_id: str) -> dict[str, object]:
        got = self.worker.get(f"/api/node-runs/{node_run_id}")
        return dict(got.json) if got.status == 200 else {}

    def until(self, node_run_id: str, **expected: object) -> dict[str, object]:
        def found() -> dict[str, object] | None:
            run = self.run(node_run_id)
            return run if expected.items() <= run.items() else None

        return eventually(found, f"{node_run_id} has {expected}")

    def command(self, *arguments: str, status: int = 0) -> str:
        """Run a command that ends with this status; returns what it prints."""
        environment = {
            "PATH": os.environ["PATH"],
            "PORT_ORG_ID": self.cluster.org,
            "PORT_CLIENT_ID": "client",
            "PORT_CLIENT_SECRET": SECRET,
            "PYTHONPATH": str(self.cluster.folder),
            "HANDLERS": "test_handlers",
            "WEB_PORT": str(self.worker.port),
            "KAFKA_BROKERS": self.cluster.kafka.bootstrap,
            "PORT_API_BASE_URL": f"http://127.0.0.1:{self.cluster.emulator_port}",
        }
        done = subprocess.run(
            [sys.executable, "-m", "faust", "-A", "streams.app", *arguments],
            env=environment,
            cwd=self.cluster.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, SECRET in done.stdout) == (status, False), done.stdout + done.stderr
        return done.stdout

    def dead_letter(self, payload: object) -> str:
        """Have a message come whose node-run id is broken; returns the right one."""
        [(run_id, node_run_id)] = Load(self.cluster).register(1)
        context = {"workflowRunId": run_id, "nodeRunId": f"{node_run_id}!"}
        asyncio.run(self._publish(json.dumps({"context": context, "payload": payload}).encode()))
        return node_run_id

    async def _publish(self, raw: bytes) -> None:
        async with AIOKafkaProducer(bootstrap_servers=self.cluster.kafka.bootstrap) as producer:
            await producer.send_and_wait(f"{self.cluster.org}.runs", raw)


@pytest.fixture
def desk(new_cluster: NewCluster, tmp_path: Path) -> Iterator[Desk]:
    cluster, works = new_cluster(handlers=HANDLERS), tmp_path / "works"
    with cluster.worker("one", WORKS=str(works), UNKNOWN_EVENTS="fail", SIGNATURE="off") as worker:
        eventually(lambda: ready(worker), "the worker is ready", STARTS_WITHIN)
        yield Desk(cluster, worker, works)


def test_by_hand(desk: Desk) -> None:
    # A failed item of a node run that is still open, to completion.
    node_run_id = desk.cluster.publish([{"type": "flaky"}, {"type": "later"}])
    desk.until(node_run_id, failed=1, state="deferred")
    desk.works.touch()
    retried = desk.post(f"/api/node-runs/{node_run_id}/items/0/retry", {"attempt": 1})
    assert (retried.status, retried.json["outcome"]) == (200, "applied"), retried.text
    desk.until(node_run_id, failed=0, succeeded=1)
    # One that waits for its retry is called now.
    assert desk.post(f"/api/node-runs/{node_run_id}/items/1/retry").status == 200
    done = desk.until(node_run_id, state="reported", result="SUCCESS")
    assert [item["attempt"] for item in done["items"]] == [2, 2]  # type: ignore[attr-defined]

    # A paused handler keeps what comes, until it is resumed.
    assert desk.post("/api/handlers/flaky/pause").json["outcome"] == "applied"
    node_run_id = desk.cluster.publish({"type": "flaky"})
    eventually(lambda: _handler(desk)["waiting"] == 1, "the item waits")
    assert desk.run(node_run_id)["state"] == "waiting"
    assert desk.post("/api/handlers/flaky/resume").json["outcome"] == "applied"
    desk.until(node_run_id, state="reported", result="SUCCESS")
    assert _handler(desk)["paused"] is False

    # One that was reported FAILED is called again, and Port told in the log: it keeps the result.
    desk.works.unlink()
    node_run_id = desk.cluster.publish({"type": "flaky"})
    desk.until(node_run_id, state="reported", result="FAILED")
    desk.works.touch()
    assert desk.post(f"/api/node-runs/{node_run_id}/retry").status == 200
    desk.until(node_run_id, state="reported", succeeded=1, failed=0, result="FAILED")
    eventually(lambda: b"called again by hand" in desk.cluster.calls_file.read_bytes(), "Port's log tells")

    # By commands, too.
    assert "flaky" in desk.command("node-run", node_run_id)
    assert node_run_id in [one["nodeRunId"] for one in json.loads(desk.command("node-runs", "--json"))["nodeRuns"]]
    assert "none" in desk.command("dead-letters")

    # Cancelled by hand.
    node_run_id = desk.cluster.publish({"type": "later"})
    desk.until(node_run_id, state="deferred")
    assert desk.post(f"/api/node-runs/{node_run_id}/cancel").status == 200
    desk.until(node_run_id, state="reported", result="CANCELLED")

    # A dead letter, edited and redriven, to a completed node run.
    node_run_id = desk.dead_letter({"type": "flaky"})
    letter = eventually(lambda: desk.worker.get("/api/dead-letters").json["letters"], "the letter is listed")[0]
    text = desk.worker.get(f"/api/dead-letters/{letter['letter']}").json["text"]
    edited = desk.works.with_name("edited")
    edited.write_text(text.replace("!", ""))
    said = desk.command("redrive", letter["letter"], "--file", str(edited), "--yes", "--json")
    assert json.loads(said)["outcome"] == "applied"
    desk.until(node_run_id, state="reported", result="SUCCESS")

    # The audit has all of it, also for a worker that was not there.
    told = eventually(lambda: _audit(desk, 7), "the audit is written")
    with desk.cluster.worker("two", WORKS=str(desk.works)) as other:
        eventually(lambda: _audit(Desk(desk.cluster, other, desk.works), 7) == told, "the audit is read", STARTS_WITHIN)


def test_what_is_shown_of_what_people_did_is_true(desk: Desk) -> None:
    completed, cancelled, *rest = (desk.cluster.publish({"type": "later"}) for _ in range(4))
    array = desk.cluster.publish([{"type": "later"}, {"type": "later"}])
    for node_run_id in (completed, cancelled, array, *rest):
        desk.until(node_run_id, state="deferred")

    # Port takes somebody's word: its result is shown, and whose it is.
    assert "is completed: SUCCESS" in desk.command("complete", completed, "--yes")
    run = desk.until(completed, state="completed", result="SUCCESS")
    assert run["portResult"] == "SUCCESS"
    assert str(run["ending"]).startswith("Completed at Port by hand, by cli: ")
    assert str(run["ending"]) in html.unescape(page := desk.worker.get(f"/node-runs/{completed}").text)
    assert "Completed at Port by hand" in desk.command("node-run", completed)
    for untrue in ("workflow run was", "no answer", "took <", ">0 ms", " 0 ms"):
        assert untrue not in page, untrue
    assert desk.command("complete", completed, "--yes", status=1) == "", "Port has it already"

    # Somebody completes it at Port without a word to the workers, and it is reported: Port's result is shown, too.
    there, same = rest
    for node_run_id, result in ((there, "FAILED"), (same, "CANCELLED")):
        path = f"/v1/workflows/nodes/runs/{node_run_id}"
        body = {"status": "COMPLETED", "result": result, "output": {}}
        assert call(desk.cluster.emulator_port, "PATCH", path, _bearer(desk), body).status == 200
        assert desk.post(f"/api/node-runs/{node_run_id}/cancel").status == 200
    run = desk.until(there, state="refused", portResult="FAILED")
    assert str(run["ending"]).startswith("Cancelled by hand, by api. Port refused the report: HTTP 409")
    run = desk.until(same, state="reported", result="CANCELLED")
    assert "Port has CANCELLED already: from an earlier report whose answer was lost" in str(run["ending"])

    # Cancelled by hand: by whom, and no word of the workflow run.
    desk.command("cancel", cancelled, "--yes")
    run = desk.until(cancelled, state="reported", result="CANCELLED")
    page = desk.worker.get(f"/node-runs/{cancelled}").text
    assert str(run["ending"]).startswith("Cancelled by hand, by cli: ")
    assert "it was cancelled by hand (cli: " in page
    assert run["items"][0]["durationSeconds"] is None  # type: ignore[index]
    for untrue in ("workflow run was", ">0 ms", " 0 ms"):
        assert untrue not in page, untrue

    # What cannot be done is said, and not done.
    for arguments, said in (
        (["wfnr_nobody_knows"], "the node run is not known"),
        ([array, "--item", "7"], "there is no item 7: the node run has 2, counted from 0"),
        ([cancelled], "refused: the item has ended already, with CANCELLED"),
    ):
        assert said in desk.command("complete-item", *arguments, "--yes", status=1)
    assert "has ended with SUCCESS" in desk.command("complete-item", array, "--item", "1", "--yes")
    assert desk.run(array)["items"][1]["decidedWho"].startswith("cli: ")  # type: ignore[index]

    node = {"identifier": "n", "config": {"type": "KAFKA", "payload": {"eventType": "later"}}}
    desk.works.with_name("node.json").write_text(json.dumps(node))
    desk.command("send", str(desk.works.with_name("node.json")))
    expected = {"complete node run at Port", "complete item", "cancel node run", "send message"}

    def told() -> list[dict[str, object]] | None:
        actions: list[dict[str, object]] = desk.worker.get("/api/audit").json["actions"]
        return actions if expected <= {str(one["what"]) for one in actions} else None

    actions = eventually(told, "all of it is in the audit")
    ours = [(one["outcome"], one["why"]) for one in actions if one["what"] == "complete node run at Port"]
    assert [outcome for outcome, _ in ours] == ["refused", "applied"]
    assert len([one for one in actions if one["what"] == "complete item" and one["outcome"] != "applied"]) == 3


def _bearer(desk: Desk) -> dict[str, str]:
    secrets = {"clientId": "client", "clientSecret": SECRET}
    token = call(desk.cluster.emulator_port, "POST", "/v1/auth/access_token", body=secrets).json["accessToken"]
    return {"Authorization": f"Bearer {token}"}


def _handler(desk: Desk) -> dict[str, object]:
    listed = desk.worker.get("/api/handlers").json["handlers"]
    return next(one for one in listed if one["eventType"] == "flaky")


def _audit(desk: Desk, number: int) -> list[tuple[str, str]] | None:
    found = [(one["what"], one["outcome"]) for one in desk.worker.get("/api/audit").json["actions"]]
    assert len(found) <= number
    return found if len(found) == number else None


def test_a_letter_that_there_is_not(desk: Desk) -> None:
    desk.dead_letter({"type": "flaky"})
    letter = eventually(lambda: desk.worker.get("/api/dead-letters").json["letters"], "the letter is listed")[0]
    partition, _, offset = letter["letter"].partition("/")
    assert desk.worker.get(f"/api/dead-letters/{partition}/{offset}").status == 200
    for absent in (f"{partition}/{int(offset) + 1}", f"999999/{offset}", f"{partition}/{10**18 - 1}"):
        assert desk.worker.get(f"/api/dead-letters/{absent}").status == 404
