"""Starts what the states of the node runs ask for, once each, on the worker that owns the partition.

What was started is remembered as *claimed* until the state says otherwise, so that it is not started twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from pydantic import JsonValue

from agents.work import ItemWork, ReportWork, TellWork
from port.models import Result
from streams.messages import event_type, items_of
from streams.records import Body, DeferralExpired, GraceOver, NodeRunEvent
from tables.due import DueIndex
from tables.ledger import Applied, NodeRuns
from tables.overview import Overview
from tables.ownership import Ownership
from tables.report import why_stopped
from tables.rows import RowError
from tables.state import (
    AwaitWord,
    Cancel,
    EndGrace,
    Item,
    NodeRun,
    Note,
    Report,
    Run,
    Tell,
    ask_of_item,
    ask_of_run,
)

logger = logging.getLogger(__name__)

_CACHED_CHARACTERS: Final = 4_000_000
"""Of message texts, whose parsed payloads are kept for a while; parsed, they take several times as much memory."""
_CHUNK: Final = 50
"""Node runs that a scan looks at before all else has its turn: some 2 ms."""
_NO_ITEM: Final = -1
_MOST_READ: Final = 2_000
"""Items of one node run that are read for the views after a take-over, where some have failed."""

Fields = Mapping[str, JsonValue]


def _nothing(_: str) -> None:
    """Nobody is to be told."""


@dataclass(frozen=True)
class _Walk:
    """What a walk over the node runs of a partition remembers."""

    opened: set[str] = field(default_factory=set)
    failed: list[str] = field(default_factory=list)
    """Those with failed items in rows of their own."""


@dataclass
class Dispatch:
    """The work of the partitions that this worker owns.

    Args:
        node_runs: the states, as the changelog has acknowledged them.
        due: calls back when a retry, the end of a deferral or of a grace is due.
        overview: what the views show; kept up to date here.
        grace: `REPORT_GRACE`, in seconds.

    The agents set `run_item`, `report` and `tell`, which take a piece of work on, `release`, which is told of an item
    that no handler is to be called for any more, `cancel_call`, which cancels a call that runs as the node run says and
    returns whether there is one, `end_cancelled`, which ends an item without a call, `record`, which enters an event of
    a node run, `mend`, which goes on with a node run where a crash left it and calls back when that is acknowledged,
    `report_settled` and `report_now`, which are told of a node run whose report need not be sent any more, or now, and
    `spawn`, which runs a coroutine on its own; none of them waits.
    """

    node_runs: NodeRuns
    due: DueIndex
    overview: Overview
    grace: float
    run_item: Callable[[ItemWork], None] = field(init=False)
    release: Callable[[int, str, int], None] = field(init=False)
    report: Callable[[ReportWork], None] = field(init=False)
    tell: Callable[[TellWork], None] = field(init=False)
    cancel_call: Callable[[NodeRun, int], bool] = field(init=False)
    end_cancelled: Callable[[ItemWork, str], None] = field(init=False)
    record: Callable[[int, NodeRunEvent], None] = field(init=False)
    mend: Callable[[int, str, Callable[[], None]], None] = field(init=False)
    report_settled: Callable[[str], None] = field(default_factory=lambda: _nothing, init=False)
    report_now: Callable[[str], None] = field(default_factory=lambda: _nothing, init=False)
    spawn: Callable[[Coroutine[object, object, None]], None] = field(init=False)
    active: set[int] = field(default_factory=set)
    """The partitions that are taken over: only their work is started."""
    counting: set[int] = field(default_factory=set)
    """Those of them whose node runs are not all in the overview yet."""
    _begun: dict[int, Iterator[NodeRun]] = field(default_factory=dict)
    _walks: dict[int, Iterator[NodeRun]] = field(default_factory=dict)
    """The walk over the node runs of each partition, begun or not."""
    _ready: set[int] = field(default_factory=set)
    _awaiting: set[int] = field(default_factory=set)
    """The partitions of which earlier owners may run what they have not named."""
    _elsewhere: dict[int, dict[tuple[str, int], int]] = field(default_factory=dict)
    """The items of each partition that others run, with the attempt."""
    _items: dict[int, dict[tuple[str, int], int]] = field(default_factory=dict)
    """The claimed items of each partition, with the attempt that is theirs."""
    _reports: dict[int, dict[str, Body]] = field(default_factory=dict)
    _tells: dict[int, set[tuple[str, int]]] = field(default_factory=dict)
    _cancels: dict[int, set[tuple[str, int]]] = field(default_factory=dict)
    """The items of each partition that are ended as cancelled without a call."""
    _payloads: OrderedDict[tuple[str, int], tuple[tuple[Fields, ...], int]] = field(default_factory=OrderedDict)
    _cached: int = 0

    def act(self, partition: int, applied: Applied) -> None:
        """Start what a node run asks for after an event. Called when the changelog has acknowledged its state."""
        if partition not in self.active or applied.run is None:
            return
        # What comes for the first time nobody else can be running.
        fresh = applied.note is Note.APPLIED and not applied.by_hand
        try:
            run = self.node_runs.run(partition, applied.run.node_run_id)
            if run is None:
                return
            for index in applied.touched:
                if index < run.items:
                    # Else the event was late: for an item that is not known there is nothing to start.
                    self._act_on_item(partition, run, index, applied.message, fresh=fresh)
            self._act_on_run(partition, run)
        except RowError:
            logger.debug("partition %d is gone", partition)
            return
        if applied.run.stopped is not None and (
            applied.before is None or applied.before.stopped is not applied.run.stopped
        ):
            self.spawn(self._stop(partition, run.node_run_id))

    def call_ended(self, partition: int, node_run_id: str, index: int, attempt: int) -> None:
        """Take note that the outcome of a call that this worker made stands in the ledger.

        Until then the item is claimed, whatever else is said of it: the outcome of an earlier life's call may come
        while this life's still runs, and that of an earlier attempt may come again after a rebalance.
        """
        claimed = self._items.get(partition, {})
        if claimed.get((node_run_id, index)) == attempt:
            del claimed[node_run_id, index]

    def _act_on_item(self, partition: int, run: NodeRun, index: int, message: int | None, *, fresh: bool) -> None:
        item = self.node_runs.item(partition, run, index)
        key, first = (run.node_run_id, index), message if item is None else item.message
        match ask_of_item(run, index, item):
            case Run(at=at):
                if fresh or partition not in self._awaiting:
                    self._run(partition, run, index, item, first, at, fresh=fresh)
            case Cancel():
                if fresh or partition not in self._awaiting:
                    self._cancel(partition, run, index, item, first)
            case AwaitWord(until=until):
                expired = DeferralExpired(node_run_id=run.node_run_id, index=index, until=until)
                self._forget(partition, key)
                self.due.set(partition, key, until, lambda: self.record(partition, expired))
            case Tell():
                self._forget(partition, key)
                told = self._tells.setdefault(partition, set())
                if key not in told:
                    told.add(key)
                    self.tell(TellWork(partition, run.node_run_id, index))
            case None:
                self._forget(partition, key)
                self._tells.get(partition, set()).discard(key)
                self._cancels.get(partition, set()).discard(key)

    def _cancel(self, partition: int, run: NodeRun, index: int, item: Item | None, message: int | None) -> None:
        key, attempt = (run.node_run_id, index), 0 if item is None else item.attempt
        cancels = self._cancels.setdefault(partition, set())
        # The end of a call comes from whoever makes it.
        called = key in self._items.get(partition, {}) and self.cancel_call(run, index)
        if called or key in cancels or message is None or self._elsewhere.get(partition, {}).get(key, 0) > attempt:
            return
        cancels.add(key)
        self.due.drop(partition, key)
        name = item.event_type if item is not None else self._event_type(partition, run, index, message)
        self.end_cancelled(ItemWork(partition, run.node_run_id, index, message, name, attempt), why_stopped(run))

    async def _stop(self, partition: int, node_run_id: str) -> None:
        """Cancel what has not ended of a node run, in chunks: the worker goes on meanwhile."""
        try:
            run = self.node_runs.run(partition, node_run_id)
            for message in [] if run is None else list(self.node_runs.messages(partition, run)):
                for index in range(message.first, message.first + message.count):
                    if partition not in self.active or run is None:
                        return
                    self._act_on_item(partition, run, index, message.first, fresh=False)
                    if index % _CHUNK == 0:
                        await asyncio.sleep(0)
        except RowError:
            logger.debug("partition %d is gone", partition)

    def _event_type(self, partition: int, run: NodeRun, index: int, message: int) -> str | None:
        payload = self.payload(partition, run, message)
        return event_type(payload[index - message]) if index - message < len(payload) else None

    def _forget(self, partition: int, key: tuple[str, int]) -> None:
        """Take note that no handler is to be called. Another system's word may have been quicker than its retry."""
        self.release(partition, *key)
        self._items.get(partition, {}).pop(key, None)
        self.due.drop(partition, key)

    def _run(
        self,
        partition: int,
        run: NodeRun,
        index: int,
        item: Item | None,
        message: int | None,
        at: float | None,
        *,
        fresh: bool,
    ) -> None:
        if message is None:
            return
        claimed, key = self._items.setdefault(partition, {}), (run.node_run_id, index)
        attempt = 1 if item is None else item.attempt + 1
        if at is None and key in claimed and self.due.waits(partition, key):
            # It was to wait, and somebody wants it called now.
            self._forget(partition, key)
        if key in claimed or self._elsewhere.get(partition, {}).get(key, 0) >= attempt:
            return
        claimed[key] = attempt
        name = self._event_type(partition, run, index, message)
        work = ItemWork(partition, run.node_run_id, index, message, name, attempt, fresh and at is None)
        if at is None:
            self.run_item(work)
        else:
            self.due.set(partition, (run.node_run_id, index), at, lambda: self.run_item(work))

    def _act_on_run(self, partition: int, run: NodeRun, *, taken_over: bool = False) -> None:
        match ask_of_run(run):
            case Report(body=body):
                reports = self._reports.setdefault(partition, {})
                if reports.get(run.node_run_id) is not body:
                    reports[run.node_run_id] = body
                    self.report(ReportWork(partition, run.node_run_id, body, taken_over))
            case EndGrace(since=since, items=items):
                event = GraceOver(node_run_id=run.node_run_id, items=items, since=since)
                self.due.set(
                    partition, (run.node_run_id, _NO_ITEM), since + self.grace, lambda: self.record(partition, event)
                )
            case None:
                if self._reports.get(partition, {}).pop(run.node_run_id, None) is not None:
                    self.report_settled(run.node_run_id)
                self.due.drop(partition, (run.node_run_id, _NO_ITEM))

    def payload(self, partition: int, run: NodeRun, message: int) -> tuple[Fields, ...]:
        """Return the items of a message of a node run; parsed once for a while."""
        key = (run.node_run_id, message)
        if (found := self._payloads.get(key)) is not None:
            self._payloads.move_to_end(key)
            return found[0]
        kept = self.node_runs.message(partition, run, message)
        if kept is None or not kept.text:
            return ()
        items = items_of(kept.text)
        self._payloads[key] = (items, len(kept.text))
        self._cached += len(kept.text)
        while self._cached > _CACHED_CHARACTERS and len(self._payloads) > 1:
            _, (_, size) = self._payloads.popitem(last=False)
            self._cached -= size
        return items

    def reporting(self, parked: Callable[[str], bool] = lambda _: False) -> tuple[int, list[tuple[int, str]]]:
        """How many reports Port has not answered yet, and partition and node-run id of the first of each partition.

        Those that are `parked` are counted, and are not the first.
        """
        firsts = [
            (partition, first)
            for partition, reports in self._reports.items()
            if (first := next((one for one in reports if not parked(one)), None)) is not None
        ]
        return sum(map(len, self._reports.values())), firsts

    def lost(self, partition: int) -> None:
        """Forget the work of a partition that another worker owns now. What runs, runs on."""
        self.active.discard(partition)
        self._begun.pop(partition, None)
        self._walks.pop(partition, None)
        self.counting.discard(partition)
        self._ready.discard(partition)
        self._awaiting.discard(partition)
        self._elsewhere.pop(partition, None)
        self.due.drop_partition(partition)
        self.overview.drop(partition)
        self._items.pop(partition, None)
        self._reports.pop(partition, None)
        self._tells.pop(partition, None)
        self._cancels.pop(partition, None)

    def begin(self, partition: int, ownership: Ownership, running: Iterable[ItemWork] = ()) -> None:
        """Take a partition on, as its rows stand at this moment: before any event of it is acknowledged.

        What changes from now on is told by `Overview.changed`; what stands there is started by `take_over`
        and counted by `count`.

        Args:
            partition: the partition.
            ownership: what others may run of it.
            running: what this worker itself still runs of it.
        """
        try:
            open_runs, finished_runs = self.node_runs.open_runs(partition), self.node_runs.finished_runs(partition)
        except RowError:
            return
        self.active.add(partition)
        self._items[partition] = {(work.node_run_id, work.index): work.attempt for work in running}
        self._begun[partition] = self._walks[partition] = itertools.chain(open_runs, finished_runs)
        self.counting.add(partition)
        self.owned(partition, ownership)

    def owned(self, partition: int, ownership: Ownership, *, resume: bool = True) -> None:
        """Take note of what others may run of a partition; what they do not is started by the next `take_over`.

        Without `resume` nothing can have become free: what others ran has ended, and its outcomes said what to do.
        """
        if partition not in self.active:
            return
        self._elsewhere[partition] = {(item.node_run_id, item.index): item.attempt for item in ownership.elsewhere}
        if ownership.awaited:
            self._awaiting.add(partition)
            return
        self._awaiting.discard(partition)
        if resume:
            self._ready.add(partition)

    async def take_over(self) -> None:
        """Start what the open node runs ask for, where others have said what they run; in chunks: the worker goes on
        meanwhile.
        """
        while self._ready:
            await self._each(self._ready.pop(), self.node_runs.open_runs, self._resume)

    async def count(self) -> None:
        """Count the node runs of the partitions that were begun, in chunks.

        The finished ones are all that were ever there: nothing may wait for the end of this.
        """
        while self._begun:
            partition, runs = self._begun.popitem()
            walk = _Walk()
            # It may go, and come back with a walk of its own, while this one waits for its turn.
            still = partial(self._is_walked, partition, runs)
            left = itertools.takewhile(still, runs)
            await self._each(partition, lambda _, left=left: left, partial(self._count, walk), self._turn)  # type: ignore[misc]
            for node_run_id in itertools.takewhile(still, walk.failed):
                await self._tell_failed(partition, node_run_id)
            if still():
                self.counting.discard(partition)

    def _is_walked(self, partition: int, runs: Iterator[NodeRun], _: object = None) -> bool:
        return self._walks.get(partition) is runs

    async def _tell_failed(self, partition: int, node_run_id: str) -> None:
        """Tell who follows of the failed items of a node run that have rows of their own, as they stand now."""
        with contextlib.suppress(RowError):
            for start in range(0, _MOST_READ, _CHUNK):
                run = self.node_runs.run(partition, node_run_id)
                if run is None or start >= run.items or partition not in self.active:
                    return
                for index in range(start, min(start + _CHUNK, run.items)):
                    item = self.node_runs.item(partition, run, index)
                    if item is not None and item.result is Result.FAILED:
                        self.overview.changed(partition, run, run, item)
                await self._turn()

    async def _turn(self) -> None:
        await asyncio.sleep(0)
        await self.overview.caught_up()

    async def _each(
        self,
        partition: int,
        runs: Callable[[int], Iterable[NodeRun]],
        do: Callable[[int, NodeRun], None],
        pause: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        try:
            for number, run in enumerate(runs(partition), 1):
                if partition not in self.active:
                    return
                do(partition, run)
                if number % _CHUNK == 0:
                    await (asyncio.sleep(0) if pause is None else pause())
        except RowError:
            logger.info("partition %d went on while it was taken over", partition)

    def _count(self, walk: _Walk, partition: int, run: NodeRun) -> None:
        # After a crash a node run may have both rows: the open one, which comes first, wins.
        if run.node_run_id not in walk.opened:
            self.overview.changed(partition, None, run)
            if run.failed > (run.item is not None and run.item.result is Result.FAILED):
                walk.failed.append(run.node_run_id)
        if not run.finished:
            walk.opened.add(run.node_run_id)

    def _resume(self, partition: int, run: NodeRun) -> None:
        self.mend(partition, run.node_run_id, lambda: self._start(partition, run.node_run_id))

    def _start(self, partition: int, node_run_id: str) -> None:
        run = self.node_runs.run(partition, node_run_id)
        if run is None:
            return
        if run.stopped is not None:
            self.spawn(self._stop(partition, node_run_id))
            self._act_on_run(partition, run, taken_over=True)
            return
        for message in list(self.node_runs.messages(partition, run)):
            for index in range(message.first, message.first + message.count):
                self._act_on_item(partition, run, index, message.first, fresh=False)
        self._act_on_run(partition, run, taken_over=True)
