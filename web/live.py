"""Tells open pages that something has changed: server-sent events on `/events`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from aiohttp import web

from web.answers import refused

MOST_STREAMS: Final = 64
"""Of one worker; a page beyond them asks every few seconds instead."""
STREAM_SECONDS: Final = 600
"""How long one stream lasts. The browser then asks again, and passes the guard again."""
BEAT_SECONDS: Final = 5
"""After so long without a change a beat is sent: pages then look at what this worker does not know by itself."""
TICK_SECONDS: Final = 1.0
"""How often is looked for a change: no page is told more often, however busy the worker is."""
_WRITE_SECONDS: Final = 10
"""Who does not read for so long has lost its stream."""


@dataclass
class Live:
    """The open streams of one worker. They say that something has changed, and nothing of what.

    Args:
        mark: what differs from before where something has changed; cheap to ask.
        stopping: whether the worker is about to stop. All streams end then, so that nothing waits for them.
    """

    mark: Callable[[], Hashable]
    stopping: Callable[[], bool]
    open: int = 0
    """How many streams there are now."""
    _closing: asyncio.Event = field(default_factory=asyncio.Event)

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the routes."""
        return [web.get("/events", self.events, allow_head=False)]

    async def close(self, _application: web.Application) -> None:
        """End all streams, at the server's shutdown."""
        self._closing.set()

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Send `change` when something has changed, and `beat` where nothing has for a while.

        Raises:
            RefusedError: 503, there are too many streams, or the worker stops.
        """
        if self.open >= MOST_STREAMS or self._over():
            message = "there are too many open streams, or the worker stops: ask for the page itself"
            raise refused(HTTPStatus.SERVICE_UNAVAILABLE, "no-stream", message, {"Retry-After": "10"})
        self.open += 1
        try:
            return await self._stream(request)
        finally:
            self.open -= 1

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        # A proxy that gathers answers, as nginx does, would hold every event back.
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        await answer.prepare(request)
        try:
            await self._send(answer, "retry: 2000\n\n")
            await self._tell(answer)
        except (ConnectionError, TimeoutError):
            pass  # The page is gone.
        return answer

    async def _tell(self, answer: web.StreamResponse) -> None:
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + STREAM_SECONDS
        told_at, known = loop.time(), self.mark()
        while loop.time() < ends_at and not await self._ticked():
            mark = self.mark()
            if mark == known and loop.time() < told_at + BEAT_SECONDS:
                continue
            await self._send(answer, f"event: {'beat' if mark == known else 'change'}\ndata:\n\n")
            told_at, known = loop.time(), mark

    async def _ticked(self) -> bool:
        """Wait for the next look; return whether the streams are to end."""
        try:
            await asyncio.wait_for(self._closing.wait(), TICK_SECONDS)
        except TimeoutError:
            return self._over()
        return True

    def _over(self) -> bool:
        return self._closing.is_set() or self.stopping()

    @staticmethod
    async def _send(answer: web.StreamResponse, text: str) -> None:
        async with asyncio.timeout(_WRITE_SECONDS):
            await answer.write(text.encode())
