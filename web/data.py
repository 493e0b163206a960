"""What the views show, as pydantic models, and how it is made of the ledger's states. Secrets are masked here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from pydantic import BaseModel, ConfigDict, JsonValue
from pydantic.alias_generators import to_camel
from pydantic_core import from_json

from agents.telling import Progress
from port.models import LogLevel, Result
from port.trouble import TroubleKind
from streams.messages import event_type, items_of
from streams.records import Body, By, Lines, Settled, Tries
from tables.history import Again, EarlierAnswer, EarlierCall, How, RunHistory
from tables.state import Item, Message, NodeRun, State, Stop, seen_of
from web.ending import ending_of, was_sent
from web.masking import masked, masked_text

SCOPE: Final = "this worker"
SCOPE_ALL: Final = "all workers"
_UNREADABLE: Final = "what was kept of it cannot be read as JSON"
_TOO_MUCH: Final = "left out here: it is too much for one answer"


class Shown(BaseModel):
    """Base of what is shown; in JSON the names are in camelCase and the times in ISO 8601, UTC."""

    model_config = ConfigDict(
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        ser_json_inf_nan="null",
        # For the OpenAPI document: an answer has every field, and what is said of one here stands there, too.
        json_schema_serialization_defaults_required=True,
        use_attribute_docstrings=True,
    )

    def to_json(self) -> bytes:
        """Return it as JSON."""
        return self.model_dump_json(by_alias=True).encode()


class ItemState(StrEnum):
    """Where an item stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DEFERRED = "deferred"
    """A retry is to come, or the word of another system."""
    ENDED = "ended"


class WorkerShown(Shown):
    """A worker."""

    worker: str
    """Its incarnation: new at every start of the process."""
    url: str
    partitions: list[int]


class MissingWorker(Shown):
    """A worker of the group that gave no answer."""

    worker: str
    url: str
    partitions: list[int]
    """Those that the group has given to it."""
    why: str


class WorkerStatus(WorkerShown):
    """A worker, and how it does."""

    assigned: list[int]
    """The partitions that the group has given to it; `partitions` are those of them that it shows."""
    version: str
    state: str
    """The word that its `/readyz` says."""
    recovery_remaining: int | None
    """Records of the changelog that are still to be recovered; null while that is not known."""
    uptime_seconds: float
    memory_bytes: int
    cpu_seconds: float | None = None
    """Time on a processor since the start, of all threads."""
    loop_lag_seconds: float | None
    """How late its event loop was at the worst in the last minute."""
    running: dict[str, int]
    """Calls of handlers, by event type."""
    waiting: int
    """Items that wait for a handler."""


class WorkersShown(Shown):
    """The workers of the group."""

    asked: str
    """The incarnation of the worker that answers."""
    workers: list[WorkerStatus]
    missing: list[int]
    """Partitions that no worker shows now."""
    missing_workers: list[MissingWorker]


class SessionShown(Shown):
    """Who asks."""

    access: str
    """`full`, or `read`: sees everything and may change nothing."""
    csrf_token: str
    """What a program without a Bearer token sends as `X-CSRF-Token` with each action; empty where none is needed."""


class NodeRunLine(Shown):
    """A node run in a list."""

    node_run_id: str
    workflow_run_id: str | None
    workflow: str | None
    node: str | None
    event_types: list[str]
    state: State
    result: Result | None
    item_count: int
    succeeded: int
    failed: int
    cancelled: int
    received_at: datetime | None
    ended_at: datetime | None
    """When Port answered the report, or the node run was found to have ended at Port."""
    duration_seconds: float | None
    """From the receipt until then."""
    partition: int


class NodeRunInList(NodeRunLine):
    """A node run in the list of the API."""

    items: int
    """How many items it has; the same as `item_count`."""


class ProgressShown(Shown):
    """How far an item is."""

    done: int | float
    total: int | float | None


