"""Whether an event type whose handler hangs slows another one down: `make bench BENCH_ARGS="--fairness"`.

One worker serves two event types, both published at steady rates. In every other phase the handler of one hangs, in all
its slots; the latency of the other is what is measured. The traffic is the same in both phases.
"""

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import orjson
from aiokafka import AIOKafkaProducer

from bench.errors import BenchError
from bench.figures import Spread, percentile, spread
from bench.options import Options
from bench.program import Neighbours, Program
from bench.record import Port, Record
from bench.report import Page, machine, shown
from bench.screen import Screen
from bench.subjects import WORKER, command
from bench.trial import Place, create_topics, emulator
from bench.work import EVENT_TYPE, NEIGHBOUR, NEIGHBOUR_CONCURRENCY, SWITCH, payload

NEIGHBOUR_RATE: Final = 10
"""Node runs per second of the event type that hangs."""
SLOWER_AT_MOST: Final = 1.2
CALM: Final = "calm"
HUNG: Final = "hung"
_MODES: Final = (CALM, HUNG)
_STARTS_SECONDS: Final = 60.0
_DRAINS_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.2

Latencies = Mapping[str, Sequence[float]]
"""For each mode the seconds from publishing to the report's arrival at Port."""


async def measure_fairness(options: Options, place: Place, screen: Screen) -> "FairnessReport":
    """Return the latencies of each round. Raises BenchError where a node run is lost, falsified or slow beyond measure,
    or where the handler did not hang.
    """
    await create_topics(place, options.partitions)
    with contextlib.ExitStack() as programs:
        programs.enter_context(emulator(place))
        arguments = command(WORKER, options.worker_loop)
        program = programs.enter_context(Program(WORKER, arguments, place.environment(), place.folder))
        async with _traffic(place, program, options) as traffic:
            await traffic.completed(await traffic.publish(EVENT_TYPE, options.warm_up), _STARTS_SECONDS)
            neighbours, rounds = Neighbours(), []
            for number in range(options.runs):
                rounds.append(await _round(options, traffic, number, screen))
            others = neighbours.cores()
            await asyncio.to_thread(program.stop)
            await traffic.settle()
    return FairnessReport(options, rounds, others)


async def _round(options: Options, traffic: "Traffic", number: int, screen: Screen) -> Latencies:
    latencies: dict[str, Sequence[float]] = {}
    # Each comes first in every other round.
    for mode in _MODES if number % 2 == 0 else reversed(_MODES):
        screen.begin(f"round {number + 1} of {options.runs}, {mode}")
        latencies[mode] = await traffic.phase(mode, options.rates[0], options.seconds)
    p99s = ", ".join(f"{mode} {1000 * percentile(latencies[mode], 99):.0f} ms" for mode in _MODES)
    screen.line(f"round {number + 1} of {options.runs}: p99 {p99s}")
    return latencies


@contextlib.asynccontextmanager
async def _traffic(place: Place, program: Program, options: Options) -> "AsyncIterator[Traffic]":
    # Without linger: what the driver waits would count as latency.
    async with (
        Port(place.base_url) as port,
        AIOKafkaProducer(bootstrap_servers=place.kafka.bootstrap, acks="all", linger_ms=0) as producer,
    ):
        await port.delay(options.latency_ms)
        yield Traffic(place.topic, program, port, producer, Record(port, options.latency_ms))


