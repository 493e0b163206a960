"""Stands for what the example handlers call: a webhook, Slack, a provisioner and a mail server.

`python -m local.receiver` runs it on loopback. `GET /` returns what they received.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from email import message_from_bytes
from email.policy import default
from typing import Final

import aiohttp
import orjson
from aiohttp import web
from aiosmtpd.smtp import SMTP, Envelope
from pydantic import JsonValue
from yarl import URL

from local.kafka.net import LOOPBACK

_KEPT: Final = 1000
_PROVISIONING_SECONDS: Final = 0.5
_CALLBACK_TRIES: Final = 20
_PAUSE: Final = 0.5
Received = dict[str, JsonValue]


class Receiver:
    """The servers. `async with` runs them; `received` is what came, oldest first, the last 1,000.

    Args:
        port: of the HTTP server, which takes `POST /webhook`, `/slack` and `/provisioner`.
        mail_port: of the mail server, which takes every mail.
    """

    def __init__(self, port: int, mail_port: int) -> None:
        self.received: deque[Received] = deque(maxlen=_KEPT)
        self._port = port
        self._mail_port = mail_port
        self._runner: web.AppRunner | None = None
        self._mail: asyncio.Server | None = None
        self._provisioning: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Receiver:
        app = web.Application()
        app.add_routes(
            [
                web.get("/", self._show),
                web.post("/webhook", self._webhook),
                web.post("/slack", self._slack),
                web.post("/provisioner", self._provisioner),
            ]
        )
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, LOOPBACK, self._port).start()
        loop = asyncio.get_running_loop()
        self._mail = await loop.create_server(
            lambda: SMTP(self, loop=loop, hostname="receiver"), LOOPBACK, self._mail_port
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._provisioning:
            task.cancel()
        if self._mail is not None:
            self._mail.close()
        if self._runner is not None:
            await self._runner.cleanup()

    def _take(self, to: str, what: Mapping[str, JsonValue]) -> None:
        one: Received = {"to": to, **what}
        self.received.append(one)
        # Not what it was: it can hold the URL of a callback, which is a secret.
        sys.stdout.write(f"received: {to}\n")
        sys.stdout.flush()

    async def _show(self, _: web.Request) -> web.Response:
        return web.Response(
            body=orjson.dumps({"received": list(self.received)}, option=orjson.OPT_INDENT_2),
            content_type="application/json",
        )

    async def _webhook(self, request: web.Request) -> web.Response:
        self._take("webhook", _posted(request, await _json(request)))
        return web.Response(text="ok")

    async def _slack(self, request: web.Request) -> web.Response:
        body = await _json(request)
        text = body.get("text")
        if not isinstance(text, str) or not text:
            # As Slack does.
            return web.Response(status=400, text="no_text")
        self._take("slack", _posted(request, body))
        return web.Response(text="ok")

    async def _provisioner(self, request: web.Request) -> web.Response:
        body = await _json(request)
        callback = body.get("callback")
        url = callback.get("url") if isinstance(callback, dict) else None
        if not isinstance(url, str) or URL(url).host != LOOPBACK:
            return web.Response(status=400, text="no_callback")
        self._take("provisioner", _posted(request, body))
        task = asyncio.create_task(self._provision(url))
        self._provisioning.add(task)
        task.add_done_callback(self._provisioning.discard)
        return web.Response(status=202, text="accepted")

    async def _provision(self, callback: str) -> None:
        """Take a while, then say at the callback that the machines are there, until somebody takes it."""
        await asyncio.sleep(_PROVISIONING_SECONDS)
        done = {"result": "SUCCESS", "output": {"machines": ["i-0a1", "i-0a2", "i-0a3"]}}
        async with aiohttp.ClientSession() as session:
            for _ in range(_CALLBACK_TRIES):
                try:
                    async with session.post(callback, json=done) as answer:
                        self._take("callback", {"status": answer.status})
                        if answer.status < 500:
                            return
                except aiohttp.ClientError as error:
                    self._take("callback", {"error": type(error).__name__})
                await asyncio.sleep(_PAUSE)

    async def handle_DATA(self, server: object, session: object, envelope: Envelope) -> str:  # noqa: N802, RUF100
        """Take a mail; aiosmtpd calls it."""
        content = envelope.content if isinstance(envelope.content, bytes) else b""
        mail = message_from_bytes(content, policy=default)
        text = mail.get_content() if mail.get_content_type() == "text/plain" else ""
        self._take(
            "mail",
            {
                "from": envelope.mail_from,
                "recipients": list(envelope.rcpt_tos),
                "subject": str(mail["Subject"]),
                "messageId": str(mail["Message-ID"]),
                "text": "\n".join(str(text).splitlines()),
            },
        )
        return "250 OK"


async def _json(request: web.Request) -> dict[str, JsonValue]:
    try:
        body = orjson.loads(await request.read())
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(text="invalid_payload")
    return body


def _posted(request: web.Request, body: dict[str, JsonValue]) -> Received:
    return {"body": body, "idempotencyKey": request.headers.get("Idempotency-Key")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT. Returns the exit status: 2 where it cannot listen, said in one line."""
    parser = argparse.ArgumentParser(
        prog="python -m local.receiver",
        description="Stands for a webhook, Slack, a provisioner and a mail server, and shows what they receive.",
    )
    parser.add_argument("--port", type=int, default=8091, help="of the HTTP server (%(default)s)")
    parser.add_argument("--mail-port", type=int, default=8025, help="of the mail server (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        asyncio.run(_serve(Receiver(options.port, options.mail_port)))
    except OSError as error:
        sys.stderr.write(f"receiver: {error.strerror or error}\n")
        return 2
    return 0


async def _serve(receiver: Receiver) -> None:
    stopped = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stopped.set)
    async with receiver:
        await stopped.wait()


if __name__ == "__main__":
    sys.exit(main())
