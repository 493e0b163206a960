"""The ledger: loads what an event needs, lets the pure function decide, writes the rows that it asks for.

| row | key | value |
|---|---|---|
| open node run | `o/<node-run id>` | `NodeRun` |
| finished node run | `f/<node-run id>` | `NodeRun` |
| message | `m/<node-run id>/<first item, 8 hex digits>` | `Message` |
| digest of a further message | `d/<node-run id>/<digest>` | first item, 8 hex digits |
| item | `i/<node-run id>/<index, 8 hex digits>` | `Item` |
| the partition itself | `p/owner` | `Ownership` |
| a handler whose items wait there | `p/paused/<event type>` | `TypePaused` |

The node run's row is written last: after a crash its details may be ahead of it, never behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from streams.records import (
    Arrival,
    GraceOver,
    ItemAgain,
    ItemDeferred,
    ItemFinished,
    ItemRetry,
    NodeRunEvent,
    ReportAgain,
    ReportAnswered,
    ReportStopped,
    RunCancelled,
    TypePaused,
)
from tables.ownership import Ownership
from tables.rows import Readable, Rows
from tables.state import Change, Item, Message, NodeRun, Note, apply, apply_arrival, closed, recount

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


def _key(kind: str, node_run_id: str, tail: str = "") -> bytes:
    return f"{kind}/{node_run_id}{'/' if tail else ''}{tail}".encode()


def _number(index: int) -> str:
    return f"{index:08x}"


_known_rows: Final[dict[bytes, NodeRun]] = {}
"""The node runs written or read last, by the bytes of their rows: each is read several times within a short while."""
_MOST_KNOWN: Final = 4096


def _decoded(raw: bytes) -> NodeRun:
    run = _known_rows.get(raw)
    return run if run is not None else _remembered(raw, NodeRun.model_validate_json(raw))


def _encoded(run: NodeRun) -> bytes:
    raw = run.encode()
    _remembered(raw, run)
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

    def run(self, partition: int, node_run_id: str) -> NodeRun | None:
        """Return a node run as its row says, None if it is not known. An open one wins over a finished one."""
        raw = self.rows.get(partition, _key("o", node_run_id)) or self.rows.get(partition, _key("f", node_run_id))
        return None if raw is None else _decoded(raw)

    def open_runs(self, partition: int) -> Iterator[NodeRun]:
        """Yield the open node runs of a partition."""
        return (NodeRun.model_validate_json(raw) for _, raw in self.rows.scan(partition, b"o/"))

    def finished_runs(self, partition: int) -> Iterator[NodeRun]:
        """Yield the finished node runs of a partition. After a crash one may have an open row too, which wins."""
        return (NodeRun.model_validate_json(raw) for _, raw in self.rows.scan(partition, b"f/"))

    def item(self, partition: int, run: NodeRun, index: int) -> Item | None:
        """Return what is written of an item; None if nothing is."""
        if index == 0 and run.item is not None:
            return run.item
        raw = self.rows.get(partition, _key("i", run.node_run_id, _number(index)))
        return None if raw is None else Item.model_validate_json(raw)

    def items(self, partition: int, run: NodeRun) -> Iterator[Item]:
        """Yield what is written of the items, in order; items of which nothing is written are left out."""
        if run.item is not None:
            yield run.item
        if run.items > 1 or run.item is None:
            for _, raw in self.rows.scan(partition, _key("i", run.node_run_id) + b"/"):
                item = Item.model_validate_json(raw)
                if item.index < run.items and not (item.index == 0 and run.item is not None):
                    yield item

    def message(self, partition: int, run: NodeRun, first: int) -> Message | None:
        """Return the message whose first item is `first`; None if there is none."""
        if first == 0 and run.message is not None:
            return run.message
        raw = self.rows.get(partition, _key("m", run.node_run_id, _number(first)))
        return None if raw is None else Message.model_validate_json(raw)

    def messages(self, partition: int, run: NodeRun) -> Iterator[Message]:
        """Yield the messages of a node run, in order."""
        if run.message is not None:
            yield run.message
        if run.message is None or run.items > run.message.count:
            for _, raw in self.rows.scan(partition, _key("m", run.node_run_id) + b"/"):
                message = Message.model_validate_json(raw)
                # After a crash a large message may have left its row where a small one now is the first.
                if message.first < run.items and not (message.first == 0 and run.message is not None):
                    yield message


@dataclass
class Ledger(NodeRuns):
    """The node runs as the last event left them, and what the next one makes of them.

    Reads and writes are synchronous: between reading a state and writing the next one nothing else runs. `grace` is
    `REPORT_GRACE`, in seconds.
    """

    rows: Rows
    grace: float = 0.0
    _recounted: dict[int, set[str]] = field(default_factory=dict)
    """Node runs whose counters are known to be true: recounted, or new, since the partition was taken over."""

    def taken_over(self, partition: int) -> None:
        """Forget what was derived from the partition's rows; called when they may have changed elsewhere."""
        self._recounted.pop(partition, None)

    def arrival(self, partition: int, arrival: Arrival) -> Applied:
        """Apply an arrival and write what it changes."""
        stored = self.run(partition, arrival.node_run_id)
        run = self._counted(partition, stored)
        change = apply_arrival(run, self._known(partition, run, arrival.digest), arrival)
        message = change.message
        if run is not None and message is not None and change.note is Note.DUPLICATE and arrival.problem is not None:
            change = replace(change, item=self.item(partition, run, message.first))
        self._recounted[partition].add(arrival.node_run_id)
        written = self._write(partition, change)
        touched = range(message.first, message.first + message.count) if message else ()
        return Applied(change.note, stored, written, touched, message.first if message else None, item=change.item)

    def outcome(self, partition: int, event: NodeRunEvent) -> Applied:
        """Apply an event of the outcomes topic and write what it changes."""
        stored = self.run(partition, event.node_run_id)
        run = self._counted(partition, stored)
        index = None if isinstance(event, _OF_A_RUN) else event.index
        item = self.item(partition, run, index) if run is not None and index is not None else None
        if run is not None and item is not None and isinstance(event, ItemAgain):
            item = self._in_its_message(partition, run, item)
        change = apply(run, item, event, grace=self.grace)
        written = self._write(partition, change)
        if change.note is Note.APPLIED and change.run is not None and change.run.finished:
            self._recounted[partition].discard(event.node_run_id)
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
        """Return who owns the partition, by its row; None where nobody has taken it yet."""
        raw = self.rows.get(partition, _OWNERSHIP)
        return None if raw is None else Ownership.model_validate_json(raw)

    def own(self, partition: int, ownership: Ownership) -> None:
        """Write who owns the partition."""
        self.rows.put(partition, _OWNERSHIP, ownership.encode())

    def paused(self, partition: int) -> list[TypePaused]:
        """Return the handlers whose items of the partition wait."""
        return [TypePaused.model_validate_json(raw) for _, raw in self.rows.scan(partition, _PAUSED)]

    def pause(self, partition: int, event: TypePaused) -> None:
        """Write that the items of a handler wait, or wait no more."""
        key = _PAUSED + event.event_type.encode()
        if event.paused:
            self.rows.put(partition, key, event.encode())
        else:
            self.rows.delete(partition, key)

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
            return False
        self._write(partition, Change(run, Note.APPLIED))
        return True

    def _counted(self, partition: int, run: NodeRun | None) -> NodeRun | None:
        """Return a node run for a change: its counters true to its item rows."""
        recounted = self._recounted.setdefault(partition, set())
        if run is None or run.node_run_id in recounted:
            return run
        recounted.add(run.node_run_id)
        return recount(run, self.items(partition, run))

    def _known(self, partition: int, run: NodeRun | None, digest: str) -> Message | None:
        if run is None:
            return None
        if run.digest == digest:
            return self.message(partition, run, 0)
        raw = self.rows.get(partition, _key("d", run.node_run_id, digest))
        message = None if raw is None else self.message(partition, run, int(raw, 16))
        # After a crash the place may have gone to another message: then this one was never counted.
        return message if message is not None and message.digest == digest else None

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
            self.rows.put(partition, _key("f", node_run_id), _encoded(run))
            self.rows.delete(partition, _key("o", node_run_id))
            return run
        self.rows.put(partition, _key("o", node_run_id), _encoded(run))
        if run.settled is not None:
            self.rows.delete(partition, _key("f", node_run_id))
        return run

    def _write_message(self, partition: int, run: NodeRun, message: Message) -> NodeRun:
        if message.first == 0 and not message.array and len(message.text) <= INLINE_BYTES:
            return run.model_copy(update={"message": message})
        if message.first:
            self.rows.put(partition, _key("d", run.node_run_id, message.digest), _number(message.first).encode())
        self.rows.put(partition, _key("m", run.node_run_id, _number(message.first)), message.encode())
        return run

    def _clear_place(self, partition: int, run: NodeRun, first: int) -> None:
        # A message with a problem, that a crash cut off, may have left the end of its item where another one now is.
        key = _key("i", run.node_run_id, _number(first))
        if self.rows.get(partition, key) is not None:
            self.rows.delete(partition, key)

    def _write_item(self, partition: int, run: NodeRun, item: Item) -> NodeRun:
        if item.index == 0 and not run.array and item.size <= INLINE_BYTES:
            return run.model_copy(update={"v": max(run.v, item.v), "item": item})
        self.rows.put(partition, _key("i", run.node_run_id, _number(item.index)), item.encode())
        # An earlier, small state of the item must not stand before this one.
        return run if item.index else run.model_copy(update={"item": None})
