"""What the ledger knows of a node run, and the pure functions that decide.

`apply` is the only way a state changes: `(state, event) -> state`. It reads no clock, draws no random number, and does
no I/O, so the same events give the same state after any crash. `ask_of_item` and `ask_of_run` say what a state wants
done next. Every event may come twice, or again after a crash: the second is harmless.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, TypeAlias, TypedDict

from port.models import Result
from streams.records import (
    Action,
    ArrayPolicy,
    Arrival,
    Body,
    By,
    DeferralExpired,
    FailureTold,
    GraceOver,
    ItemAgain,
    ItemCompleted,
    ItemDeferred,
    ItemFinished,
    ItemRetry,
    Lines,
    NodeRunEvent,
    Record,
    ReportAgain,
    ReportAnswered,
    ReportStopped,
    RunCancelled,
    Settled,
    Source,
)
from tables.history import (
    MAX_REASON_CHARACTERS,
    Again,
    EarlierAnswer,
    EarlierCall,
    EarlierCalls,
    How,
    RunHistory,
    called_again,
    first_line,
    with_answer,
    with_call,
    with_cancellation,
    with_completion,
    with_soft_cancel,
    with_tries,
)

_SHOWN_EVENT_TYPES: Final = 8


class State(StrEnum):
    """Where a node run stands, in the words of every view and metric."""

    WAITING = "waiting"
    RUNNING = "running"
    DEFERRED = "deferred"
    REPORTING = "reporting"
    REPORTED = "reported"
    REFUSED = "refused"
    CANCELLED = "cancelled"
    COMPLETED = "completed"


class Stop(StrEnum):
    """Why the items of a node run that have not ended are cancelled."""

    SOFT = "soft"
    """Port is cancelling its workflow run: no item begins or is called again. A call that runs may end, and a deferred
    item waits for its word."""
    REST = "rest"
    """Its array policy cannot be met any more."""
    RUN = "run"
    """Its workflow run was cancelled, and is over."""
    HAND = "hand"
    """Somebody has cancelled it by hand."""
    OVER = "over"
    """Port has ended the node run itself, as its workflow run was cancelled: nothing is reported."""
    ELSEWHERE = "elsewhere"
    """Somebody else has completed the node run at Port: nothing is reported."""

    def outdoes(self, other: Stop | None) -> bool:
        """Whether it stops more than the other does, and so takes its place."""
        return other is None or _STRENGTH[self] > _STRENGTH[other]


_STRENGTH: Final = {Stop.SOFT: 0, Stop.REST: 1, Stop.RUN: 2, Stop.HAND: 2, Stop.OVER: 3, Stop.ELSEWHERE: 3}


class Item(Record):
    """One payload object of a node run. Written when something becomes known of it that a restart must not forget."""

    index: int
    message: int
    """The index of the first item of the message that it came in; its own where another system had said how it ended
    before anything else was written of it."""
    event_type: str | None = None
    attempt: int = 0
    """How many times the handler has been called for good; a run cut off by a crash does not count."""
    due_at: float | None = None
    """When the handler is to be called again, in epoch seconds."""
    result: Result | None = None
    output: str | None = None
    error: str | None = None
    trace: str | None = None
    """The stack trace of the exception that ended the last call: for the views, never in the report."""
    worker: str | None = None
    started_at: float | None = None
    ended_at: float | None = None
    told: bool = False
    """Whether its failure after the report stands in the node run's log."""
    deferred_until: float | None = None
    """Until when another system may say how it ended, in epoch seconds; None where it is not deferred."""
    decided: str | None = None
    """The digest of the word of another system that has ended it."""
    decided_by: By | None = None
    decided_who: str | None = None
    """Who said that word, where a person did; None for another system."""
    reopened: int | None = None
    """How many calls there had been when it was last taken up again by hand; their outcomes are void since."""
    undone: tuple[float, ...] = ()
    """When the ends were that were undone by that, and the words that came too late: they may come again."""
    late: bool = False
    """Whether it was taken up again after the report: then its end is told in the node run's log."""
    logs: Lines | None = None
    """What the call has logged that ended it."""
    earlier: EarlierCalls | None = None
    """Its calls before that one; None where there was none."""

    @property
    def size(self) -> int:
        """How many characters its texts have, roughly."""
        size = len(self.output or "") + len(self.error or "") + len(self.trace or "")
        size += 0 if self.logs is None else self.logs.size
        return size if self.earlier is None else size + self.earlier.size

    @property
    def called_at(self) -> float | None:
        """When the call began that ended it; None where it has not ended, or no call has ended it."""
        if self.result is None or self.started_at == self.ended_at:
            return None
        known = self.earlier is not None and self.earlier.calls[-1].started_at == self.started_at
        return None if known else self.started_at


