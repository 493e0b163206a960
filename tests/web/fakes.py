"""A worker's knowledge without Kafka: rows in memory, and node runs in every state."""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Final, cast

from pydantic import JsonValue, SecretStr
from pydantic_core import to_json

from agents.asked import AskedEvent, Became
from agents.callbacks import Callbacks
from agents.cancelling import RunningCalls
from agents.context import Context
from agents.dispatch import Dispatch
from agents.feeding import Feeder
from agents.holding import Holding
from agents.pausing import Pausing
from agents.sending import Sent
from agents.settling import Parked
from agents.telling import Telling
from agents.testing import Outcome
from agents.trying import TrialError, Tried
from agents.work import ItemWork
from port.ids import is_workflow_run_id
from port.models import LogLevel, LogLine, Result
from streams.incidents import Incidents
from streams.kafka_health import KafkaHealth
from streams.lag import Behind
from streams.messages import NodeRunMessage
from streams.open_transactions import OpenTransactions
from streams.records import (
    Action,
    Arrival,
    Audited,
    Body,
    DeadLetter,
    ItemFinished,
    ItemRetry,
    LetterKind,
    Line,
    Lines,
    NodeRunEvent,
    ReportAnswered,
    Settled,
    Source,
    Tries,
    TypePaused,
)
from streams.samples import SamplesByName
from streams.tail import Taken
from streams.worker import Worker
from tables.due import DueIndex
from tables.ledger import Applied, Ledger
from tables.overview import Overview
from tables.report import why_stopped
from tables.rows import NotOwnedError
from tables.state import Note
from tests.agents.examples import context
from web.counted import Counts, HandlerCounts
from web.declared import ArrayShown, Declaration, Kind, RetryShown
from web.here import Here
from web.letterbox import Letters
from web.status import LoopLag

PARTITIONS = 8
NOON = 1_800_000_000.0
"""2027-01-15T08:00:00Z."""


_STATUS: Final = {Settled.REPORTED: 200, Settled.OUTPUT_REFUSED: 413}
PORT: Final = "https://app.getport.io/organization/run?runId="


def run_url(workflow_run_id: str | None) -> str | None:
    """Return where a workflow run is at Port, as the setting's default has it."""
    return f"{PORT}{workflow_run_id}" if is_workflow_run_id(workflow_run_id) else None


def lines(*texts: str, at: float = NOON + 9) -> Lines:
    """Return some lines, as a call has logged them."""
    return Lines(
        latest=tuple(Line(at=at + number / 10, level=LogLevel.INFO, text=text) for number, text in enumerate(texts))
    )


