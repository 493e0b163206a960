"""Reports of a real worker to a Port that loses answers, refuses, limits, hangs and breaks off."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import pytest
from aiokafka import AIOKafkaProducer

from local.kafka import EmbeddedKafka, free_port
from tests.e2e.load import Load
from tests.e2e.record import Call, Record
from tests.processes import SECRET, STARTS_WITHIN, Cluster, Process, call, eventually, ready

HANDLERS = """
from agents import Fail, handles

@handles("echo")
async def echo(event: dict) -> dict:
    return {"n": event.get("n"), "text": "ü", "number": 1.5}

@handles("fail")
async def fails(event: dict) -> None:
    raise Fail("it cannot be done")
"""
TOKEN_SECONDS: Final = 3
Ids = tuple[str, str]
"""Of a workflow run and a node run."""


@dataclass
class Running:
    """An organization with its worker, and the record of its Port from the beginning of the test on."""

    cluster: Cluster
    worker: Process
    record: Record

    def begin(self) -> None:
        """Forget what was before, and have nothing go wrong."""
        self.fail()
        self.record.read_on()
        self.record.calls.clear()

    def fail(self, *rules: dict[str, object], **settings: object) -> None:
        """Have this go wrong, and nothing else."""
        body = {"rules": rules} | settings
        got = call(self.cluster.emulator_port, "PUT", "/emulator/faults", body=body)
        assert got.status == 200, got.text

    def revoke(self) -> None:
        """End the active token."""
        assert call(self.cluster.emulator_port, "POST", "/emulator/tokens/revoke").status == 200

    def register(self, count: int) -> list[Ids]:
        return Load(self.cluster).register(count)

    def send(self, ids: Sequence[Ids], event_type: str = "echo", *, timestamp_ms: int | None = None) -> None:
        """Publish a message for each node run; a workflow-run id that is empty is left out."""

        async def send() -> None:
            async with AIOKafkaProducer(bootstrap_servers=self.cluster.kafka.bootstrap, linger_ms=5) as producer:
                for number, (run, node) in enumerate(ids):
                    context = {"nodeRunId": node} | ({"workflowRunId": run} if run else {})
                    value = json.dumps({"context": context, "payload": {"type": event_type, "n": number}}).encode()
                    await producer.send(f"{self.cluster.org}.runs", value, timestamp_ms=timestamp_ms)

        asyncio.run(send())

    def publish(self, count: int = 1, event_type: str = "echo") -> list[Ids]:
        """Start node runs and publish their messages."""
        ids = self.register(count)
        self.send(ids, event_type)
        return ids

    def complete(self, ids: Ids, result: str) -> None:
        """Complete a node run at Port as somebody else."""
        port = self.cluster.emulator_port
        credentials = {"clientId": "client", "clientSecret": SECRET}
        token = call(port, "POST", "/v1/auth/access_token", body=credentials).json["accessToken"]
        got = call(
            port,
            "PATCH",
            f"/v1/workflows/runs/{ids[0]}/nodes/{ids[1]}",
            {"Authorization": f"Bearer {token}"},
            {"status": "COMPLETED", "result": result, "output": {"by": "somebody else"}},
        )
        assert got.status == 200, got.text

    def settled(self, ids: Sequence[Ids], state: str, seconds: float = 60.0) -> list[dict[str, Any]]:
        """Return the node runs as the web view shows them, when all are in this state; read the record on."""
        shown: dict[str, dict[str, Any]] = {}

        def all_are() -> bool:
            for _, node in ids:
                if node not in shown:
                    got = self.worker.get(f"/api/node-runs/{node}")
                    if got.status != 200 or got.json["state"] not in ("reported", "refused", "cancelled"):
                        return False
                    shown[node] = got.json
            return True

        eventually(all_are, f"{len(ids)} node runs are settled", seconds)
        assert Counter(one["state"] for one in shown.values()) == {state: len(ids)}
        self.record.read_on()
        return list(shown.values())

    def statuses(self, ids: Ids) -> list[int | None]:
        """Return how the reports of a node run were answered."""
        return [one["status"] for one in self.record.reports(ids[1])]

    def bodies(self, ids: Ids) -> list[str]:
        """Return the different bodies of a node run's reports, in order."""
        return list(dict.fromkeys(json.dumps(one["body"]) for one in self.record.reports(ids[1])))

    def completions(self, ids: Ids) -> int:
        """Return how often a node run was completed."""
        return sum(one["changed"] for one in self.record.reports(ids[1]))

    def looks(self, ids: Ids) -> int:
        """Return how often the workflow run was looked at."""
        return sum(one["call"] == "run" and one["path"].endswith(f"/{ids[0]}") for one in self.record.calls)

    def act(self, ids: Ids, what: str) -> str:
        """Do something by hand to a node run, and return what became of it."""
        token = self.worker.get("/api/session").json["csrfToken"]
        path, headers = f"/api/node-runs/{ids[1]}/{what}", {"X-CSRF-Token": token, "Content-Type": "application/json"}
        return str(call(self.worker.port, "POST", path, headers, {}).json["outcome"])

    def named(self, name: str) -> list[Call]:
        return [one for one in self.record.calls if one["call"] == name]


