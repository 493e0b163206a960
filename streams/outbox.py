"""What must be on the broker before a worker leaves its group: others begin anew what they do not find there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine


class Outbox:
    """The events that a worker has for its outcomes topic, and that the broker has not acknowledged yet.

    Args:
        failed: called with the reason where one could not be sent. It is expected to end the process.
    """

    def __init__(self, failed: Callable[[str], object]) -> None:
        self._failed = failed
        self._sending: set[asyncio.Task[None]] = set()

    def put(self, sending: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run what sends an event until the broker has it; nobody has to wait for that."""
        task = asyncio.get_running_loop().create_task(sending)
        self._sending.add(task)
        task.add_done_callback(self._ended)
        return task

    async def send(self, sending: Coroutine[object, object, None]) -> None:
        """Do the same, and return when the broker has it. It goes on where the caller is cancelled meanwhile."""
        await asyncio.shield(self.put(sending))

    async def empty(self) -> None:
        """Wait until the broker has everything, also what comes meanwhile. While Kafka is away that takes long."""
        while self._sending:
            await asyncio.wait(self._sending)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(f"an event could not be sent: {type(error).__name__}: {error}")
