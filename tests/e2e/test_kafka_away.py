"""The own Kafka is away, or at other addresses: a worker says so, goes on, and loses and repeats nothing.

The workers take 2 seconds for an outage and bootstrap anew after 3, where else it takes 10 and 30.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from local.kafka import EmbeddedKafka, free_port
from tests.processes import STARTS_WITHIN, Cluster, Process, call, eventually, ready
from tests.relay import PRODUCE
from tests.relayed_kafka import RelayedKafka, relayed_kafka

BACK_WITHIN = 120.0
HANDLERS = """
import asyncio
from pathlib import Path
from agents import handles
from streams import clients, kafka_health

clients.REBOOTSTRAP_SECONDS = 3.0
kafka_health.AWAY_SECONDS = 2.0
HERE = Path(__file__).parent

def note(event):
    with (HERE / "calls").open("a") as file:
        file.write(f"{event['n']}\\n")

@handles("echo", concurrency=50)
async def echo(event: dict) -> dict:
    note(event)
    return event

@handles("slow", concurrency=50, deadline="1h")
async def slow(event: dict) -> dict:
    note(event)
    while not (HERE / "go").exists():
        await asyncio.sleep(0.05)
    return event
"""


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayedKafka]:
    with relayed_kafka(tmp_path_factory.mktemp("relayed")) as kafka:
        yield kafka


@pytest.fixture
def cluster(kafka: RelayedKafka, unique: str, tmp_path: Path) -> Iterator[Cluster]:
    """Port publishes whatever the relays do; the workers go through them."""
    with ExitStack() as running:
        behind = cast("EmbeddedKafka", SimpleNamespace(bootstrap=kafka.bootstrap))
        cluster = Cluster(kafka.broker, unique, tmp_path, free_port(), HANDLERS, own=behind)
        running.enter_context(cluster.emulator())
        yield cluster


class Runs:
    """Node runs, each with a number that its handler notes."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.published: list[str] = []

    def publish(self, count: int, event_type: str = "echo") -> None:
        for _ in range(count):
            n = len(self.published)
            self.published.append(self._cluster.publish({"eventType": event_type, "n": n}))

    def calls(self) -> list[int]:
        """The calls of handlers so far."""
        file = self._cluster.folder / "calls"
        return [int(line) for line in file.read_text().splitlines()] if file.exists() else []

    def begun(self) -> bool:
        return set(self.calls()) == set(range(len(self.published)))

    def completed(self) -> bool:
        node_runs = call(self._cluster.emulator_port, "GET", "/emulator/node-runs").json["nodeRuns"]
        ended = {one["nodeRunId"] for one in node_runs if one["status"] == "COMPLETED"}
        return ended >= set(self.published)

    def each_once(self) -> bool:
        return sorted(self.calls()) == list(range(len(self.published)))

    def go(self) -> None:
        """Let the slow calls end."""
        (self._cluster.folder / "go").touch()


def away_for(worker: Process) -> float:
    found = re.search(r"^port_runs_kafka_away_seconds (\S+)$", worker.get("/metrics").text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def kafka_problems(worker: Process) -> list[str]:
    problems = worker.get("/api/overview").json["problems"]
    return [one["text"] for one in problems if ": Kafka " in one["text"]]


def test_addresses_that_change_are_found_and_nothing_is_lost_or_repeated(kafka: RelayedKafka, cluster: Cluster) -> None:
    runs = Runs(cluster)
    with cluster.worker("w") as worker:
        eventually(lambda: ready(worker), "the worker is ready", STARTS_WITHIN)
        runs.publish(5)
        runs.publish(3, "slow")
        eventually(runs.begun, "all calls have begun", STARTS_WITHIN)
        kafka.cut()
        eventually(lambda: worker.get("/readyz", {}).text == "kafka\n", "it is not ready", STARTS_WITHIN)
        [problem] = eventually(lambda: kafka_problems(worker), "the overview says so")
        assert "does not answer" in problem
        assert " UTC. Calls go on" in problem
        assert away_for(worker) > 0
        assert worker.get("/healthz", {}).status == 200
        # They end while there is no Kafka to write that to.
        runs.go()
        kafka.move()
        runs.publish(5)
        eventually(runs.completed, "all are completed", BACK_WITHIN)
        eventually(lambda: ready(worker), "the worker is ready again", BACK_WITHIN)
        assert kafka_problems(worker) == []
        assert away_for(worker) == 0
        assert runs.each_once()
        assert "found Kafka again through its bootstrap server" in worker.log.read_text(errors="replace")
        assert worker.stop() == 0


def test_lost_answers_write_nothing_twice_and_end_nobody(kafka: RelayedKafka, cluster: Cluster) -> None:
    runs = Runs(cluster)
    with cluster.worker("w") as worker:
        eventually(lambda: ready(worker), "the worker is ready", STARTS_WITHIN)
        lost = kafka.relay.lost
        for number in range(1, 11):
            kafka.relay.lose_answers(PRODUCE)
            runs.publish(5)
            eventually(lambda number=number: kafka.relay.lost == lost + number, "an answer is lost", STARTS_WITHIN)  # type: ignore[misc]
            eventually(runs.completed, "all are completed", BACK_WITHIN)
        assert runs.each_once()
        assert worker.child.poll() is None, "no batch was taken for another worker's"
        assert worker.stop() == 0
