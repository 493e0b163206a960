"""What becomes of new messages where topics lost records, or were restored; and of those that were never committed."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete

from local.kafka import EmbeddedKafka, free_port
from tests.e2e.record import Record
from tests.processes import STARTS_WITHIN, Cluster, Process, call, eventually, ready


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[EmbeddedKafka]:
    with EmbeddedKafka(tmp_path / "own-kafka") as broker:
        yield broker


class Organization:
    """An organization, its topics, and what its node runs came to."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.record = Record(cluster)
        self.topic = f"{cluster.org}.runs"
        self.group = f"{cluster.org}.port-runs"
        self._messages = itertools.count()
        asyncio.run(self._create_topic())

    async def _create_topic(self) -> None:
        async with self.admin() as admin:
            await admin.create_topics([NewTopic(self.topic, 1, 1)])
            while self.topic not in await admin.list_topics():
                pass  # the broker learns of it a moment after the controller

    def publish(self, count: int) -> list[str]:
        return [self.cluster.publish({"eventType": "echo", "n": n}) for n in range(count)]

    def complete(self, node_runs: Sequence[str], seconds: float = 60.0) -> None:
        for node_run_id in node_runs:
            assert self.record.completed(node_run_id, seconds)["result"] == "SUCCESS"

    def reported(self, node_run_id: str) -> bool:
        self.record.read_on()
        return bool(self.record.reports(node_run_id))

    def message(self) -> tuple[str, bytes]:
        """Register a node run at Port; returns its id, and its message, which is not published."""
        own = f"{self.cluster.org}m{next(self._messages)}"
        ids = {"workflowRunId": f"wfr_{own}", "nodeRunId": f"wfnr_{own}"}
        got = call(self.cluster.emulator_port, "POST", "/emulator/node-runs/register", body={"nodeRuns": [ids]})
        assert got.status == 200, got.text
        return ids["nodeRunId"], json.dumps({"context": ids, "payload": {"eventType": "echo"}}).encode()

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        client = AIOKafkaAdminClient(bootstrap_servers=self.cluster.kafka.bootstrap)
        await client.start()
        yield client
        await client.close()

    def committed(self) -> int:
        async def ask() -> int:
            async with self.admin() as admin:
                found = await admin.list_consumer_group_offsets(self.group)
                place = TopicPartition(self.topic, 0)
                return int(found[place].offset) if place in found else -1

        return asyncio.run(ask())

    def end(self) -> int:
        async def ask() -> int:
            async with AIOKafkaConsumer(bootstrap_servers=self.cluster.kafka.bootstrap) as consumer:
                [end] = (await consumer.end_offsets([TopicPartition(self.topic, 0)])).values()
                return int(end)

        return asyncio.run(ask())

    def commit(self, offset: int) -> None:
        """Commit an offset of the runs topic for the workers, none of which is there."""

        async def run() -> None:
            options: dict[str, Any] = {"group_id": self.group, "enable_auto_commit": False}
            async with AIOKafkaConsumer(bootstrap_servers=self.cluster.kafka.bootstrap, **options) as consumer:
                partition = TopicPartition(self.topic, 0)
                consumer.assign([partition])
                await consumer.commit({partition: offset})

        asyncio.run(run())

    def delete_up_to(self, offset: int) -> None:
        async def run() -> None:
            async with self.admin() as admin:
                await admin.delete_records({TopicPartition(self.topic, 0): RecordsToDelete(before_offset=offset)})

        asyncio.run(run())


def problems(worker: Process) -> list[str]:
    return [one["text"] for one in worker.get("/api/overview").json["problems"]]


