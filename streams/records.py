"""The records on the application's own topics, as frozen pydantic models.

Every record carries its format version `v`: that of the first format in which it could be written. A record of a newer
format ends the process (`NewerFormatError`): during a rolling upgrade an old worker must neither drop nor overwrite
what it cannot read. So what an older worker would misread, a new kind of event or a new state, is of a new format; all
else keeps its own.

| format | new in it |
|---|---|
| 2 | what is deferred, and what a callback decides; cancellation, and the policies of arrays; what people ask for |
"""

from __future__ import annotations

from enum import StrEnum
from functools import cached_property
from math import ceil
from typing import Annotated, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from port.models import LogLevel, LogLine, Result

FORMAT: Final = 2


class NewerFormatError(Exception):
    """A record was written by a newer version of the application than this one."""


class UnreadableError(Exception):
    """The bytes are no record of the expected kind; the text says why."""


class Kept(BaseModel):
    """Base of what is kept, and of its parts. Numbers are finite: JSON has no others, and none would be read back."""

    # A number that is not finite is written as a constant, which reading refuses; as `null` it would pass unnoticed.
    model_config = ConfigDict(frozen=True, allow_inf_nan=False, ser_json_inf_nan="constants", hide_input_in_errors=True)


class Record(Kept):
    """Base of everything that is written to an own topic or table."""

    v: Literal[1, 2] = 1

    def encode(self) -> bytes:
        """Return the record as JSON bytes."""
        return self.model_dump_json(exclude_none=True).encode()


class Source(Kept):
    """Where a message stands on the source cluster: the identity of an arrival."""

    cluster: str
    topic: str
    partition: int
    offset: int
    timestamp: float
    """Kafka's record timestamp, in epoch seconds."""
    appended: bool = False
    """Whether that is when the broker has appended the record (`LogAppendTime`), not when it was sent."""


class ArrayPolicy(Kept):
    """How many items of a node run must succeed, where that is not simply all of them."""

    share: float = Field(ge=0, le=1)
    """The part of the items; one item at least: 0 stands for any one."""
    cancel_rest: bool
    """Whether the rest is cancelled when that cannot be reached any more."""

    def needed(self, items: int) -> int:
        """Return how many of so many items must succeed."""
        # 0.07 * 100 is a little more than 7.
        return max(1, ceil(self.share * items - 1e-9))


class Arrival(Record):
    """A Kafka-node message of ours, on the arrivals topic, keyed by node-run id."""

    node_run_id: str
    workflow_run_id: str | None = None
    workflow: str | None = None
    node: str | None = None
    source: Source
    digest: str
    """Of the message's content: the same digest is the same message."""
    text: str = ""
    """The message as it came. Empty where it has too many bytes or items, or is no text: then it is a dead letter."""
    note: str | None = None
    """What of the text is not as it came."""
    guessed: bool = False
    """Whether the payload is what stood at the root of the message: FAILED is not reported then without a look."""
    array: bool = False
    """Whether the payload is an array."""
    count: int = Field(default=1, ge=1)
    """How many items the payload holds."""
    event_types: tuple[str, ...] = ()
    """The first few different event types of the items, for the web views."""
    policy: ArrayPolicy | None = None
    """That of the first item's handler when the message came; None where all items must succeed."""
    problem: str | None = None
    """Why the payload cannot be handled; the node run's item is then FAILED with this reason."""


class Action(Kept):
    """Who has asked for something by hand, and which request it was."""

    id: str
    """Of the request: the same id is the same request again."""
    who: str
    """How the asker is known, such as `web` or `cli: anna`; never a secret."""


_LINE_CHARACTERS: Final = 64
"""What a line takes beside its text."""


class Line(Kept):
    """A line that a call has logged."""

    at: float
    """In epoch seconds."""
    level: LogLevel
    text: str

    @property
    def size(self) -> int:
        """How many characters it takes, roughly."""
        return _LINE_CHARACTERS + len(self.text)


