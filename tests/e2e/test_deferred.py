"""Work that ends elsewhere, with real workers: callbacks through restarts, from any worker, and deadlines."""

import json
import re
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from agents.callbacks import Callbacks, derived_key
from tests.e2e.conftest import NewTeam
from tests.e2e.load import Load
from tests.e2e.record import Record
from tests.e2e.scale import SCALE, say
from tests.e2e.team import Team
from tests.e2e.test_commands import Shell
from tests.processes import SECRET, STARTS_WITHIN, Got, Process, call, eventually

PUBLIC_URL = "https://runs.example/port"
DONE = {"result": "SUCCESS", "output": {"host": "10.0.0.7"}, "logs": [{"level": "WARN", "message": "it took long"}]}
NO = {"result": "FAILED", "error": "no room"}
HANDLERS = f"""
import json, os
from agents import Context, Deferred, handles

def keep(ctx: Context) -> str:
    path = ctx.callback_url.removeprefix("{PUBLIC_URL}")
    with open(os.environ["URLS"], "a") as file:
        file.write(json.dumps([ctx.idempotency_key, path]) + "\\n")
    return path

@handles("elsewhere", concurrency=5)
async def elsewhere(event: dict, ctx: Context) -> Deferred:
    keep(ctx)
    return Deferred(event.get("deadline", "10m"), link="https://provisioner.example/1")

@handles("quick")
async def quick(event: dict, ctx: Context) -> dict:
    url = f"http://127.0.0.1:{{os.environ['WEB_PORT']}}{{keep(ctx)}}"
    async with ctx.session.post(url, json={{"result": "SUCCESS", "output": {{"by": "callback"}}}}) as answer:
        return {{"by": "handler", "status": answer.status}}
"""
MANY = """
import time
from agents import Context, Deferred, handles

@handles("echo", concurrency=100)
async def echo(event: dict) -> Deferred:
    return Deferred("1h")

@handles("short")
async def short(event: dict) -> Deferred:
    return Deferred("2s")
"""


class Elsewhere:
    """Two workers, and the system in which their work ends."""

    def __init__(self, team: Team) -> None:
        self.team = team
        self.record = Record(team.cluster)
        self.urls: Path = team.cluster.folder / "urls"
        self.start()

    def start(self) -> None:
        self.team.start("one", "two", URLS=str(self.urls), PUBLIC_URL=PUBLIC_URL)
        self.team.settled()

    def publish(self, payload: object) -> str:
        return self.team.cluster.publish(payload)

    def paths(self) -> dict[str, str]:
        lines = self.urls.read_text().splitlines() if self.urls.exists() else []
        return dict(map(json.loads, lines))

    def path(self, node_run_id: str, index: int = 0) -> str:
        return eventually(lambda: self.paths().get(f"{node_run_id}-{index}"), "the handler was called")

    def owner(self, node_run_id: str) -> tuple[Process, Process]:
        """Return the owner of a node run, and the other worker."""
        one, two = self.team["one"], self.team["two"]
        found = one.get(f"/api/node-runs/{node_run_id}?scope=worker").status
        assert found in (200, 421)
        return (one, two) if found == 200 else (two, one)

    def state(self, node_run_id: str) -> str | None:
        for worker in (self.team["one"], self.team["two"]):
            got = worker.get(f"/api/node-runs/{node_run_id}")
            if got.status == 200:
                return str(got.json["state"])
        return None

    def deferred(self, node_run_id: str) -> None:
        eventually(lambda: self.state(node_run_id) == "deferred", f"{node_run_id} is deferred")

    def updates(self, node_run_id: str) -> list[dict[str, Any]]:
        self.record.read_on()
        return [one for one in self.record.reports(node_run_id) if one["body"]["status"] == "IN_PROGRESS"]

    def completions(self, node_run_id: str) -> list[dict[str, Any]]:
        self.record.read_on()
        return [one for one in self.record.reports(node_run_id) if one["body"]["status"] == "COMPLETED"]

    def completed(self, node_run_id: str) -> dict[str, Any]:
        [one] = eventually(lambda: self.completions(node_run_id), f"{node_run_id} is completed")
        body: dict[str, Any] = one["body"]
        return body


def told(worker: Process, path: str, body: object) -> Got:
    return call(worker.port, "POST", path, {"Content-Type": "application/json"}, body)


@pytest.fixture
def elsewhere(new_team: NewTeam) -> Elsewhere:
    return Elsewhere(new_team(HANDLERS))


