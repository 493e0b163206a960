"""Bounds what clients can hold open: slow heads and bodies of requests, idle connections, and how many there are.

aiohttp has a time-out for idle connections alone. For the others its protocol and its runner are extended here, in the
names that it keeps private; requests that are being answered, streams of events and long dry runs too, have no limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, cast

from aiohttp import web

from web.answers import refused

BODY_SECONDS: Final = 30.0
"""How long the body of a request may take, once it is read."""
_TOO_MANY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)


@dataclass(frozen=True)
class Limits:
    """What one client, and all together, can hold open. Times are in seconds."""

    head: float = 15.0
    """Until the head of a connection's first request is there."""
    idle: float = 75.0
    """Between two requests, and until the head of the next one is there: longer than reverse proxies keep theirs."""
    linger: float = 5.0
    """For the rest of a body that the answer did not wait for; a connection that is closed at once loses the answer."""
    connections: int = 256
    """Above that the connection is closed that waits for a request the longest; where none does, the new one."""


@asynccontextmanager
async def body_in_time() -> AsyncIterator[None]:
    """Read a body within this block. Raises RefusedError, 408, where it takes too long."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            yield
    except TimeoutError:
        message = f"the body did not come within {BODY_SECONDS:g} s"
        raise refused(HTTPStatus.REQUEST_TIMEOUT, "slow-body", message) from None


async def read_body(request: web.Request) -> bytes:
    """Return the body of a request; it is kept, and can be read again. Raises RefusedError, 408, as above."""
    async with body_in_time():
        return await request.read()


class BoundedRunner(web.AppRunner):
    """Runs an application as aiohttp's own runner does, within limits."""

    def __init__(self, application: web.Application, limits: Limits) -> None:
        super().__init__(application, access_log=None)
        self._limits = limits

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(self._limits, made)


class _Server(web.Server):
    def __init__(self, limits: Limits, made: web.Server) -> None:
        super().__init__(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            access_log=None,
            keepalive_timeout=limits.idle,
            lingering_time=limits.linger,
        )
        self.limits = limits

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, self.limits.head, **self._kwargs)

    @property
    def running_loop(self) -> asyncio.AbstractEventLoop:
        """The loop that its connections are in."""
        return self._loop

    def make_room(self, newest: _Connection) -> bool:
        """Close the connection that waits for a request the longest; returns whether there is one, or room anyway."""
        if len(self.connections) <= self.limits.connections:
            return True
        waiting = (one for one in self.connections if one is not newest and one._current_request is None)
        oldest = next(waiting, None)
        if oldest is not None:
            oldest.force_close()
        return oldest is not None


class _Connection(web.RequestHandler):
    def __init__(self, server: _Server, head: float, **options: Any) -> None:
        super().__init__(server, loop=server.running_loop, **options)
        self._server = server
        self._head = head
        self._waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._server.make_room(self):
            self._waiting = self._loop.call_later(self._head, self._require_request)
            return
        cast("asyncio.WriteTransport", transport).write(_TOO_MANY)
        self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        super().connection_lost(exc)

    def _require_request(self) -> None:
        if self._request_count == 0:
            self.force_close()