class Message(Record):
    """A message that was kept: its text, and the items in it."""

    first: int
    """The index of its first item."""
    count: int
    digest: str
    text: str = ""
    note: str | None = None
    """What of the text is not as it came."""
    array: bool = False
    source: Source

    @property
    def lost(self) -> bool:
        """Whether it stands for a message whose row cannot be read."""
        return not self.digest


class NodeRun(Record):
    """A node run. What grows with its items stands in rows of its own; this row stays small.

    `item` is item 0 and `message` the first message, where they are small enough to stand here: most node runs are
    then one row.
    """

    node_run_id: str
    workflow_run_id: str | None = None
    workflow: str | None = None
    node: str | None = None
    received_at: float
    """Kafka's timestamp of the first message, in epoch seconds."""
    event_types: tuple[str, ...] = ()
    array: bool = False
    """Whether the payload of the first message is an array."""
    items: int = 0
    policy: ArrayPolicy | None = None
    """As the first message brought it; None where all items must succeed."""
    guessed: bool = False
    """Whether a message of it had its payload at the root: FAILED is reported only where Port shows it as open."""
    stopped: Stop | None = None
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    last_ended_at: float | None = None
    grace_from: float | None = None
    """When the last known item ended, where `REPORT_GRACE` must pass before the report."""
    covered: int | None = None
    """How many items the report covers: frozen, with `result`, before the first report is sent."""
    result: Result | None = None
    body: Body = Body.FULL
    report: int = 0
    """Counts the reports that were asked for by hand after Port had refused one."""
    port_result: str | None = None
    """Port's own result, where that is known and is not that of our report."""
    settled: Settled | None = None
    status: int | None = None
    reason: str | None = None
    settled_at: float | None = None
    again: int = 0
    """Counts how often something of it was taken up again by hand."""
    untold: int = 0
    """Ends after the report that are not yet in the node run's log: of failures, and of items taken up again."""
    digest: str
    """Of the first message."""
    history: RunHistory | None = None
    """For the views; None where there is nothing to remember."""
    item: Item | None = None
    message: Message | None = None

    @property
    def all_ended(self) -> bool:
        """Whether every item that has come so far has ended."""
        return self.succeeded + self.failed + self.cancelled == self.items

    @property
    def needed(self) -> int:
        """How many of the items that have come so far must succeed."""
        return self.items if self.policy is None else self.policy.needed(self.items)

    @property
    def hopeless(self) -> bool:
        """Whether the array policy can certainly not be met any more, and the rest is to be cancelled then.

        Where an array comes as several messages nobody knows how many items are still to come: then only the failure
        of one where all must succeed is certain.
        """
        if self.policy is None or not self.policy.cancel_rest:
            return False
        return self.failed > self.items - self.needed and (self.array or self.policy.share == 1)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.settled is not None and self.all_ended and not self.untold


GONE_ON: Final = "it has gone on meanwhile: look again"


def seen_of(run: NodeRun) -> str:
    """Return what somebody who looks at a node run sees of what can be done to it.

    It stays while its items go on, and changes where something was done to it by hand, or its report, or its end.
    """
    parts = (run.report, run.again, run.covered, run.stopped, run.settled)
    return "-".join("" if part is None else str(part) for part in parts)


def lost_item(run: NodeRun, index: int) -> Item:
    """Return what stands for an item whose row cannot be read: FAILED, because nobody knows whether it succeeded.

    Its handler is not called again by itself: it may have done its work. A person may ask for that.
    """
    return Item(
        index=index,
        message=index,
        attempt=1,
        result=Result.FAILED,
        error=(
            "what was kept of this item cannot be read any more: whether its handler has succeeded is not known; look "
            "there before you retry it"
        ),
        ended_at=run.received_at,
    )


def lost_message(run: NodeRun, first: int, count: int) -> Message:
    """Return what stands for a message whose row cannot be read: one without a text."""
    source = Source(cluster="", topic="", partition=0, offset=-1, timestamp=run.received_at)
    return Message(first=first, count=count, digest="", array=run.array, source=source)


