"""The example handlers, with what they call on this machine: each documented shape from Kafka to its end."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from pydantic import SecretStr

from local.examples import load_example
from local.kafka import free_port
from port.nodes import Form
from port.signature import SIGNATURE_HEADER, TIMESTAMP_HEADER, signature_of
from tests.e2e.conftest import NewCluster
from tests.e2e.record import Record
from tests.processes import SECRET, STARTS_WITHIN, Cluster, Process, call, eventually, ready, receiver


@dataclass(frozen=True)
class Outside:
    """A worker, and what stands for the services that it calls."""

    record: Record
    receiver: Process
    worker: Process

    def completed(self, payload: object) -> tuple[str, dict[str, Any]]:
        """Publish a payload; return the node-run id, and what Port was told at last."""
        node_run_id = self.record.cluster.publish(payload)
        return node_run_id, self.record.completed(node_run_id)

    def received(self) -> list[dict[str, Any]]:
        """Return what has come so far, oldest first."""
        return list(self.receiver.get("/").json["received"])


@pytest.fixture
def outside(new_cluster: NewCluster) -> Iterator[Outside]:
    cluster = new_cluster()
    mail_port, worker_port = free_port(), free_port()
    with ExitStack() as running:
        stands = running.enter_context(receiver(cluster.folder, mail_port))
        at = f"http://127.0.0.1:{stands.port}"
        channels = {"slack": f"{at}/slack", "email": "mailto:team@example.com,ops@example.com"}
        settings = {
            "HANDLERS": "examples.handlers",
            "WEBHOOK_URL": f"{at}/webhook",
            "PROVISIONER_URL": f"{at}/provisioner",
            "PUBLIC_URL": f"http://127.0.0.1:{worker_port}",
            "NOTIFICATION_CHANNELS": json.dumps(channels),
            "OUTGOING_HTTP": "allow",
            "OUTGOING_PRIVATE": "allow",
            "SMTP_HOST": "127.0.0.1",
            "SMTP_PORT": str(mail_port),
            "SMTP_SECURITY": "none",
            "SMTP_FROM": "port@example.com",
        }
        worker = running.enter_context(cluster.worker("one", worker_port, **settings))
        eventually(lambda: ready(worker), "the worker is ready", STARTS_WITHIN)
        yield Outside(Record(cluster), stands, worker)


def test_each_shape_from_kafka_to_its_end(outside: Outside) -> None:
    started = {
        "eventType": "deployment.started",
        "service": "checkout",
        "version": "1.4.0",
        "environment": "production",
        "callback": {"url": "http://169.254.169.254/"},
    }
    node_run_id, report = outside.completed(started)
    assert (report["result"], report["output"]["forwarded"]) == ("SUCCESS", {"status": 200})
    posted = {"to": "webhook", "body": started, "idempotencyKey": f"{node_run_id}-0"}
    assert outside.received() == [posted]

    data = {"serviceId": "checkout", "version": "1.4.0", "environment": "production"}
    deployed = {"event": "service.deployed", "data": data, "metadata": {"timestamp": "2026-01-01T00:00:00Z"}}
    _, report = outside.completed(deployed)
    assert (report["result"], report["output"]["forwarded"]) == ("SUCCESS", {"status": 200})
    assert outside.received()[1]["body"] == deployed

    messages = ["checkout <!here> is live", "checkout is live\r\nBcc: evil@example.com"]
    both = [
        {"type": "notification", "channel": channel, "message": message}
        for channel, message in zip(("slack", "email"), messages, strict=True)
    ]
    node_run_id, report = outside.completed(both)
    assert report["result"] == "SUCCESS"
    assert [item["output"]["sentBy"] for item in report["output"]["items"]] == ["slack", "email"]
    slack, mail = sorted(outside.received()[2:], key=lambda one: one["to"], reverse=True)
    text = {"text": "checkout &lt;!here&gt; is live"}
    assert slack == {"to": "slack", "body": text, "idempotencyKey": f"{node_run_id}-0"}
    assert mail == {
        "to": "mail",
        "from": "port@example.com",
        "recipients": ["team@example.com", "ops@example.com"],
        "subject": "checkout is live",
        "messageId": f"<{node_run_id}-1@example.com>",
        "text": "checkout is live\nBcc: evil@example.com",
    }

    parameters = {"cloudProvider": "aws", "region": "eu-west-1", "instanceType": "m5.large", "count": 3}
    order = {"action": "provision-infrastructure", "parameters": parameters}
    its_own = {"url": "http://169.254.169.254/", "headers": {"Authorization": "Bearer x"}}
    node_run_id = outside.record.cluster.publish(order | {"callback": its_own})

    def reported() -> list[dict[str, Any]]:
        outside.record.read_on()
        return [one["body"] for one in outside.record.reports(node_run_id)]

    eventually(lambda: any(body["status"] == "COMPLETED" for body in reported()), "it is completed")
    *before, report = reported()
    assert {body["status"] for body in before} <= {"IN_PROGRESS"}
    assert (report["result"], report["output"]) == ("SUCCESS", {"machines": ["i-0a1", "i-0a2", "i-0a3"]})
    ordered, called_back = eventually(
        lambda: outside.received()[4:6] if len(outside.received()) > 5 else None, "it has called back"
    )
    url = ordered["body"].pop("callback")["url"]
    assert url.startswith(f"http://127.0.0.1:{outside.worker.port}/callbacks/")
    assert ordered == {"to": "provisioner", "body": order, "idempotencyKey": f"{node_run_id}-0"}
    assert called_back == {"to": "callback", "status": 202}

    _, report = outside.completed({"type": "notification", "channel": "pager", "message": "m"})
    assert report["result"] == "FAILED"
    why = "the channel 'pager' is not configured (NOTIFICATION_CHANNELS)"
    assert report["output"]["error"]["message"] == why
    assert len(outside.received()) == 6


def test_without_handlers_or_targets_nothing_succeeds(new_cluster: NewCluster) -> None:
    """No worker starts without HANDLERS; and where no target is set, each shape fails and says which is missing."""
    cluster = new_cluster()
    with cluster.worker("without-handlers", HANDLERS="") as worker:
        assert worker.ended(STARTS_WITHIN) == 2
        assert worker.log.read_text().startswith("HANDLERS: missing; name the modules with your handlers")
    settings = {
        "deployment-started": "WEBHOOK_URL",
        "service-deployed": "WEBHOOK_URL",
        "provision-infrastructure": "PROVISIONER_URL",
        "notifications": "NOTIFICATION_CHANNELS",
    }
    with cluster.worker("one", HANDLERS="examples.handlers") as worker:
        eventually(lambda: ready(worker), "the worker is ready", STARTS_WITHIN)
        record = Record(cluster)
        for name, setting in settings.items():
            made = call(cluster.emulator_port, "POST", "/emulator/node-runs", body=load_example(name))
            report = record.completed(made.json["nodeRunId"])
            assert report["result"] == "FAILED"
            assert f"{setting} is not set" in report["output"]["error"]["message"]


ANY_FORM = """
from agents import Fail, handles

