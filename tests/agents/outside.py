"""What handlers call, on loopback, and names that resolve as a test wants."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from examples.handlers.settings import OutgoingSettings
from local.kafka import free_port

Configure = Callable[..., None]
SECRET = "T0k3nInThePath"


@dataclass
class Web:
    """A server on a loopback address that answers as it is told."""

    port: int
    host: str = "127.0.0.1"
    status: int = 200
    text: str = "ok"
    headers: dict[str, str] = field(default_factory=dict)
    hangs: bool = False
    calls: list[tuple[str, dict[str, str], object]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/hooks/{SECRET}"

    async def handle(self, request: web.Request) -> web.Response:
        self.calls.append((request.path, dict(request.headers), json.loads(await request.read())))
        if self.hangs:
            await asyncio.sleep(3600)
        return web.Response(status=self.status, text=self.text, headers=self.headers)


@asynccontextmanager
async def serving(host: str = "127.0.0.1", port: int | None = None) -> AsyncIterator[Web]:
    one = Web(port or free_port(), host)
    app = web.Application()
    app.router.add_post("/{path:.*}", one.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, host, one.port).start()
    try:
        yield one
    finally:
        await runner.cleanup()


def loopback(**values: object) -> OutgoingSettings:
    return OutgoingSettings.model_validate({"outgoing_http": "allow", "outgoing_private": "allow"} | values)


class Names(AbstractResolver):
    """Resolves every name to the next of its addresses, and then to the last one."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        self.asked.append(host)
        address = self.addresses.pop(0) if len(self.addresses) > 1 else self.addresses[0]
        kind = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=0)]

    async def close(self) -> None:
        pass