class Lines(Kept):
    """The latest lines that a call has logged; who makes them keeps them few, with the secrets of the call masked."""

    latest: tuple[Line, ...] = ()
    left_out: int = 0
    """How many there were before."""

    @property
    def size(self) -> int:
        """How many characters they take, roughly."""
        return sum(line.size for line in self.latest)


class ItemFinished(Record):
    """An item ended: the handler returned, failed for good, its deadline passed, or it was cancelled."""

    kind: Literal["item_finished"] = "item_finished"
    node_run_id: str
    index: int
    message: int
    """The index of the first item of the message that the item came in."""
    event_type: str | None = None
    attempt: int
    result: Result
    output: str | None = None
    """The handler's output as JSON text of an object."""
    error: str | None = None
    trace: str | None = None
    """The stack trace of the exception, where one ended it: for our own views, never for Port."""
    worker: str
    started_at: float
    ended_at: float
    logs: Lines | None = None
    """What the call has logged; None where that is nothing. It went to Port, too."""


class ItemRetry(Record):
    """A handler asked to be called again, or raised with retries left."""

    kind: Literal["item_retry"] = "item_retry"
    node_run_id: str
    index: int
    message: int
    event_type: str | None = None
    attempt: int
    """How many times the handler has been called by now."""
    due_at: float
    error: str
    trace: str | None = None
    """As of `ItemFinished`."""
    worker: str
    started_at: float | None = None
    """When the call was; None in a record of an earlier version."""
    ended_at: float | None = None
    asked: bool = False
    """Whether the handler asked for it; else it raised."""
    logs: Lines | None = None
    """As of `ItemFinished`."""


class ItemDeferred(Record):
    """A handler returned `Deferred`: another system will say how the item ended, until `until`."""

    kind: Literal["item_deferred"] = "item_deferred"
    v: Literal[2] = 2
    node_run_id: str
    index: int
    message: int
    event_type: str | None = None
    attempt: int
    until: float
    """In epoch seconds."""
    link: str | None = None
    """Where people can watch the work; shown in Port."""
    worker: str
    started_at: float
    at: float
    """When the handler returned."""
    logs: Lines | None = None
    """As of `ItemFinished`."""


class By(StrEnum):
    """Who said how an item ended, where it was not its handler."""

    CALLBACK = "callback"
    CLI = "cli"
    WEB = "web"
    API = "api"


class ItemCompleted(Record):
    """Another system, or an operator, has said how an item ended. The first such word of an open item decides."""

    kind: Literal["item_completed"] = "item_completed"
    v: Literal[2] = 2
    node_run_id: str
    index: int
    event_type: str | None = None
    """The item's, where it is known: the word may come before anything is written of the item."""
    result: Result
    output: str | None = None
    """The output as JSON text of an object."""
    error: str | None = None
    digest: str
    """Of result, output and error: the same digest is the same word again."""
    logs: tuple[LogLine, ...] = ()
    """For the node run's log at Port."""
    by: By
    action: Action | None = None
    at: float


class DeferralExpired(Record):
    """Nobody has said how a deferred item ended, and its time has passed."""

    kind: Literal["deferral_expired"] = "deferral_expired"
    v: Literal[2] = 2
    node_run_id: str
    index: int
    until: float


class GraceOver(Record):
    """`REPORT_GRACE` has passed since the last known item of a node run ended."""

    kind: Literal["grace_over"] = "grace_over"
    node_run_id: str
    items: int
    """The items that the node run had when the grace began; if more have come since, the event is void."""
    since: float
    """When the grace began, in epoch seconds: the event of another one is void, too."""


class RunCancelled(Record):
    """What has not ended of a node run is cancelled: its workflow run was, Port has ended it, or somebody wants it."""

    kind: Literal["run_cancelled"] = "run_cancelled"
    v: Literal[2] = 2
    node_run_id: str
    over: bool
    """Whether Port has ended the node run itself: then nothing is to be reported any more."""
    soft: bool = False
    """Whether Port is still cancelling it (`CANCELLING`): nothing begins any more, and what runs may end."""
    elsewhere: bool = False
    """Whether it is over because somebody else has completed it at Port."""
    port_result: str | None = None
    """Port's own result, where it is over and that is known."""
    action: Action | None = None
    """Who asked for it, where it was not Port; where it is over, who completed it at Port by hand."""
    seen: str | None = None
    """What the asker saw of the node run (`tables.state.seen_of`): where it has gone on since, the event is void."""
    at: float


