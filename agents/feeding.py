"""Hands work to the actors of a Faust agent, a piece to each actor that is free.

What an actor waits on is the feeder and not a channel of Faust: that one is cleared at every rebalance, and what is
lost with it would have to be offered again.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, TypeVar

import faust

from streams.worker import Worker


class Piece(Protocol):
    """A piece of work, of a partition of the ledger."""

    @property
    def partition(self) -> int:
        """The partition; when it is lost, work that has not begun is dropped."""


W = TypeVar("W", bound=Piece)


class InMemoryChannel(faust.Channel[W]):
    """The channel of an agent that a feeder feeds: nothing is ever on it; `faust agents` lists the agent by it."""

    def get_topic_name(self) -> str:
        """Return what stands in the place of a topic's name."""
        return "(in memory)"


class Feeder(Generic[W]):
    """Feeds one agent, however many actors it has."""

    def __init__(self) -> None:
        # Each with the monotonic time since when it waits, or runs.
        self._waiting: deque[tuple[float, W]] = deque()
        self._free: deque[asyncio.Future[None]] = deque()
        self._running: dict[int, tuple[float, W]] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self.stopped = False
        self.blocked_since: float | None = None
        """Since when, in monotonic time, every actor is kept by a piece that has ended; None where one is not."""
        self.moves = 0
        """Grows with every piece that begins, ends, or is taken back."""

    def attach(self, app: Worker) -> None:
        """Follow the app's rebalances."""
        app.on_lost.append(self.drop)

    @property
    def pending(self) -> list[W]:
        """The pieces that no actor has begun."""
        return [work for _, work in self._waiting]

    @property
    def first(self) -> W | None:
        """The piece that has waited the longest; None where none waits."""
        return self._waiting[0][1] if self._waiting else None

    @property
    def waiting(self) -> int:
        """How many pieces wait for an actor."""
        return len(self._waiting)

    @property
    def running(self) -> list[W]:
        """The pieces that actors work on."""
        return [work for _, work in self._running.values()]

    def since(self) -> Iterator[tuple[float, W]]:
        """Yield the pieces that actors work on, each with the monotonic time since when."""
        yield from self._running.values()

    def waiting_since(self) -> Iterator[tuple[float, W]]:
        """Yield the pieces that no actor has begun likewise, the oldest first."""
        yield from self._waiting

    @property
    def taken(self) -> int:
        """How many actors work on a piece."""
        return len(self._running)

    @property
    def ready(self) -> bool:
        """Whether a piece waits that an actor may begin."""
        return bool(self._waiting) and not self.stopped

    def oldest(self) -> float:
        """Return for how many seconds the oldest piece has waited; 0 where none waits."""
        return time.monotonic() - self._waiting[0][0] if self._waiting else 0.0

    def running_for(self, seconds: float) -> int:
        """Return how many pieces have run for longer than that."""
        before = time.monotonic() - seconds
        return sum(since < before for since, _ in self._running.values())

    def ought_to_move(self, actors: int, longest: float, kept: int) -> bool:
        """Tell whether a piece ought to begin, or to end, now.

        With all actors taken pieces wait on purpose, as long as one of those that run is within its time.

        Args:
            actors: how many there are.
            longest: how many seconds a piece may take.
            kept: how many pieces have ended, and still keep their actor.
        """
        past = self.running_for(longest)
        if past > kept:
            return True
        return self.ready and (self.taken < actors or past == self.taken)

    def add(self, work: W) -> None:
        """Take a piece of work on."""
        self._waiting.append((time.monotonic(), work))
        self._wake()

    def _wake(self) -> None:
        while self._free:
            free = self._free.popleft()
            if not free.done():
                free.set_result(None)
                return

    async def take(self) -> W:
        """Return the next piece, for an actor that begins it now. Waits until there is one."""
        while self.stopped or not self._waiting:
            free: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._free.append(free)
            await free
        return self.begin()

    def begin(self) -> W:
        """Return the next piece as begun. There must be one."""
        _, work = self._waiting.popleft()
        self._running[id(work)] = (time.monotonic(), work)
        self.moves += 1
        self._idle.clear()
        return work

    def done(self, work: W) -> None:
        """Called by an actor when it has ended, however it ended."""
        del self._running[id(work)]
        self.moves += 1
        if not self._running:
            self._idle.set()

    def drop(self, partition: int) -> None:
        """Drop what has not begun of a partition."""
        self._waiting = deque(waits for waits in self._waiting if waits[1].partition != partition)

    def withdraw(self, works: Iterable[W]) -> list[W]:
        """Take pieces back; returns those that no actor had begun."""
        asked = set(map(id, works))
        withdrawn = [work for _, work in self._waiting if id(work) in asked]
        self._waiting = deque(waits for waits in self._waiting if id(waits[1]) not in asked)
        self.moves += len(withdrawn)
        return withdrawn

    def stop(self) -> None:
        """Let nothing begin any more."""
        self.stopped = True

    async def idle(self) -> None:
        """Wait until no actor works on anything."""
        await self._idle.wait()
