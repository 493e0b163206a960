"""A server that answers what a test tells it, for what the emulator never does."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import orjson
from aiohttp import web

Answerer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def answer(status: int, body: bytes = b'{"ok":true}', headers: Mapping[str, str] | None = None) -> Answerer:
    """Always this answer."""

    async def give(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=status, body=body, headers=headers)

    return give


def token(value: str, expires_in: float = 10_800) -> Answerer:
    """An access token."""
    body = {"ok": True, "accessToken": value, "expiresIn": expires_in, "tokenType": "Bearer"}
    return answer(200, orjson.dumps(body))


@dataclass
class ScriptedPort:
    """Answers calls for tokens from `auth` and all others from `calls`; the last of each list answers for ever."""

    auth: list[Answerer] = field(default_factory=lambda: [token("t1")])
    calls: list[Answerer] = field(default_factory=lambda: [answer(200)])
    seen: list[tuple[str, str, str | None, bytes]] = field(default_factory=list)
    """Method, path, authorization and body of each call but those for tokens."""
    auths: int = 0
    base_url: str = ""

    async def __aenter__(self) -> Self:
        self._ended = asyncio.Event()
        self._runner = web.ServerRunner(web.Server(self._handle, handler_cancellation=True), shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.base_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        await self._runner.cleanup()

    async def never(self, _: web.BaseRequest) -> web.StreamResponse:
        """No answer as long as the server lives."""
        await self._ended.wait()
        return web.Response(status=500)

    async def drop(self, request: web.BaseRequest) -> web.StreamResponse:
        """The connection breaks."""
        assert request.transport is not None
        request.transport.abort()
        return web.Response(status=500)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        if request.path == "/v1/auth/access_token":
            self.auths += 1
            return await _next(self.auth)(request)
        self.seen.append((request.method, request.path, request.headers.get("Authorization"), body))
        return await _next(self.calls)(request)


def _next(answers: list[Answerer]) -> Answerer:
    return answers.pop(0) if len(answers) > 1 else answers[0]
