"""The emulator's HTTP server.

It is built on aiohttp's low-level server with a routing of its own: benchmarks send it thousands of reports a second,
and every call passes the same few steps: read, strike with a fault, process, record, answer.
"""

import asyncio
import logging
import socket
import struct
from typing import Final

import orjson
from aiohttp import web

from local.emulator.api import PortApi, route
from local.emulator.config import EmulatorConfig
from local.emulator.control import Control
from local.emulator.faults import Faults, Plan, Strike
from local.emulator.http import Reply, Request, refuse
from local.emulator.journal import Journal
from local.emulator.record import CallRecord
from local.emulator.state import State
from local.emulator.tokens import Tokens
from local.emulator.workflow import Published, Publisher, PublishRequest

_READ_LIMIT: Final = 64 * 1024 * 1024
# aiohttp waits for it twice: before it cancels what is under way, and after.
_STOP_SECONDS: Final = 0.5

logger = logging.getLogger(__name__)


class Emulator:
    """Port on this machine. `start` and `stop` it, or use it as an async context manager.

    In the same process `calls` is the record, `faults` what goes wrong, `state` the node runs, `tokens` the access
    tokens and `publish` the workflow side; over HTTP the same stands below `/emulator`.
    """

    def __init__(self, config: EmulatorConfig | None = None) -> None:
        """Reads the state folder and opens the record file: raises JournalError, or OSError for the file."""
        self.config = config or EmulatorConfig()
        self.calls = CallRecord(self.config.client_secret.get_secret_value(), self.config.record_file)
        journal = None if self.config.state_dir is None else Journal(self.config.state_dir)
        self.state = State(self.config.clock, identical_status=self.config.identical_status, journal=journal)
        self.tokens = Tokens(
            self.config.client_id, self.config.client_secret, self.config.token_seconds, self.config.clock
        )
        self._faults_changed = asyncio.Event()
        self.faults = Faults(self._end_hanging_calls)
        self._publisher = None
        if self.config.kafka is not None:
            self._publisher = Publisher(self.config.kafka, self.config.topic, self.config.topic_partitions)
        self._api = PortApi(self.config, self.state, self.tokens, self.faults)
        self._control = Control(self.config, self.state, self.tokens, self.faults, self.calls, self._publisher)
        self._runner: web.ServerRunner | None = None
        self._port = self.config.port

    async def __aenter__(self) -> "Emulator":
        try:
            await self.start()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        self.close()

    @property
    def base_url(self) -> str:
        """Where it listens, such as `http://127.0.0.1:8090`."""
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        return f"http://{host}:{self._port}"

    async def start(self) -> None:
        """Listen. Raises OSError where the port is taken. After a `stop` it starts again on the same port."""
        # A call goes on when its sender gives up: Port too may act on a report whose sender no longer waits.
        server = web.Server(self._handle, handler_cancellation=False, access_log=None)
        runner = web.ServerRunner(server, shutdown_timeout=_STOP_SECONDS)
        await runner.setup()
        try:
            await web.TCPSite(runner, self.config.host, self._port, backlog=1024).start()
        except BaseException:
            await runner.cleanup()
            raise
        self._port = runner.addresses[0][1]
        self._runner = runner

    async def stop(self) -> None:
        """Stop listening and break what is under way. The state is kept for another `start`."""
        self._end_hanging_calls()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._publisher is not None:
            await self._publisher.close()

    def close(self) -> None:
        """Close the files; the end of a stopped emulator."""
        self.calls.close()
        self.state.close()

    async def publish(self, request: PublishRequest) -> Published:
        """Start a node run and publish its messages, as `POST /emulator/node-runs` does.

        Raises RenderError for a template, PublishError for Kafka.
        """
        return await self._control.publish(request)

    def _end_hanging_calls(self) -> None:
        self._faults_changed.set()
        self._faults_changed = asyncio.Event()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await _read(request)
        path, _, query = request.raw_path.partition("?")
        if path.startswith("/v1/"):
            authorization = request.headers.get("Authorization")
            call = route(request.method, path, query, body or b"", authorization)
            return await self._answer_call(request, call, too_large=body is None)
        if body is None:
            return _response(refuse(413, "the body is too large"))
        try:
            return _response(await self._control.answer(request.method, path, query, body))
        except Exception:
            logger.exception("%s %s failed", request.method, path)
            return _response(refuse(500, "the emulator failed; its log says why"))

    async def _answer_call(self, request: web.BaseRequest, call: Request, *, too_large: bool) -> web.StreamResponse:
        plan = self.faults.plan(call.name, call.node_run_id)
        if plan is not None:
            if plan.delay:
                await asyncio.sleep(plan.delay)
            if plan.strike not in (Strike.DELAY, Strike.DROP_ANSWER):
                return await self._strike(request, call, plan)
        reply = refuse(413, "the body is larger than 1 MiB") if too_large else self._api.answer(call)
        self._record(call, reply.status, reply.changed, plan)
        if plan is not None and plan.strike is Strike.DROP_ANSWER:
            return _broken(request, reset=False)
        return _response(reply)

    async def _strike(self, request: web.BaseRequest, call: Request, plan: Plan) -> web.StreamResponse:
        """A fault that keeps the call from being processed."""
        if plan.strike is Strike.ERROR:
            self._record(call, plan.status, False, plan)
            headers = {} if plan.retry_after is None else {"Retry-After": f"{plan.retry_after:g}"}
            return _response(refuse(plan.status, "a fault that was switched on", headers))
        self._record(call, None, False, plan)
        if plan.strike is Strike.HANG:
            await self._faults_changed.wait()
        return _broken(request, reset=plan.strike is Strike.RESET)

    def _record(self, call: Request, status: int | None, changed: bool, plan: Plan | None) -> None:
        path = f"{call.path}?{call.query}" if call.query else call.path
        fault = None if plan is None else plan.label
        if status == 429 and fault is None:
            fault = "rate_limit"
        body = _without_secret(call.body) if call.name == "auth" else call.body
        self.calls.add(self.config.clock(), call.name, call.method, path, status, body, fault=fault, changed=changed)


async def _read(request: web.BaseRequest) -> bytes | None:
    """The whole body, also one that is over Port's limit, so that its sender gets to read the answer; None if huge."""
    if not request.can_read_body:
        return b""
    body = bytearray()
    while chunk := await request.content.readany():
        body += chunk
        if len(body) > _READ_LIMIT:
            return None
    return bytes(body)


def _without_secret(body: bytes) -> bytes:
    """What the record keeps of a call for a token: who asked. Wrong secrets are secrets too."""
    try:
        client_id = orjson.loads(body)["clientId"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return b""
    return orjson.dumps({"clientId": client_id, "clientSecret": "***"})


def _response(reply: Reply) -> web.Response:
    return web.Response(
        status=reply.status, body=reply.body, content_type="application/json", headers=reply.headers or None
    )


def _broken(request: web.BaseRequest, *, reset: bool) -> web.Response:
    """End the connection without an answer: reset, or closed. The response that is returned reaches nobody."""
    transport = request.transport
    if transport is not None:
        raw = transport.get_extra_info("socket")
        if reset and raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response(status=500)
