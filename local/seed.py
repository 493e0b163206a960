"""`python -m local.seed`: writes finished node runs into a worker's changelog topic, as the ledger would have.

For views and recovery with much behind them. No worker may run meanwhile; the next start recovers them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Iterator
from typing import Final

from aiokafka import AIOKafkaProducer

from port.models import Result
from streams.records import Arrival, Body, ItemFinished, ReportAnswered, Settled, Source
from streams.topics import partition_of
from tables.ledger import Ledger

_TYPES: Final = ("deployment.requested", "notification", "provision-infrastructure", "service.deployed", "region.added")
_ERRORS: Final = ("TimeoutError: the registry does not answer", "no such service", "the plan is invalid", "quota")
_TELL_EVERY: Final = 2.0
_DAY: Final = 86_400.0


class Rows:
    """The rows of one node run in memory, as the last event left them: `tables.rows.Rows`."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}

    def get(self, _partition: int, key: bytes) -> bytes | None:
        """Return the row of a key."""
        return self.rows.get(key)

    def scan(self, _partition: int, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the rows whose keys begin so."""
        return ((key, value) for key, value in sorted(self.rows.items()) if key.startswith(prefix))

    def put(self, _partition: int, key: bytes, value: bytes) -> None:
        """Write a row."""
        self.rows[key] = value

    def delete(self, _partition: int, key: bytes) -> None:
        """Delete a row."""
        self.rows.pop(key, None)


def rows_of(number: int, at: float, chance: random.Random) -> tuple[str, dict[bytes, bytes]]:
    """Return the id of a finished node run, received at `at` (epoch seconds), and its rows."""
    node_run_id, event_type = f"wfnr_{chance.getrandbits(96):024x}", chance.choice(_TYPES)
    rows = Rows()
    ledger = Ledger(rows)
    ledger.arrival(
        0,
        Arrival(
            node_run_id=node_run_id,
            workflow_run_id=f"wfr_{chance.getrandbits(96):024x}",
            workflow=f"workflow-{number % 40}",
            node=f"node-{number % 7}",
            source=Source(cluster="seed:9092", topic="seed.runs", partition=0, offset=number, timestamp=at),
            digest=f"{number:032x}",
            text=json.dumps({"payload": {"eventType": event_type, "service": f"service-{number % 300}"}}),
            count=1,
            event_types=(event_type,),
        ),
    )
    error = chance.choice(_ERRORS) if number % 20 == 0 else None
    ledger.outcome(
        0,
        ItemFinished(
            node_run_id=node_run_id,
            index=0,
            message=0,
            event_type=event_type,
            attempt=1 + (number % 50 == 0),
            result=Result.SUCCESS if error is None else Result.FAILED,
            output=None if error else json.dumps({"number": number}),
            error=error,
            worker="seed",
            started_at=at + 0.1,
            ended_at=at + 0.5,
        ),
    )
    answered = ReportAnswered(node_run_id=node_run_id, body=Body.FULL, settled=Settled.REPORTED, status=200, at=at + 1)
    ledger.outcome(0, answered)
    return node_run_id, rows.rows


async def seed(brokers: str, topic: str, count: int, partitions: int) -> None:
    """Write so many node runs, received within the last thirty days, the oldest first."""
    chance, began, told = random.Random(1), time.monotonic(), time.monotonic()  # noqa: S311 - the same each time
    first = time.time() - 30 * _DAY
    producer = AIOKafkaProducer(
        bootstrap_servers=brokers, linger_ms=50, max_batch_size=1 << 18, acks="all", compression_type=None
    )
    async with producer:
        for number in range(count):
            node_run_id, rows = rows_of(number, first + 30 * _DAY * number / count, chance)
            partition = partition_of(node_run_id.encode(), partitions)
            for key, value in rows.items():
                sent = await producer.send(topic, value, key, partition)
            if time.monotonic() - told > _TELL_EVERY:
                told = time.monotonic()
                sys.stderr.write(
                    f"{number + 1:,} of {count:,} node runs, {(number + 1) / (told - began):,.0f} a second\n"
                )
        if count:
            await sent
        await producer.flush()
    sys.stderr.write(f"{count:,} node runs are written in {time.monotonic() - began:.1f} s\n")


def main() -> int:
    """Read the arguments, and write."""
    parser = argparse.ArgumentParser(prog="python -m local.seed", description=(__doc__ or "").partition(": ")[2])
    add = parser.add_argument
    add("--kafka", metavar="HOST:PORT", default="127.0.0.1:9092", help="the own cluster (%(default)s)")
    add("--topic", required=True, help="the changelog topic, <orgId>.port-runs-ledger-changelog; it must be there")
    add("--partitions", type=int, default=8, metavar="N", help="of that topic (%(default)s)")
    add("--count", type=int, default=100_000, metavar="N", help="node runs to write (%(default)s)")
    given = parser.parse_args()
    asyncio.run(seed(given.kafka, given.topic, given.count, given.partitions))
    return 0


if __name__ == "__main__":
    sys.exit(main())
