"""Hands work to the actors of a Faust agent on an in-memory channel, one piece for each actor that is free.

The channel is never the queue: Faust clears it at a rebalance. What waits, waits here; what was offered and not taken
when the channel was cleared is offered again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
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
    """A channel of this process; `faust agents` lists the agents on it like those on topics."""

    def get_topic_name(self) -> str:
        """Return what stands in the place of a topic's name."""
        return "(in memory)"


def put_on(channel: InMemoryChannel[W]) -> Callable[[W], None]:
    """Return what puts a piece on the channel of a Faust agent at once, for the next actor that is free.

    `Channel.put` waits while a rebalance goes on, and whoever waits there may be cancelled.
    """

    def put(work: W) -> None:
        for subscriber in channel._subscribers:
            subscriber.queue.put_nowait(work)

    return put


class Feeder(Generic[W]):
    """Feeds one agent.

    Args:
        concurrency: how many actors the agent has.
        put: puts a piece on the agent's channel without waiting.
    """

    def __init__(self, concurrency: int, put: Callable[[W], None]) -> None:
        self._concurrency = concurrency
        self._put = put
        self._waiting: deque[W] = deque()
        self._offered: dict[int, W] = {}
        self._running: dict[int, W] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self.stopped = False

    def attach(self, app: Worker) -> None:
        """Follow the app's rebalances and its stop."""
        app.on_lost.append(self.drop)
        app.after_rebalance.append(self.offer_again)

    @property
    def pending(self) -> list[W]:
        """The pieces that no actor has begun."""
        return [*self._offered.values(), *self._waiting]

    @property
    def waiting(self) -> int:
        """How many pieces wait for an actor."""
        return len(self._waiting) + len(self._offered)

    @property
    def running(self) -> list[W]:
        """The pieces that actors work on."""
        return list(self._running.values())

    def add(self, work: W) -> None:
        """Take a piece of work on."""
        self._waiting.append(work)
        self._feed()

    def _feed(self) -> None:
        while self._waiting and not self.stopped and len(self._offered) + len(self._running) < self._concurrency:
            work = self._waiting.popleft()
            self._offered[id(work)] = work
            self._put(work)

    def take(self, work: W) -> bool:
        """Called by an actor before it begins. False: the piece was dropped, or another actor has it."""
        if self._offered.pop(id(work), None) is None:
            return False
        self._running[id(work)] = work
        self._idle.clear()
        return True

    def done(self, work: W) -> None:
        """Called by an actor when it has ended, however it ended."""
        self._running.pop(id(work), None)
        self._feed()
        if not self._running:
            self._idle.set()

    def drop(self, partition: int) -> None:
        """Drop what has not begun of a partition."""
        self._waiting = deque(work for work in self._waiting if work.partition != partition)
        self._offered = {key: work for key, work in self._offered.items() if work.partition != partition}

    def withdraw(self, works: Iterable[W]) -> list[W]:
        """Take pieces back; returns those that no actor had begun."""
        asked = set(map(id, works))
        withdrawn = [work for work in self.pending if id(work) in asked]
        self._waiting = deque(work for work in self._waiting if id(work) not in asked)
        self._offered = {key: work for key, work in self._offered.items() if key not in asked}
        return withdrawn

    async def offer_again(self) -> None:
        """Called after a rebalance: put what no actor took on the channel again. `take` lets it through once."""
        for work in list(self._offered.values()):
            self._put(work)
        self._feed()

    def stop(self) -> None:
        """Offer nothing any more, and let nothing begin that was offered."""
        self.stopped = True
        self._waiting.extendleft(reversed(self._offered.values()))
        self._offered = {}

    async def idle(self) -> None:
        """Wait until no actor works on anything."""
        await self._idle.wait()
