"""Slow clients: what they hold open ends, and others are still answered."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from local.kafka import free_port
from tests.web.fakes import FakeWorker
from tests.web.sites import Around, site_of
from web import connections
from web.connections import BoundedRunner, Limits

LONG = 3600.0
UNLIMITED = Limits(head=LONG, idle=LONG, linger=0.1)
SECONDS = 20.0
"""For what has to come: the machine may be slow."""
GET = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def serving(limits: Limits, worker: FakeWorker) -> AsyncIterator[int]:
    """Serve the views, and `/stream`, which says something at each `POST /next`."""
    site, application, going = site_of(worker, Around()), web.Application(), asyncio.Event()

    async def stream(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(b"begun")
        await going.wait()
        await answer.write(b"ended")
        return answer

    async def go_on(_: web.Request) -> web.Response:
        going.set()
        return web.Response()

    application.router.add_get("/stream", stream)
    site.install(application)
    runner = BoundedRunner(application, limits)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    application_state[port] = going
    try:
        yield port
    finally:
        going.set()
        await runner.cleanup()


application_state: dict[int, asyncio.Event] = {}


async def opened(port: int, first: bytes) -> Streams:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(first)
    await writer.drain()
    return reader, writer


async def rest(streams: Streams) -> bytes:
    """All that comes until the server closes the connection."""
    read = asyncio.wait_for(streams[0].read(), SECONDS)
    try:
        return await read
    except ConnectionError:
        return b""
    finally:
        streams[1].close()


async def answered(port: int) -> bytes:
    streams = await opened(port, GET)
    try:
        return await asyncio.wait_for(streams[0].readline(), SECONDS)
    finally:
        streams[1].close()


@pytest.mark.parametrize(
    "first", [b"", b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: ", b"\r\n", b"POST /login HTTP/1.1\r\n"]
)
async def test_a_head_that_does_not_come_is_not_waited_for(first: bytes, worker: FakeWorker) -> None:
    async with serving(replace(UNLIMITED, head=0.2), worker) as port:
        slow = await opened(port, first)
        assert await rest(slow) == b""
        assert b"200" in await answered(port)


async def test_the_next_head_of_a_connection_is_not_waited_for(worker: FakeWorker) -> None:
    async with serving(replace(UNLIMITED, idle=0.3), worker) as port:
        slow = await opened(port, GET + GET[:20])
        assert (await rest(slow)).endswith(b"ok\n")


@pytest.mark.parametrize("path", ["/login", "/callbacks/x", "/api/dead-letters/bulk", "/nothing"])
async def test_a_body_that_does_not_come_is_not_waited_for(
    path: str, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "BODY_SECONDS", 0.2)
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    async with serving(UNLIMITED, worker) as port:
        slow = await opened(port, head.encode() + b'{"a"')
        assert (await rest(slow)).startswith(b"HTTP/1.1 4")


async def test_above_the_most_the_one_that_waits_the_longest_is_closed(worker: FakeWorker) -> None:
    async with serving(replace(UNLIMITED, connections=3), worker) as port:
        slow = [await opened(port, b"GET /healthz HTTP/1.1\r\nX: ") for _ in range(3)]
        assert b"200" in await answered(port)
        assert await rest(slow[0]) == b""
        for one in slow[1:]:
            one[1].write(b"\r\nHost: 127.0.0.1\r\n\r\n")
            assert b"200" in await asyncio.wait_for(one[0].readline(), SECONDS)
            one[1].close()


async def test_what_is_being_answered_is_never_closed(worker: FakeWorker) -> None:
    """Streams and long answers go on past every limit; while they take all places a new client is told so."""
    async with serving(Limits(head=0.1, idle=0.1, connections=1), worker) as port:
        head = b"GET /stream HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        streams = await opened(port, head)
        assert b"begun" in await asyncio.wait_for(streams[0].readuntil(b"begun"), SECONDS)
        await asyncio.sleep(0.3)  # past both limits, however long it really takes
        refused = await opened(port, GET)
        assert (await rest(refused)).startswith(b"HTTP/1.1 503")
        application_state[port].set()
        assert b"ended" in await rest(streams)


def test_a_worker_has_them(tmp_path: Path) -> None:
    settings = {"PORT_ORG_ID": "o", "PORT_CLIENT_ID": "c", "PORT_CLIENT_SECRET": "s", "HANDLERS": "examples.handlers"}
    script = "from streams.app import app; app.finalize(); app.discover(); print(type(app.web._runner).__name__)"
    done = subprocess.run(
        [sys.executable, "-c", script], env=settings, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout == "BoundedRunner\n", done.stderr
