"""Acknowledges events to Faust in their order, each when everything that it caused to be written is acknowledged.

Faust commits what an agent has gone past, after a flush that may give up. So the agents here keep their events
unacknowledged and go on, and an event counts as done when its own records are on the broker.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

from faust.types import EventT, StreamT

MOST_UNACKNOWLEDGED: Final = 2000
"""An agent waits when so many of its turns are not yet acknowledged."""


def unacknowledged(stream: StreamT[Any]) -> AsyncIterator[EventT[Any]]:
    """Return the events of a stream, none of which Faust acknowledges by itself."""
    return cast("AsyncIterator[EventT[Any]]", cast("Any", stream).noack().events())


@dataclass(eq=False)
class _Turn:
    event: EventT[object] | None
    then: Callable[[], None] | None
    missing: int = 0


class InOrder:
    """The unacknowledged turns of one agent, by partition."""

    def __init__(self) -> None:
        self._turns: dict[object, deque[_Turn]] = {}
        self._count = 0
        self._room = asyncio.Event()
        self._room.set()

    async def add(
        self,
        partition: object,
        event: EventT[object] | None,
        written: Iterable[asyncio.Future[object]],
        then: Callable[[], None] | None = None,
    ) -> None:
        """Acknowledge the event, and call `then`, when all that was written and all earlier turns are acknowledged.

        Waits only while `MOST_UNACKNOWLEDGED` turns are pending.
        """
        turns = self._turns.setdefault(partition, deque())
        turn = _Turn(event, then)
        turns.append(turn)
        self._count += 1
        for future in written:
            if not _on_broker(future):
                turn.missing += 1
                future.add_done_callback(partial(self._written, partition, turn))
        self._complete(partition)
        if self._count >= MOST_UNACKNOWLEDGED:
            self._room.clear()
            await self._room.wait()

    def _written(self, partition: object, turn: _Turn, future: asyncio.Future[object]) -> None:
        if not _on_broker(future):
            # It failed, or was given up at the end: the event is never acknowledged, so that it comes again.
            return
        turn.missing -= 1
        if not turn.missing:
            self._complete(partition)

    def _complete(self, partition: object) -> None:
        turns = self._turns[partition]
        while turns and not turns[0].missing:
            turn = turns.popleft()
            self._count -= 1
            if turn.then is not None:
                turn.then()
            if turn.event is not None:
                turn.event.ack()
        if self._count < MOST_UNACKNOWLEDGED:
            self._room.set()


def _on_broker(future: asyncio.Future[object]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None
