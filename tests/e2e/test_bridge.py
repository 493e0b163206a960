"""Two clusters: the runs topic on a broker secured like Port's, with one partition, and all state on the own one."""

import asyncio
import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from pydantic import SecretStr

from local.examples import NAMES as SHAPES
from local.examples import load_example
from local.kafka import EmbeddedKafka, free_port
from port.signature import SIGNATURE_HEADER, TIMESTAMP_HEADER, signature_of
from streams.cluster import SecurityProtocol
from tests.e2e.load import Load
from tests.e2e.record import Record
from tests.e2e.team import Team
from tests.processes import SECRET, Cluster, Process, call, eventually, ready
from tests.source_kafka import SourceKafka

FROM_PORT = {"SOURCE_BROKERS": "port", "SOURCE_SECURITY_PROTOCOL": SecurityProtocol.SASL_PLAINTEXT.value}
SLOW_ECHO = """
import asyncio
from agents import handles

@handles("echo", concurrency=200)
async def echo(event: dict) -> dict:
    await asyncio.sleep(0.2)
    return {"n": event["n"]}
"""
NAMES = ("one", "two")
DOCUMENTED = """
from agents import handles

async def receive(event: dict) -> dict:
    return event

for documented in ("deployment.started", "service.deployed", "provision-infrastructure", "notification"):
    handles(documented)(receive)
"""


@pytest.fixture
def team(source: SourceKafka, kafka: EmbeddedKafka, unique: str, tmp_path: Path) -> Iterator[Team]:
    """An organization on Port's Kafka, and its workers, whose own Kafka is another."""
    source.add_topic(unique, partitions=1)
    source.allow(unique)
    cluster = Cluster(source.broker, unique, tmp_path, free_port(), SLOW_ECHO + DOCUMENTED, own=kafka)
    credentials = {
        "--kafka-advertised": source.bootstrap,
        "--kafka-username": source.username,
        "--kafka-password": source.password,
    }
    options = [part for option in credentials.items() for part in option]
    with ExitStack() as running:
        running.enter_context(cluster.emulator(*options))
        yield running.enter_context(Team(cluster))


def start(team: Team, *names: str) -> None:
    """Start these workers, and those that have ended, as whatever supervises them would."""
    team.start(*names, **FROM_PORT)


def signed(node_run_id: str, sent_at: int) -> bytes:
    """Return a message with Port's signature."""
    message = {"context": {"runId": node_run_id}, "payload": {"type": "echo", "n": 1}}
    body = json.dumps(message, separators=(",", ":")).encode()
    signature = signature_of(body, str(sent_at), SecretStr(SECRET))
    return json.dumps({"headers": {SIGNATURE_HEADER: signature, TIMESTAMP_HEADER: str(sent_at)}, **message}).encode()


def copies(worker: Process) -> bool:
    """Whether the source's partition is this worker's."""
    lines = worker.get("/metrics").text.splitlines()
    return any(line.startswith('port_runs_source_lag{partition="0"}') for line in lines)


def the_one_that_copies(team: Team) -> str:
    return eventually(lambda: next((name for name in NAMES if copies(team[name])), None), "a worker copies", every=0.2)


def test_the_four_shapes_complete_and_say_where_they_stood_at_the_source(team: Team, source: SourceKafka) -> None:
    team.start(*NAMES, **FROM_PORT, SIGNATURE="required")
    team.settled()
    record = Record(team.cluster)
    bodies = [load_example(name) | {"form": "headers"} for name in SHAPES]
    made = [call(team.cluster.emulator_port, "POST", "/emulator/node-runs", body=body) for body in bodies]
    node_runs = [str(got.json["nodeRunId"]) for got in made]
    for node_run in node_runs:
        assert record.completed(node_run)["result"] == "SUCCESS"
    shown = [team[name].get(f"/api/node-runs/{node_runs[0]}?scope=worker") for name in NAMES]
    [here] = [got.json for got in shown if got.status == 200]
    assert here["messages"][0]["source"]["cluster"] == "port"
    assert here["messages"][0]["source"]["topic"] == f"{team.cluster.org}.runs"
    assert here["messages"][0]["source"]["offset"] == 0
    # A signature is as fresh as its message was at the source, however late that is copied.
    [(_, old)] = Load(team.cluster).register(1)
    sent_at = int(time.time()) - 3 * 86_400
    source.publish(team.cluster.org, [signed(old, sent_at)], timestamp_ms=sent_at * 1000)
    assert record.completed(old)["result"] == "SUCCESS"
    group = f"{team.cluster.org}.port-runs"
    eventually(lambda: set(source.committed(group).values()) == {5}, "what is copied is committed")
    for name in NAMES:
        assert ready(team[name])
        assert source.password not in team[name].log.read_text(errors="replace")


