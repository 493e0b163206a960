"""Node runs from their node JSON to the emulator's record, through a real Kafka and a real worker."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from local.examples import load_example
from local.kafka import EmbeddedKafka, free_port
from tests.e2e.load import Load
from tests.e2e.record import Record
from tests.processes import STARTS_WITHIN, Cluster, Process, call, eventually, ready

HANDLERS = """
import asyncio
import time
from pydantic import BaseModel
from agents import Context, Fail, handles

async def receive(event: dict, ctx: Context) -> dict:
    return {"received": event}

for documented in ("deployment.started", "service.deployed", "provision-infrastructure", "notification"):
    handles(documented)(receive)

class Model(BaseModel):
    service: str

@handles("model")
async def model(event: Model) -> None: ...

@handles("pass")
async def passes(event: dict, ctx: Context) -> dict:
    return {"key": ctx.idempotency_key, "n": event.get("n")}

@handles("fail")
def fails(event: dict) -> None:
    raise Fail("it cannot be done")

@handles("flaky", retries=2)
async def flaky(event: dict, ctx: Context) -> dict:
    if ctx.attempt < 3:
        raise RuntimeError("not yet")
    return {"attempt": ctx.attempt}

@handles("endless", deadline="500ms")
async def endless(event: dict) -> None:
    await asyncio.sleep(3600)

@handles("stuck", concurrency=1, deadline="500ms")
def stuck(event: dict) -> None:
    while True:
        time.sleep(0.1)

@handles("large")
async def large(event: dict) -> dict:
    return {"text": "x" * 300_000}
