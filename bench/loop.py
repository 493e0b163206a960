"""The loops that the worker is measured against: python -m bench.loop [--durable].

What an experienced engineer would write without a framework, with aiokafka and aiohttp: bounded concurrency, one token,
connections kept open, simple retries, and offsets committed in order, only after success. Tuned as the worker is.

Plain, its only state is the committed offset. With `--durable` each change of a node run's state (received, finished,
reported) is a record of a changelog topic, and the broker has acknowledged it before the loop goes on. It writes that
record only: what an application would need besides (reading it back, deciding what is to be done again, failures,
deadlines, items) is left out, so it stands for the least that durable state costs.
"""

import asyncio
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final

import aiohttp
import orjson
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition

from bench.work import CONCURRENCY, work

COMMIT_SECONDS: Final = 0.5
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0


class Offsets(ConsumerRebalanceListener):  # type: ignore[misc]
    """The offsets of the messages under way. What may be committed of a partition ends before the first of them."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer
        self._open: defaultdict[TopicPartition, dict[int, None]] = defaultdict(dict)
        self._next: dict[TopicPartition, int] = {}
        self._committed: dict[TopicPartition, int] = {}

    def begin(self, partition: TopicPartition, offset: int) -> None:
        """A message is taken; called in the order of the partition."""
        self._open[partition][offset] = None
        self._next[partition] = offset + 1

    def end(self, partition: TopicPartition, offset: int) -> None:
        """All that a message asked for is done."""
        self._open[partition].pop(offset, None)

    async def commit(self) -> None:
        """Commit what has become safe to commit."""
        safe = {partition: next(iter(self._open[partition]), end) for partition, end in self._next.items()}
        if new := {partition: offset for partition, offset in safe.items() if self._committed.get(partition) != offset}:
            await self._consumer.commit(new)
            self._committed |= new

    async def commit_for_ever(self) -> None:
        """Commit now and then."""
        while True:
            await asyncio.sleep(COMMIT_SECONDS)
            await self.commit()

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Called by aiokafka before others get these partitions."""
        await self.commit()
        for partition in revoked:
            for known in (self._open, self._next, self._committed):
                known.pop(partition, None)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Called by aiokafka; nothing is to be done."""


class Port:
    """Port's API, as much of it as is needed here."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str, credentials: Mapping[str, str]) -> None:
        self._session = session
        self._base_url = base_url
        self._credentials = credentials
        self._headers: dict[str, str] = {}

    async def log_in(self) -> None:
        """Get a token, for all calls until Port refuses it."""
        async with self._session.post(f"{self._base_url}/v1/auth/access_token", json=self._credentials) as answer:
            answer.raise_for_status()
            token = (await answer.json())["accessToken"]
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    async def complete(self, run: str, node_run: str, output: Mapping[str, object]) -> None:
        """Report success, as often as it takes."""
        url = f"{self._base_url}/v1/workflows/runs/{run}/nodes/{node_run}"
        body = orjson.dumps({"status": "COMPLETED", "result": "SUCCESS", "output": output})
        pause = FIRST_PAUSE
        while True:
            status = await self._patch(url, body)
            if status < 300 or status == 409:  # 409: an earlier attempt arrived, though its answer was lost
                return
            if status == 401:
                await self.log_in()
            elif status != 429 and status < 500:
                raise RuntimeError(f"Port answered {status} to the report of {node_run}")
            else:
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    async def _patch(self, url: str, body: bytes) -> int:
        try:
            async with self._session.patch(url, data=body, headers=self._headers) as answer:
                await answer.read()
                return answer.status
        except (aiohttp.ClientError, TimeoutError):
            return 503


class Changelog:
    """The durable state of the node runs: the latest record of each key."""

    def __init__(self, producer: AIOKafkaProducer, topic: str) -> None:
        self._producer = producer
        self._topic = topic

    async def put(self, node_run: str, state: Mapping[str, object]) -> None:
        """Return when the broker has the state."""
        await self._producer.send_and_wait(self._topic, orjson.dumps(state), key=node_run.encode())


class Loop:
    """Takes messages and completes their node runs, CONCURRENCY at a time."""

    def __init__(self, consumer: AIOKafkaConsumer, offsets: Offsets, port: Port, changelog: Changelog | None) -> None:
        self._consumer = consumer
        self._offsets = offsets
        self._port = port
        self._changelog = changelog
        self._slots = asyncio.Semaphore(CONCURRENCY)

    async def run(self) -> None:
        """Run until cancelled. A message that fails ends it, so that nothing is committed past that one."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._offsets.commit_for_ever())
            while True:
                fetched = await self._consumer.getmany(timeout_ms=200, max_records=500)
                for partition, records in fetched.items():
                    for record in records:
                        await self._slots.acquire()
                        self._offsets.begin(partition, record.offset)
                        tasks.create_task(self._one(partition, record))

    async def _one(self, partition: TopicPartition, record: "ConsumerRecord[bytes, bytes]") -> None:
        message = orjson.loads(record.value)
        await (self._complete(message) if self._changelog is None else self._complete_durably(message, self._changelog))
        self._offsets.end(partition, record.offset)
        self._slots.release()

    async def _complete(self, message: Any) -> None:
        context = message["context"]
        await self._port.complete(context["workflowRunId"], context["nodeRunId"], work(message["payload"]))

    async def _complete_durably(self, message: Any, changelog: Changelog) -> None:
        context = message["context"]
        node_run = context["nodeRunId"]
        await changelog.put(node_run, {"state": "received", "message": message})
        output = work(message["payload"])
        finished = {"result": "SUCCESS", "output": output, "context": context}
        await changelog.put(node_run, {"state": "finished", **finished})
        await self._port.complete(context["workflowRunId"], node_run, output)
        await changelog.put(node_run, {"state": "reported", **finished})


async def main(*, durable: bool) -> None:
    """Run until SIGTERM. Reads the worker's own settings from the environment."""
    organization, brokers = os.environ["PORT_ORG_ID"], os.environ["KAFKA_BROKERS"]
    credentials = {"clientId": os.environ["PORT_CLIENT_ID"], "clientSecret": os.environ["PORT_CLIENT_SECRET"]}
    consumer = AIOKafkaConsumer(
        bootstrap_servers=brokers,
        group_id=f"{organization}.loop",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=50,
    )
    offsets = Offsets(consumer)
    consumer.subscribe([f"{organization}.runs"], listener=offsets)
    producer = AIOKafkaProducer(bootstrap_servers=brokers, acks="all", linger_ms=10, max_batch_size=131_072)
    connections = aiohttp.TCPConnector(limit=CONCURRENCY)
    async with consumer, producer, aiohttp.ClientSession(connector=connections) as session:
        port = Port(session, os.environ["PORT_API_BASE_URL"], credentials)
        await port.log_in()
        changelog = Changelog(producer, f"{organization}.loop-changelog") if durable else None
        running = asyncio.create_task(Loop(consumer, offsets, port, changelog).run())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
        await asyncio.wait([running])
        await offsets.commit()
    if not running.cancelled():
        running.result()


if __name__ == "__main__":
    uvloop.run(main(durable="--durable" in sys.argv[1:]))
