"""What the views show at a glance, kept in memory: how many node runs stand where, and which came last."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from tables.state import NodeRun, State, state_of

LATEST: Final = 500
"""How many of the latest node runs are remembered for each partition."""


@dataclass
class _Partition:
    counts: Counter[State] = field(default_factory=Counter)
    open: int = 0
    latest: list[tuple[float, str]] = field(default_factory=list)
    """A heap of receipt and node-run id: the oldest of the latest first."""


class Overview:
    """Counts and latest node runs, by partition. `running` and `deferred` count as `waiting` here: who runs is known
    to the feeders alone.
    """

    def __init__(self) -> None:
        self._partitions: dict[int, _Partition] = {}
        self.open = 0
        """How many node runs are not finished."""

    def changed(self, partition: int, before: NodeRun | None, after: NodeRun | None) -> None:
        """Take note of a node run's change of state; `before` is None where it was not counted yet."""
        if after is None:
            return
        place = self._partitions.setdefault(partition, _Partition())
        if before is not None:
            place.counts[_counted(before)] -= 1
        else:
            heapq.heappush(place.latest, (after.received_at, after.node_run_id))
            if len(place.latest) > LATEST:
                heapq.heappop(place.latest)
        place.counts[_counted(after)] += 1
        opened = (not after.finished) - (before is not None and not before.finished)
        place.open += opened
        self.open += opened

    def drop(self, partition: int) -> None:
        """Forget a partition."""
        if (place := self._partitions.pop(partition, None)) is not None:
            self.open -= place.open

    def counts(self) -> dict[State, int]:
        """Return how many node runs stand where."""
        total: Counter[State] = Counter()
        for place in self._partitions.values():
            total.update(place.counts)
        return {state: total[state] for state in State}

    def latest(self, limit: int) -> Iterator[tuple[int, str]]:
        """Yield partition and node-run id of the latest node runs, the latest first."""
        known = (
            (at, partition, node_run_id)
            for partition, place in self._partitions.items()
            for at, node_run_id in place.latest
        )
        for _at, partition, node_run_id in sorted(known, reverse=True)[:limit]:
            yield partition, node_run_id


def _counted(run: NodeRun) -> State:
    state = state_of(run)
    return State.WAITING if state is State.DEFERRED else state
