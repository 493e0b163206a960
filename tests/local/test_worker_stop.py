"""A worker that is told to stop while Kafka is gone."""

import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from local.kafka import EmbeddedKafka, free_port
from streams.exits import RESTART
from streams.worker import STOP_SECONDS
from tests.processes import Cluster, Process, call, eventually, ready


@pytest.fixture
def cluster(unique: str, tmp_path: Path) -> Iterator[Cluster]:
    """An organization on a Kafka of its own."""
    with EmbeddedKafka(tmp_path / "kafka") as kafka:
        yield Cluster(kafka, unique, tmp_path, free_port())


def test_without_kafka_it_ends_in_time_and_what_it_had_not_acknowledged_is_done_by_the_next(cluster: Cluster) -> None:
    with cluster.emulator():
        with cluster.worker("first") as worker:
            eventually(lambda: ready(worker), "the worker is ready", 60)
            # Port does not answer, so that the reports stay on their way, and their events unacknowledged.
            call(cluster.emulator_port, "PUT", "/emulator/faults", body={"paths": ["report"], "hang": True})
            published = [cluster.publish({"eventType": "echo"}) for _ in range(5)]
            eventually(lambda: _reports(cluster) or None, "a report is on its way")
            # A call that runs when Kafka goes would be waited for, for DRAIN_SECONDS.
            eventually(lambda: _reporting(worker) == len(published), "all items have ended")
            cluster.kafka.kill()
            began = time.monotonic()
            worker.child.send_signal(signal.SIGTERM)
            assert worker.child.wait(STOP_SECONDS + 15) == RESTART
            assert time.monotonic() - began < STOP_SECONDS + 5
        assert "stopped: Kafka does not answer (" in worker.log.read_text(errors="replace")
        call(cluster.emulator_port, "PUT", "/emulator/faults", body={})
        cluster.kafka.start()
        with cluster.worker("second") as worker:
            eventually(lambda: _completed(cluster) == set(published) or None, "all are completed", 60)
            assert worker.stop() == 0


def test_it_can_be_stopped_at_any_moment_of_its_start(unique: str, tmp_path: Path, kafka: EmbeddedKafka) -> None:
    """Its first rows are on their way when Faust says that it is ready."""
    cluster = Cluster(kafka, unique, tmp_path, free_port())
    for moment in ("Recovery complete", "Worker ready"):
        with cluster.worker(moment.replace(" ", "-")) as worker:
            eventually(partial(_says, worker, moment), moment, 60, every=0.001)
            assert worker.stop() == 0, worker.log.read_text(errors="replace")[-3000:]


def _says(worker: Process, text: str) -> bool:
    return text in worker.log.read_text(errors="replace")


def _reporting(worker: Process) -> int:
    return int(worker.get("/api/node-runs").json["counts"]["reporting"])


def _reports(cluster: Cluster) -> int:
    calls = call(cluster.emulator_port, "GET", "/emulator/calls").json["calls"]
    return sum(one["call"] == "report" for one in calls)


def _completed(cluster: Cluster) -> set[str]:
    node_runs = call(cluster.emulator_port, "GET", "/emulator/node-runs").json["nodeRuns"]
    return {str(one["nodeRunId"]) for one in node_runs if one["status"] == "COMPLETED"}