@handles("deployment.started")
async def started(event: dict) -> dict:
    return {"got": sorted(event)}

@handles("service.deployed")
async def deployed(event: dict) -> dict:
    return {"got": sorted(event)}

@handles("provision-infrastructure")
async def provision(event: dict) -> dict:
    return {"got": sorted(event)}

@handles("notification")
async def notify(event: dict) -> dict:
    return {"got": sorted(event)}

@handles("fails")
async def fails(event: dict) -> dict:
    raise Fail("it does not work")
"""
SHAPES: list[dict[str, Any] | list[dict[str, Any]]] = [
    {"eventType": "deployment.started", "service": "shop", "version": "1", "environment": "prod", "timestamp": "now"},
    {"event": "service.deployed", "data": {"serviceId": "shop"}, "metadata": {"timestamp": "now"}},
    {"action": "provision-infrastructure", "parameters": {"count": 3}, "callback": {"url": "https://example.com"}},
    [{"type": "notification", "channel": "slack", "message": "m"}, {"type": "notification", "channel": "email"}],
]


def publish(cluster: Cluster, form: Form, payload: object) -> str:
    """Run a node whose message has this form; return the node run's id."""
    node = {"identifier": "a-node", "config": {"type": "KAFKA", "payload": payload}}
    got = call(cluster.emulator_port, "POST", "/emulator/node-runs", body={"node": node, "form": form.value})
    assert got.status == 200, got.text
    return str(got.json["nodeRunId"])