def state_of(run: NodeRun, *, running: bool = False, deferred: bool = False) -> State:
    """Return where the node run stands. Its owner knows whether an item runs, or all wait for a time to come."""
    if run.settled is not None:
        return _SETTLED.get(run.settled, State.REPORTED)
    if run.covered is not None:
        return State.REPORTING
    if running:
        return State.RUNNING
    return State.DEFERRED if deferred or run.grace_from is not None else State.WAITING


_SETTLED: Final = {
    Settled.REFUSED: State.REFUSED,
    Settled.CANCELLED: State.CANCELLED,
    Settled.COMPLETED: State.COMPLETED,
}


class Note(StrEnum):
    """What an event turned out to be, for the counters."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    LATE = "late"
    """For a node run or an item that is not known."""
    REFUSED = "refused"
    """Another system's word on an item that has ended otherwise, or what somebody asks for that cannot be."""


@dataclass(frozen=True)
class Change:
    """What an event makes of a state: the rows to write, even where they equal what stands there already.

    After a crash the local store may be ahead of its changelog; so a repeated event writes its rows again.
    """

    run: NodeRun | None
    note: Note
    item: Item | None = None
    message: Message | None = None
    why: str = ""
    """Why it is REFUSED, for people."""


def apply_arrival(run: NodeRun | None, known: Message | None, arrival: Arrival) -> Change:
    """Apply an arrival.

    Args:
        run: the node run, open or finished; None if it is new.
        known: the message of the node run with the arrival's digest, if it has one already.
        arrival: the event.
    """
    if run is not None and known is not None and known.first < run.items:
        return Change(run, Note.DUPLICATE, message=known)
    if run is None:
        run = NodeRun(
            node_run_id=arrival.node_run_id,
            workflow_run_id=arrival.workflow_run_id,
            workflow=arrival.workflow,
            node=arrival.node,
            received_at=arrival.source.timestamp,
            array=arrival.array,
            digest=arrival.digest,
            policy=arrival.policy,
            v=arrival.v,
        )
    message = Message(
        first=run.items,
        count=arrival.count,
        digest=arrival.digest,
        text=arrival.text,
        note=arrival.note,
        array=arrival.array,
        source=arrival.source,
    )
    run = run.model_copy(
        update={
            "items": run.items + arrival.count,
            "event_types": tuple(dict.fromkeys(run.event_types + arrival.event_types))[:_SHOWN_EVENT_TYPES],
            "workflow_run_id": run.workflow_run_id or arrival.workflow_run_id,
            "guessed": run.guessed or arrival.guessed,
            "grace_from": None,
        }
    )
    if arrival.problem is None:
        return Change(run, Note.APPLIED, message=message)
    item = Item(
        index=message.first,
        message=message.first,
        result=Result.FAILED,
        error=arrival.problem,
        ended_at=arrival.source.timestamp,
    )
    return Change(_count(run, item, grace=0.0), Note.APPLIED, item=item, message=message)


def apply(run: NodeRun | None, item: Item | None, event: NodeRunEvent, *, grace: float = 0.0) -> Change:
    """Apply an event of the outcomes topic.

    Args:
        run: the node run, open or finished; None if it is not known.
        item: the item that the event names, None if nothing is written of it yet.
        event: the event.
        grace: `REPORT_GRACE`, in seconds.
    """
    if run is None:
        return Change(None, Note.LATE)
    match event:
        case GraceOver():
            return _grace_over(run, event)
        case ReportAnswered():
            return _report_answered(run, event)
        case RunCancelled():
            return _run_cancelled(run, event, grace)
        case ReportAgain():
            return _report_again(run, event)
        case ReportStopped():
            return _report_stopped(run, event)
        case _:
            return _apply_to_item(run, item, event, grace)


ItemEvent: TypeAlias = (
    ItemFinished | ItemRetry | ItemDeferred | ItemCompleted | DeferralExpired | FailureTold | ItemAgain
)


def _apply_to_item(run: NodeRun, item: Item | None, event: ItemEvent, grace: float) -> Change:
    match event:
        case ItemFinished():
            return _item_finished(run, item, event, grace)
        case ItemRetry():
            return _item_retry(run, item, event)
        case ItemDeferred():
            return _item_deferred(run, item, event)
        case ItemCompleted():
            return _item_completed(run, item, event, grace)
        case DeferralExpired():
            return _deferral_expired(run, item, event, grace)
        case FailureTold():
            return _failure_told(run, item, event)
        case ItemAgain():
            return _item_again(run, item, event)


