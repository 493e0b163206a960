"""What this worker knows: the node runs of its partitions, and what it does for them at this moment.

Everything is read by partition and key, or from memory; never by a scan of the table.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar, cast

from agents.cancelling import RunningCalls
from agents.dispatch import Dispatch
from agents.feeding import Feeder
from agents.holding import Holding
from agents.settling import Parked
from agents.telling import Telling
from agents.work import ItemWork
from port.trouble import Trouble
from streams.records import Tries
from streams.topics import partition_of
from streams.worker import Worker
from tables.ledger import NodeRuns
from tables.overview import Overview
from tables.rows import NotOwnedError, RowError
from tables.state import Item, Message, NodeRun, State, state_of
from web.data import NodeRunInList, PortShown, Read, TroubleShown, WorkerShown, instant, node_run_in_list
from web.masking import masked_text

MOST_EXAMINED: Final = 2000
"""How many of the latest node runs are looked at for one list."""
MOST_MESSAGES: Final = 20
MOST_BYTES: Final = 4 * 1024 * 1024
"""What one answer shows at most of items, and of messages; the item or message that goes beyond is its last."""
_CHUNK: Final = 100
LONG: Final = 0.005
"""What takes longer, in seconds, is not done for each request."""
T = TypeVar("T")


class NotHereError(LookupError):
    """Whether there is such a node run cannot be said: its partition is not here, or not yet.

    `owned` says that it belongs to this worker and is still being taken over.
    """

    def __init__(self, partition: int, *, owned: bool) -> None:
        self.partition = partition
        self.owned = owned
        super().__init__(f"partition {partition} is not here")


class NoSuchNodeRunError(LookupError):
    """There is no such node run: its partition is here, and it is not in it."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        super().__init__(f"no such node run in partition {partition}")


@dataclass(frozen=True)
class Now:
    """What is done at this moment, by node run: which of its items run, and which node runs only wait for a time."""

    running: Mapping[str, Set[int]]
    deferred: Set[str]

    def state(self, run: NodeRun) -> State:
        """Return where the node run stands."""
        node_run_id = run.node_run_id
        return state_of(run, running=node_run_id in self.running, deferred=node_run_id in self.deferred)


@dataclass
class Moment:
    """Keeps for a second what took long to find out."""

    clock: Callable[[], float] = time.monotonic
    _now: Now | None = None
    _until: float = 0.0

    def get(self, look: Callable[[], Now]) -> Now:
        """Return what `look` returns, or has returned within a second where that took more than `LONG` seconds."""
        began = self.clock()
        if self._now is not None and began < self._until:
            return self._now
        now, ended = look(), self.clock()
        self._now, self._until = (now, ended + 1.0) if ended - began > LONG else (None, 0.0)
        return now