class LineShown(Shown):
    """A line that a call has logged."""

    at: datetime | None
    level: LogLevel
    text: str


class LinesShown(Shown):
    """The latest lines that a call has logged."""

    latest: list[LineShown]
    left_out: int
    """How many there were before."""


class AgainShown(Shown):
    """Who asked for something by hand, and when."""

    who: str
    at: datetime | None


class CallShown(Shown):
    """A call of an item's handler that did not end the item, or not for good."""

    attempt: int
    how: How
    """`retry`: it asked to be called again; `raised`, with retries left; `deferred`: another system was to say how the
    item ended; `failed`: the item had FAILED, and was taken up again by hand."""
    started_at: datetime | None
    """Null where another than the handler had said that the item FAILED."""
    ended_at: datetime | None
    duration_seconds: float | None
    error: str | None
    """The first line."""
    worker: str | None
    due_at: datetime | None
    """When it was to be called again, or until when another system could say how it ended."""
    decided_by: By | None
    """Who had said that the item FAILED, where it was not its handler."""
    decided_who: str | None = None
    logs: LinesShown | None
    again: AgainShown | None
    """Who wanted it called again."""


class ItemShown(Shown):
    """An item of a node run."""

    index: int
    event_type: str | None
    state: ItemState
    result: Result | None
    attempt: int
    output: JsonValue
    error: str | None
    trace: str | None
    """The stack trace of the exception that ended the last call, with secrets masked."""
    progress: ProgressShown | None
    """How far the item has said to be, while it runs here."""
    worker: str | None
    started_at: datetime | None
    ended_at: datetime | None
    duration_seconds: float | None
    due_at: datetime | None
    held_until: datetime | None
    """Until when the item waits for a handler of its event type to be deployed; null where it does not."""
    deferred_until: datetime | None
    """Until when another system may say how it ended."""
    decided_by: By | None
    """Who said how it ended, where it was not its handler: by a callback, or by hand, in one of three ways."""
    called_at: datetime | None = None
    """When the call began that has ended it, or that runs."""
    logs: LinesShown | None = None
    """What that call has logged."""
    calls: list[CallShown] = []
    """The first of its earlier calls, and the latest, in order."""
    calls_left_out: int = 0
    """How many there were between the first and the others."""
    decided_who: str | None = None
    """Who said how it ended, where a person did."""


class SourceShown(Shown):
    """Where a message stood on the source cluster."""

    cluster: str
    topic: str
    partition: int
    offset: int
    timestamp: datetime | None


class MessageShown(Shown):
    """A message of a node run."""

    first_item: int
    items: int
    digest: str
    source: SourceShown
    message: JsonValue
    """The message as it came, with secrets masked; null where `note` says why."""
    note: str | None


class TryShown(Shown):
    """A try of a report that settled nothing."""

    at: datetime | None
    status: int | None
    """Of Port's answer; null where none came."""
    reason: str | None = None
    """What Port said, or why no answer came."""


class TriesShown(Shown):
    """The tries of a report that settled nothing."""

    count: int
    latest: list[TryShown]


class AnswerShown(Shown):
    """An answer of Port to a report that was not the last one."""

    body: Body
    settled: Settled
    """`output_refused`: a small body was sent next."""
    status: int | None
    reason: str | None
    """The first line."""
    at: datetime | None
    tries: TriesShown | None
    """Those before that answer."""
    again: AgainShown | None
    """Who wanted the node run reported again."""


class ReportShown(Shown):
    """The report to Port."""

    sent: bool = True
    """Whether there is one: none where the node run had ended at Port before."""
    covered_items: int
    body: str
    status: int | None
    """Of Port's last answer."""
    reason: str | None
    tries: TriesShown | None = None
    """Those before that answer; where the report is on its way, those since."""
    next_try_at: datetime | None = None
    """When it is sent again; null where it does not wait for that."""
    parked: bool = False
    """Whether Port fails at it while it takes others."""


