"""A worker whose disk was lost has its table back from the changelog, about as fast as that can be read."""

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from aiokafka import AIOKafkaProducer

from streams.creation import ensure_topics
from streams.settings import Settings
from streams.topics import MAX_RECORD_BYTES, topics_of
from tables.changelog import Write, batches
from tables.ledger import Ledger
from tests.e2e.scale import say
from tests.e2e.tables import OWNER, Rows, changelog, partition_of, stored
from tests.processes import SECRET, STARTS_WITHIN, Cluster, Process, eventually, ready
from tests.tables.examples import ID, answered, arrival, finished
from tests.tables.rows import DictRows

NODE_RUNS: Final = 10_000
AT: Final = re.compile(r"^\[([\d-]+ [\d:]+),(\d+)\].*(Executing _on_partitions_assigned|Worker ready)")


def written_of_one() -> list[Write]:
    """Return what the changelog has of a node run from its arrival to its report."""
    rows = DictRows()
    ledger = Ledger(rows)
    ledger.arrival(0, arrival())
    ledger.outcome(0, finished())
    ledger.outcome(0, answered())
    return rows.written


def as_another(write: Write, node_run_id: str) -> Write:
    """Return a write of the examples' node run as that of another one."""
    key, value = write
    known, own = ID.encode(), node_run_id.encode()
    return key.replace(known, own), None if value is None else value.replace(known, own)


async def never_asked(partition: int, writes: list[Write]) -> int:
    raise AssertionError(f"a batch of partition {partition} was acknowledged without an offset")


async def write(cluster: Cluster, ids: Iterable[str]) -> int:
    """Create the topics, and write node runs into the changelog as workers do; returns how many records that took."""
    settings = Settings.model_validate(
        {
            "port_org_id": cluster.org,
            "port_client_id": "client",
            "port_client_secret": SECRET,
            "handlers": "test_handlers",
            "kafka_brokers": cluster.kafka.bootstrap,
        }
    )
    topics = topics_of(settings)
    await ensure_topics(settings, topics)
    one, partitions = written_of_one(), defaultdict[int, list[Write]](list)
    for node_run_id in ids:
        partitions[partition_of(node_run_id)] += [as_another(write, node_run_id) for write in one]
    async with AIOKafkaProducer(
        bootstrap_servers=cluster.kafka.bootstrap, max_request_size=MAX_RECORD_BYTES, max_batch_size=131_072
    ) as producer:
        send = batches(lambda: producer, topics.changelog.name, never_asked)
        for partition, writes in partitions.items():
            sent = 0
            while sent < len(writes):
                count, acknowledged = await send(partition, writes[sent : sent + 200])
                await acknowledged
                sent += count
    return sum(len(writes) for writes in partitions.values())


def from_assignment_to_ready(worker: Process) -> float:
    """Return how many seconds the worker's last start took from its assignment to its first event."""
    found: dict[str, float] = {}
    for line in worker.log.read_text(errors="replace").splitlines():
        if match := AT.match(line):
            at, thousandths, what = match.groups()
            found[what] = datetime.fromisoformat(at).timestamp() + int(thousandths) / 1000
    return found["Worker ready"] - found["Executing _on_partitions_assigned"]


def test_a_lost_store_is_recovered_about_as_fast_as_its_changelog_is_read(cluster: Cluster) -> None:
    records = asyncio.run(write(cluster, (f"wfnr_{number:016x}" for number in range(NODE_RUNS))))
    assert records == 4 * NODE_RUNS
    began = time.monotonic()
    rows = changelog(cluster)
    plain = time.monotonic() - began
    with cluster.worker("one") as worker:
        eventually(lambda: ready(worker), "the worker is ready", STARTS_WITHIN)
        worker.kill()
    took = from_assignment_to_ready(worker)
    say(f"{records} records: read plainly {plain:.1f} s, ready after {took:.1f} s")
    assert sum(len(written) for written in rows.values()) == NODE_RUNS
    found = stored(cluster.data_dir("one"))
    assert {partition: without_owner(held) for partition, held in found.items()} == rows
    # Faust's own recovery takes some twenty times as long as reading them, and this one hardly longer.
    assert took < 6 * plain + 2


def without_owner(rows: Rows) -> Rows:
    """Return the rows of the node runs."""
    return {key: value for key, value in rows.items() if key != OWNER}