def _item_finished(run: NodeRun, item: Item | None, event: ItemFinished, grace: float) -> Change:
    if event.index >= run.items:
        return Change(run, Note.LATE)
    if item is not None and (item.result is not None or _awaits_word(run, item, event)):
        # After a crash the item's row may have survived and its node run's row not: then it is this that closes.
        return Change(closed(run, grace), Note.DUPLICATE, item=item)
    if item is not None and _is_void(run, item, event):
        return Change(run, Note.DUPLICATE, item=item)
    ended = Item(
        v=event.v if item is None or item.reopened is None else 2,
        index=event.index,
        message=event.message,
        event_type=event.event_type,
        attempt=event.attempt,
        result=event.result,
        output=event.output,
        error=event.error,
        trace=event.trace,
        worker=event.worker,
        started_at=event.started_at,
        ended_at=event.ended_at,
        logs=event.logs,
        **_kept(item),
    )
    return Change(_count(run, ended, grace), Note.APPLIED, item=ended)


def _is_void(run: NodeRun, item: Item, event: ItemFinished) -> bool:
    """Whether it is the outcome of a call that was made before the item was taken up again.

    Where the node run is being cancelled since then, an item ends without a call; else a cancellation is an old one.
    """
    cancels = event.result is Result.CANCELLED and run.stopped is not None
    return item.reopened is not None and not cancels and event.attempt <= item.reopened


class _Kept(TypedDict, total=False):
    reopened: int | None
    undone: tuple[float, ...]
    late: bool
    earlier: EarlierCalls | None


def _kept(item: Item | None) -> _Kept:
    """Return what an item keeps through its further calls: the earlier ones, and that it was taken up again."""
    if item is None:
        return {}
    if item.reopened is None:
        return {"earlier": item.earlier}
    return {"reopened": item.reopened, "undone": item.undone, "late": item.late, "earlier": item.earlier}


def _with_call(item: Item | None, call: EarlierCall) -> _Kept:
    """Return what an item keeps, with a call that was not its last."""
    kept = _kept(item)
    kept["earlier"] = with_call(kept.get("earlier"), call)
    return kept


def _awaits_word(run: NodeRun, item: Item, event: ItemFinished) -> bool:
    """Whether the item is deferred, and so not ended by what a call says that was made before, nor by a soft cancel."""
    cancels = event.result is Result.CANCELLED and run.stopped is not Stop.SOFT
    return item.deferred_until is not None and not cancels


def _count(run: NodeRun, item: Item, grace: float) -> NodeRun:
    failed, cancelled = item.result is Result.FAILED, item.result is Result.CANCELLED
    counted = run.model_copy(
        update={
            "succeeded": run.succeeded + (not failed and not cancelled),
            "failed": run.failed + failed,
            "cancelled": run.cancelled + cancelled,
            "untold": run.untold + _is_untold(run, item),
            "last_ended_at": item.ended_at,
        }
    )
    return closed(counted, grace)


def _is_untold(run: NodeRun, item: Item) -> bool:
    """Whether the item ended after the report, and that is still to be told in the node run's log."""
    if run.covered is None or item.result is None or item.told:
        return False
    return item.late or (item.index >= run.covered and item.result is Result.FAILED)


def closed(run: NodeRun, grace: float) -> NodeRun:
    """Return a node run with what its items' ends make of it.

    Where its array policy cannot be met any more, its rest is to be cancelled. When every item has ended, what is
    reported is frozen, or the grace before that begins.
    """
    if run.covered is not None:
        return run
    if run.hopeless and Stop.REST.outdoes(run.stopped):
        run = run.model_copy(update={"v": 2, "stopped": Stop.REST})
    if not run.all_ended:
        return run
    if not grace:
        return _freeze(run)
    return run if run.grace_from is not None else run.model_copy(update={"grace_from": run.last_ended_at})


def _freeze(run: NodeRun) -> NodeRun:
    frozen: dict[str, object] = {"covered": run.items, "result": _result(run), "grace_from": None}
    if run.stopped is Stop.OVER:
        frozen |= {"settled": Settled.CANCELLED, "settled_at": run.last_ended_at}
    elif run.stopped is Stop.ELSEWHERE:
        frozen |= _completed_elsewhere(run.port_result, run.last_ended_at)
    return run.model_copy(update=frozen)