@pytest.fixture(scope="module")
def two(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Running]]:
    """Two organizations; the tokens of the second one end soon."""
    with ExitStack() as stack:
        found = []
        for options in ((), ("--token-seconds", str(TOKEN_SECONDS))):
            folder: Path = tmp_path_factory.mktemp("reports")
            cluster = Cluster(kafka, folder.name, folder, free_port(), HANDLERS)
            stack.enter_context(cluster.emulator(*options))
            found.append(Running(cluster, stack.enter_context(cluster.worker("worker")), Record(cluster)))
        for one in found:
            eventually(partial(ready, one.worker), "the worker is ready", STARTS_WITHIN)
        yield found


@pytest.fixture
def running(two: list[Running]) -> Iterator[Running]:
    two[0].begin()
    yield two[0]
    two[0].fail()
    assert two[0].worker.child.poll() is None


def test_a_node_run_costs_one_call(running: Running) -> None:
    ids = running.publish(200)
    running.settled(ids, "reported")
    assert {one["call"] for one in running.record.calls} <= {"report", "auth"}
    assert len(running.named("report")) == len(ids)
    assert len(running.named("auth")) <= 1
    assert all(running.completions(one) == 1 for one in ids)


# Answers that are lost.


def test_a_lost_answer_is_settled_by_one_look(running: Running) -> None:
    running.fail({"paths": ["report"], "drop_answer": True, "count": 20})
    ids = running.publish(20)
    running.settled(ids, "reported")
    for one in ids:
        assert running.statuses(one) == [200, 409]
        assert (running.completions(one), running.looks(one), len(running.bodies(one))) == (1, 1, 1)
    assert len(running.record.calls) == 60 + len(running.named("auth"))


def test_answers_that_are_lost_again_and_again_are_settled_by_one_look(running: Running) -> None:
    running.fail({"paths": ["report", "run"], "drop_answer": True, "count": 4})
    [one] = running.publish()
    running.settled([one], "reported")
    assert running.statuses(one) == [200, 409, 409, 409, 409]
    assert (running.completions(one), running.looks(one), len(running.bodies(one))) == (1, 1, 1)


def test_a_lost_answer_of_a_failure_is_settled_by_one_look(running: Running) -> None:
    running.fail({"paths": ["report"], "drop_answer": True, "count": 1})
    [one] = running.publish(event_type="fail")
    running.settled([one], "reported")
    assert (running.statuses(one), running.looks(one), len(running.bodies(one))) == ([200, 409], 1, 1)


