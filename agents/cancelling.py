"""Which calls of handlers run, how one is cancelled, and who looks at Port whether it, or what waits, is to be.

Port lets what runs end where it cancels a workflow run softly. So a call is first told (`announce`), and cut only
where nothing waits for its end any more (`set`).

Knows nothing of Faust.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

from port.client import Answer, Before
from port.models import Result, WorkflowRun
from tables.state import Stop

logger = logging.getLogger(__name__)
POLLS_PER_SECOND: Final = 2.0
"""Of one worker, at most: a twenty-fifth of what Port allows the organization. With more long calls each workflow run
is looked at the less often."""
_EPOCH: Final = time.time() - time.monotonic()
"""When the monotonic clock was 0, in epoch seconds."""
_ROUND_SECONDS: Final = 1.0
"""Between two looks at which workflow runs are due."""


class Cancellation:
    """Whether a call is cancelled. Set in the event loop, read by the call in any thread."""

    def __init__(self) -> None:
        self.reason = ""
        """Why, for people; empty as long as it is not set."""
        self.is_cut = False
        """Whether the call is cut off; else it goes on to its end."""
        self._event = threading.Event()
        self._watched: list[tuple[asyncio.Future[object], asyncio.Future[object]]] = []

    @property
    def is_set(self) -> bool:
        """Whether the call is told that it is cancelled."""
        return self._event.is_set()

    def announce(self, reason: str) -> None:
        """Tell the call that it is cancelled, and let it go on; the first reason counts."""
        if not self.is_set:
            self.reason = reason
            self._event.set()

    def set(self, reason: str) -> None:
        """Cut the call off; the first reason for that counts."""
        if self.is_cut:
            return
        self.reason, self.is_cut = reason, True
        self._event.set()
        for running, cut in self._watched:
            if not running.done() and not cut.done():
                cut.set_result(None)

    def cuts(self, running: asyncio.Future[object]) -> asyncio.Future[object]:
        """Return a future that is done when it is cut off, unless what runs has ended before that."""
        cut: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._watched.append((running, cut))
        if self.is_cut:
            cut.set_result(None)
        return cut

    def wait(self, seconds: float) -> None:
        """Have a thread wait until it is set, for so long at most."""
        self._event.wait(seconds)


@dataclass(frozen=True, eq=False)
class RunningCall:
    """A call whose end is not in the ledger yet."""

    partition: int
    node_run_id: str
    index: int
    workflow_run_id: str | None
    cancellation: Cancellation
    since: float = field(default_factory=time.monotonic)
    at_once: bool = False
    """Whether its handler wants it cut off where others go on."""

    def cancel(self, reason: str, *, soft: bool) -> None:
        """Cut the call off; softly, only tell it, unless its handler wants it cut off."""
        if soft and not self.at_once:
            self.cancellation.announce(reason)
        else:
            self.cancellation.set(reason)


class RunningCalls:
    """The calls of this worker whose ends are not in the ledger yet."""

    def __init__(self) -> None:
        self._calls: dict[str, dict[int, RunningCall]] = {}

    def __iter__(self) -> Iterator[RunningCall]:
        return (call for calls in self._calls.values() for call in calls.values())

    def add(self, call: RunningCall) -> None:
        """Take note of a call that begins."""
        self._calls.setdefault(call.node_run_id, {})[call.index] = call

    def remove(self, call: RunningCall) -> None:
        """Take note that the end of a call is in the ledger."""
        calls = self._calls.get(call.node_run_id, {})
        if calls.get(call.index) is call:
            del calls[call.index]
            if not calls:
                del self._calls[call.node_run_id]

    def began_at(self, node_run_id: str, index: int) -> float | None:
        """Return when the call for an item began, in epoch seconds; None where none runs."""
        call = self._calls.get(node_run_id, {}).get(index)
        return None if call is None else _EPOCH + call.since

    def cancel(self, node_run_id: str, index: int, reason: str, *, soft: bool = False) -> bool:
        """Cancel the call for an item; False where none runs. Where it has just ended, its end counts."""
        call = self._calls.get(node_run_id, {}).get(index)
        if call is None:
            return False
        call.cancel(reason, soft=soft)
        return True

    def cancel_all(self, node_run_id: str, reason: str, *, soft: bool = False) -> None:
        """Cancel the calls for all items of a node run."""
        for call in list(self._calls.get(node_run_id, {}).values()):
            call.cancel(reason, soft=soft)

    def all_told(self, node_run_id: str) -> bool:
        """Whether all calls for items of a node run have been told that they are cancelled."""
        return all(call.cancellation.is_set for call in self._calls.get(node_run_id, {}).values())


class Place(Protocol):
    """Where a node run is."""

    @property
    def partition(self) -> int:
        """Its partition."""

    @property
    def node_run_id(self) -> str:
        """Its id."""


@dataclass(frozen=True)
class NodeRunAt:
    """A node run, and its partition."""

    partition: int
    node_run_id: str


GetRun = Callable[[str, Before], Awaitable[WorkflowRun | Answer]]
Seen = Callable[[Place, WorkflowRun], Awaitable[None]]


class Waiting(Protocol):
    """The node runs with items that wait: for a retry, for another system's word, for a handler."""

    def node_runs(self) -> Collection[NodeRunAt]:
        """Return them all, without a look at each."""

    def workflow_run_id(self, place: NodeRunAt) -> str | None:
        """Return the workflow run of one; None where it is not to be cancelled any more, or none is known."""