def total(worker: Process, metric: str) -> float:
    """The sum of a metric over its labels."""
    lines = worker.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{metric}{{", f"{metric} ")))


def started(worker: Process) -> Process:
    eventually(lambda: ready(worker), "the worker is ready", STARTS_WITHIN)
    return worker


def test_logs_that_are_gone_are_noticed_and_what_comes_then_is_handled(
    own_kafka: EmbeddedKafka, unique: str, tmp_path: Path
) -> None:
    cluster = Cluster(own_kafka, unique, tmp_path, free_port())
    org = Organization(cluster)
    with cluster.emulator(), cluster.worker("one") as running:
        worker = started(running)
        org.complete(org.publish(20))
        eventually(lambda: org.committed() == 20, "all is committed")
        own_kafka.stop()
        gone = [
            folder
            for name in (org.topic, f"{org.group}.arrivals", f"{org.group}.outcomes")
            for folder in (own_kafka.data_dir / "log").glob(f"{name}-*")
        ]
        assert len(gone) > 1
        for folder in gone:
            shutil.rmtree(folder)
        own_kafka.start()
        # Before anything new comes.
        eventually(lambda: any("went back" in text for text in problems(worker)), "it is noticed", 120)
        assert total(worker, "port_runs_log_rewinds_total") >= 1
        eventually(lambda: org.committed() == 0, "that is committed", 60)
        org.complete(org.publish(5), 120)
        org.complete(org.publish(60), 120)
        eventually(lambda: org.committed() == 65, "all is committed", 60)
        assert worker.child.poll() is None


def test_offsets_that_are_committed_above_the_end_and_records_deleted_before_they_were_read(cluster: Cluster) -> None:
    org = Organization(cluster)
    with cluster.worker("one") as running:
        started(running)
        org.complete(org.publish(5))
        eventually(lambda: org.committed() == 5, "all is committed")
        assert running.stop() == 0
    # As a cluster that was restored from an older copy.
    org.commit(1000)
    new = org.publish(3)
    with cluster.worker("one") as running:
        worker = started(running)
        org.complete(new)
        [text] = [text for text in problems(worker) if "went back" in text]
        assert "was read up to offset 1,000; now it ends at 8" in text
        assert total(worker, "port_runs_log_rewinds_total") == 1
        eventually(lambda: org.committed() == 8, "all is committed")
        assert worker.stop() == 0
    lost = org.publish(10)
    org.delete_up_to(14)
    with cluster.worker("one") as running:
        worker = started(running)
        org.complete(lost[6:])
        [text] = [text for text in problems(worker) if "deleted before they were read" in text]
        assert text.startswith(f"Up to 6 records of {org.topic}[0] from offset 8 on")
        assert total(worker, "port_runs_deleted_records_total") == 6
        assert not any(map(org.reported, lost[:6]))


def test_what_is_not_committed_is_not_handled_and_holds_nothing_up_for_ever(cluster: Cluster) -> None:
    org = Organization(cluster)
    with cluster.worker("one") as running:
        worker = started(running)
        org.complete(org.publish(1))
        aborted, committed, later = org.message(), org.message(), org.message()

        async def transactions() -> None:
            options: dict[str, Any] = {"bootstrap_servers": cluster.kafka.bootstrap}
            async with (
                AIOKafkaProducer(transactional_id=f"{cluster.org}-tx", **options) as producer,
                AIOKafkaProducer(**options) as plain,
            ):
                await producer.begin_transaction()
                await producer.send_and_wait(org.topic, aborted[1])
                await plain.send_and_wait(org.topic, later[1])
                held = "port_runs_open_transaction_seconds"
                await asyncio.to_thread(eventually, lambda: total(worker, held) > 0, "the transaction is seen", 60)
                assert not org.reported(later[0])
                await producer.abort_transaction()
                await producer.begin_transaction()
                await producer.send_and_wait(org.topic, committed[1])
                await producer.commit_transaction()

        asyncio.run(transactions())
        org.complete([later[0], committed[0]])
        eventually(lambda: total(worker, "port_runs_open_transaction_seconds") == 0, "none is open", 60)
        org.complete(org.publish(1))
        # Offsets 0, 1 aborted, 2, the marker, 4, the marker, 6.
        assert org.end() == 7
        eventually(lambda: org.committed() == 7, "all is committed")
        assert not org.reported(aborted[0])
        assert total(worker, "port_runs_lag") == 0