def test_a_lost_answer_without_a_workflow_run_is_refused_and_says_why(running: Running) -> None:
    running.fail({"paths": ["report"], "drop_answer": True, "count": 1})
    [(_, node)] = running.register(1)
    running.send([("", node)])
    [shown] = running.settled([("", node)], "refused")
    assert shown["report"]["status"] == 409
    assert shown["report"]["reason"].endswith("it cannot be looked up: its message has no workflow-run id")
    assert (running.completions(("", node)), running.named("run")) == (1, [])


# Disputes.


@pytest.mark.parametrize(
    ("theirs", "state"), [("SUCCESS", "reported"), ("FAILED", "refused"), ("CANCELLED", "cancelled")]
)
@pytest.mark.parametrize("status", [409, 422])
def test_what_somebody_else_completed(running: Running, theirs: str, state: str, status: int) -> None:
    [one] = running.register(1)
    running.complete(one, theirs)
    running.begin()
    if status == 422:
        running.fail({"paths": ["report"], "status": 422})
    running.send([one])
    [shown] = running.settled([one], state)
    assert (running.statuses(one), running.looks(one)) == ([status], 1)
    assert (shown["report"]["status"], shown["report"]["body"]) == (status, "full")
    reason = shown["report"]["reason"]
    if state == "reported":
        assert reason is None
    else:
        why = ", and its workflow run was cancelled" if state == "cancelled" else ""
        assert reason.endswith(f"; it is completed with another result{why}")


# Bodies that Port does not take.


@pytest.mark.parametrize(("status", "looks"), [(413, 0), (422, 1), (400, 1)])
@pytest.mark.parametrize(("event_type", "result"), [("echo", "SUCCESS"), ("fail", "FAILED")])
def test_a_body_that_is_refused_is_followed_by_a_small_one(
    running: Running, status: int, looks: int, event_type: str, result: str
) -> None:
    running.fail({"paths": ["report"], "status": status, "count": 1})
    [one] = running.publish(event_type=event_type)
    [shown] = running.settled([one], "reported")
    assert (running.statuses(one), running.looks(one), running.completions(one)) == ([status, 200], looks, 1)
    full, small = (json.loads(body) for body in running.bodies(one))
    assert (full["result"], small["result"], shown["report"]["body"]) == (result, result, "small")
    assert small["output"]["note"] == "Port refused the output of this node run; it is kept where the handlers run."
    if result == "FAILED":
        assert small["output"]["error"] == {"message": "1 of 1 items failed"}
    [answer] = shown["answers"]
    assert (answer["status"], answer["settled"], answer["body"]) == (status, "output_refused", "full")
    assert "a fault that was switched on" in answer["reason"]
    assert shown["report"]["status"] == 200
    [item] = shown["items"]
    kept = item["output"] if result == "SUCCESS" else {"error": {"message": item["error"]}}
    assert kept == full["output"], "what Port did not take"


@pytest.mark.parametrize(("status", "looks"), [(413, 0), (422, 2)])
def test_a_small_body_that_is_refused_too_is_the_end(running: Running, status: int, looks: int) -> None:
    running.fail({"paths": ["report"], "status": status, "count": 2})
    [one] = running.publish()
    [shown] = running.settled([one], "refused")
    assert (running.statuses(one), running.looks(one), running.completions(one)) == ([status] * 2, looks, 0)
    assert (shown["report"]["status"], shown["report"]["body"]) == (status, "small")
    assert "a fault that was switched on" in shown["report"]["reason"]


def test_a_small_body_whose_answer_is_lost_is_settled_by_one_look(running: Running) -> None:
    running.fail(
        {"paths": ["report"], "status": 413, "count": 1},
        {"paths": ["report"], "drop_answer": True, "count": 1},
    )
    [one] = running.publish()
    running.settled([one], "reported")
    assert (running.statuses(one), running.looks(one), running.completions(one)) == ([413, 200, 409], 1, 1)


# Node runs that Port does not know.


