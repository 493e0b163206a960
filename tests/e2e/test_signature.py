"""Signed, wrongly signed and unsigned messages, to workers that check signatures and one that does not."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final

import pytest
from aiokafka import AIOKafkaProducer, ConsumerRecord

from local.kafka import EmbeddedKafka, free_port
from tests.e2e.load import Load
from tests.e2e.record import Record
from tests.e2e.tables import records_of
from tests.processes import SECRET, STARTS_WITHIN, Cluster, Process, call, eventually, ready

HANDLERS = """
from agents import handles

@handles("seen")
async def seen(event: dict) -> dict:
    return event
"""
MODES: Final = ("off", "when-present", "required")
PAYLOAD: Final = '{"type":"seen","small":1e-7,"text":"é"}'
OLD: Final = int(time.time()) - 3 * 86_400
"""When what is checked was sent: days ago, and still within Kafka's retention."""


def signed(body: str, timestamp: str | int = OLD, secret: str = SECRET) -> str:
    """A message with a signature, added to it as Port's side adds it: to the headers that stand in front."""
    signature = hmac.new(secret.encode(), f"{timestamp}.{body}".encode(), hashlib.sha256).digest()
    fields = f'"X-Port-Signature":"v1,{base64.b64encode(signature).decode()}","X-Port-Timestamp":"{timestamp}"'
    assert body.startswith('{"headers":{}')
    return body.replace('"headers":{}', f'"headers":{{{fields}}}', 1)


BODY: Final = f'{{"headers":{{}},"context":{{"workflowRunId":"RUN","nodeRunId":"NODE"}},"payload":{PAYLOAD}}}'
UNSIGNED: Final = "it is not signed, and a signature is required"
WRONG: Final = "its signature is wrong"
STALE: Final = "s from when it was sent, of 300 s allowed"
HALF: Final = "it must carry X-Port-Signature and X-Port-Timestamp once each"
NEVER: Final = ()
CHECKED: Final = ("when-present", "required")

MESSAGES: Final[dict[str, tuple[str, str, tuple[str, ...]]]] = {
    # What is done with the ids filled in; the reason it is refused for, and by which modes.
    "right": ("sign", "", NEVER),
    "right, in milliseconds": ("sign in milliseconds", "", NEVER),
    "not signed": ("leave", UNSIGNED, ("required",)),
    "another secret": ("sign with another secret", WRONG, CHECKED),
    "changed": ("change", WRONG, CHECKED),
    "an hour early": ("sign early", STALE, CHECKED),
    "half": ("halve", HALF, CHECKED),
    "garbage": ("fill with garbage", HALF, CHECKED),
}


def made(how: str, body: str) -> str:
    match how:
        case "sign":
            return signed(body)
        case "sign in milliseconds":
            return signed(body, OLD * 1000)
        case "sign with another secret":
            return signed(body, secret="another secret")
        case "sign early":
            return signed(body, OLD - 3600)
        case "change":
            return signed(body).replace("1e-7", "1e-8")
        case "fill with garbage":
            return body.replace('"headers":{}', r'"headers":{"X-Port-Timestamp":[{"a\u0000":null}]}')
        case "halve":
            return body.replace('"headers":{}', f'"headers":{{"X-Port-Timestamp":"{OLD}"}}')
        case _:
            return body


@dataclass(frozen=True)
class Sent:
    node_run_id: str
    value: bytes