class NodeRunShown(NodeRunLine):
    """A node run with its items and messages."""

    scope: str = SCOPE
    worker: WorkerShown
    report: ReportShown | None
    answers: list[AnswerShown] = []
    """The first of Port's earlier answers to reports, and the latest, in order."""
    answers_left_out: int = 0
    """How many there were between the first and the others."""
    cancellation: AgainShown | None = None
    """Who cancelled the node run, and when; `who` is empty where Port was found to have ended it, or its run."""
    stopped: Stop | None = None
    """Why what had not ended was cancelled."""
    completion: AgainShown | None = None
    """Who completed the node run at Port by hand, and when."""
    port_result: str | None = None
    """Port's own result, where that is known and is not that of our report."""
    ending: str | None = None
    """How the node run ended, in a sentence."""
    seen: str = ""
    """What an action on the node run brings along: where it has gone on since, nothing is done."""
    soft_cancelled_at: datetime | None = None
    """When Port was found to be cancelling its workflow run: nothing began from then on, and what ran could end."""
    port_url: str | None = None
    """Its workflow run at Port, where the setting `PORT_RUN_URL` says where that is."""
    items: list[ItemShown]
    next_item: int | None
    """The first item that is not in this answer; ask with `?from=`."""
    messages: list[MessageShown]
    more_messages: bool


class Sample(Shown):
    """The beginning of one such message."""

    why: str
    offset: int
    start: str


class Foreign(Shown):
    """Messages on the runs topic that were left to other consumers, since this worker started."""

    counts: dict[str, int]
    samples: list[Sample]


class TroubleShown(Shown):
    """What is wrong with Port's API."""

    kind: TroubleKind
    since: datetime | None
    said: str
    """In sentences, with what to do."""


class PortShown(Shown):
    """Port's API, as this worker finds it."""

    unreachable_since: datetime | None
    """When the first of the calls was made that brought no answer, or only 5xx; null where the last one did."""
    trouble: TroubleShown | None = None
    """What is wrong with it; null where the last call was well."""
    reports_waiting: int
    """Reports that Port has not answered yet."""
    parked: int = 0
    """Those of them that Port fails at while it takes others."""
    oldest_received_at: datetime | None
    """When the oldest node run was received of those that are not parked, as far as that is known without a look at
    each."""
    oldest_waits_since: datetime | None = None
    """When the last item ended of the oldest report that waits."""
    rate_limit_remaining: int | None
    """Calls that are left of the organization's rate limit; null where Port did not say lately."""
    rate_limit: int | None = None
    """How many calls that limit allows; null where Port did not say lately."""


class NodeRunList(Shown):
    """The latest node runs."""

    scope: str = SCOPE
    counts: dict[State, int]
    node_runs: list[NodeRunInList]
    examined: int
    """How many of the latest node runs were looked at for these."""
    workers: list[WorkerShown]
    missing: list[int]
    """Partitions whose node runs are not in this answer."""
    missing_workers: list[MissingWorker] = []
    """Workers of the group that gave no answer; what their partitions hold is not in it."""
    foreign: Foreign
    port: PortShown


