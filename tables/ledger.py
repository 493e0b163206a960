"""The ledger: loads what an event needs, lets the pure function decide, writes the rows that it asks for.

| row | key | value |
|---|---|---|
| open node run | `o/<node-run id>` | `NodeRun` |
| finished node run | `f/<node-run id>` | `NodeRun` |
| message | `m/<node-run id>/<first item, 8 hex digits>` | `Message` |
| digest of a further message | `d/<node-run id>/<digest>` | first item, 8 hex digits |
| item | `i/<node-run id>/<index, 8 hex digits>` | `Item` |
| the partition itself | `p/owner` | `Ownership` |
| a handler that was paused | `p/paused/<event type>` | `TypePaused`, the latest |

The node run's row is written last: after a crash its details may be ahead of it, never behind.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from streams.records import (
    Action,
    Arrival,
    GraceOver,
    ItemAgain,
    ItemDeferred,
    ItemFinished,
    ItemRetry,
    NodeRunEvent,
    Record,
    ReportAgain,
    ReportAnswered,
    ReportStopped,
    RunCancelled,
    Source,
    TypePaused,
    refuse_newer,
    said_of,
)
from tables.ownership import UNKNOWN, Ownership
from tables.rows import Readable, Rows
from tables.state import (
    Change,
    Item,
    Message,
    NodeRun,
    Note,
    apply,
    apply_arrival,
    closed,
    lost_item,
    lost_message,
    recount,
)
from tables.unreadable import UnreadableRowError, UnreadableRows, UnwritableRowError

R = TypeVar("R", bound=Record)
_OWNERSHIP: Final = b"p/owner"
_PAUSED: Final = b"p/paused/"
INLINE_BYTES: Final = 4096
"""A message or item up to this size stands in its node run's own row, where it is the node run's first."""


_OF_A_RUN: Final = (GraceOver, ReportAnswered, RunCancelled, ReportAgain, ReportStopped)
"""The events that are of no item."""


@dataclass(frozen=True)
class Applied:
    """What became of an event: the node run before and after, and the items whose state it touched."""

    note: Note
    before: NodeRun | None
    run: NodeRun | None
    touched: Iterable[int] = ()
    message: int | None = None
    """The index of the first item of the message that the touched items came in."""
    why: str = ""
    """Why it is REFUSED, for people."""
    by_hand: bool = False
    """Whether somebody wants an item called again that others may be running."""
    item: Item | None = None
    """The item that was written with it."""
    known_at: Source | None = None
    """Where the message with the same content stood, of an arrival that is a duplicate."""


def _key(kind: str, node_run_id: str, tail: str = "") -> bytes:
    return f"{kind}/{node_run_id}{'/' if tail else ''}{tail}".encode()


def _number(index: int) -> str:
    return f"{index:08x}"


def _index(key: bytes) -> int:
    """Return the number at the end of the key of an item or message."""
    return int(key.rpartition(b"/")[2], 16)


def _found_again(lost: Message, arrival: Arrival) -> Message:
    if lost.count != arrival.count:
        return lost
    found = {"digest": arrival.digest, "text": arrival.text, "array": arrival.array, "source": arrival.source}
    return lost.model_copy(update=found)


_known_rows: Final[dict[bytes, NodeRun]] = {}
"""The node runs written or read last, by the bytes of their rows: each is read several times within a short while."""
_MOST_KNOWN: Final = 4096
_MOST_FINISHED: Final = 1000


def _encoded(record: Record) -> bytes:
    """Return a row. Raises UnwritableRowError where it could not be read back.

    States are made of others without validation, for speed; what cannot be read would end each owner of the partition.
    """
    try:
        raw = record.encode()
        known = type(record).model_validate_json(raw)
    except ValidationError as wrong:
        raise UnwritableRowError(f"{type(record).__name__} could not be read back: {said_of(wrong)}") from None
    except PydanticSerializationError as wrong:
        raise UnwritableRowError(f"{type(record).__name__} cannot be written: {wrong}") from None
    if isinstance(known, NodeRun):
        _remembered(raw, known)
    return raw


def _remembered(raw: bytes, run: NodeRun) -> NodeRun:
    while len(_known_rows) >= _MOST_KNOWN:
        del _known_rows[next(iter(_known_rows))]
    _known_rows[raw] = run
    return run


@dataclass
class NodeRuns:
    """The node runs of the partitions that this worker owns, read from rows. Every method raises NotOwnedError."""

    rows: Readable
    unreadable: UnreadableRows = field(default_factory=UnreadableRows, kw_only=True)

    def run(self, partition: int, node_run_id: str) -> NodeRun | None:
        """Return a node run as its row says, None if it is not known. An open one wins over a finished one.

        Raises UnreadableRowError where the row is there and cannot be read.
        """
        for kind in ("o", "f"):
            key = _key(kind, node_run_id)
            if (raw := self.rows.get(partition, key)) is not None:
                return _known_rows.get(raw) or _remembered(raw, self._read(NodeRun, partition, key, raw))
        return None

    def open_runs(self, partition: int) -> Iterator[NodeRun]:
        """Yield the open node runs of a partition; those that cannot be read are left out."""
        return self._readable(partition, self.rows.scan(partition, b"o/"))

    def finished_runs(self, partition: int) -> Iterator[NodeRun]:
        """Yield the finished node runs of a partition; those that cannot be read are left out.

        After a crash one may have an open row too, which wins.
        """
        return self._readable(partition, self.rows.scan(partition, b"f/"))

    def _readable(self, partition: int, rows: Iterable[tuple[bytes, bytes]]) -> Iterator[NodeRun]:
        for key, raw in rows:
            try:
                yield self._read(NodeRun, partition, key, raw)
            except UnreadableRowError:
                continue

    def item(self, partition: int, run: NodeRun, index: int) -> Item | None:
        """Return what is written of an item; None if nothing is. One that cannot be read has FAILED: `lost_item`."""
        if index == 0 and run.item is not None:
            return run.item
        key = _key("i", run.node_run_id, _number(index))
        raw = self.rows.get(partition, key)
        return None if raw is None else self._item(partition, run, key, raw)

    def _item(self, partition: int, run: NodeRun, key: bytes, raw: bytes) -> Item:
        try:
            return self._read(Item, partition, key, raw)
        except UnreadableRowError:
            return lost_item(run, _index(key))

    def items(self, partition: int, run: NodeRun) -> Iterator[Item]:
        """Yield what is written of the items, in order; items of which nothing is written are left out."""
        if run.item is not None:
            yield run.item
        if run.items > 1 or run.item is None:
            for key, raw in self.rows.scan(partition, _key("i", run.node_run_id) + b"/"):
                item = self._item(partition, run, key, raw)
                if item.index < run.items and not (item.index == 0 and run.item is not None):
                    yield item

    def message(self, partition: int, run: NodeRun, first: int) -> Message | None:
        """Return the message whose first item is `first`; None if there is none.

        Of one that cannot be read only its place is known: `Message.lost`.
        """
        if first == 0 and run.message is not None:
            return run.message
        key = _key("m", run.node_run_id, _number(first))
        raw = self.rows.get(partition, key)
        return None if raw is None else self._message(partition, run, key, raw)

    def _message(self, partition: int, run: NodeRun, key: bytes, raw: bytes) -> Message:
        try:
            return self._read(Message, partition, key, raw)
        except UnreadableRowError:
            first = _index(key)
            keys = (other for other, _ in self.rows.scan(partition, _key("m", run.node_run_id) + b"/"))
            behind = next((_index(other) for other in keys if other > key), run.items)
            return lost_message(run, first, max(1, behind - first))

    def messages(self, partition: int, run: NodeRun) -> Iterator[Message]:
        """Yield the messages of a node run, in order."""
        if run.message is not None:
            yield run.message
        if run.message is None or run.items > run.message.count:
            for key, raw in self.rows.scan(partition, _key("m", run.node_run_id) + b"/"):
                message = self._message(partition, run, key, raw)
                # After a crash a large message may have left its row where a small one now is the first.
                if message.first < run.items and not (message.first == 0 and run.message is not None):
                    yield message

    def _read(self, model: type[R], partition: int, key: bytes, raw: bytes) -> R:
        """Read a row. Raises UnreadableRowError; NewerFormatError where a newer version has written it."""
        try:
            return model.model_validate_json(raw)
        except ValidationError as wrong:
            refuse_newer(raw)
            raise UnreadableRowError(self.unreadable.add(partition, key, said_of(wrong))) from None


@dataclass
class Ledger(NodeRuns):
    """The node runs as the last event left them, and what the next one makes of them.

    Reads and writes are synchronous: between reading a state and writing the next one nothing else runs. `grace` is
    `REPORT_GRACE`, in seconds.
    """

    rows: Rows
    grace: float = 0.0
    _recounted: dict[int, set[str]] = field(default_factory=dict)
    """Open node runs whose counters are known to be true: recounted, or new, since the partition was taken over."""
    _finished: OrderedDict[tuple[int, str], None] = field(default_factory=OrderedDict)
    """The finished ones that were looked at last likewise: of those there is no end."""

    def taken_over(self, partition: int) -> None:
        """Forget what was derived from the partition's rows; called when they may have changed elsewhere."""
        self._recounted.pop(partition, None)
        for place in [place for place in self._finished if place[0] == partition]:
            del self._finished[place]
        self.unreadable.lost(partition)

    def arrival(self, partition: int, arrival: Arrival) -> Applied:
        """Apply an arrival and write what it changes. Raises UnreadableRowError, or UnwritableRowError."""
        stored = self.run(partition, arrival.node_run_id)
        run = self._counted(partition, stored)
        known = self._known(partition, run, arrival)
        change = apply_arrival(run, known, arrival)
        message = change.message
        if run is not None and message is not None and change.note is Note.DUPLICATE and arrival.problem is not None:
            change = replace(change, item=self.item(partition, run, message.first))
        written = self._write(partition, change)
        touched = range(message.first, message.first + message.count) if message else ()
        known_at = known.source if known is not None and change.note is Note.DUPLICATE else None
        first = message.first if message else None
        return Applied(change.note, stored, written, touched, first, item=change.item, known_at=known_at)

    def outcome(self, partition: int, event: NodeRunEvent) -> Applied:
        """Apply an event of the outcomes topic and write what it changes.

        Raises UnreadableRowError, or UnwritableRowError: then its node run is as it was.
        """
        stored = self.run(partition, event.node_run_id)
        run = self._counted(partition, stored)
        index = None if isinstance(event, _OF_A_RUN) else event.index
        item = self.item(partition, run, index) if run is not None and index is not None else None
        if run is not None and item is not None and isinstance(event, ItemAgain):
            item = self._in_its_message(partition, run, item)
        try:
            change = apply(run, item, event, grace=self.grace)
        except ValidationError as wrong:
            raise UnwritableRowError(f"its state would be none: {said_of(wrong)}") from None
        written = self._write(partition, change)
        message = event.message if isinstance(event, ItemFinished | ItemRetry | ItemDeferred) else None
        return Applied(
            change.note,
            stored,
            written,
            () if index is None else (index,),
            message,
            change.why,
            isinstance(event, ItemAgain),
            change.item,
        )

    def _in_its_message(self, partition: int, run: NodeRun, item: Item) -> Item:
        """Return an item with the message that it came in: it may have ended before that was written of it."""
        for message in self.messages(partition, run):
            if message.first <= item.index < message.first + message.count:
                return item.model_copy(update={"message": message.first})
        return item

    def ownership(self, partition: int) -> Ownership | None:
        """Return who owns the partition, by its row; None where nobody has taken it yet, `UNKNOWN` where the row cannot
        be read.
        """
        raw = self.rows.get(partition, _OWNERSHIP)
        if raw is None:
            return None
        try:
            return self._read(Ownership, partition, _OWNERSHIP, raw)
        except UnreadableRowError:
            return Ownership(owner=UNKNOWN)

    def own(self, partition: int, ownership: Ownership) -> None:
        """Write who owns the partition."""
        self._put(partition, _OWNERSHIP, ownership)

    def paused(self, partition: int) -> list[TypePaused]:
        """Return the handlers whose items of the partition wait; so do those of one whose row cannot be read."""
        found = (self._pause(partition, key, raw) for key, raw in self.rows.scan(partition, _PAUSED))
        return [one for one in found if one.paused]

    def _pause(self, partition: int, key: bytes, raw: bytes) -> TypePaused:
        try:
            return self._read(TypePaused, partition, key, raw)
        except UnreadableRowError:
            event_type = key.removeprefix(_PAUSED).decode(errors="replace")
            return TypePaused(event_type=event_type, paused=True, action=Action(id="", who=""), at=0.0)

    def pause(self, partition: int, event: TypePaused) -> Note:
        """Write that the items of a handler wait, or wait no more; tells whether something later is written already.

        The row stays where they wait no more: what was asked for before may come again.
        """
        key = _PAUSED + event.event_type.encode()
        raw = self.rows.get(partition, key)
        known = None if raw is None else self._pause(partition, key, raw)
        if known is not None and (known.at, known.action.id) >= (event.at, event.action.id):
            return Note.DUPLICATE
        self._put(partition, key, event)
        return Note.APPLIED

    def _put(self, partition: int, key: bytes, record: Record) -> None:
        self.rows.put(partition, key, _encoded(record))
        self.unreadable.written(partition, key)

    def _delete(self, partition: int, key: bytes) -> None:
        self.rows.delete(partition, key)
        self.unreadable.written(partition, key)

    def resume(self, partition: int, node_run_id: str) -> bool:
        """Go on with an open node run where a crash left it; returns whether that changed anything.

        The rows of its items may have outlived the crash, and what they make of its own row not.
        """
        before = self.run(partition, node_run_id)
        run = self._counted(partition, before)
        if before is None or run is None:
            return False
        run = closed(run, self.grace)
        if run == before:
            self._remember(partition, run)
            return False
        self._write(partition, Change(run, Note.APPLIED))
        return True

    def _counted(self, partition: int, run: NodeRun | None) -> NodeRun | None:
        """Return a node run for a change: its counters true to its item rows."""
        if run is None or (partition, run.node_run_id) in self._finished:
            return run
        if run.node_run_id in self._recounted.get(partition, ()):
            return run
        return recount(run, self.items(partition, run))

    def _remember(self, partition: int, run: NodeRun) -> None:
        """Take note that the counters of a node run's row are true."""
        recounted, place = self._recounted.setdefault(partition, set()), (partition, run.node_run_id)
        self._finished.pop(place, None)
        if not run.finished:
            recounted.add(run.node_run_id)
            return
        recounted.discard(run.node_run_id)
        self._finished[place] = None
        if len(self._finished) > _MOST_FINISHED:
            self._finished.popitem(last=False)

    def _known(self, partition: int, run: NodeRun | None, arrival: Arrival) -> Message | None:
        """Return the message of the node run that an arrival brings again; None where it is a further one."""
        if run is None:
            return None
        if run.digest == arrival.digest:
            message = self.message(partition, run, 0)
            # What comes again brings along what was lost.
            return _found_again(message, arrival) if message is not None and message.lost else message
        key = _key("d", run.node_run_id, arrival.digest)
        raw = self.rows.get(partition, key)
        if raw is None:
            return None
        try:
            message = self.message(partition, run, int(raw, 16))
        except ValueError:
            self.unreadable.add(partition, key, "it is no number")
            message = next((one for one in self.messages(partition, run) if one.digest == arrival.digest), None)
        if message is not None and message.lost:
            return _found_again(message, arrival)
        # After a crash the place may have gone to another message: then this one was never counted.
        return message if message is not None and message.digest == arrival.digest else None

    def _write(self, partition: int, change: Change) -> NodeRun | None:
        """Write a change, and return the node run as its row says it now."""
        if change.run is None:
            return None
        run = change.run
        if change.message is not None:
            run = self._write_message(partition, run, change.message)
            if change.note is Note.APPLIED and change.item is None:
                self._clear_place(partition, run, change.message.first)
        if change.item is not None:
            run = self._write_item(partition, run, change.item)
        node_run_id = run.node_run_id
        if run.finished:
            self._put(partition, _key("f", node_run_id), run)
            self._delete(partition, _key("o", node_run_id))
            self._remember(partition, run)
            return run
        self._put(partition, _key("o", node_run_id), run)
        if run.settled is not None:
            self._delete(partition, _key("f", node_run_id))
        self._remember(partition, run)
        return run

    def _write_message(self, partition: int, run: NodeRun, message: Message) -> NodeRun:
        if message.first == 0 and not message.array and len(message.text) <= INLINE_BYTES:
            return run.model_copy(update={"message": message})
        if message.first:
            key = _key("d", run.node_run_id, message.digest)
            self.rows.put(partition, key, _number(message.first).encode())
            self.unreadable.written(partition, key)
        self._put(partition, _key("m", run.node_run_id, _number(message.first)), message)
        return run

    def _clear_place(self, partition: int, run: NodeRun, first: int) -> None:
        # A message with a problem, that a crash cut off, may have left the end of its item where another one now is.
        key = _key("i", run.node_run_id, _number(first))
        if self.rows.get(partition, key) is not None:
            self._delete(partition, key)

    def _write_item(self, partition: int, run: NodeRun, item: Item) -> NodeRun:
        if item.index == 0 and not run.array and item.size <= INLINE_BYTES:
            return run.model_copy(update={"v": max(run.v, item.v), "item": item})
        self._put(partition, _key("i", run.node_run_id, _number(item.index)), item)
        # An earlier, small state of the item must not stand before this one.
        return run if item.index else run.model_copy(update={"item": None})