def stop_of(run: WorkflowRun, node_run_id: str, known: Stop | None) -> Stop | None:
    """Return what a look at its workflow run says of a node run that has not ended; None where it goes on.

    Args:
        run: as Port shows it.
        node_run_id: the node run.
        known: what had stopped it before. A workflow run that is over with any result is one that was cancelled, where
            it was found to be cancelled before.
    """
    node_run = run.node_run(node_run_id)
    if node_run is not None and node_run.is_over:
        # A forced cancellation fails it.
        ended_by_port = run.is_cancelled and node_run.result != Result.SUCCESS
        return Stop.OVER if ended_by_port else Stop.ELSEWHERE
    if run.is_over and (run.is_cancelled or known is Stop.SOFT):
        return Stop.RUN
    return Stop.SOFT if run.is_cancelled else None


class _EndedError(Exception):
    """Nothing of the workflow run runs or waits any more."""


class Poller:
    """Looks at the workflow runs of long calls, one after the other; in between, one a round, at those of what waits.

    Args:
        calls: the calls that run.
        waiting: what waits.
        get_run: asks Port for a workflow run; it calls what it is given immediately before it sends anything, and what
            that raises ends it, unsent.
        seen: told of each node run, with its workflow run as Port shows it.
        interval: how many seconds a call runs, or an item waits, before its workflow run is looked at, and then between
            two looks.
        clock: the seconds that `RunningCall.since` counts.
    """

    def __init__(
        self,
        calls: RunningCalls,
        waiting: Waiting,
        get_run: GetRun,
        seen: Seen,
        interval: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._calls = calls
        self._waiting = waiting
        self._get_run = get_run
        self._seen = seen
        self._interval = interval
        self._clock = clock
        self._looked: dict[str, float] = {}
        """When each workflow run was looked at last."""
        self._queue: deque[NodeRunAt] = deque()
        """What waited at `_queued_at` and is still to be looked at."""
        self._queued_at = clock()

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            await asyncio.sleep(_ROUND_SECONDS)
            for due in self._due():
                await self._look(due, partial(self._running, due))
            place = self._next_waiting()
            workflow_run_id = None if place is None else self._waiting.workflow_run_id(place)
            if place is not None and workflow_run_id is not None:
                await self._look(workflow_run_id, partial(self._waits, workflow_run_id, place))

    def _next_waiting(self) -> NodeRunAt | None:
        """Return what is to be looked at next of what waited an interval ago, and may still wait."""
        now = self._clock()
        if now - self._queued_at < self._interval:
            return None
        if not self._queue:
            self._queue, self._queued_at = deque(self._waiting.node_runs()), now
            return None
        return self._queue.popleft()

    def _waits(self, workflow_run_id: str, place: NodeRunAt) -> dict[str, Place]:
        return {place.node_run_id: place} if self._waiting.workflow_run_id(place) == workflow_run_id else {}

    def _running(self, workflow_run_id: str) -> dict[str, Place]:
        return {call.node_run_id: call for one, call in self._long() if one == workflow_run_id}

    def _long(self) -> Iterator[tuple[str, RunningCall]]:
        begun = self._clock() - self._interval
        for call in self._calls:
            if call.workflow_run_id is not None and call.since <= begun and not call.cancellation.is_cut:
                yield call.workflow_run_id, call

    def _due(self) -> list[str]:
        """Return the workflow runs that were not looked at for the interval; the longest ago first."""
        long = {workflow_run_id for workflow_run_id, _ in self._long()}
        self._looked = {one: at for one, at in self._looked.items() if one in long}
        before = self._clock() - self._interval
        due = [one for one in long if self._looked.get(one, before) <= before]
        return sorted(due, key=lambda one: self._looked.get(one, 0.0))

    async def _look(self, workflow_run_id: str, of_it: Callable[[], Mapping[str, Place]]) -> None:
        try:
            await self._ask(workflow_run_id, of_it)
        except Exception:
            logger.exception("the look at %s failed", workflow_run_id)
        await asyncio.sleep(1 / POLLS_PER_SECOND)

    async def _ask(self, workflow_run_id: str, of_it: Callable[[], Mapping[str, Place]]) -> None:
        def check() -> None:
            if not of_it():
                raise _EndedError

        try:
            check()
            run = await self._get_run(workflow_run_id, check)
        except _EndedError:
            return
        self._looked[workflow_run_id] = self._clock()
        if isinstance(run, Answer):
            logger.info("%s cannot be looked at: %s: %s", workflow_run_id, run.kind.value, run.reason)
            return
        for place in of_it().values():
            await self._seen(place, run)