@pytest.mark.parametrize("age", [-0.2, 60.0])
def test_a_node_run_that_port_does_not_know_yet_is_waited_for_whatever_its_time_says(
    running: Running, age: float
) -> None:
    one = (f"wfr_late{abs(age):.0f}", f"wfnr_late{abs(age):.0f}")
    running.send([one], timestamp_ms=int((time.time() - age) * 1000))
    eventually(lambda: running.record.read_on() and len(running.statuses(one)) > 1, "it is tried by both routes")
    tries = shown_now(running, one)["report"]["tries"]["latest"]
    assert (tries[0]["status"], tries[0]["reason"]) == (404, "HTTP 404: no such node run")
    body = {"nodeRuns": [{"workflowRunId": one[0], "nodeRunId": one[1]}]}
    call(running.cluster.emulator_port, "POST", "/emulator/node-runs/register", body=body)
    running.settled([one], "reported")
    assert (running.statuses(one)[0], running.statuses(one)[-1]) == (404, 200)
    assert (running.completions(one), len(running.bodies(one))) == (1, 1)


def test_where_port_knows_a_node_run_by_its_own_id_alone_that_route_is_taken(running: Running) -> None:
    ids = [("wfr_elsewhere", node) for _, node in running.register(10)]
    running.send(ids)
    running.settled(ids, "reported")
    assert all(running.completions(one) == 1 for one in ids)
    # Its first ones may have been under way when the first answer came.
    assert running.statuses(ids[-1]) in ([200], [404, 200])
    [again] = running.publish()
    running.settled([again], "reported")
    assert running.statuses(again) == [200]


# Reports that Port fails at.


@pytest.mark.parametrize("status", [500, 403])
def test_reports_that_port_fails_at_hold_up_no_others_and_are_parked(running: Running, status: int) -> None:
    bad = running.register(100)
    running.fail({"paths": ["report"], "status": status, "node_runs": [node for _, node in bad]})
    running.send(bad)
    eventually(lambda: running.record.read_on() and all(map(running.statuses, bad)), "each was tried")
    for _ in range(3):
        good = running.publish(30)
        running.settled(good, "reported", 20.0)

    def all_are_parked() -> bool:
        running.settled(running.publish(), "reported", 20.0)
        return bool(running.worker.get("/api/overview").json["latest"]["port"]["parked"] == len(bad))

    eventually(all_are_parked, "all are parked", 120.0, every=0.5)
    text = "100 reports parked: Port fails at them, and takes others."
    assert any(one["text"].startswith(text) for one in running.worker.get("/api/overview").json["problems"])
    assert "port_runs_parked_reports 100.0" in running.worker.get("/metrics").text
    [line] = running.worker.get("/api/stuck?why=parked&limit=1").json["lines"]
    assert (line["why"], line["said"]) == ("parked", f"HTTP {status}: a fault that was switched on")
    by_hand, *others = bad
    assert running.act(by_hand, "give-up") == "applied"
    [shown] = running.settled([by_hand], "refused")
    assert shown["report"]["reason"].startswith(f"given up by hand (api); Port's latest answer: HTTP {status}")
    running.fail()
    # Their next tries are up to a minute away, or more.
    assert {running.act(one, "retry") for one in others} == {"applied"}
    running.settled(others, "reported")
    assert all(running.completions(one) == 1 and len(running.bodies(one)) == 1 for one in others)
    assert running.completions(by_hand) == 0
    assert running.worker.get("/api/overview").json["latest"]["port"]["parked"] == 0


# Tokens.


def reporting(running: Running) -> float:
    """Return how many reports are on their way."""
    lines = running.worker.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith('port_runs_queue_running{agent="reporter"'))


def test_however_many_reports_wait_a_revoked_token_is_replaced_once(running: Running) -> None:
    running.settled(running.publish(), "reported")
    running.begin()
    # The call for the token takes so long that all others come while it is under way.
    running.fail({"paths": ["report"], "latency_ms": 6000, "count": 50}, {"paths": ["auth"], "latency_ms": 2000})
    ids = running.publish(50)
    eventually(lambda: reporting(running) == 50, "50 reports are on their way")
    assert running.record.read_on() == []
    running.revoke()
    running.settled(ids, "reported")
    assert len(running.named("auth")) == 1
    assert [running.statuses(one) for one in ids] == [[401, 200]] * 50
    assert all(len(running.bodies(one)) == 1 for one in ids)


