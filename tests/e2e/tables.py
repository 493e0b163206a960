"""The ledger's table, read beside the workers: its changelog on Kafka, and the stores on their disks."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import cast

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.partitioner import DefaultPartitioner
from rocksdict import AccessType, Options, Rdict

from tests.processes import Cluster, Process, ready

PARTITIONS = 8
OWNER = b"p/owner"
OFFSET_KEY = b"__faust\0offset__"
Rows = dict[bytes, bytes]
_partitioner = DefaultPartitioner()


def partitions_of(worker: Process) -> list[int]:
    """Return the partitions that the worker says it has."""
    [shown] = worker.get("/api/node-runs?scope=worker").json["workers"]
    return sorted(shown["partitions"])


def incarnation_of(worker: Process) -> str:
    """Return the worker's identity, which is its Kafka client id."""
    [shown] = worker.get("/api/node-runs?scope=worker").json["workers"]
    return str(shown["worker"])


def shared(*workers: Process) -> bool:
    """Whether all workers are ready, and have all partitions between them, each some."""
    if not all(ready(worker) for worker in workers):
        return False
    owned = [partitions_of(worker) for worker in workers]
    return all(owned) and sorted(itertools.chain.from_iterable(owned)) == list(range(PARTITIONS))


def partition_of(node_run_id: str) -> int:
    """Return the partition in which the rows and events of a node run stand."""
    return int(_partitioner(node_run_id.encode(), list(range(PARTITIONS)), list(range(PARTITIONS))))


def node_run_id(key: bytes) -> str:
    """Return the node run that a row belongs to."""
    return key.split(b"/")[1].decode()


async def records_of(cluster: Cluster, topic: str) -> AsyncIterator[ConsumerRecord[bytes, bytes]]:
    """Yield what a topic with PARTITIONS partitions holds, from its beginning to its present end."""
    partitions = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
    async with AIOKafkaConsumer(bootstrap_servers=cluster.kafka.bootstrap, group_id=None) as consumer:
        consumer.assign(partitions)
        await consumer.seek_to_beginning()
        ends = await consumer.end_offsets(partitions)
        while any([await consumer.position(partition) < end for partition, end in ends.items()]):
            for records in (await consumer.getmany(timeout_ms=500)).values():
                for one in records:
                    yield one


def changes(cluster: Cluster) -> AsyncIterator[ConsumerRecord[bytes, bytes]]:
    """Yield the records of the table's changelog; those of one partition in their order."""
    return records_of(cluster, f"{cluster.org}.port-runs-ledger-changelog")


def changelog(cluster: Cluster) -> dict[int, Rows]:
    """Return the rows of each partition as a fresh reader of the changelog finds them."""
    return asyncio.run(_changelog(cluster))


async def _changelog(cluster: Cluster) -> dict[int, Rows]:
    rows: dict[int, Rows] = {partition: {} for partition in range(PARTITIONS)}
    async for one in changes(cluster):
        if one.value is None:
            rows[one.partition].pop(one.key, None)
        else:
            rows[one.partition][one.key] = one.value
    return rows


def stored(folder: Path) -> dict[int, Rows]:
    """Return the rows of each partition that a worker's local store holds.

    Of a running worker it is what it has written by now: rocksdb's log is read along with its files.
    """
    found: dict[int, Rows] = {}
    for path in sorted(folder.glob("**/ledger-*.db")):
        store = Rdict(str(path), options=Options(raw_mode=True), access_type=AccessType.read_only())
        partition = int(path.stem.removeprefix("ledger-"))
        rows = cast("Iterator[tuple[bytes, bytes]]", store.items())
        found[partition] = {key: value for key, value in rows if key != OFFSET_KEY}
        store.close()
    return found


def keyed_partitions(cluster: Cluster, ids: list[str]) -> dict[str, int]:
    """Return the partition in which Kafka's producer puts each id as a key. Writes to the arrivals topic."""
    return asyncio.run(_keyed_partitions(cluster, ids))


async def _keyed_partitions(cluster: Cluster, ids: list[str]) -> dict[str, int]:
    async with AIOKafkaProducer(bootstrap_servers=cluster.kafka.bootstrap, linger_ms=20) as producer:
        sent = [await producer.send(f"{cluster.org}.port-runs.arrivals", b"", key=one.encode()) for one in ids]
        return {one: (await future).partition for one, future in zip(ids, sent, strict=True)}