def test_nothing_is_lost_whoever_is_killed(team: Team, source: SourceKafka, kafka: EmbeddedKafka) -> None:
    load = Load(team.cluster)
    start(team, *NAMES)
    team.settled()
    with load.steadily(40, several=True):
        load.goes_on(40)
        killed = the_one_that_copies(team)
        team[killed].kill()
        load.goes_on(40)
        start(team, killed)
        team.settled()
        load.goes_on(40)
    load.completes()

    # The publisher waits, too: nothing new comes while the source is away.
    load.stock(200)
    with load.steadily(40, several=True):
        load.goes_on(20)
        source.stop()
        eventually(lambda: team["one"].get("/readyz").text == "source-away\n", "it is seen", every=0.2)
        source.start()
        load.goes_on(40)
    load.completes()

    with load.steadily(40, several=True):
        load.goes_on(20)
        kafka.stop()
        kafka.start()
        ended = [name for name in NAMES if team[name].child.poll() is not None]
        start(team, *ended)
        load.goes_on(40)
    load.completes()
    assert not load.contradictions()
    group = f"{team.cluster.org}.port-runs"
    eventually(lambda: len(source.committed(group)) == 1, "the source is committed")


async def create(kafka: EmbeddedKafka, name: str, **config: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    try:
        configs = {key.replace("_", "."): value for key, value in config.items()}
        await admin.create_topics([NewTopic(name, 1, 1, topic_configs=configs)])
    finally:
        await admin.close()


def test_what_the_own_topics_refuse_holds_nothing_up_and_ends_its_node_run(
    team: Team, source: SourceKafka, kafka: EmbeddedKafka
) -> None:
    org = team.cluster.org
    # As somebody may have made them before.
    asyncio.run(create(kafka, f"{org}.runs", max_message_bytes="100000", cleanup_policy="compact"))
    asyncio.run(create(kafka, f"{org}.port-runs.dead-letters", max_message_bytes="50000"))
    record, [(_, large), (_, small)] = Record(team.cluster), Load(team.cluster).register(2)
    message = '{"context":{"nodeRunId":"%s"},"payload":{"type":"echo","n":1,"text":"%s"}}'
    texts = [message % (large, os.urandom(150_000).hex()), "no JSON", message % (small, "x")]
    # Without a key a compacted topic takes none of them as they are.
    source.publish(org, [text.encode() for text in texts])
    start(team, "one")
    team.settled()
    assert record.completed(small)["result"] == "SUCCESS"
    failed = record.completed(large)
    assert failed["result"] == "FAILED"
    assert "takes only a part of it" in failed["output"]["error"]["message"]
    letters = eventually(
        lambda: len(found := team["one"].get("/api/dead-letters").json["letters"]) == 2 and found, "both are kept"
    )
    assert sorted(letter["size"] > 7 for letter in letters) == [False, True]
    problems = " ".join(one["text"] for one in team["one"].get("/api/overview").json["problems"])
    for name in (f"{org}.runs", f"{org}.port-runs.dead-letters"):
        assert f"Topic {name}: " in problems
    eventually(lambda: set(source.committed(f"{org}.port-runs").values()) == {3}, "the source is committed")


def test_by_tls(source: SourceKafka, team: Team) -> None:
    team.start("one", **source.settings(SecurityProtocol.SASL_SSL))
    team.settled()
    assert Record(team.cluster).completed(team.cluster.publish({"eventType": "echo", "n": 1}))["output"] == {"n": 1}