@dataclass(frozen=True)
class Here:
    """The worker, its ledger, the feeders of its handlers by event type, what it holds, what handlers tell, the calls
    that run, and the tries of the reports that are on their way, by node run.
    """

    worker: Worker
    node_runs: NodeRuns
    overview: Overview
    dispatch: Dispatch
    feeders: Mapping[str, Feeder[ItemWork]]
    holding: Holding
    telling: Telling
    calls: RunningCalls
    tries_of: Callable[[str], Tries | None]
    parked: Callable[[], Iterable[Parked]] = tuple
    """The reports that Port fails at while it takes others."""
    next_try: Callable[[str], float | None] = lambda _: None
    """When the report of a node run is sent again, in epoch seconds."""

    moment: Moment = field(default_factory=Moment)

    @property
    def partitions(self) -> list[int]:
        """The partitions that this worker owns and has taken over."""
        return sorted(self.worker.owned & self.dispatch.active)

    @property
    def listed(self) -> list[int]:
        """Those of them whose node runs are all in the lists: after a start that takes a while."""
        return sorted(set(self.partitions) - self.dispatch.counting)

    @property
    def missing(self) -> list[int]:
        """The partitions that are not here, or not all of whose node runs are in the lists yet."""
        return sorted(set(range(self.worker.settings.partitions)).difference(self.listed))

    def worker_shown(self) -> WorkerShown:
        """Return this worker."""
        return WorkerShown(
            worker=self.worker.incarnation, url=str(self.worker.conf.canonical_url), partitions=self.partitions
        )

    def port_shown(self) -> PortShown:
        """Return how this worker finds Port's API."""
        port, parked = self.worker.port, {one.node_run_id for one in self.parked()}
        waiting, firsts = self.dispatch.reporting(parked.__contains__)
        known = (self._run(partition, node_run_id) for partition, node_run_id in firsts)
        runs = [run for run in known if run is not None]
        ended = (run.last_ended_at for run in runs if run.last_ended_at is not None)
        return PortShown(
            unreachable_since=instant(port.unreachable_since),
            trouble=_trouble(port.trouble),
            reports_waiting=waiting,
            parked=len(parked),
            oldest_received_at=instant(min((run.received_at for run in runs), default=None)),
            oldest_waits_since=instant(min(ended, default=None)),
            rate_limit_remaining=port.budget.remaining,
            rate_limit=port.budget.limit,
        )

    def mark(self) -> Hashable:
        """Return what differs from before where a page would show something else; cheap, from memory."""
        work = tuple((len(feeder.running), feeder.waiting) for feeder in self.feeders.values())
        trouble = self.worker.port.trouble
        away = self.worker.port.unreachable_since, None if trouble is None else trouble.kind
        return self.overview.changes, work, away, frozenset(self.dispatch.active), self.worker.rebalancing

    def partition_of(self, node_run_id: str) -> int:
        """Return the partition of a node run: that of its events, as Kafka's default partitioner has it."""
        return partition_of(node_run_id.encode(), self.worker.settings.partitions)

    def now(self) -> Now:
        """Return what is done at this moment. Deferred is who has no item that runs or waits for a handler.

        Where very many wait, and it takes long, it may be up to a second old.
        """
        return self.moment.get(self._now)

    def _now(self) -> Now:
        running: defaultdict[str, set[int]] = defaultdict(set)
        for feeder in self.feeders.values():
            for work in feeder.running:
                # What runs on for a partition that has moved away is its new owner's to show.
                if work.partition in self.dispatch.active:
                    running[work.node_run_id].add(work.index)
        due = itertools.chain.from_iterable(map(self.dispatch.due.keys, self.dispatch.active))
        deferred = {cast("tuple[str, int]", key)[0] for key in due} - running.keys()
        if deferred:
            deferred -= {work.node_run_id for feeder in self.feeders.values() for work in feeder.pending}
        return Now(running, deferred)

    def counts(self, now: Now) -> dict[State, int]:
        """Return how many node runs of this worker stand where.

        The overview counts those that run or are deferred as waiting; how many they are is told from memory.
        """
        counts = self.overview.counts()
        running = sum(self._runs(node_run_id, now) for node_run_id in now.running)
        # Without a look at each: a node run whose report is out may wait for the retry of a late item.
        for state, number in ((State.RUNNING, running), (State.DEFERRED, len(now.deferred))):
            counts[state] = min(number, counts[State.WAITING])
            counts[State.WAITING] -= counts[state]
        return counts

    def _runs(self, node_run_id: str, now: Now) -> bool:
        run = self._run(self.partition_of(node_run_id), node_run_id)
        return run is not None and now.state(run) is State.RUNNING

    def _run(self, partition: int, node_run_id: str) -> NodeRun | None:
        try:
            return self.node_runs.run(partition, node_run_id)
        except RowError:
            return None

    async def latest(self, now: Now, limit: int, state: State | None) -> tuple[list[NodeRunInList], int]:
        """Return the latest node runs, in one state where that is asked for, and how many were examined for them."""
        found: list[NodeRunInList] = []
        examined = 0
        for partition, node_run_id in self.overview.latest(limit if state is None else MOST_EXAMINED):
            examined += 1
            run = self._run(partition, node_run_id)
            if run is not None and state in (None, now.state(run)):
                found.append(node_run_in_list(run, partition, now.state(run)))
            if len(found) == limit:
                break
            if examined % _CHUNK == 0:
                await asyncio.sleep(0)
        return found, examined

    def lines(self, node_runs: Iterable[tuple[int, str]], now: Now) -> Iterator[NodeRunInList]:
        """Yield node runs as lines of a list; those that have gone meanwhile are left out."""
        for partition, node_run_id in node_runs:
            run = self._run(partition, node_run_id)
            if run is not None:
                yield node_run_in_list(run, partition, now.state(run))

    def read(self, node_run_id: str, start: int, limit: int) -> Read:
        """Read a node run with `limit` of its items from `start` on; fewer where they are large.

        Raises:
            NotHereError: its partition is not here, or not yet.
            NoSuchNodeRunError: it is not known.
            UnreadableRowError: its row cannot be read.
        """
        partition = self.partition_of(node_run_id)
        try:
            run = self.node_runs.run(partition, node_run_id)
            if run is None:
                raise self._absent(partition)
            items, next_item = self._items(partition, run, start, limit)
            messages, more = self._messages(partition, run)
        except NotOwnedError:
            raise NotHereError(partition, owned=False) from None
        now, due = self.now(), set(self.dispatch.due.keys(partition))
        running = frozenset(now.running.get(node_run_id, ()))
        running_here = [index for index in items if index in running]
        return Read(
            run=run,
            partition=partition,
            state=now.state(run),
            worker=self.worker_shown(),
            items=items,
            running=running,
            deferred=frozenset(index for index in items if (node_run_id, index) in due),
            held=_known(items, lambda index: self.holding.until(partition, node_run_id, index)),
            progress=_known(items, lambda index: self.telling.progress_of(node_run_id, index)),
            began=_known(running_here, lambda index: self.calls.began_at(node_run_id, index)),
            logged=_known(running_here, lambda index: self.telling.lines_of(node_run_id, index)),
            tries=self.tries_of(node_run_id),
            next_try=self.next_try(node_run_id),
            parked=any(one.node_run_id == node_run_id for one in self.parked()),
            port_url=self.worker.settings.run_url(run.workflow_run_id),
            next_item=next_item,
            messages=messages,
            more_messages=more,
        )

    def _absent(self, partition: int) -> LookupError:
        if partition in self.partitions and not self.worker.rebalancing:
            return NoSuchNodeRunError(partition)
        return NotHereError(partition, owned=True)

    def _items(self, partition: int, run: NodeRun, start: int, limit: int) -> tuple[dict[int, Item | None], int | None]:
        items: dict[int, Item | None] = {}
        room = MOST_BYTES
        for index in range(start, run.items):
            if len(items) == limit or room <= 0:
                return items, index
            item = items[index] = self.node_runs.item(partition, run, index)
            room -= 0 if item is None else item.size
        return items, None

    def _messages(self, partition: int, run: NodeRun) -> tuple[tuple[tuple[Message, bool], ...], bool]:
        messages: list[tuple[Message, bool]] = []
        room = MOST_BYTES
        for message in self.node_runs.messages(partition, run):
            if len(messages) == MOST_MESSAGES:
                return tuple(messages), True
            messages.append((message, room > 0))
            room -= len(message.text)
        return tuple(messages), False


def _trouble(trouble: Trouble | None) -> TroubleShown | None:
    if trouble is None:
        return None
    return TroubleShown(
        kind=trouble.kind, since=instant(trouble.since), said=replace(trouble, reason=masked_text(trouble.reason)).said
    )


def _known(items: Iterable[int], ask: Callable[[int], T | None]) -> dict[int, T]:
    """Return what is known of items, by their index."""
    return {index: found for index in items if (found := ask(index)) is not None}
