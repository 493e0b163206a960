"""Keeps the items of paused handlers, until they are resumed.

Which handlers are paused stands in each partition's rows, and every worker keeps to it for its own partitions. A paused
item is one that has not ended, so whoever takes its partition on asks for it again. What runs already, runs on. Knows
nothing of Faust.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from agents.work import ItemWork
from streams.records import TypePaused


@dataclass
class Pausing:
    """The paused handlers of this worker's partitions, and their items.

    The agents set `take_back`, which calls `keep` for what a handler has not begun of a partition, and `go_on`, which
    has an item handled.
    """

    take_back: Callable[[int, str], None] = field(init=False)
    go_on: Callable[[ItemWork], None] = field(init=False)
    _paused: dict[int, dict[str, TypePaused]] = field(default_factory=dict)
    _kept: dict[int, dict[tuple[str, int], tuple[str, ItemWork]]] = field(default_factory=dict)

    def is_paused(self, partition: int, event_type: str) -> bool:
        """Whether the items of a handler wait."""
        return event_type in self._paused.get(partition, {})

    def paused(self, event_type: str) -> dict[int, TypePaused]:
        """Return in which partitions a handler is paused, and by whom."""
        return {partition: one[event_type] for partition, one in self._paused.items() if event_type in one}

    def waiting(self) -> dict[str, int]:
        """Return how many items of each handler wait."""
        counts: defaultdict[str, int] = defaultdict(int)
        for kept in self._kept.values():
            for event_type, _ in kept.values():
                counts[event_type] += 1
        return dict(counts)

    def kept(self) -> Iterator[tuple[str, ItemWork]]:
        """Yield the items that wait, each with what its handler is declared for."""
        for kept in self._kept.values():
            yield from kept.values()

    def keep(self, event_type: str, work: ItemWork) -> None:
        """Have an item wait."""
        self._kept.setdefault(work.partition, {})[work.node_run_id, work.index] = (event_type, work)

    def ended(self, partition: int, node_run_id: str, index: int) -> None:
        """Forget an item, if it waits here."""
        self._kept.get(partition, {}).pop((node_run_id, index), None)

    def taken(self, partition: int, paused: Iterable[TypePaused]) -> None:
        """Take note of what a partition's rows say. Called before any of its items is asked for."""
        self._paused[partition] = {one.event_type: one for one in paused}

    def change(self, partition: int, event: TypePaused) -> None:
        """Have the items of a handler wait, or go on."""
        paused = self._paused.setdefault(partition, {})
        if event.paused:
            paused[event.event_type] = event
            self.take_back(partition, event.event_type)
            return
        paused.pop(event.event_type, None)
        kept = self._kept.get(partition, {})
        for key in [key for key, (event_type, _) in kept.items() if event_type == event.event_type]:
            self.go_on(kept.pop(key)[1])

    def lost(self, partition: int) -> None:
        """Forget a partition that another worker owns now."""
        self._paused.pop(partition, None)
        self._kept.pop(partition, None)