class Traffic:
    """Publishes node runs of both event types, and waits for them in the emulator's record."""

    def __init__(self, topic: str, program: Program, port: Port, producer: AIOKafkaProducer, record: Record) -> None:
        self._topic = topic
        self._program = program
        self._port = port
        self._producer = producer
        self._record = record
        self._numbers: dict[str, int] = {}

    async def phase(self, mode: str, rate: int, seconds: float) -> list[float]:
        """Return the latencies of the measured event type, while the other's handler hangs or not."""
        await self._switch(free=mode == CALM)
        neighbours = await self.publish(NEIGHBOUR, 2 * NEIGHBOUR_CONCURRENCY)
        if mode == CALM:
            await self.completed(neighbours, _DRAINS_SECONDS)
        measured, more = await asyncio.gather(
            self.publish(EVENT_TYPE, round(rate * seconds), rate),
            self.publish(NEIGHBOUR, round(NEIGHBOUR_RATE * seconds), NEIGHBOUR_RATE),
        )
        await self.completed(measured, _DRAINS_SECONDS)
        if mode == HUNG and self._record.completed.keys() & (neighbours | more).keys():
            raise BenchError("the handler that is to hang has ended")
        await self._switch(free=True)
        await self.completed(neighbours | more, _DRAINS_SECONDS)
        return [self._record.completed[node_run] - at for node_run, at in measured.items()]

    async def _switch(self, *, free: bool) -> None:
        await self.completed(await self.publish(SWITCH, 1, free=free), _DRAINS_SECONDS)

    async def publish(
        self, event_type: str, count: int, rate: float | None = None, *, free: bool = True
    ) -> dict[str, float]:
        """Publish node runs, at a rate per second where one is given; returns when each was, by its id."""
        ids = [(f"wfr_{secrets.token_hex(8)}", f"wfnr_{secrets.token_hex(8)}") for _ in range(count)]
        await self._port.register(ids)
        published: dict[str, float] = {}
        acknowledged = []
        # Not in step with the other event type.
        began = time.monotonic() + random.uniform(0, 0.1)  # noqa: S311
        for index, (run, node_run) in enumerate(ids):
            if rate is not None:
                await asyncio.sleep(began + index / rate - time.monotonic())
            number = self._numbers[node_run] = len(self._numbers)
            context = {"workflowRunId": run, "nodeRunId": node_run}
            message = {"context": context, "payload": payload(number) | {"eventType": event_type, "free": free}}
            published[node_run] = time.time()
            acknowledged.append(await self._producer.send(self._topic, orjson.dumps(message)))
        await asyncio.gather(*acknowledged)
        return published

    async def completed(self, node_runs: Mapping[str, float], seconds: float) -> None:
        """Wait until these are completed. Raises BenchError where that takes longer, or the worker ends."""
        deadline = time.monotonic() + seconds
        while missing := node_runs.keys() - self._record.completed.keys():
            self._program.check()
            if time.monotonic() > deadline:
                raise BenchError(f"{len(missing)} of {len(node_runs)} node runs are not completed in {seconds:g} s")
            await asyncio.sleep(_POLL_SECONDS)
            await self._record.read_on()

    async def settle(self) -> None:
        """Read the record on, and hold all that was published against it."""
        await self._record.read_on()
        self._record.require(self._numbers)


@dataclass(frozen=True)
class FairnessReport(Page):
    """The latencies of each round."""

    options: Options
    rounds: Sequence[Latencies]
    others: float
    """How many cores were busy with neither the worker nor Kafka, emulator or driver."""

    def told(self) -> str:
        """Say what was measured, and where."""
        options = self.options
        return (
            f"{machine()}. {options.runs} rounds of two phases of {options.seconds:g} s on one worker; per second "
            f"{options.rates[0]} node runs of the measured event type and {NEIGHBOUR_RATE} of the one that hangs in "
            f"every other phase; Port's API takes {options.latency_ms} ms; other processes on the machine kept "
            f"{self.others:.1f} cores busy."
        )

    def header(self) -> list[str]:
        """Return the heads of the columns."""
        return ["median (lowest-highest)", *_MODES, f"{HUNG} / {CALM}"]

    def rows(self) -> list[list[str]]:
        """Return a row for each figure."""
        return [self._row(percent) for percent in (50, 99)]

    def targets(self) -> list[str]:
        """Return whether the target is met."""
        found = self.ratio(99).median
        wanted = f"p99 while another event type hangs, as a multiple of the calm one, ≤ {SLOWER_AT_MOST:g}"
        return [f"{'met' if found <= SLOWER_AT_MOST else 'missed'}: {wanted}: {found:.2f}"]

    def ratio(self, percent: int) -> Spread:
        """Return by how much the hung phase exceeds the calm one: within each round first, then over the rounds."""
        return spread([percentile(one[HUNG], percent) / percentile(one[CALM], percent) for one in self.rounds])

    def to_json(self) -> bytes:
        """Return every latency of every round."""
        options = {name: str(one) if isinstance(one, Path) else one for name, one in asdict(self.options).items()}
        report = {"machine": machine(), "options": options, "rounds": self.rounds, "targets": self.targets()}
        return orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)

    def _row(self, percent: int) -> list[str]:
        cells = [spread([1000 * percentile(one[mode], percent) for one in self.rounds]) for mode in _MODES]
        return [f"latency, p{percent}, ms", *(shown(cell, 0) for cell in cells), shown(self.ratio(percent), 2)]