class MemoryRows:
    """`tables.rows.Rows` in dicts, one for each partition that is here; `reads` counts what is read."""

    def __init__(self) -> None:
        self.stores: dict[int, dict[bytes, bytes]] = {number: {} for number in range(PARTITIONS)}
        self.partition = 0
        self.reads = 0

    def _store(self, partition: int) -> dict[bytes, bytes]:
        if partition not in self.stores:
            raise NotOwnedError(f"partition {partition}")
        return self.stores[partition]

    def get(self, partition: int, key: bytes) -> bytes | None:
        self.reads += 1
        return self._store(partition).get(key)

    def scan(self, partition: int, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        rows = sorted(self._store(partition).items())
        return ((key, value) for key, value in rows if key.startswith(prefix))

    def put(self, partition: int, key: bytes, value: bytes) -> None:
        self.stores[self.partition][key] = value

    def delete(self, partition: int, key: bytes) -> None:
        self.stores[self.partition].pop(key, None)


class FakePost:
    """The dead letters, and where what is done to them goes."""

    def __init__(self) -> None:
        self.letters = Letters()
        self.records: dict[tuple[int, int], Taken] = {}
        self.entered: list[tuple[NodeRunMessage, Source]] = []
        self.written: list[Audited] = []

    def add(
        self,
        offset: int,
        raw: bytes,
        reason: str = "it is bad",
        key: bytes = b"k",
        headers: Mapping[str, bytes] | None = None,
        kind: LetterKind = LetterKind.UNREADABLE,
    ) -> None:
        """A dead letter comes."""
        source = Source(cluster="k:9092", topic="o.runs", partition=0, offset=offset, timestamp=NOON)
        record = SimpleNamespace(
            partition=0,
            offset=offset,
            timestamp=1000 * NOON + offset,
            key=key,
            value=raw,
            headers=tuple((DeadLetter(reason=reason, source=source, kind=kind).headers | dict(headers or {})).items()),
        )
        self.records[0, offset] = cast("Taken", record)
        self.letters.take_letter(cast("Taken", record))

    async def read(self, partition: int, offset: int) -> Taken | None:
        """One of them is read."""
        return self.records.get((partition, offset))

    async def enter(self, message: NodeRunMessage, source: Source) -> None:
        """A message enters."""
        self.entered.append((message, source))

    async def write(self, audited: Audited) -> None:
        """Something is written to the audit."""
        self.written.append(audited)

    async def note(self, audited: Audited) -> None:
        """The same, and it is known."""
        await self.write(audited)
        self.letters.add(audited)


def declared_as(event_type: str, concurrency: int = 1) -> Declaration:
    """Return how a handler might be declared, with what it is for in each text."""
    field: dict[str, JsonValue] = {"type": "string", "description": event_type, "default": event_type}
    return Declaration(
        function=f"tests.{event_type}",
        place=f"{event_type}.py:7",
        kind=Kind.COROUTINE,
        concurrency=concurrency,
        deadline_seconds=30.0,
        retry=RetryShown(attempts=3, first_pause_seconds=1.0, longest_pause_seconds=300.0, never=[event_type]),
        array=ArrayShown(share=1.0, cancel_rest=False),
        json_schema={"title": event_type, "type": "object", "properties": {event_type: field, "service": field}},
    )


class FakeWorker:
    """Has what `Here` reads of a worker, and what brings node runs into it."""

    def __init__(self, incarnation: str = "host-0123abcd", event_types: Sequence[str] = ("greet",)) -> None:
        self.rows = MemoryRows()
        self.overview = Overview()
        ledger = self.ledger = Ledger(self.rows)
        self.feeders: dict[str, Feeder[ItemWork]] = {event_type: Feeder() for event_type in event_types}
        self.feeder = self.feeders[event_types[0]]
        dispatch = Dispatch(ledger, DueIndex(), self.overview, 0.0)
        dispatch.active = set(range(PARTITIONS))
        self.app = SimpleNamespace(
            owned=frozenset(range(PARTITIONS)),
            settings=SimpleNamespace(partitions=PARTITIONS, run_url=run_url),
            incarnation=incarnation,
            conf=SimpleNamespace(canonical_url="http://127.0.0.1:6066"),
            rebalancing=False,
            should_stop=False,
            stopping=False,
            offsets=SimpleNamespace(interventions=3, expected={}),
            incidents=Incidents(),
            transactions=OpenTransactions(),
            bridge=None,
            misfit=lambda: None,
            kafka=KafkaHealth(dict, lambda: 0.0, lambda: asyncio.sleep(0)),
            port=SimpleNamespace(
                unreachable_since=None, trouble=None, logged_in=True, budget=SimpleNamespace(remaining=None, limit=None)
            ),
            topic_problems={},
        )
        self.worker = cast("Worker", self.app)
        self.holding = Holding(dispatch.due, 3600.0, 100)
        self.telling = Telling({}, Callbacks((SecretStr("k" * 32),), "org", ""))
        self.calls = RunningCalls()
        self.tries: dict[str, Tries] = {}
        """Of the reports that are on their way."""
        self.parked: list[Parked] = []
        """The reports that Port fails at; each is tried again at NOON + 900."""
        self.here = Here(
            self.worker,
            ledger,
            self.overview,
            dispatch,
            self.feeders,
            self.holding,
            self.telling,
            self.calls,
            self.tries.get,
            lambda: self.parked,
            lambda node_run_id: NOON + 900 if any(one.node_run_id == node_run_id for one in self.parked) else None,
        )
        self.post = FakePost()
        self.declarations = {event_type: declared_as(event_type) for event_type in event_types}
        self.counted: dict[str, Counts] = {}
        self.samples = SamplesByName()
        self.counts = HandlerCounts(lambda: dict(self.counted), self.samples.hour)
        self.clock = time.monotonic
        """What the views measure the ages of calls with."""
        self.tried: list[tuple[str, Mapping[str, JsonValue]]] = []
        """What handlers were called for in dry runs."""
        self.published: list[tuple[Mapping[str, JsonValue], str, str]] = []
        """Test messages, each with the ids of its node run."""
        self.loop_lag = LoopLag()
        self.behind: dict[str, Behind] = {}
        """How far it is behind, by topic."""
        self.pausing = Pausing()
        self.pausing.take_back = lambda partition, event_type: None
        self.pausing.go_on = self.feeder.add
        self.sent: list[NodeRunEvent] = []
        """What went to other workers."""
        self.asked: list[AskedEvent] = []
        """What was asked for by hand."""
        self.kept: list[Context] = []
        """The contexts of calls that run on."""
        self._offset = 0

    def lose(self, partition: int) -> None:
        """The partition goes to another worker."""
        del self.rows.stores[partition]
        self.app.owned -= {partition}
        self.here.dispatch.lost(partition)

    def arrive(
        self, node_run_id: str, text: str = '{"payload":{"type":"greet"}}', count: int = 1, **fields: object
    ) -> None:
        """A message comes."""
        partition = self.rows.partition = self.here.partition_of(node_run_id)
        self._offset += 1
        known: dict[str, object] = {
            "node_run_id": node_run_id,
            "workflow_run_id": "wfr_1",
            "workflow": "deploy",
            "node": "publish",
            "source": Source(
                cluster="k:9092", topic="o.runs", partition=0, offset=self._offset, timestamp=NOON + self._offset
            ),
            "digest": f"digest{self._offset}",
            "text": text,
            "array": count > 1,
            "count": count,
            "event_types": ("greet",),
        }
        applied = self.ledger.arrival(partition, Arrival.model_validate(known | fields))
        self.overview.changed(partition, applied.before, applied.run, applied.item)

    def outcome(self, event: NodeRunEvent) -> None:
        """Something becomes of it."""
        partition = self.rows.partition = self.here.partition_of(event.node_run_id)
        applied = self.ledger.outcome(partition, event)
        self.overview.changed(partition, applied.before, applied.run, applied.item)

    async def ask(self, event: AskedEvent, action: Action, seconds: float) -> Became | None:
        """Somebody asks for something by hand."""
        assert event.action == action
        self.asked.append(event)
        partition = self.rows.partition = self.here.partition_of(event.node_run_id)
        applied = self.ledger.outcome(partition, event)
        self.overview.changed(partition, applied.before, applied.run, applied.item)
        return Became(applied.note, applied.why)

    async def ask_to_pause(self, event: TypePaused, seconds: float) -> int:
        """Somebody pauses a handler, or has it go on."""
        for partition in self.app.owned:
            self.pausing.change(partition, event)
        return len(self.app.owned)

    async def try_out(self, event_type: str, payload: Mapping[str, JsonValue]) -> Tried:
        """A handler is called for a dry run: says all that it is given."""
        if payload.get("eventType") == "busy":
            raise TrialError("no place was free")
        self.tried.append((event_type, payload))
        said = to_json(payload).decode()
        lines = [LogLine(level=LogLevel.WARN, message=said)]
        if payload.get("fails"):
            return Tried(Outcome(Result.FAILED, error=said), said, 0.2, lines, 3)
        return Tried(Outcome(Result.SUCCESS, dict(payload)), None, 0.2, lines, 0)

    async def publish(self, payload: Mapping[str, JsonValue], node_run_id: str, workflow_run_id: str) -> Sent:
        """A test message is published."""
        self.published.append((payload, node_run_id, workflow_run_id))
        return Sent("o.runs", 0, 41)

    async def record(self, partition: int, event: NodeRunEvent) -> None:
        """Something comes of this worker's own: it is entered here, or goes to the partition's owner."""
        await self.take(partition, event)

    async def take(self, partition: int, event: NodeRunEvent) -> None:
        """The same; for tests in which it fails."""
        if partition in self.app.owned:
            self.outcome(event)
        else:
            self.sent.append(event)

    def run(self, node_run_id: str, index: int = 0) -> ItemWork:
        """A handler begins."""
        work = self.wait(node_run_id, index)
        assert self.feeder.begin() is work
        return work

    def wait(self, node_run_id: str, index: int = 0) -> ItemWork:
        """An item waits for a handler."""
        work = ItemWork(self.here.partition_of(node_run_id), node_run_id, index, 0, "greet", 1)
        self.feeder.add(work)
        return work

    def defer(
        self,
        node_run_id: str,
        index: int = 0,
        error: str = "not yet",
        event_type: str = "greet",
        attempt: int = 1,
        logs: Lines | None = None,
        worker: str = "w",
        started_at: float | None = None,
        due_at: float = NOON + 600,
    ) -> None:
        """A handler asks to be called again. Needs a running event loop."""
        started_at = NOON + 8 + attempt if started_at is None else started_at
        self.outcome(
            ItemRetry(
                node_run_id=node_run_id,
                index=index,
                message=0,
                event_type=event_type,
                attempt=attempt,
                due_at=due_at,
                error=error,
                worker=worker,
                started_at=started_at,
                ended_at=started_at + 0.5,
                logs=logs,
            )
        )
        key = (node_run_id, index)
        self.here.dispatch.due.set(self.here.partition_of(node_run_id), key, 4_000_000_000.0, lambda: None)

    def end(
        self,
        node_run_id: str,
        index: int = 0,
        output: str = '{"said":"hello"}',
        error: str | None = None,
        trace: str | None = None,
        event_type: str = "greet",
        attempt: int = 1,
        logs: Lines | None = None,
        called: bool = True,
    ) -> None:
        """A handler ends; or the item does without a call."""
        self.outcome(
            ItemFinished(
                node_run_id=node_run_id,
                index=index,
                message=0,
                event_type=event_type,
                attempt=attempt,
                result=Result.SUCCESS if error is None else Result.FAILED,
                output=output if error is None else None,
                error=error,
                trace=trace,
                worker=self.app.incarnation,
                started_at=NOON + 20 if called else NOON + 21.5,
                ended_at=NOON + 21.5,
                logs=logs,
            )
        )

    def cancelled(self, node_run_id: str, index: int = 0, attempt: int = 0) -> None:
        """An item that waited ends as cancelled, as what has stopped its node run says."""
        run = self.ledger.run(self.here.partition_of(node_run_id), node_run_id)
        assert run is not None
        self.outcome(
            ItemFinished(
                node_run_id=node_run_id,
                index=index,
                message=0,
                attempt=attempt,
                result=Result.CANCELLED,
                error=why_stopped(run),
                worker=self.app.incarnation,
                started_at=NOON + 101,
                ended_at=NOON + 101,
            )
        )

    def log(self, node_run_id: str, *texts: str, index: int = 0) -> None:
        """A call that runs logs something."""
        made = replace(context(index=index), node_run_id=node_run_id, host=self.telling)
        for text in texts:
            made.log("%s", text)
        self.kept.append(made)

    def report(self, node_run_id: str) -> None:
        """Its report is on the way to Port."""
        dispatch, partition = self.here.dispatch, self.here.partition_of(node_run_id)
        dispatch.report = lambda _: None
        run = self.ledger.run(partition, node_run_id)
        dispatch.act(partition, Applied(Note.APPLIED, run, run))

    def settle(
        self,
        node_run_id: str,
        settled: Settled = Settled.REPORTED,
        reason: str = "",
        body: Body = Body.FULL,
        report: int = 0,
        tries: Tries | None = None,
    ) -> None:
        """Port answers."""
        self.outcome(
            ReportAnswered(
                node_run_id=node_run_id,
                body=body,
                settled=settled,
                status=_STATUS.get(settled, 404),
                reason=reason,
                report=report,
                at=NOON + 30 + 10 * report + 5 * (body is Body.SMALL),
                tries=tries,
            )
        )


def halves(worker: FakeWorker, other: FakeWorker) -> None:
    """Give the even partitions to the first worker, and the odd ones to the second."""
    for number in range(PARTITIONS):
        (other if number % 2 == 0 else worker).lose(number)


def an_id(worker: FakeWorker, beginning: str = "") -> str:
    """Return a node-run id of a partition that this worker has."""
    ids = (f"wfnr_{beginning}{number}" for number in range(100))
    return next(one for one in ids if worker.here.partition_of(one) in worker.here.partitions)
