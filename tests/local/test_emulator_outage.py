"""The emulator while its Kafka is gone, and when it is back."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from pydantic import JsonValue

from local.emulator import Emulator, EmulatorConfig
from local.emulator.workflow import Publisher, PublishError
from local.examples import load_example
from local.kafka import EmbeddedKafka, free_port
from tests.local.calls import Body, Caller
from tests.processes import Process, call, eventually

EXAMPLE = load_example("deployment-started")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    with EmbeddedKafka(tmp_path_factory.mktemp("kafka")) as kafka:
        yield kafka


@pytest.fixture
def outages(broker: EmbeddedKafka) -> Iterator[EmbeddedKafka]:
    """A Kafka that runs, and that a test may kill or pause."""
    if not broker.running:
        broker.start()
    yield broker
    if broker.running:
        broker.resume()


@contextlib.contextmanager
def _emulator(kafka: EmbeddedKafka, org: str, folder: Path) -> Iterator[Process]:
    """An emulator as a process of its own, with a memory in the folder, that answers."""
    port, log = free_port(), folder / "log"
    options = ["--org-id", org, "--kafka", kafka.bootstrap, "--create-topic", "1", "--state-dir", str(folder / "state")]
    with log.open("wb") as out:
        command = [sys.executable, "-m", "local.emulator", "--port", str(port), *options]
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    process = Process(child, port, log, {})
    try:
        eventually(lambda: process.get("/emulator").status == 200, "the emulator answers")
        yield process
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()


def _publish(port: int) -> tuple[int, Body, float]:
    """Publish once: status, answer, seconds."""
    began = time.monotonic()
    got = call(port, "POST", "/emulator/node-runs", body=EXAMPLE)
    return got.status, cast(Body, got.json), time.monotonic() - began


def _known(port: int) -> int:
    return cast(int, call(port, "GET", "/emulator/node-runs").json["total"])


def test_an_outage_is_told_at_once_logged_once_and_leaves_nothing_behind(
    outages: EmbeddedKafka, unique: str, tmp_path: Path
) -> None:
    with _emulator(outages, unique, tmp_path) as process:
        assert _publish(process.port)[0] == 200
        outages.kill()
        for _ in range(3):
            status, body, seconds = _publish(process.port)
            assert status == 503
            assert str(body["message"]).startswith(f"Kafka at {outages.bootstrap}: ")
            assert seconds < 5
        assert _known(process.port) == 1
        outages.start()
        assert _publish(process.port)[0] == 200
        assert process.stop() == 0
    lines = [line for line in process.log.read_text().splitlines() if not line.startswith("listening")]
    assert [line.partition(" ")[0] for line in lines] == ["ERROR", "INFO"], lines
    assert lines[1].endswith("is back")
    with _emulator(outages, unique, tmp_path) as process:
        assert _known(process.port) == 2


def test_a_kafka_that_does_not_answer_is_given_up_within_seconds(
    outages: EmbeddedKafka, unique: str, tmp_path: Path
) -> None:
    with _emulator(outages, unique, tmp_path) as process:
        assert _publish(process.port)[0] == 200
        outages.pause()
        status, _, seconds = _publish(process.port)
        assert (status, _known(process.port)) == (503, 1)
        assert seconds < 8
        outages.resume()
        assert _publish(process.port)[0] == 200


@pytest.mark.parametrize("outage", ["killed", "paused"])
def test_it_stops_in_the_middle_of_publishing(outages: EmbeddedKafka, unique: str, tmp_path: Path, outage: str) -> None:
    with _emulator(outages, unique, tmp_path) as process:
        assert _publish(process.port)[0] == 200
        if outage == "killed":
            outages.kill()
        else:
            outages.pause()
        body = json.dumps(EXAMPLE).encode()
        head = b"POST /emulator/node-runs HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        with contextlib.ExitStack() as opened:
            for _ in range(3):
                connection = opened.enter_context(socket.create_connection(("127.0.0.1", process.port)))
                connection.sendall(head + body)
            assert process.get("/emulator").status == 200  # it has read the calls before this one
            process.child.send_signal(signal.SIGTERM)
            began = time.monotonic()
            assert process.child.wait(30) == 0
            assert time.monotonic() - began < 2
    assert len(process.log.read_text().splitlines()) < 20


async def test_what_may_have_been_written_is_kept_and_told(outages: EmbeddedKafka, unique: str, tmp_path: Path) -> None:
    pausing = False

    def clock() -> float:
        """Read when the node run is registered: after Kafka has answered, before the message is sent."""
        if pausing:
            outages.pause()
        return time.time()

    config = EmulatorConfig(kafka=outages.bootstrap, org_id=unique, topic_partitions=1, state_dir=tmp_path, clock=clock)
    async with Emulator(config) as emulator, Caller(emulator) as caller:
        assert (await caller.call("POST", "/emulator/node-runs", EXAMPLE)).status == 200
        pausing = True
        got = await caller.call("POST", "/emulator/node-runs", EXAMPLE)
        pausing = False
        outages.resume()
        [_, node_run_id] = emulator.state.node_runs
        assert got.status == 503
        assert f"may have been written, so the node run {node_run_id} of " in got.message
        assert got.message.endswith(" is kept")
    async with Emulator(config) as emulator:
        assert emulator.state.node_runs[node_run_id].status == "IN_PROGRESS"


async def test_an_answer_that_does_not_come_leaves_it_open(outages: EmbeddedKafka, unique: str) -> None:
    publisher = Publisher(outages.bootstrap, f"{unique}.runs", partitions=1)
    await publisher.connect()
    assert len(await publisher.publish("key", [{"a": 1}])) == 1
    outages.pause()
    with pytest.raises(PublishError) as caught:
        await publisher.publish("key", [{"a": 2}])
    assert caught.value.kept
    with pytest.raises(PublishError, match="the connection was closed") as caught:
        await publisher.publish("key", [{"a": 3}])
    assert not caught.value.kept
    outages.resume()
    await publisher.close()


async def test_what_kafka_refuses_is_taken_back(kafka: EmbeddedKafka, unique: str, tmp_path: Path) -> None:
    await _create_topic(kafka.bootstrap, f"{unique}.runs", {"max.message.bytes": "2000"})
    config = EmulatorConfig(kafka=kafka.bootstrap, org_id=unique, state_dir=tmp_path)
    long: Body = {"a": "x" * 3000}
    async with Emulator(config) as emulator, Caller(emulator) as caller:
        cases: list[tuple[JsonValue, bool]] = [(long, False), ([{"a": 1}, long], True)]
        for payload, split in cases:
            node: Body = {"identifier": "n", "config": {"type": "KAFKA", "payload": payload}}
            got = await caller.call("POST", "/emulator/node-runs", {"node": node, "split": split})
            assert got.status == 413
        assert "after 1 of 2" in got.message  # the first message has a node run that waits for its report
        [node_run_id] = emulator.state.node_runs
        assert len(emulator.state.runs) == 1
        assert node_run_id in got.message
    async with Emulator(config) as emulator:
        assert list(emulator.state.node_runs) == [node_run_id]


async def _create_topic(brokers: str, topic: str, settings: dict[str, str]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=brokers)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, 1, 1, topic_configs=settings)])
    finally:
        await admin.close()