class ErrorShown(Shown):
    """Why there is no answer."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)

    error: str
    """One word, for programs."""
    message: str
    partition: int | None = None
    worker: str | None = None

    def to_json(self) -> bytes:
        """Return it as JSON, without what is not known."""
        return self.model_dump_json(by_alias=True, exclude_none=True).encode()


def instant(seconds: float | None) -> datetime | None:
    """Return a point in time; None where there is none, or none that a calendar has: producers set what they like."""
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _between(start: float | None, end: float | None) -> float | None:
    # The clocks of two machines: what seems to end before it began took no time.
    return None if start is None or end is None else round(max(0.0, end - start), 3)


def _line(run: NodeRun, partition: int, state: State) -> dict[str, object]:
    return {
        "node_run_id": run.node_run_id,
        "workflow_run_id": run.workflow_run_id,
        "workflow": run.workflow,
        "node": run.node,
        "event_types": list(run.event_types),
        "state": state,
        "result": run.result,
        "item_count": run.items,
        "succeeded": run.succeeded,
        "failed": run.failed,
        "cancelled": run.cancelled,
        "received_at": instant(run.received_at),
        "ended_at": instant(run.settled_at),
        "duration_seconds": _between(run.received_at, run.settled_at),
        "partition": partition,
    }


def node_run_in_list(run: NodeRun, partition: int, state: State) -> NodeRunInList:
    """Return a node run as a line of the list."""
    return NodeRunInList.model_validate(_line(run, partition, state) | {"items": run.items})


@dataclass(frozen=True)
class Read:
    """What was read of one node run, to be shown."""

    run: NodeRun
    partition: int
    state: State
    worker: WorkerShown
    items: Mapping[int, Item | None]
    """The items of one page, in order; None where nothing is written of one yet."""
    running: frozenset[int]
    """Those of them that run."""
    deferred: frozenset[int]
    """Those of them that wait for a time to come."""
    held: Mapping[int, float]
    """Those of them that are held, and until when."""
    progress: Mapping[int, Progress]
    """How far those of them are that have said so."""
    began: Mapping[int, float]
    """When the calls began that run for them."""
    logged: Mapping[int, Lines]
    """What these calls have logged."""
    tries: Tries | None
    next_try: float | None
    """When the report is sent again, in epoch seconds."""
    parked: bool
    """Those of a report that is on its way."""
    port_url: str | None
    next_item: int | None
    messages: tuple[tuple[Message, bool], ...]
    """Each with whether its text is to be shown."""
    more_messages: bool


def node_run_shown(read: Read) -> NodeRunShown:
    """Return a node run with its items and messages. Takes its time with large ones: call it in a thread."""
    run = read.run
    messages, event_types = _messages(read.messages)
    history = run.history or RunHistory()
    items = [_item(read, index, item, event_types.get(index)) for index, item in read.items.items()]
    details = {
        "worker": read.worker,
        "report": _report(read, history),
        "answers": list(map(_answer, history.answers)),
        "answers_left_out": history.left_out,
        "cancellation": _again(history.cancelled),
        "soft_cancelled_at": instant(history.soft_cancelled_at),
        "stopped": run.stopped,
        "completion": _again(history.completed),
        "port_result": run.port_result,
        "ending": ending_of(run),
        "seen": seen_of(run),
        "port_url": read.port_url,
        "items": items,
        "next_item": read.next_item,
        "messages": messages,
        "more_messages": read.more_messages,
    }
    return NodeRunShown.model_validate(_line(run, read.partition, read.state) | details)


def _report(read: Read, history: RunHistory) -> ReportShown | None:
    run = read.run
    if run.covered is None:
        return None
    return ReportShown(
        sent=was_sent(run),
        covered_items=run.covered,
        body=run.body.value,
        status=run.status,
        reason=None if run.reason is None else masked_text(run.reason),
        tries=_tries(read.tries if run.settled is None else history.tries),
        next_try_at=instant(read.next_try),
        parked=read.parked,
    )


def _answer(answer: EarlierAnswer) -> AnswerShown:
    return AnswerShown(
        body=answer.body,
        settled=answer.settled,
        status=answer.status,
        reason=None if answer.reason is None else masked_text(answer.reason),
        at=instant(answer.at),
        tries=_tries(answer.tries),
        again=_again(answer.again),
    )


def _tries(tries: Tries | None) -> TriesShown | None:
    if tries is None:
        return None
    return TriesShown(
        count=tries.count,
        latest=[
            TryShown(
                at=instant(one.at), status=one.status, reason=None if one.reason is None else masked_text(one.reason)
            )
            for one in tries.latest
        ],
    )


def _again(again: Again | None) -> AgainShown | None:
    return None if again is None else AgainShown(who=again.who, at=instant(again.at))


def _call(call: EarlierCall) -> CallShown:
    return CallShown(
        attempt=call.attempt,
        how=call.how,
        started_at=instant(call.started_at),
        ended_at=instant(call.ended_at),
        duration_seconds=_between(call.started_at, call.ended_at),
        error=None if call.error is None else masked_text(call.error),
        worker=call.worker,
        due_at=instant(call.due_at),
        decided_by=call.decided_by,
        decided_who=call.decided_who,
        logs=_lines(call.logs),
        again=_again(call.again),
    )


def _lines(lines: Lines | None) -> LinesShown | None:
    if lines is None:
        return None
    latest = [LineShown(at=instant(one.at), level=one.level, text=masked_text(one.text)) for one in lines.latest]
    return LinesShown(latest=latest, left_out=lines.left_out)


def _messages(messages: Iterable[tuple[Message, bool]]) -> tuple[list[MessageShown], dict[int, str | None]]:
    shown: list[MessageShown] = []
    event_types: dict[int, str | None] = {}
    for message, with_text in messages:
        value, note = _text(message) if with_text else (None, _TOO_MUCH)
        if value is not None:
            for index, fields in enumerate(items_of(message.text), message.first):
                event_types[index] = event_type(fields)
        source = message.source
        shown.append(
            MessageShown(
                first_item=message.first,
                items=message.count,
                digest=message.digest,
                source=SourceShown(
                    cluster=source.cluster,
                    topic=source.topic,
                    partition=source.partition,
                    offset=source.offset,
                    timestamp=instant(source.timestamp),
                ),
                message=value,
                note=note,
            )
        )
    return shown, event_types


def _text(message: Message) -> tuple[JsonValue, str | None]:
    if not message.text:
        return None, "the message is not kept here: its bytes stand in the dead letters"
    try:
        return masked(from_json(message.text, allow_inf_nan=False)), message.note
    except ValueError:
        return masked_text(message.text), _UNREADABLE


def _item(read: Read, index: int, item: Item | None, event_type: str | None) -> ItemShown:
    known = item or Item(index=index, message=0)
    progress = read.progress.get(index)
    # What ended it in no time was no call: it was cancelled before one, or there is no handler.
    uncalled = known.result is not None and known.decided_by is None and known.started_at == known.ended_at
    started_at = None if uncalled else known.started_at
    return ItemShown(
        index=index,
        event_type=known.event_type or event_type,
        state=_item_state(read, index, item),
        result=known.result,
        attempt=known.attempt,
        output=_output(known.output),
        error=None if known.error is None else masked_text(known.error),
        trace=None if known.trace is None else masked_text(known.trace),
        progress=None if progress is None else ProgressShown(done=progress.done, total=progress.total),
        worker=known.worker,
        started_at=instant(started_at),
        ended_at=instant(known.ended_at),
        duration_seconds=_between(started_at, known.ended_at),
        due_at=instant(known.due_at),
        held_until=instant(read.held.get(index)),
        deferred_until=instant(known.deferred_until),
        decided_by=known.decided_by,
        decided_who=known.decided_who,
        called_at=instant(read.began.get(index, known.called_at)),
        logs=_lines(read.logged.get(index, known.logs)),
        calls=[] if known.earlier is None else list(map(_call, known.earlier.calls)),
        calls_left_out=0 if known.earlier is None else known.earlier.left_out,
    )


def _item_state(read: Read, index: int, item: Item | None) -> ItemState:
    if item is not None and item.result is not None:
        return ItemState.ENDED
    if index in read.running:
        return ItemState.RUNNING
    return ItemState.DEFERRED if index in read.deferred else ItemState.WAITING


def _output(output: str | None) -> JsonValue:
    if output is None:
        return None
    try:
        return masked(from_json(output))
    except ValueError:
        return masked_text(output)
