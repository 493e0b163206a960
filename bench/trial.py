"""One trial: a subject on fresh topics with a fresh emulator, from its start to its figures."""

import asyncio
import contextlib
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from bench.errors import BenchError
from bench.figures import Figures, Phase, Totals, figures_of
from bench.options import Options
from bench.profiling import profiled
from bench.program import Neighbours, Program, Usage, wait_until
from bench.record import Port, Record
from bench.screen import Screen
from bench.subjects import command
from bench.work import payload
from local.kafka import EmbeddedKafka, free_port
from local.kafka.net import LOOPBACK, is_free

_SECRET: Final = "bench-secret"  # noqa: S105
_EMULATOR_SECONDS: Final = 30.0
_STALLED_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.2
_CHANGELOG_PARTITIONS: Final = 8


@dataclass(frozen=True)
class Place:
    """Where a trial takes place: one organization with topics, a group and an emulator of its own."""

    kafka: EmbeddedKafka
    organization: str
    emulator_port: int
    folder: Path

    @property
    def topic(self) -> str:
        """The topic that Port publishes on."""
        return f"{self.organization}.runs"

    @property
    def base_url(self) -> str:
        """Port's API."""
        return f"http://{LOOPBACK}:{self.emulator_port}"

    def environment(self) -> dict[str, str]:
        """The settings of every program here."""
        return {
            "PORT_ORG_ID": self.organization,
            "PORT_CLIENT_ID": "bench",
            "PORT_CLIENT_SECRET": _SECRET,
            "PORT_API_BASE_URL": self.base_url,
            "KAFKA_BROKERS": self.kafka.bootstrap,
            "DATA_DIR": str(self.folder / "data"),
            "WEB_PORT": str(free_port()),
            "HANDLERS": "bench.handlers",
        }


def new_place(kafka: EmbeddedKafka, folder: Path) -> Place:
    """Return a fresh organization; logs and data go into the folder, which must be new."""
    folder.mkdir(parents=True)
    return Place(kafka, f"bench{uuid.uuid4().hex[:8]}", free_port(), folder)


async def run_trial(subject: str, options: Options, place: Place, screen: Screen) -> Figures:
    """Return the figures of one subject. Raises BenchError where it loses, delays or falsifies a node run."""
    await create_topics(place, options.partitions)
    with contextlib.ExitStack() as programs:
        programs.enter_context(emulator(place))
        arguments = command(subject, options.worker_loop)
        program = programs.enter_context(Program(subject, arguments, place.environment(), place.folder))
        async with _driver(place, program, options, screen) as driver:
            await driver.phase("warm-up", options.warm_up)
            before, neighbours = driver.record.calls, Neighbours()
            profile = options.profile and options.profile / f"{place.folder.name}.svg"
            async with profiled(program.pid, profile):
                burst = await driver.phase("burst", options.burst)
            steady = {rate: await driver.steady_phase(rate, options.seconds) for rate in options.rates}
            others = neighbours.cores()
            await asyncio.to_thread(program.stop)
            await driver.settle()
            return figures_of(burst, steady, Totals(driver.record.calls - before, driver.peak_memory, others))


async def create_topics(place: Place, partitions: int) -> None:
    """Make the topics of a place."""
    changelog = f"{place.organization}.loop-changelog"
    topics = [
        NewTopic(place.topic, partitions, 1),
        NewTopic(changelog, _CHANGELOG_PARTITIONS, 1, topic_configs={"cleanup.policy": "compact"}),
    ]
    admin = AIOKafkaAdminClient(bootstrap_servers=place.kafka.bootstrap)
    await admin.start()
    try:
        answer = await admin.create_topics(topics)
    finally:
        await admin.close()
    if refused := [error for error in answer.topic_errors if error[1]]:
        raise BenchError(f"Kafka did not create the topics: {refused}")


@contextlib.contextmanager
def emulator(place: Place) -> Iterator[Program]:
    """Start an emulator of Port; ended with the block."""
    arguments = ["-m", "local.emulator", "--port", str(place.emulator_port)]
    with Program("emulator", arguments, place.environment(), place.folder) as program:
        wait_until(lambda: not is_free(place.emulator_port), program, _EMULATOR_SECONDS)
        yield program