def test_each_shape_in_each_form_from_kafka_to_its_end(new_cluster: NewCluster) -> None:
    cluster = new_cluster(handlers=ANY_FORM)
    with cluster.worker("one", REPORT_GRACE="5s") as worker:
        eventually(lambda: ready(worker), "the worker is ready", STARTS_WITHIN)
        record = Record(cluster)
        published = {(form, n): publish(cluster, form, shape) for form in Form for n, shape in enumerate(SHAPES)}
        failed = {form: publish(cluster, form, {"type": "fails"}) for form in Form if form is not Form.SPREAD_RUN_ID}
        unknown = {form: publish(cluster, form, {"type": "nobody.knows"}) for form in (Form.CONTEXT, Form.SPREAD)}
        unsure = publish(cluster, Form.SPREAD_RUN_ID, {"type": "nobody.knows"})
        for (form, n), node_run_id in published.items():
            report, shape = record.completed(node_run_id, 60), SHAPES[n]
            assert report["result"] == "SUCCESS", (form, n, report)
            if isinstance(shape, dict):
                assert report["output"] == {"got": sorted(shape)}
            else:
                assert [item["output"]["got"] for item in report["output"]["items"]] == [sorted(one) for one in shape]
        for node_run_id in (*failed.values(), *unknown.values()):
            assert record.completed(node_run_id, 60)["result"] == "FAILED"

        def letters() -> list[dict[str, Any]]:
            return list(worker.get("/api/dead-letters").json["letters"])

        [letter] = eventually(letters, "the one that cannot be looked up is kept")
        assert (letter["kind"], unsure in letter["start"]) == ("unsure", True)
        assert record.reports(unsure) == []
        # Where the payload is a guess, FAILED is reported after a look.
        guessed = {failed[Form.SPREAD], unknown[Form.SPREAD]}
        runs = {f"/v1/workflows/runs/{run_id_of(cluster, one)}" for one in guessed}
        assert {one["path"] for one in record.calls if one["call"] == "run"} == runs


def run_id_of(cluster: Cluster, node_run_id: str) -> str:
    """Return the workflow run of a node run."""
    shown = call(cluster.emulator_port, "GET", f"/emulator/node-runs/{node_run_id}").json["nodeRun"]
    return str(shown["workflowRunId"])


def test_one_node_run_that_comes_again_is_handled_once(new_cluster: NewCluster) -> None:
    cluster = new_cluster(handlers=ANY_FORM)
    with cluster.worker("one") as worker:
        eventually(lambda: ready(worker), "the worker is ready", STARTS_WITHIN)
        node_run_id = publish(cluster, Form.HEADERS, {"type": "notification", "n": 1})
        record = Record(cluster)
        record.completed(node_run_id)
        now = int(time.time())
        plain = {"context": {"runId": node_run_id}, "payload": {"n": 1, "type": "notification"}}
        again = [plain, signed(plain, now - 5), signed(dict(reversed(plain.items())), now)]
        asyncio.run(send(cluster, [json.dumps(one).encode() for one in again]))

        def repeated() -> bool:
            lines = worker.get("/metrics").text.splitlines()
            return 'port_runs_repeated_messages_total{stood="another"} 3.0' in lines

        eventually(repeated, "three duplicates")
        assert worker.get(f"/api/node-runs/{node_run_id}").json["itemCount"] == 1
        record.read_on()
        assert [one["status"] for one in record.reports(node_run_id)] == [200]


def signed(message: dict[str, Any], at: int) -> dict[str, Any]:
    """Return a message with Port's signature of that time."""
    body = json.dumps(message, separators=(",", ":")).encode()
    headers = {SIGNATURE_HEADER: signature_of(body, str(at), SecretStr(SECRET)), TIMESTAMP_HEADER: str(at)}
    return {"headers": headers, **message}


async def send(cluster: Cluster, values: list[bytes]) -> None:
    """Write records to the runs topic."""
    async with AIOKafkaProducer(bootstrap_servers=cluster.kafka.bootstrap) as producer:
        for value in values:
            await producer.send_and_wait(f"{cluster.org}.runs", value)