class ItemAgain(Record):
    """Somebody wants the handler of an item called again now: of one that has FAILED, or that waits for a retry."""

    kind: Literal["item_again"] = "item_again"
    v: Literal[2] = 2
    node_run_id: str
    index: int
    attempt: int
    """How many calls the asker knew of."""
    ended_at: float | None = None
    """When the end was that the asker knew of; None where it waited for a retry. With another end the event is void."""
    action: Action
    at: float


class ReportAgain(Record):
    """Somebody wants a report sent again that Port has refused, or now that waits for its next try."""

    kind: Literal["report_again"] = "report_again"
    v: Literal[2] = 2
    node_run_id: str
    report: int
    """Which report it was: `ReportAnswered.report`."""
    action: Action
    at: float


class Try(Kept):
    """A try of a report that settled nothing: Port had no time, no right answer, or was away."""

    at: float
    """When that was known, in epoch seconds."""
    status: int | None = None
    """None where no answer came."""
    reason: str | None = None
    """What Port said, or why no answer came; no secrets."""


class Tries(Kept):
    """The tries of a report that settled nothing."""

    count: int
    latest: tuple[Try, ...]
    """The last few of them."""


class ReportStopped(Record):
    """Somebody wants a report sent no more that Port has neither taken nor refused."""

    kind: Literal["report_stopped"] = "report_stopped"
    v: Literal[2] = 2
    node_run_id: str
    report: int
    """Which report it was: `ReportAnswered.report`."""
    status: int | None = None
    """Port's latest answer to it, as far as the asker knew."""
    reason: str = ""
    tries: Tries | None = None
    action: Action
    at: float


class TypePaused(Record):
    """Somebody wants the items of a handler of one partition to wait, or to wait no more. Sent to every partition."""

    kind: Literal["type_paused"] = "type_paused"
    v: Literal[2] = 2
    event_type: str
    """The handler's."""
    paused: bool
    action: Action
    at: float
    """In epoch seconds: of what was asked for one handler the latest counts, in whatever order it comes."""


class Audited(Record):
    """What somebody has asked for by hand, and what became of it, on the audit topic, keyed by the request's id.

    It may come twice: the first of an id is what counts. No secrets, and no outputs.
    """

    v: Literal[2] = 2
    id: str
    at: float
    who: str
    what: str
    """Such as `retry item`."""
    outcome: str
    """`applied`, or `refused`, `late`, `duplicate`: see `tables.state.Note`; `asked` of a test message."""
    why: str = ""
    """Why it was not applied, or the note that the asker left."""
    node_run_id: str | None = None
    index: int | None = None
    event_type: str | None = None
    letter: str | None = None
    """The dead letter, as `partition/offset`."""


class Body(StrEnum):
    """Which body reports a node run: the whole output, or a small one after Port refused the whole."""

    FULL = "full"
    SMALL = "small"


class Settled(StrEnum):
    """How Port answered a report."""

    REPORTED = "reported"
    REFUSED = "refused"
    OUTPUT_REFUSED = "output_refused"
    CANCELLED = "cancelled"
    """Port had ended the node run itself, as one of a workflow run that was cancelled."""
    COMPLETED = "completed"
    """Somebody else has completed the node run at Port."""


class ReportAnswered(Record):
    """Port answered a report for good."""

    kind: Literal["report_answered"] = "report_answered"
    node_run_id: str
    body: Body
    settled: Settled
    status: int | None = None
    reason: str = ""
    report: int = 0
    """Which report of the node run it was: 0 the first, one more after each that was asked for by hand."""
    port_result: str | None = None
    """Port's own result, where a look there showed another one than the report's."""
    at: float
    tries: Tries | None = None
    """Those of this worker before that answer; None where it was the first."""