@contextlib.asynccontextmanager
async def _driver(place: Place, program: Program, options: Options, screen: Screen) -> "AsyncIterator[Driver]":
    # Without linger: what the driver waits would count as latency of the subject.
    async with (
        Port(place.base_url) as port,
        AIOKafkaProducer(bootstrap_servers=place.kafka.bootstrap, acks="all", linger_ms=0) as producer,
    ):
        await port.delay(options.latency_ms)
        yield Driver(place, program, port, producer, Record(port, options.latency_ms), screen)


class Driver:
    """Publishes node runs, and waits until the emulator has them all as completed.

    Attributes:
        record: what the emulator saw.
        peak_memory: the most bytes that the subject had resident at a look.
    """

    def __init__(
        self, place: Place, program: Program, port: Port, producer: AIOKafkaProducer, record: Record, screen: Screen
    ) -> None:
        self.record = record
        self.peak_memory = 0
        self._place = place
        self._program = program
        self._port = port
        self._producer = producer
        self._screen = screen
        self._subject = Usage(program.pid)
        self._broker = Usage(place.kafka.pid or 0)
        self._numbers: dict[str, int] = {}

    async def steady_phase(self, rate: int, seconds: float) -> Phase:
        """Publish at a steady rate."""
        return await self.phase(f"{rate} per second", max(1, round(rate * seconds)), rate)

    async def phase(self, name: str, count: int, rate: int | None = None) -> Phase:
        """Publish node runs, as fast as it goes or at a rate per second, and wait until all are completed."""
        ids = [(f"wfr_{secrets.token_hex(8)}", f"wfnr_{secrets.token_hex(8)}") for _ in range(count)]
        await self._port.register(ids)
        cpu, broker_cpu = self._subject.cpu_seconds(), self._broker.cpu_seconds()
        publishing = asyncio.create_task(self._publish(ids, rate))
        try:
            await self._wait(name, count, publishing)
        finally:
            publishing.cancel()
        self._program.check()
        cpu, broker_cpu = self._subject.cpu_seconds() - cpu, self._broker.cpu_seconds() - broker_cpu
        await self.settle()
        published = await publishing
        completed = {node_run: self.record.completed[node_run] for node_run in published}
        return Phase(published, completed, cpu, broker_cpu)

    async def settle(self) -> None:
        """Read the record on, and hold all that was published against it."""
        await self.record.read_on()
        self.record.require(self._numbers)

    async def _publish(self, ids: Sequence[tuple[str, str]], rate: int | None) -> dict[str, float]:
        """Return when each node run was published: seconds since the epoch."""
        published: dict[str, float] = {}
        acknowledged = []
        began = time.monotonic()
        for index, (run, node_run) in enumerate(ids):
            if rate is not None:
                await asyncio.sleep(began + index / rate - time.monotonic())
            number = len(self._numbers)
            self._numbers[node_run] = number
            message = {
                "context": {
                    "workflowRunId": run,
                    "nodeRunId": node_run,
                    "workflowIdentifier": "bench",
                    "nodeIdentifier": "publish",
                },
                "payload": payload(number),
            }
            published[node_run] = time.time()
            acknowledged.append(await self._producer.send(self._place.topic, orjson.dumps(message)))
        await asyncio.gather(*acknowledged)
        return published

    async def _wait(self, name: str, count: int, publishing: "asyncio.Task[dict[str, float]]") -> None:
        """Wait until so many more are completed. Raises BenchError where the subject ends or stands still."""
        before = len(self.record.completed)
        done, changed_at = 0, time.monotonic()
        while done < count or not publishing.done():
            await asyncio.sleep(_POLL_SECONDS)
            self._program.check()
            if publishing.done():
                publishing.result()
            self.peak_memory = max(self.peak_memory, self._subject.memory())
            now_done = await self._port.completed() - before
            if now_done != done:
                done, changed_at = now_done, time.monotonic()
                self._screen.progress(name, done, count)
            elif time.monotonic() - changed_at > _STALLED_SECONDS:
                raise BenchError(
                    f"{self._program.name} stands still: {done} of {count} node runs of the phase {name!r} are "
                    f"completed. {self._program.last_lines()}"
                )
