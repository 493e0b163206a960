"""Hands work to the actors of a Faust agent, a piece to each actor that is free.

What an actor waits on is the feeder and not a channel of Faust: that one is cleared at every rebalance, and what is
lost with it would have to be offered again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
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
        self._waiting: deque[W] = deque()
        self._free: deque[asyncio.Future[None]] = deque()
        self._running: dict[int, W] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self.stopped = False

    def attach(self, app: Worker) -> None:
        """Follow the app's rebalances."""
        app.on_lost.append(self.drop)

    @property
    def pending(self) -> list[W]:
        """The pieces that no actor has begun."""
        return list(self._waiting)

    @property
    def waiting(self) -> int:
        """How many pieces wait for an actor."""
        return len(self._waiting)

    @property
    def running(self) -> list[W]:
        """The pieces that actors work on."""
        return list(self._running.values())

    def add(self, work: W) -> None:
        """Take a piece of work on."""
        self._waiting.append(work)
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
        work = self._waiting.popleft()
        self._running[id(work)] = work
        self._idle.clear()
        return work

    def done(self, work: W) -> None:
        """Called by an actor when it has ended, however it ended."""
        del self._running[id(work)]
        if not self._running:
            self._idle.set()

    def drop(self, partition: int) -> None:
        """Drop what has not begun of a partition."""
        self._waiting = deque(work for work in self._waiting if work.partition != partition)

    def withdraw(self, works: Iterable[W]) -> list[W]:
        """Take pieces back; returns those that no actor had begun."""
        asked = set(map(id, works))
        withdrawn = [work for work in self._waiting if id(work) in asked]
        self._waiting = deque(work for work in self._waiting if id(work) not in asked)
        return withdrawn

    def stop(self) -> None:
        """Let nothing begin any more."""
        self.stopped = True

    async def idle(self) -> None:
        """Wait until no actor works on anything."""
        await self._idle.wait()
