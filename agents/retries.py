"""Keeps what is to be tried again until its time has come: it holds no place meanwhile, and new work goes first."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Hashable
from enum import Enum
from typing import Final, Protocol, TypeAlias, TypeVar

from agents.feeding import Feeder, Piece

SELDOM_INTERVAL: Final = 0.2
"""Seconds between two pieces that go out seldom: 5 a second are a tenth of Port's rate limit."""
_AT_ONCE: Final = 500
"""How many pieces are handed on before all else has its turn."""


class Lane(Enum):
    """How a piece goes out whose time has come."""

    FIRST = "first"
    """Like a new one: it was not tried for good."""
    AGAIN = "again"
    """Apart from the new ones, in places of its own."""
    SELDOM = "seldom"
    """Likewise, and a few each second: most likely in vain."""


class Keyed(Piece, Protocol):
    """A piece of work that stands for one thing to be done."""

    @property
    def key(self) -> Hashable:
        """The same for the same thing."""


W = TypeVar("W", bound=Keyed)
_Entry: TypeAlias = tuple[float, int, W]
"""When a piece is tried again, and its number."""
_Ranked: TypeAlias = tuple[float, _Entry[W]]


class Retries(Feeder[W]):
    """Feeds those who try again, each piece when its time has come.

    Args:
        lane_of: tells how a piece goes out; asked when its time has come, and again while it goes out seldom.
        since: tells since when a piece goes out seldom.
        first: takes a piece that goes out like a new one.

    One timer serves all of them. Of those that go out seldom the newest and the oldest take turns: the newest is the
    likeliest to be known by now, and the oldest is to come to its end, too.
    """

    def __init__(self, lane_of: Callable[[W], Lane], since: Callable[[W], float], first: Callable[[W], None]) -> None:
        super().__init__()
        self._lane_of = lane_of
        self._since = since
        self._first = first
        self._numbers = itertools.count()
        self._heap: list[_Entry[W]] = []
        self._kept: dict[Hashable, _Entry[W]] = {}
        """The entry of each piece that waits for its time, or goes out seldom."""
        self._seldom: tuple[list[_Ranked[W]], list[_Ranked[W]]] = ([], [])
        """The same entries twice: the newest first, and the oldest first."""
        self._turn = 0
        self._seldom_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many pieces wait for their time, or for an actor."""
        return super().waiting + self.kept

    @property
    def kept(self) -> int:
        """How many pieces wait for their time."""
        return len(self._kept)

    def later(self, work: W, seconds: float) -> None:
        """Try a piece again in so many seconds. One that waits already stays as it is."""
        if work.key in self._kept or self.stopped:
            return
        entry = (asyncio.get_running_loop().time() + seconds, next(self._numbers), work)
        self._kept[work.key] = entry
        heapq.heappush(self._heap, entry)
        if self._timer is None or entry[0] < self._timer.when():
            self._arm()

    def now(self, key: Hashable) -> bool:
        """Try a piece at once that waits for its time; returns whether there was one."""
        entry = self._kept.pop(key, None)
        if entry is None:
            return False
        self.add(entry[2])
        return True

    def due_in(self, key: Hashable) -> float | None:
        """Return in how many seconds a piece is tried again; None where none waits."""
        entry = self._kept.get(key)
        return None if entry is None else max(0.0, entry[0] - asyncio.get_running_loop().time())

    def forget(self, key: Hashable) -> None:
        """Drop a piece that need not be tried any more."""
        self._kept.pop(key, None)

    def drop(self, partition: int) -> None:
        """Drop what has not begun of a partition."""
        super().drop(partition)
        for key in [key for key, (_, _, work) in self._kept.items() if work.partition == partition]:
            del self._kept[key]

    def stop(self) -> None:
        """Let nothing begin any more."""
        super().stop()
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        """Have the timer fire when the next piece may go out."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.stopped:
            return
        while self._heap and not self._is_kept(self._heap[0]):
            heapq.heappop(self._heap)
        times = [self._heap[0][0]] if self._heap else []
        times += [self._seldom_at] if self._seldom[0] else []
        if times:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(min(times), loop.time()), self._go_on)

    def _is_kept(self, entry: _Entry[W]) -> bool:
        return self._kept.get(entry[2].key) is entry

    def _go_on(self) -> None:
        now = asyncio.get_running_loop().time()
        for _ in range(_AT_ONCE):
            if not self._heap or self._heap[0][0] > now:
                break
            entry = heapq.heappop(self._heap)
            if self._is_kept(entry):
                self._let_go(entry, self._lane_of(entry[2]))
        if self._seldom[0] and self._seldom_at <= now:
            self._let_one_go(now)
        self._arm()

    def _let_one_go(self, now: float) -> None:
        ranked = self._seldom[self._turn]
        while ranked:
            _, entry = heapq.heappop(ranked)
            if not self._is_kept(entry):
                continue
            lane = self._lane_of(entry[2])
            if lane is not Lane.SELDOM:
                self._let_go(entry, lane)
                continue
            self._turn, self._seldom_at = 1 - self._turn, now + SELDOM_INTERVAL
            self._let_go(entry, Lane.AGAIN)
            break
        for one in self._seldom:
            while one and not self._is_kept(one[0][1]):
                heapq.heappop(one)

    def _let_go(self, entry: _Entry[W], lane: Lane) -> None:
        work = entry[2]
        if lane is Lane.SELDOM:
            since = self._since(work)
            heapq.heappush(self._seldom[0], (-since, entry))
            heapq.heappush(self._seldom[1], (since, entry))
            return
        del self._kept[work.key]
        if lane is Lane.FIRST:
            self._first(work)
        else:
            self.add(work)
