"""Several workers on one Kafka: fresh starts, crashes, joins and leaves."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from rocksdict import AccessType, Options, Rdict

from tests.e2e.conftest import NewCluster
from tests.e2e.load import Load
from tests.e2e.record import Record
from tests.processes import STARTS_WITHIN, Cluster, Process, eventually, ready

PARTITIONS = 8
OFFSET_KEY = b"__faust\0offset__"
OWNER = b"p/owner"
Rows = dict[bytes, bytes]


def partitions_of(worker: Process) -> list[int]:
    [shown] = worker.get("/api/node-runs").json["workers"]
    return sorted(shown["partitions"])


def shared(*workers: Process) -> bool:
    """Whether all workers are ready, and have all partitions between them, each some."""
    if not all(ready(worker) for worker in workers):
        return False
    owned = [partitions_of(worker) for worker in workers]
    return all(owned) and sorted(itertools.chain.from_iterable(owned)) == list(range(PARTITIONS))


def handled_by(worker: Process) -> float:
    """Return how many items the worker has handled, by its metrics."""
    lines = worker.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("port_runs_items_total"))


@pytest.mark.parametrize("attempt", range(10))
async def test_two_workers_on_fresh_topics_both_get_work(cluster: Cluster, record: Record, attempt: int) -> None:
    load = Load(cluster)
    with cluster.worker("one") as one, cluster.worker("two") as two:
        eventually(lambda: shared(one, two), "both have partitions", STARTS_WITHIN)
        await load.publish(load.register(64), per_second=500)
        eventually(lambda: not load.missing(record), "all are completed", 60)
        assert handled_by(one) > 0
        assert handled_by(two) > 0
        assert handled_by(one) + handled_by(two) == 64
    assert not load.contradictions(record)


class Reported:
    """Asks a worker for each node run of a load, until it shows it as reported."""

    def __init__(self, worker: Process, load: Load) -> None:
        self._worker = worker
        self._left = list(load.published)

    def all(self) -> bool:
        """Whether the worker shows all of them so."""
        while self._left:
            got = self._worker.get(f"/api/node-runs/{self._left[-1]}")
            if got.status != 200 or got.json["state"] != "reported":
                return False
            self._left.pop()
        return True


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


async def changelog(cluster: Cluster) -> dict[int, Rows]:
    """Return the rows of each partition as a fresh reader of the changelog finds them."""
    rows: dict[int, Rows] = {partition: {} for partition in range(PARTITIONS)}
    async for one in records_of(cluster, f"{cluster.org}.port-runs-ledger-changelog"):
        if one.value is None:
            rows[one.partition].pop(one.key, None)
        else:
            rows[one.partition][one.key] = one.value
    return rows


def stored(folder: Path) -> dict[int, Rows]:
    """Return the rows of each partition that a stopped worker's local store holds."""
    found: dict[int, Rows] = {}
    for path in sorted(folder.glob("**/ledger-*.db")):
        store = Rdict(str(path), options=Options(raw_mode=True), access_type=AccessType.read_only())
        partition = int(path.stem.removeprefix("ledger-"))
        rows = cast("Iterator[tuple[bytes, bytes]]", store.items())
        found[partition] = {key: value for key, value in rows if key != OFFSET_KEY}
        store.close()
    return found


async def keyed_partitions(cluster: Cluster, ids: list[str]) -> dict[str, int]:
    """Return the partition in which Kafka's producer puts each id as a key."""
    async with AIOKafkaProducer(bootstrap_servers=cluster.kafka.bootstrap, linger_ms=20) as producer:
        sent = [await producer.send(f"{cluster.org}.port-runs.arrivals", b"", key=one.encode()) for one in ids]
        return {one: (await future).partition for one, future in zip(ids, sent, strict=True)}


def node_run_id(key: bytes) -> str:
    return key.split(b"/")[1].decode()


async def test_topic_changelog_and_store_agree_on_partitions_and_outlive_a_kill(
    cluster: Cluster, record: Record
) -> None:
    load = Load(cluster)
    with cluster.worker("one") as worker:
        eventually(lambda: ready(worker), "the worker is ready", STARTS_WITHIN)
        await load.publish(load.register(400), per_second=400)
        eventually(lambda: not load.missing(record), "all are completed", 60)
        worker.kill()

    written, local = await changelog(cluster), stored(cluster.folder / "one")
    topic = await keyed_partitions(cluster, load.published)
    places = {node_run_id(key): partition for partition, rows in written.items() for key in rows if key != OWNER}
    assert places == topic
    for partition, rows in local.items():
        for key, value in rows.items():
            assert key == OWNER or topic[node_run_id(key)] == partition
            # The store follows what the changelog has acknowledged: it may be behind it, never beside it.
            assert written[partition].get(key, value) is not None
    with cluster.worker("one") as again:
        eventually(lambda: ready(again), "the worker is ready again", STARTS_WITHIN)
        eventually(Reported(again, load).all, "all node runs are read again from the same disk", 60)
        assert again.stop() == 0
    assert stored(cluster.folder / "one") == await changelog(cluster)
    assert not load.contradictions(record)


@pytest.fixture
def running() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


async def test_a_storm_of_joins_and_leaves_loses_nothing(new_cluster: NewCluster, running: ExitStack) -> None:
    cluster = new_cluster()
    record, load = Record(cluster), Load(cluster)
    steady = running.enter_context(cluster.worker("steady"))
    eventually(lambda: ready(steady), "the worker is ready", STARTS_WITHIN)
    ids = load.register(4000)
    publishing = asyncio.create_task(load.publish(ids, per_second=100))
    for number in range(3):
        with cluster.worker(f"guest{number}") as guest:
            await asyncio.to_thread(eventually, lambda: shared(steady, guest), "the guest has partitions", 60)
            if number % 2:
                guest.kill()
            else:
                await asyncio.to_thread(guest.stop)
    await publishing
    await asyncio.to_thread(eventually, lambda: not load.missing(record), "all are completed", 120)
    assert not load.contradictions(record)

    reported = Reported(steady, load)
    await asyncio.to_thread(eventually, reported.all, "the survivor has all node runs as reported", 120)
    assert await asyncio.to_thread(steady.stop) == 0
    assert stored(cluster.folder / "steady") == await changelog(cluster)
