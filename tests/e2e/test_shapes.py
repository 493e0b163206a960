"""The example handlers, with what they call on this machine: each documented shape from Kafka to its end."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from local.examples import load_example
from local.kafka import free_port
from tests.e2e.conftest import NewCluster
from tests.e2e.record import Record
from tests.processes import STARTS_WITHIN, Process, call, eventually, ready, receiver


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