def test_reports_wait_for_a_token_and_ask_for_it_together(running: Running) -> None:
    running.fail({"paths": ["auth"], "status": 503, "count": 3})
    running.revoke()
    ids = running.publish(30)
    running.settled(ids, "reported")
    assert [one["status"] for one in running.named("auth")].count(200) == 1
    assert all(running.completions(one) == 1 for one in ids)
    assert all(set(running.statuses(one)) <= {401, 200} for one in ids)


def test_an_expired_token_is_replaced_once(two: list[Running]) -> None:
    running = two[1]
    running.begin()
    load = Load(running.cluster)
    ids = load.stock(240)
    # For so long that several tokens end under way.
    load.publish(240, per_second=25)
    running.settled(ids, "reported")
    asked = [one["time"] for one in running.named("auth")]
    assert len(asked) >= 3
    # Whoever asks before a token's end gets the same one again; whoever asks later than needed sends reports in vain.
    assert all(later - earlier >= TOKEN_SECONDS for earlier, later in itertools.pairwise(asked))
    assert all(running.completions(one) == 1 and set(running.statuses(one)) <= {401, 200} for one in ids)


# Limits and outages.


def test_a_pause_that_port_asks_for_is_heeded(running: Running) -> None:
    running.fail({"paths": ["report"], "status": 429, "retry_after": 3, "count": 1})
    [one] = running.publish()
    running.settled([one], "reported")
    first, second = running.record.reports(one[1])
    assert (first["status"], second["status"], len(running.bodies(one))) == (429, 200, 1)
    assert 3 <= second["time"] - first["time"] < 6


def test_a_rate_limit_is_kept_to(running: Running) -> None:
    running.fail(rate_limit={"limit": 200, "period": 10, "burst": 20})
    ids = running.publish(60)
    running.settled(ids, "reported")
    assert all(running.completions(one) == 1 and len(running.bodies(one)) == 1 for one in ids)
    # Not by being refused: the worker slows down before.
    assert {one["status"] for one in running.named("report")} == {200}
    times = [one["time"] for one in running.named("report")]
    assert times[-1] - times[0] >= (60 - 20) / 20


def test_a_rate_limit_that_is_used_up_by_others_is_waited_for(running: Running) -> None:
    used_up = {"paths": ["report"], "status": 429, "retry_after": 2, "count": 2}
    running.fail(used_up)
    ids = running.publish(40)
    running.settled(ids, "reported")
    assert all(running.completions(one) == 1 and len(running.bodies(one)) == 1 for one in ids)
    times = [one["time"] for one in running.named("report")]
    statuses = [one["status"] for one in running.named("report")]
    last_refused = max(number for number, status in enumerate(statuses) if status == 429)
    assert times[last_refused + 1] - times[last_refused] >= 1.9, "and all wait, not only who was refused"


OUTAGES: Final[dict[str, dict[str, object]]] = {
    "500": {"status": 500},
    "503": {"status": 503},
    "408": {"status": 408},
    "403": {"status": 403},
    # After each of them one call goes first, and the pauses double.
    "429 without a word": {"status": 429, "count": 3},
    "reset": {"reset": True},
}


@pytest.mark.parametrize("outage", OUTAGES)
def test_an_outage_is_waited_out_with_the_same_body(running: Running, outage: str) -> None:
    rule = {"paths": ["report"], "count": 20} | OUTAGES[outage]
    running.fail(rule)
    ids = running.publish(10)
    seen = {shown["nodeRunId"]: shown["report"]["tries"] for shown in running.settled(ids, "reported")}
    assert sum(len(running.statuses(one)) for one in ids) == 10 + cast("int", rule["count"])
    for one in ids:
        *tried, _ = running.statuses(one)
        tries = seen[one[1]] or {"count": 0, "latest": []}
        assert tries["count"] == len(tried), "each try is told"
        assert [told["status"] for told in tries["latest"]] == tried[-len(tries["latest"]) :]
    assert all(running.statuses(one)[-1] == 200 for one in ids)
    assert all(running.completions(one) == 1 and len(running.bodies(one)) == 1 for one in ids)
    assert running.named("run") == []


