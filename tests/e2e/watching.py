"""What is looked at again and again while a test goes on, from outside the workers."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass

import psutil
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from tests.e2e.tables import PARTITIONS
from tests.processes import Cluster, Process, call

EVERY_SECONDS = 0.5
MIB = 1 << 20


Look = Callable[[], Awaitable[None]]


@contextmanager
def _repeatedly(looking: Callable[[], AbstractAsyncContextManager[Look]]) -> Iterator[None]:
    """Look in a thread with an event loop of its own, as long as the block runs."""
    enough = threading.Event()

    async def loop() -> None:
        async with looking() as look:
            while not enough.is_set():
                await look()
                await asyncio.sleep(EVERY_SECONDS)

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(asyncio.run, loop())
        try:
            yield
        finally:
            enough.set()
            watching.result()


@asynccontextmanager
async def _connected(cluster: Cluster) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=cluster.kafka.bootstrap)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


@contextmanager
def memory_of(worker: Process) -> Iterator[list[int]]:
    """Sample a worker's resident memory, in bytes."""
    samples: list[int] = []
    process = psutil.Process(worker.child.pid)

    async def look() -> None:
        samples.append(process.memory_info().rss)

    with _repeatedly(lambda: nullcontext(look)):
        yield samples


@contextmanager
def members_of(cluster: Cluster) -> Iterator[list[frozenset[str]]]:
    """Sample which clients are members of the application's group."""
    samples: list[frozenset[str]] = []

    @asynccontextmanager
    async def looking() -> AsyncIterator[Look]:
        async with _connected(cluster) as admin:

            async def look() -> None:
                [answer] = await admin.describe_consumer_groups([f"{cluster.org}.port-runs"])
                [(error, _group, _state, _type, _protocol, members, *_rest)] = answer.groups
                if not error:
                    # The client id stands at another place in each version of the answer.
                    samples.append(frozenset(field for member in members for field in member if isinstance(field, str)))

            yield look

    with _repeatedly(looking):
        yield samples


@dataclass(frozen=True)
class Taken:
    """How many messages the group has read, how many of them wait as arrivals, how many node runs are completed."""

    at: float
    read: int
    waiting: int
    completed: int

    @property
    def open(self) -> int:
        """At least so many node runs are open in the workers: what was read is asked for first, the rest after it."""
        return self.read - self.waiting - self.completed


@contextmanager
def taken_by(cluster: Cluster) -> Iterator[list[Taken]]:
    """Sample what the workers have taken on, and what of it is completed in the emulator."""
    samples: list[Taken] = []
    group = f"{cluster.org}.port-runs"
    runs, arrivals = f"{cluster.org}.runs", [TopicPartition(f"{group}.arrivals", part) for part in range(PARTITIONS)]

    @asynccontextmanager
    async def looking() -> AsyncIterator[Look]:
        async with (
            _connected(cluster) as admin,
            AIOKafkaConsumer(bootstrap_servers=cluster.kafka.bootstrap, group_id=None) as consumer,
        ):

            async def look() -> None:
                offsets = await admin.list_consumer_group_offsets(group)
                read = sum(max(0, found.offset) for tp, found in offsets.items() if tp.topic == runs)
                entered = sum(max(0, found.offset) for tp, found in offsets.items() if tp in arrivals)
                waiting = sum((await consumer.end_offsets(arrivals)).values()) - entered
                completed = await asyncio.to_thread(_completed, cluster)
                samples.append(Taken(time.time(), read, waiting, completed))

            yield look

    with _repeatedly(looking):
        yield samples


def _completed(cluster: Cluster) -> int:
    return int(call(cluster.emulator_port, "GET", "/emulator").json["completed"])