"""


@dataclass(frozen=True)
class Running:
    cluster: Cluster
    worker: Process
    record: Record

    def run(self, payload: object) -> str:
        return self.cluster.publish(payload)

    async def send(self, *values: bytes | None) -> None:
        """Publish messages as they are on the runs topic."""
        async with AIOKafkaProducer(bootstrap_servers=self.cluster.kafka.bootstrap) as producer:
            for value in values:
                await producer.send_and_wait(f"{self.cluster.org}.runs", value, key=b"k")

    def register(self) -> tuple[str, str]:
        [ids] = Load(self.cluster).register(1)
        return ids

    def shown(self, node_run_id: str) -> dict[str, Any]:
        """Return the node run as the web view shows it, when it stands as reported."""

        def reported() -> dict[str, Any] | None:
            got = self.worker.get(f"/api/node-runs/{node_run_id}")
            return got.json if got.status == 200 and got.json["state"] == "reported" else None

        return eventually(reported, f"{node_run_id} is shown as reported")


@pytest.fixture(scope="module")
def running(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("e2e")
    cluster = Cluster(kafka, folder.name, folder, free_port(), HANDLERS)
    with cluster.emulator(), cluster.worker("worker") as worker:
        eventually(lambda: ready(worker), "the worker is ready", STARTS_WITHIN)
        yield Running(cluster, worker, Record(cluster))


def message(ids: tuple[str, str], payload: object) -> bytes:
    context = {"workflowRunId": ids[0], "nodeRunId": ids[1]}
    return json.dumps({"context": context, "payload": payload}).encode()


@pytest.mark.parametrize(
    ("name", "event_type"),
    [
        ("deployment-started", "deployment.started"),
        ("service-deployed", "service.deployed"),
        ("provision-infrastructure", "provision-infrastructure"),
        ("notifications", "notification"),
    ],
)
@pytest.mark.parametrize("form", ["context", "headers"])
def test_each_documented_shape(running: Running, name: str, event_type: str, form: str) -> None:
    got = call(running.cluster.emulator_port, "POST", "/emulator/node-runs", body=load_example(name) | {"form": form})
    assert got.status == 200, got.text
    node_run_id, payload = got.json["nodeRunId"], got.json["message"]["payload"]

    body = running.record.completed(node_run_id)

    assert body["result"] == "SUCCESS"
    items = body["output"]["items"] if isinstance(payload, list) else [{"output": body["output"]}]
    received = [item["output"]["received"] for item in items]
    assert received == (payload if isinstance(payload, list) else [payload])
    if isinstance(payload, list):
        assert (body["output"]["succeeded"], body["output"]["failed"]) == (len(payload), 0)

    shown = running.shown(node_run_id)
    assert shown["eventTypes"] == [event_type]
    assert shown["result"] == "SUCCESS"
    assert shown["durationSeconds"] >= 0
    if form == "context":
        assert shown["workflowRunId"] == got.json["workflowRunId"]
    assert [report["status"] for report in running.record.reports(node_run_id)] == [200]


def test_a_failure_is_told_with_its_reason(running: Running) -> None:
    body = running.record.completed(running.run({"type": "fail"}))
    assert body == {"status": "COMPLETED", "result": "FAILED", "output": {"error": {"message": "it cannot be done"}}}


def test_an_exception_is_worth_its_retries(running: Running) -> None:
    body = running.record.completed(running.run({"type": "flaky"}))
    assert body["output"] == {"attempt": 3}


def test_a_handler_without_end_fails_at_its_deadline(running: Running) -> None:
    body = running.record.completed(running.run({"type": "endless"}))
    assert body["result"] == "FAILED"
    assert body["output"]["error"]["message"] == "the deadline of 0.5 s passed"


def test_what_waits_behind_calls_that_never_end_fails_too(running: Running) -> None:
    first, second = running.run({"type": "stuck"}), running.run({"type": "stuck"})
    errors = {running.record.completed(one)["output"]["error"]["message"] for one in (first, second)}
    assert errors == {
        "the deadline of 0.5 s passed",
        "all 1 calls of the handler go on past their deadline of 0.5 s",
    }


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ({"type": "nobody-knows"}, "no handler for event type 'nobody-knows'"),
        ({"service": "checkout"}, "the item has no event type"),
        ({"eventType": "model"}, "the item does not fit its model: service: Field required"),
    ],
)
def test_silence_is_a_failure(running: Running, payload: object, reason: str) -> None:
    body = running.record.completed(running.run(payload))
    assert body["result"] == "FAILED"
    assert body["output"]["error"]["message"].startswith(reason)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (None, "the payload is no object or array, but null"),
        ("text", "the payload is no object or array, but a string"),
        ({}, "the payload is empty"),
        ([], "the payload is empty"),
        ([{"type": "pass"}, 3], "item 1 of the payload is no object, but a number"),
    ],
)
async def test_a_payload_that_cannot_be_handled(running: Running, payload: object, reason: str) -> None:
    ids = running.register()
    await running.send(message(ids, payload))
    body = running.record.completed(ids[1])
    assert (body["result"], body["output"]["error"]["message"]) == ("FAILED", reason)


async def test_an_array_with_a_failure_in_it(running: Running) -> None:
    body = running.record.completed(running.run([{"type": "pass", "n": 1}, {"type": "fail"}, {"type": "pass", "n": 2}]))
    assert body["result"] == "FAILED"
    output = body["output"]
    assert output["error"]["message"] == "1 of 3 items failed; item 1 (fail): it cannot be done"
    assert [item["result"] for item in output["items"]] == ["SUCCESS", "FAILED", "SUCCESS"]
    assert [item["output"]["n"] for item in output["items"] if "output" in item] == [1, 2]


async def test_one_message_for_each_item(running: Running) -> None:
    ids = running.register()
    await running.send(*(message(ids, {"type": "pass", "n": number}) for number in range(5)))
    running.record.completed(ids[1])

    def all_ended() -> bool:
        shown = running.shown(ids[1])
        return bool(shown["itemCount"] == 5 and shown["succeeded"] == 5)

    eventually(all_ended, "each item is handled")
    keys = {item["output"]["key"] for item in running.shown(ids[1])["items"]}
    assert keys == {f"{ids[1]}-{index}" for index in range(5)}
    assert [report["status"] for report in running.record.reports(ids[1])] == [200]


async def test_what_comes_after_the_report_runs_and_its_failure_is_told(running: Running) -> None:
    ids = running.register()
    await running.send(message(ids, {"type": "pass", "n": 0}))
    assert running.record.completed(ids[1])["output"]["n"] == 0
    running.shown(ids[1])
    await running.send(message(ids, {"type": "fail", "late": True}))
    [line] = eventually(lambda: running.record.logs(ids[1]), "the late failure stands in the log")
    assert line == "item 1 (fail) failed after the report: it cannot be done"
    assert [report["status"] for report in running.record.reports(ids[1])] == [200]


async def test_the_same_message_again_changes_nothing(running: Running) -> None:
    ids = running.register()
    same = message(ids, {"type": "pass", "n": 7})
    await running.send(same, same)
    running.record.completed(ids[1])
    await running.send(same)
    marker = running.register()
    await running.send(message(marker, {"type": "pass"}))
    running.record.completed(marker[1])
    assert running.shown(ids[1])["itemCount"] == 1
    assert len(running.record.reports(ids[1])) == 1


def test_an_array_larger_than_a_report(running: Running) -> None:
    body = running.record.completed(running.run([{"type": "large", "n": number} for number in range(6)]))
    assert body["result"] == "SUCCESS"
    assert [item["index"] for item in body["output"]["items"]] == list(range(6))
    outputs = ["output" in item for item in body["output"]["items"]]
    assert outputs == [True, True, True, False, False, False]


async def test_what_is_not_ours_is_left_alone_and_what_cannot_be_read_is_kept(running: Running) -> None:
    ids = running.register()
    unreadable = [b"\xff\xfe", b'{"context":', message((ids[0], "wfnr_../../x"), {"type": "pass"})]
    foreign = [
        json.dumps({"payload": {"type": "pass"}}).encode(),
        json.dumps({"context": {"runId": "r_1"}, "resourceType": "run", "payload": {}}).encode(),
        json.dumps(
            {"context": {"nodeRunId": ids[1]}, "payload": {"action": {"invocationMethod": {"type": "WEBHOOK"}}}}
        ).encode(),
    ]
    before = len(running.record.read_on())
    await running.send(*unreadable, *foreign)
    marker = running.register()
    await running.send(message(marker, {"type": "pass"}))
    running.record.completed(marker[1])

    assert {one["path"] for one in running.record.calls[before:]} == {
        f"/v1/workflows/runs/{marker[0]}/nodes/{marker[1]}"
    }
    topic = f"{running.cluster.org}.port-runs.dead-letters"
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=running.cluster.kafka.bootstrap, auto_offset_reset="earliest", group_id=None
    )
    async with consumer:
        letters = [await consumer.getone() for _ in unreadable]
    assert sorted(letter.value or b"" for letter in letters) == sorted(unreadable)
    for letter in letters:
        headers = dict(letter.headers)
        assert letter.key == b"k"
        assert headers["reason"]
        assert json.loads(headers["source"])["topic"] == f"{running.cluster.org}.runs"
    seen = running.worker.get("/api/node-runs").json["foreign"]["counts"]
    assert sum(seen.values()) == len(foreign)