def _completed_elsewhere(port_result: str | None, at: float | None) -> dict[str, object]:
    """Return what stands in a node run that somebody else has completed at Port: its result is Port's own."""
    result = next((one for one in Result if one == port_result), None)
    return {"settled": Settled.COMPLETED, "settled_at": at, "result": result}


def _result(run: NodeRun) -> Result:
    if run.cancelled and run.stopped is not Stop.REST:
        return Result.CANCELLED
    met = run.succeeded >= run.needed and run.stopped is not Stop.REST
    return Result.SUCCESS if met else Result.FAILED


def _run_cancelled(run: NodeRun, event: RunCancelled, grace: float) -> Change:
    if event.over and event.action is not None:
        return _completed_by_hand(run, event, event.action, grace)
    if run.covered is not None and event.action is not None:
        return Change(run, Note.REFUSED, why="every item has ended: there is nothing to cancel any more")
    stop = _stop_of(event)
    if event.seen is not None and event.seen != seen_of(run) and stop.outdoes(run.stopped):
        return Change(run, Note.REFUSED, why=GONE_ON)
    if run.covered is not None:
        return Change(run, Note.DUPLICATE)
    if not stop.outdoes(run.stopped):
        return Change(closed(run, grace), Note.DUPLICATE)
    if stop is Stop.SOFT:
        history = with_soft_cancel(run.history, event.at)
    else:
        who = Again(who="", at=event.at) if event.action is None else Again.of(event.action, event.at)
        history = with_cancellation(run.history, who)
    update = {"v": 2, "stopped": stop, "history": history, "port_result": event.port_result}
    return Change(closed(run.model_copy(update=update), grace), Note.APPLIED)


def _completed_by_hand(run: NodeRun, event: RunCancelled, action: Action, grace: float) -> Change:
    """Take note that Port took somebody's completion: that is the result, and no report of ours is taken any more."""
    if run.history is not None and run.history.completed is not None:
        return Change(closed(run, grace), Note.DUPLICATE)
    history = with_completion(run.history, Again.of(action, event.at))
    update: dict[str, object] = {"v": 2, "port_result": event.port_result, "history": history}
    if run.covered is None:
        return Change(closed(run.model_copy(update=update | {"stopped": Stop.ELSEWHERE}), grace), Note.APPLIED)
    at = event.at if run.settled_at is None else run.settled_at
    return Change(run.model_copy(update=update | _completed_elsewhere(event.port_result, at)), Note.APPLIED)


def _stop_of(event: RunCancelled) -> Stop:
    if event.over:
        return Stop.ELSEWHERE if event.elsewhere else Stop.OVER
    if event.soft:
        return Stop.SOFT
    return Stop.RUN if event.action is None else Stop.HAND


def _item_retry(run: NodeRun, item: Item | None, event: ItemRetry) -> Change:
    if event.index >= run.items:
        return Change(run, Note.LATE)
    if _has_gone_on(item, event.attempt):
        return Change(run, Note.DUPLICATE, item=item)
    call = EarlierCall(
        attempt=event.attempt,
        how=How.RETRY if event.asked else How.RAISED,
        started_at=event.started_at,
        ended_at=event.ended_at,
        error=first_line(event.error),
        worker=event.worker,
        due_at=event.due_at,
        logs=event.logs,
    )
    waiting = Item(
        index=event.index,
        message=event.message,
        event_type=event.event_type,
        attempt=event.attempt,
        due_at=event.due_at,
        error=event.error,
        trace=event.trace,
        worker=event.worker,
        v=event.v if item is None or item.reopened is None else 2,
        **_with_call(item, call),
    )
    return Change(run, Note.APPLIED, item=waiting)


def _has_gone_on(item: Item | None, attempt: int) -> bool:
    """Whether what a call left open is of no interest: the item has ended or is deferred, or a later call was made."""
    return item is not None and (item.result is not None or item.deferred_until is not None or item.attempt >= attempt)


def _item_deferred(run: NodeRun, item: Item | None, event: ItemDeferred) -> Change:
    if event.index >= run.items:
        return Change(run, Note.LATE)
    if _has_gone_on(item, event.attempt):
        return Change(run, Note.DUPLICATE, item=item)
    call = EarlierCall(
        attempt=event.attempt,
        how=How.DEFERRED,
        started_at=event.started_at,
        ended_at=event.at,
        worker=event.worker,
        due_at=event.until,
        logs=event.logs,
    )
    deferred = Item(
        v=2,
        index=event.index,
        message=event.message,
        event_type=event.event_type,
        attempt=event.attempt,
        worker=event.worker,
        started_at=event.started_at,
        deferred_until=event.until,
        **_with_call(item, call),
    )
    return Change(run, Note.APPLIED, item=deferred)


