"""Keeps items that nobody handles until a handler is deployed, or a time has passed (`UNKNOWN_EVENTS=hold`).

Nothing of it is in the ledger: a held item is one that has not ended, so whoever takes its partition on asks for it
again, and a worker that has a handler for it calls that. Knows nothing of Faust.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from agents.work import ItemWork
from tables.due import DueIndex


class Holding:
    """The held items of this worker.

    Args:
        due: calls back when an item has been held long enough.
        seconds: `UNKNOWN_EVENTS_HOLD`.
        limit: so many items are held at most of those that come anew; what is taken over is always held.
        clock: epoch seconds.
    """

    def __init__(self, due: DueIndex, seconds: float, limit: int, clock: Callable[[], float] = time.time) -> None:
        self.seconds = seconds
        self._due = due
        self._limit = limit
        self._clock = clock
        self._held: dict[int, dict[str, dict[int, float]]] = {}
        self.items = 0
        """How many items are held."""

    @property
    def node_runs(self) -> int:
        """How many node runs have a held item."""
        return sum(map(len, self._held.values()))

    def until(self, partition: int, node_run_id: str, index: int) -> float | None:
        """Return until when an item is held, in epoch seconds; None where it is not."""
        return self._held.get(partition, {}).get(node_run_id, {}).get(index)

    def hold(self, work: ItemWork, came_at: float, over: Callable[[], None]) -> bool:
        """Hold an item, and call `over` when its time has passed; returns False where too many are held already.

        Its time counts from `came_at`, Kafka's timestamp of its message; from now where that is to come yet: producers
        set what they like.
        """
        if work.fresh and self.items >= self._limit:
            return False
        key = (work.node_run_id, work.index)
        at = min(came_at, self._clock()) + self.seconds

        def passed() -> None:
            self.ended(work.partition, *key)
            over()

        self.ended(work.partition, *key)
        self._held.setdefault(work.partition, {}).setdefault(work.node_run_id, {})[work.index] = at
        self.items += 1
        self._due.set(work.partition, key, at, passed)
        return True

    def ended(self, partition: int, node_run_id: str, index: int) -> None:
        """Hold an item no more, if it is held."""
        runs = self._held.get(partition, {})
        if runs.get(node_run_id, {}).pop(index, None) is None:
            return
        self._due.drop(partition, (node_run_id, index))
        self.items -= 1
        if not runs[node_run_id]:
            del runs[node_run_id]

    def lost(self, partition: int) -> None:
        """Forget a partition that another worker owns now. Its entries in the due index go with the partition."""
        runs = self._held.pop(partition, {})
        self.items -= sum(map(len, runs.values()))
