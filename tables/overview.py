"""What the views show at a glance, kept in memory: how many node runs stand where, and which came last."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from tables.state import Item, NodeRun, State, state_of

LATEST: Final = 500
"""How many of the latest node runs are remembered for each partition."""


@dataclass
class _Partition:
    counts: Counter[tuple[State, str]] = field(default_factory=Counter)
    open: int = 0
    latest: list[tuple[float, str]] = field(default_factory=list)
    """A heap of receipt and node-run id: the oldest of the latest first."""


class Follower(Protocol):
    """Follows the node runs of this worker."""

    def changed(self, partition: int, before: NodeRun | None, after: NodeRun, item: Item | None) -> None:
        """Take note of how a node run stands, and of the item that was written with it, where there is one.

        `before` is None for one that is told of for the first time: what was told of it since is newer then.
        """

    def drop(self, partition: int) -> None:
        """Forget a partition."""

    async def caught_up(self) -> None:
        """Return when not much of what it was told is still to be taken in."""


class Overview:
    """Counts and latest node runs, by partition. `running` and `deferred` count as `waiting` here: who runs is known
    to the feeders alone.

    Args:
        name: says under which name an event type is counted. What messages call theirs is not bounded; this must be.
    """

    def __init__(self, name: Callable[[str], str] = lambda _: "") -> None:
        self._name = name
        self._partitions: dict[int, _Partition] = {}
        self.followers: list[Follower] = []
        """Who is told, too."""
        self.open = 0
        """How many node runs are not finished."""
        self.changes = 0
        """Another number where anything has changed."""

    def changed(self, partition: int, before: NodeRun | None, after: NodeRun | None, item: Item | None = None) -> None:
        """Take note of a node run's change of state; `before` is None where it was not counted yet.

        `item` is the one that was written with it; one that stands in the node run's own row need not be told.
        """
        if after is None:
            return
        self.changes += 1
        place = self._partitions.setdefault(partition, _Partition())
        if before is not None:
            place.counts[self._counted(before)] -= 1
        else:
            heapq.heappush(place.latest, (after.received_at, after.node_run_id))
            if len(place.latest) > LATEST:
                heapq.heappop(place.latest)
        place.counts[self._counted(after)] += 1
        opened = (not after.finished) - (before is not None and not before.finished)
        place.open += opened
        self.open += opened
        for follower in self.followers:
            follower.changed(partition, before, after, item)

    def drop(self, partition: int) -> None:
        """Forget a partition."""
        self.changes += 1
        if (place := self._partitions.pop(partition, None)) is not None:
            self.open -= place.open
        for follower in self.followers:
            follower.drop(partition)

    async def caught_up(self) -> None:
        """Return when all who follow have nearly caught up: a walk over all node runs tells more than they can take."""
        for follower in self.followers:
            await follower.caught_up()

    def counts(self) -> dict[State, int]:
        """Return how many node runs stand where."""
        total: Counter[State] = Counter()
        for (state, _), number in self.counts_by_type().items():
            total[state] += number
        return {state: total[state] for state in State}

    def counts_by_type(self) -> dict[tuple[State, str], int]:
        """Return how many node runs stand where, by the name of the event type of their first item, "" without one."""
        total: Counter[tuple[State, str]] = Counter()
        for place in self._partitions.values():
            total.update(place.counts)
        return dict(total)

    def latest(self, limit: int) -> Iterator[tuple[int, str]]:
        """Yield partition and node-run id of the latest node runs, the latest first."""
        known = (
            (at, partition, node_run_id)
            for partition, place in self._partitions.items()
            for at, node_run_id in place.latest
        )
        for _at, partition, node_run_id in sorted(known, reverse=True)[:limit]:
            yield partition, node_run_id

    def _counted(self, run: NodeRun) -> tuple[State, str]:
        state = state_of(run)
        name = self._name(run.event_types[0]) if run.event_types else ""
        return State.WAITING if state is State.DEFERRED else state, name