class FailureTold(Record):
    """The failure of an item that ended after the report stands in the node run's log at Port."""

    kind: Literal["failure_told"] = "failure_told"
    node_run_id: str
    index: int
    attempt: int | None = None
    """Of the call whose end was told; None in a record of an earlier version."""


class RunningItem(Kept):
    """An item whose handler a worker was calling when it lost the partition."""

    worker: str
    node_run_id: str
    index: int
    attempt: int
    generation: int = 0
    """Of the ownership in which the partition heard of it; of no meaning in the word itself."""


class Released(Record):
    """A worker lost a partition and goes on with these items only; what waited there it has forgotten."""

    kind: Literal["released"] = "released"
    worker: str
    generation: int
    """Of its ownership: `tables.ownership.Ownership.generation`."""
    running: tuple[RunningItem, ...] = ()


class Died(Record):
    """A worker has died: all that it had sent to this partition stands in front of this."""

    kind: Literal["died"] = "died"
    worker: str
    generation: int
    """Of the ownership in which that was found: what has become known of the worker later it has not died of."""


class Tick(Record):
    """Nothing happened: brings the readers of a partition to its end where Faust dropped its last records."""

    kind: Literal["tick"] = "tick"


NodeRunEvent = (
    ItemFinished
    | ItemRetry
    | ItemDeferred
    | ItemCompleted
    | DeferralExpired
    | GraceOver
    | ReportAnswered
    | FailureTold
    | RunCancelled
    | ItemAgain
    | ReportAgain
    | ReportStopped
)
OutcomeEvent = Annotated[NodeRunEvent | TypePaused | Released | Died | Tick, Field(discriminator="kind")]


class LetterKind(StrEnum):
    """Why a record went to the dead letters."""

    UNREADABLE = "unreadable"
    UNSIGNED = "unsigned"
    """Its signature is missing, or is not right."""
    UNSURE = "unsure"
    """It looks like a message of ours in a form that is not known: a node run may wait for it."""


class DeadLetter(Kept):
    """What the headers of a dead letter say; its value is the message's raw bytes, its key the message's key."""

    reason: str
    source: Source
    kind: LetterKind = LetterKind.UNREADABLE

    @cached_property
    def headers(self) -> dict[str, bytes]:
        """Return the Kafka headers."""
        source = self.source.model_dump_json()
        return {"reason": self.reason.encode(), "source": source.encode(), "kind": self.kind.encode()}


class LeftOut(Kept):
    """What a record was of which the own topic takes only a part, as a header of the copy says."""

    reason: str
    """What was left out, and why."""
    digest: str = ""
    """Of the whole message, where it is one of ours."""
    node_run_id: str | None = None
    """The node run that waits for it, where it is a message of ours and its signature is right."""
    workflow_run_id: str | None = None
    workflow: str | None = None
    node: str | None = None
    names: tuple[str, ...] = ()
    """The event types of its items."""
    guessed: bool = False
    """As of `Arrival`."""


class _Version(BaseModel):
    v: int


T = TypeVar("T")


def read(adapter: TypeAdapter[T], raw: bytes | None) -> T:
    """Read a record.

    Raises:
        NewerFormatError: its format version is above this application's.
        UnreadableError: it is no such record.
    """
    if raw is None:
        raise UnreadableError("the record has no value")
    try:
        return adapter.validate_json(raw)
    except ValidationError as wrong:
        refuse_newer(raw)
        raise UnreadableError(said_of(wrong)) from None


_SHOWN_ERRORS: Final = 3


def said_of(wrong: ValidationError) -> str:
    """Return what is wrong with a record, in one line, without the values that stand in it."""
    errors = wrong.errors(include_input=False, include_url=False, include_context=False)
    said = [": ".join(filter(None, (".".join(map(str, one["loc"])), one["msg"]))) for one in errors[:_SHOWN_ERRORS]]
    return "; ".join(said)[:500]


def refuse_newer(raw: bytes) -> None:
    """Raise NewerFormatError where a record that cannot be read says that a newer version has written it."""
    try:
        version = _Version.model_validate_json(raw).v
    except ValidationError:
        return
    if version > FORMAT:
        raise NewerFormatError(f"format version {version}; this application knows up to {FORMAT}")
