"""A driver that publishes node runs by itself, and holds its own list against the emulator's record."""

import asyncio
import json
import secrets
import threading
import time
from asyncio import Future
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.e2e.tables import PARTITIONS
from tests.e2e.tally import Tally
from tests.processes import Cluster, call

REGISTERED_AT_ONCE = 1000
SEVERAL = 3
"""How many messages a node run has that has several."""


class NotCompletedError(AssertionError):
    """Node runs were published and are not completed, and nothing happens any more."""


class Load:
    """Node runs of one organization, each item of event type `echo`."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.tally = Tally(cluster.calls_file)
        self.published: dict[str, float] = {}
        """When the first message of each was given to Kafka, in epoch seconds."""
        self._stock: deque[tuple[str, str]] = deque()

    def register(self, number: int) -> list[tuple[str, str]]:
        """Make node runs known to the emulator; returns workflow-run and node-run ids."""
        ids = [(f"wfr_{secrets.token_hex(8)}", f"wfnr_{secrets.token_hex(8)}") for _ in range(number)]
        for start in range(0, number, REGISTERED_AT_ONCE):
            some = ids[start : start + REGISTERED_AT_ONCE]
            body = {"nodeRuns": [{"workflowRunId": run, "nodeRunId": node} for run, node in some]}
            got = call(self.cluster.emulator_port, "POST", "/emulator/node-runs/register", body=body)
            assert got.status == 200, got.text
        return ids

    def stock(self, number: int) -> list[tuple[str, str]]:
        """Register node runs to be published later: needed where the emulator is away meanwhile. Returns their ids."""
        ids = self.register(number)
        self._stock.extend(ids)
        return ids

    def create_topic(self) -> None:
        """Create the topic that is published on: needed before any worker has started."""
        asyncio.run(self._create_topic())

    async def _create_topic(self) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.cluster.kafka.bootstrap)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(f"{self.cluster.org}.runs", PARTITIONS, 1)])
        finally:
            await admin.close()

    def publish(self, number: int, per_second: float) -> None:
        """Publish so many node runs at a steady rate."""
        self.stock(max(0, number - len(self._stock)))
        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, self._publish(per_second, threading.Event(), number=number)).result()

    @contextmanager
    def steadily(self, per_second: float, *, several: bool = False) -> Iterator[None]:
        """Publish at a steady rate as long as the block runs.

        With `several`, every fifth node run has more messages than one, some time apart: what is then entered and what
        is then ended interleave.
        """
        enough = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            publishing = pool.submit(asyncio.run, self._publish(per_second, enough, several=several))
            try:
                yield
            finally:
                enough.set()
                publishing.result()

    async def _publish(
        self, per_second: float, enough: threading.Event, *, number: int | None = None, several: bool = False
    ) -> None:
        async with AIOKafkaProducer(bootstrap_servers=self.cluster.kafka.bootstrap, linger_ms=5) as producer:
            sending = _Sending(producer, f"{self.cluster.org}.runs", apart=max(1, int(per_second / 4)))
            began = time.monotonic()
            for made in count():
                if enough.is_set() or made == number:
                    break
                ahead = began + made / per_second - time.monotonic()
                if ahead > 0.02:
                    await asyncio.sleep(ahead)
                if not self._stock:
                    await asyncio.to_thread(self.stock, REGISTERED_AT_ONCE)
                run, node = self._stock.popleft()
                self.published[node] = time.time()
                await sending.node_run(made, run, node, SEVERAL if several and made % 5 == 0 else 1)
            await sending.finish()

    def goes_on(self, number: int, stalled: float = 60.0) -> None:
        """Wait until so many more node runs are completed; fails when none was for `stalled` seconds."""
        wanted = self.tally.read_on() + number
        self._wait(lambda: wanted - len(self.tally.completed), stalled)

    def completes(self, stalled: float = 60.0) -> None:
        """Wait until all that were published by now are completed.

        Raises NotCompletedError when none of them was for `stalled` seconds, whatever becomes of later ones.
        """
        left = set(self.published)

        def open_ones() -> int:
            left.difference_update(self.tally.completed)
            return len(left)

        self._wait(open_ones, stalled)

    def _wait(self, left: Callable[[], int], stalled: float) -> None:
        fewest, since = -1, time.monotonic()
        while True:
            self.tally.read_on()
            if (now := left()) <= 0:
                return
            if now < fewest or fewest < 0:
                fewest, since = now, time.monotonic()
            elif time.monotonic() - since > stalled:
                missing = sorted(self.missing(), key=self.published.__getitem__)
                raise NotCompletedError(f"{len(missing)} of {len(self.published)} node runs, first {missing[:5]}")
            time.sleep(0.1)

    def missing(self) -> set[str]:
        """Return the node runs that are not completed in the emulator's record."""
        self.tally.read_on()
        return self.published.keys() - self.tally.completed.keys()

    def contradictions(self) -> list[str]:
        """Return the node runs for which bodies of different content were sent."""
        self.tally.read_on()
        return self.tally.contradictions()

    def latency(self, node_run_id: str) -> float:
        """Return the seconds from a node run's first message to its completion."""
        return self.tally.completed[node_run_id] - self.published[node_run_id]


@dataclass
class _Sending:
    """The messages on their way to one topic."""

    producer: AIOKafkaProducer
    topic: str
    apart: int
    """How many node runs further the next message of one that has several is sent."""
    _sent: "deque[Future[object]]" = field(default_factory=deque)
    _later: deque[tuple[int, bytes]] = field(default_factory=deque)

    async def node_run(self, number: int, run: str, node: str, messages: int) -> None:
        """Send the first message of a node run, and what is due of earlier ones."""
        texts = [_message(run, node, number, part) for part in range(messages)]
        await self._send(texts[0])
        for part in range(1, messages):
            self._later.append((number + part * self.apart, texts[part]))
        while self._later and self._later[0][0] <= number:
            await self._send(self._later.popleft()[1])

    async def finish(self) -> None:
        """Send what is left, and wait until the broker has everything."""
        for _, message in self._later:
            await self._send(message)
        for sent in self._sent:
            await sent

    async def _send(self, message: bytes) -> None:
        self._sent.append(await self.producer.send(self.topic, message))
        while self._sent and self._sent[0].done():
            # The list of what was published says nothing unless the broker has it.
            self._sent.popleft().result()


def _message(run: str, node: str, number: int, part: int) -> bytes:
    context = {"workflowRunId": run, "nodeRunId": node}
    return json.dumps({"context": context, "payload": {"type": "echo", "n": number, "part": part}}).encode()
