"""The views of real workers, on a real Kafka, over real HTTP: two workers that share the partitions."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from prometheus_client.parser import text_string_to_metric_families

from local.kafka import EmbeddedKafka, free_port
from streams.metrics import LIST
from tests.e2e.tables import incarnation_of
from tests.processes import STARTS_WITHIN, Cluster, Process, call, eventually, ready

TOKEN = "the-token-of-the-second-worker"
REPOSITORY = Path(__file__).parents[2]
FAUST_PAGES = [
    "/router/",
    "/router",
    "/table/",
    "/table",
    "/graph",
    "/graph/",
    "/stats",
    "/stats/",
    "/performance",
    "/assignment/",
]


@dataclass(frozen=True)
class Two:
    """Two workers of one organization; the first has no token, the second has one."""

    cluster: Cluster
    first: Process
    second: Process

    def partitions(self, worker: Process) -> list[int]:
        [shown] = worker.get("/api/node-runs?scope=worker").json["workers"]
        return sorted(shown["partitions"])

    def shared(self) -> bool:
        """Whether both are ready and have all partitions between them."""
        if not (ready(self.first) and ready(self.second)):
            return False
        first, second = self.partitions(self.first), self.partitions(self.second)
        return bool(first and second) and sorted(first + second) == list(range(8))

    def owner(self, node_run_id: str) -> tuple[Process, Process]:
        """Return the worker that has the node run, and the other, when one has it."""

        def found() -> tuple[Process, Process] | None:
            for one, other in ((self.first, self.second), (self.second, self.first)):
                if one.get(f"/api/node-runs/{node_run_id}?scope=worker").status == 200:
                    return one, other
            return None

        return eventually(found, f"{node_run_id} is in a view")

    def until(self, node_run_id: str, state: str) -> dict[str, Any]:
        """Return the node run when it stands there."""
        owner, _ = self.owner(node_run_id)

        def found() -> dict[str, Any] | None:
            shown: dict[str, Any] = owner.get(f"/api/node-runs/{node_run_id}").json
            return shown if shown["state"] == state else None

        return eventually(found, f"{node_run_id} is {state}")


@pytest.fixture(scope="module")
def two(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    folder = tmp_path_factory.mktemp("web")
    cluster = Cluster(kafka, folder.name.replace("_", "-"), folder, free_port())
    with cluster.emulator(), cluster.worker("first") as first, cluster.worker("second", WEB_TOKEN=TOKEN) as second:
        both = Two(cluster, first, second)
        eventually(both.shared, "both workers are ready and share the partitions", STARTS_WITHIN)
        yield both


def test_a_node_run_to_its_end(two: Two) -> None:
    began = datetime.now(UTC) - timedelta(seconds=5)
    node_run_id = two.cluster.publish({"type": "echo", "password": "p4ssw0rd", "n": 1})
    shown = two.until(node_run_id, "reported")
    assert shown["result"] == "SUCCESS"
    assert shown["workflowRunId"].startswith("wfr_")
    assert (shown["workflow"], shown["node"], shown["eventTypes"]) == ("a-workflow", "a-node", ["echo"])
    times = [datetime.fromisoformat(shown[name]) for name in ("receivedAt", "endedAt")]
    assert began < times[0] <= times[1] <= datetime.now(UTC) + timedelta(seconds=5)
    assert 0 <= shown["durationSeconds"] < 60
    answered = {"coveredItems": 1, "body": "full", "sent": True, "status": 200, "reason": None}
    assert shown["report"] == answered | {"tries": None, "parked": False, "nextTryAt": None}
    [item] = shown["items"]
    assert item["output"] == {"echo": {"type": "echo", "password": "***", "n": 1}, "apiToken": "***"}
    assert item["worker"] == shown["worker"]["worker"]
    assert shown["messages"][0]["message"]["payload"] == {"type": "echo", "password": "***", "n": 1}

    owner, _ = two.owner(node_run_id)
    page = owner.get(f"/node-runs/{node_run_id}").text
    assert node_run_id in page
    assert "p4ssw0rd" not in page
    assert "t0k3n" not in page
    assert node_run_id in owner.get("/").text
    listed = next(run for run in owner.get("/api/node-runs").json["nodeRuns"] if run["nodeRunId"] == node_run_id)
    assert (listed["state"], listed["items"], listed["succeeded"], listed["failed"]) == ("reported", 1, 1, 0)


def test_what_runs_and_what_is_deferred(two: Two) -> None:
    hangs = two.cluster.publish({"type": "hang"})
    later = two.cluster.publish({"type": "later"})
    mixed = two.cluster.publish([{"type": "echo"}, {"type": "hang"}, {"type": "later"}])
    assert two.until(later, "deferred")["items"][0]["dueAt"] is not None
    two.until(hangs, "running")
    owner, _ = two.owner(mixed)

    def items() -> bool:
        states = [item["state"] for item in owner.get(f"/api/node-runs/{mixed}").json["items"]]
        return states == ["ended", "running", "deferred"]

    eventually(items, "the items stand each in another state")
    assert owner.get(f"/api/node-runs/{mixed}").json["state"] == "running"
    for state, expected in (("running", {hangs, mixed}), ("deferred", {later})):
        listed = [
            {run["nodeRunId"] for run in worker.get(f"/api/node-runs?state={state}&scope=worker").json["nodeRuns"]}
            for worker in (two.first, two.second)
        ]
        counts = [worker.get("/api/node-runs?scope=worker").json["counts"][state] for worker in (two.first, two.second)]
        assert set.union(*listed) == expected
        assert counts == [len(one) for one in listed]
        metrics = [worker.get("/metrics").text for worker in (two.first, two.second)]
        for number, text in zip(counts, metrics, strict=True):
            assert f'port_runs_node_runs{{state="{state}"}} {float(number)}' in text


def test_a_failure_is_shown_escaped_and_masked(two: Two) -> None:
    node_run_id = two.cluster.publish({"type": "fail"}, workflow="<i>w</i>")
    shown = two.until(node_run_id, "reported")
    assert shown["result"] == "FAILED"
    owner, _ = two.owner(node_run_id)
    page = owner.get(f"/node-runs/{node_run_id}").text
    assert "no: &lt;b&gt;password=***&lt;/b&gt;" in page
    assert "&lt;i&gt;w&lt;/i&gt;" in page
    assert "hunter2" not in page


def test_the_other_worker_answers_what_its_owner_knows(two: Two) -> None:
    node_run_id = two.cluster.publish({"type": "echo"})
    two.until(node_run_id, "reported")
    owner, other = two.owner(node_run_id)
    shown = owner.get(f"/api/node-runs/{node_run_id}").json
    assert other.get(f"/api/node-runs/{node_run_id}").json == shown
    assert node_run_id in other.get(f"/node-runs/{node_run_id}", {**other.headers, "Accept": "text/html"}).text
    refused = other.get(f"/api/node-runs/{node_run_id}?scope=worker")
    assert (refused.status, refused.json["error"], refused.json["partition"]) == (421, "not-here", shown["partition"])


def test_an_unknown_node_run_is_404_at_both(two: Two) -> None:
    answers = [worker.get("/api/node-runs/wfnr_absent") for worker in (two.first, two.second)]
    assert [got.status for got in answers] == [404, 404]
    assert answers[0].json == answers[1].json


def test_lists_are_those_of_both(two: Two) -> None:
    ids = {two.cluster.publish({"type": "echo"}) for _ in range(16)}
    for node_run_id in ids:
        two.until(node_run_id, "reported")
    for worker in (two.first, two.second):
        listed = worker.get("/api/node-runs").json
        assert ids <= {run["nodeRunId"] for run in listed["nodeRuns"]}
        assert (listed["missing"], listed["missingWorkers"]) == ([], [])
        assert [one["worker"] for one in worker.get("/api/workers").json["workers"]] == [
            one["worker"] for one in listed["workers"]
        ]
        assert {partition for one in listed["workers"] for partition in one["partitions"]} == set(range(8))


def test_no_route_without_the_token(two: Two) -> None:
    script = (
        "import json; from streams.app import app; app.finalize(); app.discover(); app.web.init_server();"
        "print(json.dumps([(r.method, r.resource.canonical) for r in app.web.web_app.router.routes()]))"
    )
    env = os.environ | {
        "PORT_ORG_ID": "org",
        "PORT_CLIENT_ID": "client",
        "PORT_CLIENT_SECRET": "secret",
        "HANDLERS": "examples.handlers",
    }
    ran = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, check=True, cwd=REPOSITORY)
    routes = {(method, path) for method, path in json.loads(ran.stdout.splitlines()[-1])}
    assert {("GET", "/"), ("GET", "/api/workers"), ("POST", "/logout"), ("GET", "/metrics")} <= routes
    node_run_id = two.cluster.publish({"type": "echo"})
    two.until(node_run_id, "reported")
    for method, path in sorted(routes):
        # The token of a callback is its login.
        if path in {"/healthz", "/readyz"} or path.startswith("/callbacks/"):
            continue
        target = path.replace("{node_run_id}", node_run_id).replace("{", "").replace("}", "")
        got = call(two.second.port, method, target, {"Host": "runs.example.com", "Accept": "*/*"})
        assert got.status in (401, 403), (method, target)
        assert node_run_id not in got.text
        assert "wfr_" not in got.text
        assert incarnation_of(two.second) not in got.text


async def test_what_is_left_to_others(two: Two) -> None:
    for worker in (two.first, two.second):
        assert worker.get("/api/node-runs").status == 200
    async with AIOKafkaProducer(bootstrap_servers=two.cluster.kafka.bootstrap) as producer:
        message = json.dumps({"resourceType": "run", "context": {"runId": "r_1"}, "secret": "s3cr3t"}).encode()
        await producer.send_and_wait(f"{two.cluster.org}.runs", message)

    def counted() -> bool:
        workers = (two.first, two.second)
        return all(one.get("/api/node-runs").json["foreign"]["counts"] == {"resourceType": 1} for one in workers)

    await asyncio.to_thread(eventually, counted, "the message is counted, whichever worker is asked")
    page = two.first.get("/").text
    assert "resourceType" in page
    assert "s3cr3t" not in page


@pytest.mark.parametrize("path", FAUST_PAGES)
def test_fausts_own_pages_are_off(two: Two, path: str) -> None:
    assert two.first.get(path).status == 404
    assert two.second.get(path).status == 404
    assert two.second.get(path, {}).status == 401


def test_the_index_is_ours(two: Two) -> None:
    got = two.first.get("/")
    assert got.headers["content-type"] == "text/html; charset=utf-8"
    assert "<h1>Overview</h1>" in got.text


@pytest.mark.parametrize("path", ["/", "/api/node-runs", "/api/node-runs/wfnr_a", "/node-runs/wfnr_a", "/metrics"])
def test_the_token_is_needed_where_it_is_set(two: Two, path: str) -> None:
    assert two.second.get(path, {}).status == 401
    assert two.second.get(path, {"Authorization": f"Bearer {TOKEN}x"}).status == 401
    assert two.second.get(path).status != 401


def test_no_foreign_host_name_without_a_token(two: Two) -> None:
    assert two.first.get("/", {"Host": "rebound.example"}).status == 403
    assert two.first.get("/healthz", {"Host": "rebound.example"}).status == 200


def test_metrics_are_those_of_the_list(two: Two) -> None:
    eventually(
        lambda: "\nport_runs_lag{" in two.first.get("/metrics").text, "Kafka was asked for the ends of the topics"
    )
    families = list(text_string_to_metric_families(two.first.get("/metrics").text))
    # Beside each counter and histogram stands the time of its first count, which tells nothing.
    shown = {family.name: family for family in families if not family.name.endswith("_created")}
    assert {name: family.type for name, family in shown.items()} == {one.name: one.kind for one in LIST.values()}
    assert {name: family.documentation for name, family in shown.items()} == {
        one.name: one.meaning for one in LIST.values()
    }
    samples = [sample for family in shown.values() for sample in family.samples if not sample.name.endswith("_created")]
    listed = {name: set(one.labels) for one in LIST.values() for name in one.series}
    assert {"port_runs_lag", "port_runs_standing_seconds", "port_runs_recovery_seconds_count"} <= {
        sample.name for sample in samples
    }
    assert all(set(sample.labels) - {"le"} == listed[sample.name] for sample in samples)


def test_metrics_of_the_counters_and_of_the_gauges(two: Two) -> None:
    text = two.first.get("/metrics").text
    assert "# HELP port_runs_ledger_events_total" in text
    assert f"port_runs_owned_partitions {float(len(two.partitions(two.first)))}" in text
    assert 'port_runs_queue_waiting{agent="reporter"}' in text


def test_a_worker_that_is_alone_shows_every_partition_and_ends_on_sigterm(
    kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("alone")
    cluster = Cluster(kafka, folder.name.replace("_", "-"), folder, free_port())
    with cluster.emulator(), cluster.worker("alone", PARTITIONS="3") as worker:
        eventually(lambda: ready(worker), "the worker is ready", STARTS_WITHIN)
        listed = worker.get("/api/node-runs").json
        assert (listed["workers"][0]["partitions"], listed["missing"]) == ([0, 1, 2], [])
        assert worker.stop() == 0