@dataclass
class Organization:
    """An organization whose messages are checked in one mode."""

    mode: str
    cluster: Cluster
    worker: Process
    sent: dict[str, Sent]
    foreign: bytes = b""

    def refused(self) -> list[str]:
        return [name for name, (_, _, modes) in MESSAGES.items() if self.mode in modes]

    async def send(self) -> None:
        """Send all messages, as if they had been sent long ago, and one for another consumer."""
        ids = Load(self.cluster).register(len(MESSAGES))
        async with AIOKafkaProducer(bootstrap_servers=self.cluster.kafka.bootstrap) as producer:
            topic = f"{self.cluster.org}.runs"
            for (name, (how, _, _)), (run, node) in zip(MESSAGES.items(), ids, strict=True):
                value = made(how, BODY.replace("RUN", run).replace("NODE", node)).encode()
                self.sent[name] = Sent(node, value)
                await producer.send_and_wait(topic, value, timestamp_ms=OLD * 1000 + 1500)
            foreign = '{"headers":{},"resourceType":"run","context":{"runId":"r_1"},"payload":{}}'
            self.foreign = signed(foreign, secret="another secret").encode()
            await producer.send_and_wait(topic, self.foreign, timestamp_ms=OLD * 1000)

    def counted(self, what: str) -> int:
        lines = self.worker.get("/metrics").text.splitlines()
        found = [line for line in lines if line.startswith(f'port_runs_messages_total{{what="{what}"}}')]
        return int(float(found[0].split()[-1])) if found else 0


@pytest.fixture(scope="module")
def organizations(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Organization]]:
    """One organization for each mode, when all messages were sent and have ended."""
    with ExitStack() as stack:
        found = {}
        for mode in MODES:
            folder = tmp_path_factory.mktemp(f"signature-{mode}")
            cluster = Cluster(kafka, folder.name, folder, free_port(), HANDLERS)
            stack.enter_context(cluster.emulator())
            found[mode] = Organization(mode, cluster, stack.enter_context(cluster.worker("w", SIGNATURE=mode)), {})
        for organization in found.values():
            eventually(partial(ready, organization.worker), "the worker is ready", STARTS_WITHIN)
            asyncio.run(organization.send())
        yield found


@pytest.fixture(params=MODES)
def organization(request: pytest.FixtureRequest, organizations: dict[str, Organization]) -> Organization:
    return organizations[request.param]


async def letters(cluster: Cluster) -> list[ConsumerRecord[bytes, bytes]]:
    return [one async for one in records_of(cluster, f"{cluster.org}.port-runs.dead-letters")]


def test_what_is_right_is_handled_and_what_is_wrong_is_a_dead_letter(organization: Organization) -> None:
    record, refused = Record(organization.cluster), organization.refused()
    for name, one in organization.sent.items():
        if name not in refused:
            body = record.completed(one.node_run_id)
            assert (body["result"], body["output"]["type"]) == ("SUCCESS", "seen"), name
    eventually(lambda: organization.counted("signature refused") == len(refused), "all are refused")
    found = {letter.value: dict(letter.headers) for letter in asyncio.run(letters(organization.cluster))}
    assert set(found) == {organization.sent[name].value for name in refused}
    for name in refused:
        headers = found[organization.sent[name].value]
        assert MESSAGES[name][1] in headers["reason"].decode()
        assert json.loads(headers["source"])["timestamp"] == OLD + 1.5
        assert not record.reports(organization.sent[name].node_run_id)
        assert organization.worker.get(f"/api/node-runs/{organization.sent[name].node_run_id}").status == 404


def test_what_is_for_others_is_left_alone_unchecked(organization: Organization) -> None:
    eventually(lambda: organization.counted("resourceType") == 1, "it is counted")
    assert organization.foreign not in [letter.value for letter in asyncio.run(letters(organization.cluster))]


def test_what_the_emulator_signs_now_is_right(organizations: dict[str, Organization]) -> None:
    organization = organizations["required"]
    node = {"identifier": "n", "config": {"type": "KAFKA", "payload": json.loads(PAYLOAD)}}
    body = {"workflowIdentifier": "w", "node": node, "trigger": {}, "form": "headers"}
    got = call(organization.cluster.emulator_port, "POST", "/emulator/node-runs", body=body)
    assert got.status == 200, got.text
    assert Record(organization.cluster).completed(got.json["nodeRunId"])["result"] == "SUCCESS"