def test_the_tries_of_a_report_are_seen_while_it_is_on_its_way(running: Running) -> None:
    running.fail({"paths": ["report"], "status": 502})
    [one] = running.publish()
    eventually(lambda: running.record.read_on() and len(running.statuses(one)) > 1, "it is tried again")
    tries = shown_now(running, one)["report"]["tries"]
    assert tries["count"] >= 1
    assert {told["status"] for told in tries["latest"]} == {502}
    running.fail()
    [shown] = running.settled([one], "reported")
    assert shown["report"]["tries"]["count"] == len(running.statuses(one)) - 1


def test_a_port_that_hangs_is_waited_for(running: Running) -> None:
    running.fail({"paths": ["report"], "hang": True})
    ids = running.publish(10)
    eventually(lambda: len([one for one in running.record.read_on() if one["fault"] == "hang"]) == 10, "all hang")
    assert [one["report"]["status"] for one in map(partial(shown_now, running), ids)] == [None] * 10
    running.fail()
    running.settled(ids, "reported")
    assert [running.statuses(one) for one in ids] == [[None, 200]] * 10
    assert all(len(running.bodies(one)) == 1 for one in ids)


def shown_now(running: Running, ids: Ids) -> dict[str, Any]:
    shown: dict[str, Any] = running.worker.get(f"/api/node-runs/{ids[1]}").json
    assert shown["state"] == "reporting"
    return shown


def test_everything_at_once(running: Running) -> None:
    everything: list[dict[str, object]] = [
        {"drop_answer": True},
        {"status": 502},
        {"reset": True},
        {"status": 429, "retry_after": 1},
        {"latency_ms": 100},
    ]
    running.fail(*({"paths": ["*"], "probability": 0.06} | rule for rule in everything), seed=7)
    ids = running.publish(50)
    eventually(lambda: len(running.record.read_on()) > 50, "some went wrong")
    running.revoke()
    running.settled(ids, "reported", 120)
    assert all(running.completions(one) == 1 and len(running.bodies(one)) == 1 for one in ids)


# Credentials.


def test_wrong_credentials_are_a_problem_before_the_first_report(running: Running) -> None:
    with running.cluster.worker("wrong", PORT_CLIENT_SECRET="not-the-secret", CONSUMER_GROUP="wrong") as worker:

        def said() -> list[str]:
            problems = worker.get("/api/overview").json["problems"]
            return [one["text"] for one in problems if one["text"].startswith("Port refuses our credentials (HTTP 401")]

        [text] = eventually(said, "it is a problem", STARTS_WITHIN)
        assert "Check PORT_CLIENT_ID and PORT_CLIENT_SECRET" in text
        eventually(lambda: worker.get("/readyz").text == "credentials\n", "it is not ready for that", STARTS_WITHIN)
        assert worker.get("/healthz").status == 200
        assert "port_runs_credentials_refused 1.0" in worker.get("/metrics").text
        began = time.monotonic()
        [one] = running.publish()
        eventually(
            lambda: worker.get(f"/api/node-runs/{one[1]}").json.get("state") == "reporting", "its report waits", 60.0
        )
        running.record.read_on()
        asked = [call for call in running.named("auth") if call["status"] == 401]
        # At 0, 1, 3, 7, 15, 31 seconds, and so on.
        assert len(asked) <= 8 + (time.monotonic() - began) / 15
        log = worker.log.read_text(errors="replace")
        assert log.count("Port refuses our credentials") == 1
        assert "not-the-secret" not in log