def _item_completed(run: NodeRun, item: Item | None, event: ItemCompleted, grace: float) -> Change:
    if event.index >= run.items:
        return Change(run, Note.LATE)
    if item is not None and item.result is not None:
        heard = item.decided == event.digest or event.at in item.undone
        if not heard:
            # Said too late: should the item be taken up again, and this word come again, it is of no interest either.
            item = item.model_copy(update={"v": 2, "undone": (*item.undone, event.at)[-_MOST_UNDONE:]})
        return Change(closed(run, grace), Note.DUPLICATE if heard else Note.REFUSED, item=item)
    if item is not None and event.at in item.undone:
        return Change(run, Note.DUPLICATE, item=item)
    known = item or Item(index=event.index, message=event.index, event_type=event.event_type)
    said = {"result": event.result, "output": event.output, "error": event.error, "ended_at": event.at}
    decided = {"v": 2, "decided": event.digest, "decided_by": event.by, "deferred_until": None, "due_at": None}
    who = {"decided_who": None if event.action is None else event.action.who}
    ended = known.model_copy(update=said | decided | who)
    return Change(_count(run, ended, grace), Note.APPLIED, item=ended)


def _deferral_expired(run: NodeRun, item: Item | None, event: DeferralExpired, grace: float) -> Change:
    if item is None:
        return Change(run, Note.LATE)
    if item.result is not None or item.deferred_until != event.until:
        return Change(closed(run, grace), Note.DUPLICATE, item=item)
    deadline = datetime.fromtimestamp(event.until, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    failed = {"result": Result.FAILED, "error": f"no callback came before the deadline of {deadline}"}
    ended = item.model_copy(update=failed | {"ended_at": event.until, "deferred_until": None})
    return Change(_count(run, ended, grace), Note.APPLIED, item=ended)


_MOST_UNDONE: Final = 50


def _item_again(run: NodeRun, item: Item | None, event: ItemAgain) -> Change:
    """Take an item up again: one that has FAILED anew, one that waits for a retry at once.

    What was reported stays so: Port takes no second result of a node run. Where it has taken the first one the call is
    made all the same, for what it does, and its end is told in the node run's log. Where Port has refused the report it
    knows of none: the node run is open again, and reported anew.
    """
    asked = Again.of(event.action, event.at)
    if item is None or event.index >= run.items:
        return Change(run, Note.REFUSED, item=item, why="the item has not been called yet")
    if item.reopened is not None and item.result is None and event.ended_at in item.undone:
        # After a crash the item's row may have survived and its node run's row not: then it is this that opens it.
        return Change(_opened(run, asked), Note.DUPLICATE, item=item)
    if (item.attempt, item.ended_at) != (event.attempt, event.ended_at):
        return Change(run, Note.REFUSED, item=item, why=GONE_ON)
    if (why := _obstacle(run, item)) is not None:
        return Change(run, Note.REFUSED, item=item, why=why)
    if item.result is None:
        now = {"v": 2, "due_at": None, "earlier": called_again(item.earlier, asked)}
        return Change(run, Note.APPLIED, item=item.model_copy(update=now))
    again = Item(
        v=2,
        index=item.index,
        message=item.message,
        event_type=item.event_type,
        # Where another system said how it ended, a call may have been under way of which nothing is written.
        attempt=item.attempt + (item.decided is not None),
        error=item.error,
        trace=item.trace,
        worker=item.worker,
        reopened=item.attempt + (item.decided is not None),
        undone=(*item.undone, event.ended_at or 0.0)[-_MOST_UNDONE:],
        late=run.settled is not None and run.settled is not Settled.REFUSED,
        earlier=with_call(item.earlier, _undone(item, asked)),
    )
    counted = {"v": 2, "failed": run.failed - 1, "again": run.again + 1}
    return Change(_opened(run.model_copy(update=counted), asked), Note.APPLIED, item=again)


def _undone(item: Item, again: Again) -> EarlierCall:
    """Return the end of an item that is taken up again, as one of its earlier calls."""
    return EarlierCall(
        attempt=item.attempt,
        how=How.FAILED,
        started_at=item.called_at,
        ended_at=item.ended_at,
        error=first_line(item.error),
        worker=item.worker,
        decided_by=item.decided_by,
        decided_who=item.decided_who,
        logs=item.logs,
        again=again,
    )


def _obstacle(run: NodeRun, item: Item) -> str | None:
    """Return why an item cannot be taken up again; None where it can."""
    if run.stopped is Stop.ELSEWHERE or run.settled is Settled.COMPLETED:
        return "the node run is completed at Port by somebody else"
    if run.stopped is not None or run.settled is Settled.CANCELLED:
        return "the node run is cancelled"
    if item.result is None:
        return None if item.due_at is not None else "the item has not ended: it runs, or waits for its turn or a word"
    if item.result is not Result.FAILED:
        return f"the item has ended with {item.result}: only one that has FAILED is called again"
    if item.attempt == 0 and item.decided is None:
        return "its message cannot be handled"
    if run.covered is not None and run.settled is None:
        return "the report is on its way to Port: what it says cannot change until Port has answered"
    return "its failure is just being told in the node run's log" if _is_untold(run, item) else None


def _opened(run: NodeRun, asked: Again) -> NodeRun:
    """Return a node run with an item that was taken up again."""
    if run.settled is Settled.REFUSED:
        run = _again(run, asked).model_copy(update={"covered": None, "result": None, "untold": 0})
    return run.model_copy(update={"grace_from": None})


def _again(run: NodeRun, asked: Again) -> NodeRun:
    """Return a node run whose report Port has refused as one that is yet to be reported."""
    refused = EarlierAnswer(
        report=run.report,
        body=run.body,
        settled=Settled.REFUSED,
        status=run.status,
        reason=first_line(run.reason),
        at=run.settled_at,
        tries=None if run.history is None else run.history.tries,
        again=asked,
    )
    fresh = {"v": 2, "report": run.report + 1, "settled": None, "settled_at": None, "body": Body.FULL}
    return run.model_copy(update=fresh | {"history": with_answer(run.history, refused)})


def _report_again(run: NodeRun, event: ReportAgain) -> Change:
    if run.settled is Settled.REFUSED and event.report == run.report:
        return Change(_again(run, Again.of(event.action, event.at)), Note.APPLIED)
    if event.report < run.report:
        return Change(run, Note.DUPLICATE)
    if run.covered is not None and run.settled is None and event.report == run.report:
        # It is on its way, or waits for its next try: that is made now.
        return Change(run, Note.APPLIED)
    return Change(run, Note.REFUSED, why="Port has not refused its report, and it is not on its way")


def _report_stopped(run: NodeRun, event: ReportStopped) -> Change:
    """Settle a report as refused that Port has neither taken nor refused. What Port may yet say of it counts."""
    if event.report < run.report or (run.settled is Settled.REFUSED and event.report == run.report):
        return Change(run, Note.DUPLICATE)
    if run.covered is None or run.settled is not None or event.report != run.report:
        return Change(run, Note.REFUSED, why="it has no report that waits for Port")
    who = event.action.who[:MAX_REASON_CHARACTERS]
    said = f"; Port's latest answer: {event.reason}" if event.reason else ""
    given_up = {"settled": Settled.REFUSED, "settled_at": event.at, "status": event.status}
    tried = {} if event.tries is None else {"history": with_tries(run.history, event.tries)}
    reason = {"v": 2, "reason": f"given up by hand ({who}){said}"}
    return Change(run.model_copy(update=given_up | reason | tried), Note.APPLIED)


def _grace_over(run: NodeRun, event: GraceOver) -> Change:
    if run.covered is not None or event.items != run.items or not run.all_ended or event.since != run.grace_from:
        return Change(run, Note.DUPLICATE)
    return Change(_freeze(run), Note.APPLIED)


def _report_answered(run: NodeRun, event: ReportAnswered) -> Change:
    if run.covered is None:
        return Change(run, Note.LATE)
    if event.body is not run.body or event.report != run.report:
        return Change(run, Note.DUPLICATE)
    # One that was given up, or refused to an earlier owner, may have been on its way: Port took it all the same.
    taken = run.settled is Settled.REFUSED and event.settled is Settled.REPORTED
    if run.settled is not None and not taken:
        return Change(run, Note.DUPLICATE)
    answered: dict[str, object] = {"status": event.status, "reason": event.reason or None}
    if event.settled is Settled.OUTPUT_REFUSED and run.body is Body.FULL:
        smaller = {"body": Body.SMALL, "history": with_answer(run.history, _earlier(event))}
        return Change(run.model_copy(update=answered | smaller), Note.APPLIED)
    if event.tries is not None:
        answered["history"] = with_tries(run.history, event.tries)
    settled = Settled.REFUSED if event.settled is Settled.OUTPUT_REFUSED else event.settled
    settling = {"v": max(run.v, event.v), "settled": settled, "settled_at": event.at, "port_result": event.port_result}
    return Change(run.model_copy(update=answered | settling), Note.APPLIED)


def _earlier(event: ReportAnswered) -> EarlierAnswer:
    return EarlierAnswer(
        report=event.report,
        body=event.body,
        settled=event.settled,
        status=event.status,
        reason=first_line(event.reason),
        at=event.at,
        tries=event.tries,
    )


def _failure_told(run: NodeRun, item: Item | None, event: FailureTold) -> Change:
    if item is None or item.result is None or item.told or run.untold == 0:
        return Change(run, Note.DUPLICATE, item=item)
    if event.attempt is not None and event.attempt != item.attempt:
        return Change(run, Note.DUPLICATE, item=item)
    told = item.model_copy(update={"told": True})
    return Change(run.model_copy(update={"untold": run.untold - 1}), Note.APPLIED, item=told)


def recount(run: NodeRun, items: Iterable[Item]) -> NodeRun:
    """Return the node run with its counters as its item rows say; `items` is read once.

    After a crash the item rows may be ahead of the node run's row, by events that will come again.
    """
    succeeded = failed = cancelled = untold = 0
    last_ended_at = run.last_ended_at
    for item in items:
        if item.result is None or item.index >= run.items:
            continue
        succeeded += item.result is Result.SUCCESS
        cancelled += item.result is Result.CANCELLED
        failed += item.result is Result.FAILED
        untold += _is_untold(run, item)
        if item.ended_at is not None:
            last_ended_at = max(last_ended_at or item.ended_at, item.ended_at)
    counters = {"succeeded": succeeded, "failed": failed, "cancelled": cancelled, "untold": untold}
    return run.model_copy(update=counters | {"last_ended_at": last_ended_at})


@dataclass(frozen=True)
class Run:
    """Call the handler of the item: now, or at `at` (epoch seconds)."""

    index: int
    at: float | None


@dataclass(frozen=True)
class AwaitWord:
    """Send `DeferralExpired` at `until` (epoch seconds), where no other system has said by then how the item ended."""

    index: int
    until: float


@dataclass(frozen=True)
class Cancel:
    """End the item as cancelled: without a call, or in the midst of one, which `Stop.SOFT` lets go on."""

    index: int
    why: Stop


@dataclass(frozen=True)
class Tell:
    """Write how the item ended into the node run's log at Port."""

    index: int


@dataclass(frozen=True)
class Report:
    """Complete the node run at Port, with this body."""

    body: Body


@dataclass(frozen=True)
class EndGrace:
    """Send `GraceOver` when `REPORT_GRACE` has passed since `since` (epoch seconds)."""

    since: float
    items: int


ItemAsk: TypeAlias = Run | AwaitWord | Cancel | Tell | None
RunAsk: TypeAlias = Report | EndGrace | None


def ask_of_item(run: NodeRun, index: int, item: Item | None) -> ItemAsk:
    """Return what an item of an open node run wants done; `item` is None if nothing is written of it yet."""
    if item is None or item.result is None:
        return _ask_of_open_item(run, index, item)
    return Tell(index) if _is_untold(run, item) else None


def _ask_of_open_item(run: NodeRun, index: int, item: Item | None) -> Run | AwaitWord | Cancel:
    until = None if item is None else item.deferred_until
    if run.stopped is not None and (until is None or run.stopped is not Stop.SOFT):
        return Cancel(index, run.stopped)
    if until is not None:
        return AwaitWord(index, until)
    return Run(index, None if item is None else item.due_at)


def ask_of_run(run: NodeRun) -> RunAsk:
    """Return what the node run as a whole wants done."""
    if run.settled is not None:
        return None
    if run.covered is not None:
        return Report(run.body)
    return EndGrace(run.grace_from, run.items) if run.grace_from is not None else None