def test_one_word_ends_what_is_deferred_whatever_restarts(elsewhere: Elsewhere) -> None:
    # More than the handler has places: what is deferred holds none.
    first, second, third, *rest = [elsewhere.publish({"type": "elsewhere"}) for _ in range(8)]
    array = elsewhere.publish([{"type": "elsewhere"}, {"type": "elsewhere"}])
    for node_run_id in (first, second, third, *rest, array):
        elsewhere.deferred(node_run_id)
    [update] = eventually(lambda: elsewhere.updates(first), "Port is told")
    assert (update["status"], update["body"]) == (
        200,
        {
            "status": "IN_PROGRESS",
            "links": ["https://provisioner.example/1", f"{PUBLIC_URL}/node-runs/{first}"],
        },
    )
    eventually(lambda: len(elsewhere.updates(array)) == 1, "Port is told of the array")

    for name in ("one", "two"):
        assert elsewhere.team[name].stop() == 0
    elsewhere.start()
    assert elsewhere.completions(first) == []

    for node_run_id in (first, second, third):
        elsewhere.deferred(node_run_id)
    owner, other = elsewhere.owner(first)
    path = elsewhere.path(first)
    forged = {told(owner, forged, DONE).status for forged in (path[:-1], path + "A", "/callbacks/x")}
    assert forged == {404}
    key = derived_key(SecretStr(SECRET), elsewhere.team.cluster.org)
    signs = Callbacks((key,), elsewhere.team.cluster.org, PUBLIC_URL)
    assert told(owner, signs.url(first, 0, "elsewhere", -5).removeprefix(PUBLIC_URL), DONE).status == 404
    assert call(owner.port, "GET", path).status == 405
    assert elsewhere.completions(first) == []

    got = told(other, path, DONE)
    assert (got.status, got.json) == (202, {"nodeRunId": first, "index": 0, "decided": False})
    assert elsewhere.completed(first) == {"status": "COMPLETED", "result": "SUCCESS", "output": DONE["output"]}
    assert [told(owner, path, body).status for body in (DONE, NO)] == [200, 409]
    assert [told(other, path, body).status for body in (DONE, NO)] == [202, 202]

    owner, _ = elsewhere.owner(second)
    got = told(owner, elsewhere.path(second), NO)
    assert (got.status, got.json["decided"]) == (202, True)
    assert elsewhere.completed(second)["output"] == {"error": {"message": "no room"}}

    _, other = elsewhere.owner(array)
    assert told(other, elsewhere.path(array, 0), DONE).status == 202
    cluster = elsewhere.team.cluster
    shell = Shell(cluster.folder, PORT_ORG_ID=cluster.org, KAFKA_BROKERS=cluster.kafka.bootstrap)
    done = shell("complete-item", array, "--item", "1", "--output", '{"by": "hand"}', "--yes")
    assert (done.status, done.error) == (0, ""), done.error
    items = elsewhere.completed(array)["output"]["items"]
    assert [item["output"] for item in items] == [DONE["output"], {"by": "hand"}]

    eventually(lambda: elsewhere.record.logs(first) == ["it took long"], "the line is in the log, once")
    _last_of_all(elsewhere, third)
    assert [len(elsewhere.completions(node_run_id)) for node_run_id in (first, second, array)] == [1, 1, 1]
    assert elsewhere.record.logs(first) == ["it took long"]
    assert not any(elsewhere.completions(node_run_id) for node_run_id in rest)
    logs = "".join((cluster.folder / f"{name}.log").read_text() for name in ("one", "two"))
    assert [path for path in elsewhere.paths().values() if path.removeprefix("/callbacks/") in logs] == []


def _last_of_all(elsewhere: Elsewhere, node_run_id: str) -> None:
    """What came before it in its partition has been applied when this is completed; the others get a moment, too."""
    assert told(elsewhere.owner(node_run_id)[1], elsewhere.path(node_run_id), DONE).status == 202
    elsewhere.completed(node_run_id)


def test_a_word_before_the_handlers_end_and_no_word_at_all(elsewhere: Elsewhere) -> None:
    quick = elsewhere.publish({"type": "quick"})
    silent = elsewhere.publish({"type": "elsewhere", "deadline": "2s"})
    assert elsewhere.completed(quick)["output"] == {"by": "callback"}
    message = elsewhere.completed(silent)["output"]["error"]["message"]
    assert re.fullmatch(r"no callback came before the deadline of [-0-9T:]+Z", message)
    owner, _ = elsewhere.owner(silent)
    assert told(owner, elsewhere.path(silent), DONE).status == 409
    assert elsewhere.completed(silent)["result"] == "FAILED"


def test_a_deadline_is_kept_while_many_others_are_open(new_team: NewTeam) -> None:
    team = new_team(MANY)
    team.start("one")
    team.settled(STARTS_WITHIN)
    load, record, worker = Load(team.cluster), Record(team.cluster), team["one"]
    began = time.monotonic()
    load.publish(SCALE.deferred, 1000)

    def all_deferred() -> bool:
        return int(worker.get("/api/node-runs?limit=1&scope=worker").json["counts"]["deferred"]) >= SCALE.deferred

    eventually(all_deferred, "all are deferred", 120 + SCALE.deferred / 100, every=1.0)
    say(f"{SCALE.deferred:,} are deferred after {time.monotonic() - began:.1f} s")
    late = []
    for node_run_id in [team.cluster.publish({"type": "short"}) for _ in range(5)]:
        body = record.completed(node_run_id)
        deadline = body["output"]["error"]["message"].rpartition(" ")[2]
        [report] = record.reports(node_run_id)
        # The text has whole seconds of the deadline: it says too much by up to one.
        late.append(report["time"] - datetime.fromisoformat(deadline).timestamp())
    say(f"with {SCALE.deferred:,} others open five deadlines were missed by {max(late):.2f} s at most")
    assert max(late) < 5.0
    assert load.missing() == load.published.keys()
