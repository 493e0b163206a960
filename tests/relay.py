"""A TCP relay in front of a broker: it can be away, hold everything back, and lose single answers of Kafka."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Final, Self

from local.kafka.net import LOOPBACK

PRODUCE: Final = 0
"""Kafka's API key of the requests that write records."""
_SECONDS: Final = 10.0


class Relay:
    """Passes bytes between clients and `target`, a port of this machine; runs in a thread of its own.

    Its methods may be called from any thread, also from one in which an event loop runs.
    """

    def __init__(self, target: int, port: int = 0) -> None:
        self.target = target
        self.port = port
        self.lost = 0
        """How many answers were lost on purpose."""
        self._losing: dict[int, int] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self._passing: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        self._flows.set()
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    def open(self) -> None:
        """Take connections."""
        self._do(self._open())

    def cut(self) -> None:
        """Break all connections, and refuse new ones."""
        self._do(self._cut())

    def hold(self) -> None:
        """Take connections, and pass nothing on: what a network that swallows packets looks like."""
        self._do(self._set(flows=False))

    def release(self) -> None:
        """Pass everything on again, also what was held."""
        self._do(self._set(flows=True))

    def lose_answers(self, api_key: int, count: int = 1) -> None:
        """Break the connection in place of the next answers to requests of this kind."""
        self._losing[api_key] = count

    def _do(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(_SECONDS)

    async def _set(self, *, flows: bool) -> None:
        if flows:
            self._flows.set()
        else:
            self._flows.clear()

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._serve, LOOPBACK, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._passing:
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._passing.add(task)
        try:
            await self._connect(reader, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            self._passing.discard(task)
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection(LOOPBACK, self.target)
        asked: dict[int, int] = {}
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(reader, ours, asked, answers=False))
                both.create_task(self._pass(theirs, writer, asked, answers=True))
        except* (OSError, EOFError):
            pass
        finally:
            ours.transport.abort()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: dict[int, int], *, answers: bool
    ) -> None:
        while True:
            size = await reader.readexactly(4)
            frame = await reader.readexactly(struct.unpack(">i", size)[0])
            await self._flows.wait()
            if answers:
                if self._loses(asked.pop(struct.unpack_from(">i", frame)[0], -1)):
                    raise EOFError
            else:
                api_key, _, correlation_id = struct.unpack_from(">hhi", frame)
                asked[correlation_id] = api_key
            with contextlib.suppress(ConnectionError):
                writer.write(size + frame)
                await writer.drain()

    def _loses(self, api_key: int) -> bool:
        left = self._losing.get(api_key, 0)
        if left <= 0:
            return False
        self._losing[api_key] = left - 1
        self.lost += 1
        return True
