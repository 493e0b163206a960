"""Canary secrets, planted in a worker that logs all it can and meets what goes wrong: none shows up anywhere."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from pydantic import SecretStr

from local.kafka import EmbeddedKafka, free_port
from port.secrets import encrypt
from tests.e2e.test_signature import signed
from tests.processes import STARTS_WITHIN, Cluster, Process, call, eventually, ready

CLIENT_SECRET: Final = "canary-client-secret-0123456789abcdef"
SECRET_INPUT: Final = "canary-secret-input"
WEB_TOKEN: Final = "canary-web-token-0123456789"
PLANTED: Final = {
    "PORT_CLIENT_SECRET": CLIENT_SECRET,
    "KAFKA_USERNAME": "a-user",
    "KAFKA_PASSWORD": "canary-kafka-password",
    "SOURCE_PASSWORD": "canary-source-password",
    "WEB_TOKEN": WEB_TOKEN,
}
HANDLERS = """
import json
import logging
from agents import Context, Fail, RetryLater, Secret, handles
from pydantic import BaseModel

class Login(BaseModel):
    how: str
    password: Secret

@handles("login")
async def login(event: Login, ctx: Context) -> dict[str, object]:
    password = event.password.get_secret_value()
    ctx.log("%s: logging in as %s", event.how, password)
    logging.getLogger(__name__).warning("the event is %s %r", event, event)
    match event.how:
        case "fail":
            raise Fail(f"fail: {password} was refused")
        case "raise":
            try:
                {}[password]
            except KeyError as error:
                raise ConnectionError(f"raise: https://user:{password}@example.com") from error
        case "later":
            raise RetryLater("1h", f"later: {password} is locked")
    return {"how": event.how, "login": event, "plain": password, "json": json.dumps({"a": [password]}), password: 1}
"""
PAYLOADS: Final[tuple[str, ...]] = ("return", "fail", "raise", "later", "refused by Port", "wrong secret")


class Quoting(ThreadingHTTPServer):
    """Stands between worker and emulator, keeps what the worker sends, and has some reports refused in answers that
    quote all they know, as the error pages of proxies do.
    """

    daemon_threads = True

    def __init__(self, emulator_port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.emulator_port = emulator_port
        self.refused: set[str] = set()
        self.bodies: list[tuple[str, bytes]] = []
        """Path and body of each call but those for tokens."""
        self.tokens: set[str] = set()
        self.quoted = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Quoting

    def _pass_on(self) -> None:
        proxy, authorization = self.server, self.headers.get("Authorization", "")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/v1/auth/access_token":
            assert json.loads(body)["clientSecret"] == CLIENT_SECRET
        else:
            proxy.bodies.append((self.path, body))
            proxy.tokens.add(authorization.removeprefix("Bearer "))
        if self.command == "PATCH" and any(self.path.endswith(node) for node in proxy.refused):
            proxy.quoted += 1
            told = f"{authorization} and {CLIENT_SECRET} of {self.path} are not welcome: {body.decode()}"
            self._answer(422, json.dumps({"ok": False, "error": "invalid", "message": told}).encode())
            return
        headers = {"Authorization": authorization, "Content-Type": "application/json"}
        got = call(proxy.emulator_port, self.command, self.path, headers, body or None)
        self._answer(got.status, got.body)

    do_GET = do_POST = do_PATCH = _pass_on

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@dataclass
class Planted:
    """A worker with secrets everywhere, when all that was sent to it has come to its end."""

    cluster: Cluster
    worker: Process
    port: Quoting
    node_runs: dict[str, str] = field(default_factory=dict)

    def publish(self) -> None:
        for how in PAYLOADS:
            secret = "another client secret of 32 bytes" if how == "wrong secret" else CLIENT_SECRET
            payload = {"type": "login", "how": how, "password": encrypt(SECRET_INPUT, SecretStr(secret))}
            self.node_runs[how] = self.cluster.publish(payload)
            if how == "refused by Port":
                self.port.refused.add(self.node_runs[how])

    async def send(self) -> None:
        """Send what is no message of Port's: signed with another secret, and no JSON."""
        body = '{"headers":{},"context":{"nodeRunId":"wfnr_forged"},"payload":{"type":"login"}}'
        async with AIOKafkaProducer(bootstrap_servers=self.cluster.kafka.bootstrap) as producer:
            for value in (signed(body, secret="another"), "no JSON"):
                await producer.send_and_wait(f"{self.cluster.org}.runs", value.encode())

    def state(self, how: str) -> str:
        return str(self.worker.get(f"/api/node-runs/{self.node_runs[how]}").json["state"])

    def ended(self) -> bool:
        expected = dict.fromkeys(PAYLOADS, "reported") | {"later": "deferred", "refused by Port": "refused"}
        metrics = self.worker.get("/metrics").text
        dead = ['what="signature refused"} 1.0', 'what="dead letter"} 1.0']
        return all(line in metrics for line in dead) and {how: self.state(how) for how in PAYLOADS} == expected

    def pages(self) -> Iterator[tuple[str, str]]:
        """Yield every page and JSON of the worker, with the token and without it, headers included."""
        node_runs = [*self.node_runs.values(), "wfnr_forged"]
        paths = ["/", "/api/node-runs", "/metrics", "/healthz", "/readyz", "/nowhere", f"/?token={WEB_TOKEN[:-3]}"]
        paths += [path for node in node_runs for path in (f"/node-runs/{node}", f"/api/node-runs/{node}")]
        for path in paths:
            for headers in ({}, dict(self.worker.headers), {"Accept": "text/html", **self.worker.headers}):
                got = self.worker.get(path, headers)
                yield path, f"{got.headers} {got.body.decode()}"

    async def records(self) -> AsyncIterator[ConsumerRecord[bytes, bytes]]:
        """Yield what all topics of the organization hold."""
        bootstrap, mine = self.cluster.kafka.bootstrap, f"{self.cluster.org}."
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        await admin.start()
        try:
            topics = await admin.describe_topics([name for name in await admin.list_topics() if name.startswith(mine)])
        finally:
            await admin.close()
        places = [TopicPartition(one["topic"], part["partition"]) for one in topics for part in one["partitions"]]
        async with AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=None) as consumer:
            consumer.assign(places)
            await consumer.seek_to_beginning()
            ends = await consumer.end_offsets(places)
            while any([await consumer.position(place) < end for place, end in ends.items()]):
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    for one in records:
                        yield one


@pytest.fixture(scope="module")
def planted(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planted]:
    folder = tmp_path_factory.mktemp("canaries")
    cluster = Cluster(kafka, folder.name, folder, free_port(), HANDLERS)
    with ExitStack() as stack:
        stack.enter_context(cluster.emulator("--client-secret", CLIENT_SECRET))
        port = stack.enter_context(Quoting(cluster.emulator_port))
        threading.Thread(target=port.serve_forever, daemon=True).start()
        stack.callback(port.shutdown)
        settings = PLANTED | {"PORT_API_BASE_URL": port.url}
        worker = stack.enter_context(cluster.worker("worker", None, "debug", **settings))
        made = Planted(cluster, worker, port)
        eventually(partial(ready, worker), "the worker is ready", STARTS_WITHIN)
        made.publish()
        asyncio.run(made.send())
        eventually(made.ended, "all has come to its end")
        yield made


def clean(planted: Planted, where: str, text: str) -> None:
    """Assert that no canary is in a text."""
    for canary in ("canary-", *planted.port.tokens):
        at = text.find(canary)
        assert at < 0, f"{where}: {text[max(0, at - 200) : at + 50]}"


def test_the_traps_are_set(planted: Planted) -> None:
    assert planted.port.quoted == 2, "the report, and the one without its output"
    assert all(token.startswith("emulator-token-") for token in planted.port.tokens)
    assert planted.port.tokens
    with pytest.raises(AssertionError, match=r"somewhere: .*canary-web"):
        clean(planted, "somewhere", f"x {WEB_TOKEN}")


def test_reports_say_what_happened_without_the_secret(planted: Planted) -> None:
    bodies = [json.loads(body) for _, body in planted.port.bodies if body]
    for path, body in planted.port.bodies:
        clean(planted, path, body.decode())
    clean(planted, "the emulator's record", planted.cluster.calls_file.read_text())
    errors = [body["output"]["error"]["message"] for body in bodies if body.get("result") == "FAILED"]
    assert sorted(errors) == [
        "ConnectionError: raise: https://user:***@example.com",
        "fail: *** was refused",
        "the item does not fit its model: password: it cannot be decrypted: it is no secret input, "
        "or PORT_CLIENT_SECRET is not the one it was encrypted with",
    ]
    outputs = [body["output"] for body in bodies if body.get("result") == "SUCCESS" and "how" in body["output"]]
    login = {"how": "return", "password": "**********"}
    assert {"how": "return", "login": login, "plain": "***", "json": '{"a": ["***"]}', "***": 1} in outputs


def test_the_log_is_clean(planted: Planted) -> None:
    text = planted.worker.log.read_text(errors="replace")
    clean(planted, "log", text)
    for line in (
        "fail: logging in as ***",
        "password=Secret('**********')",
        "ConnectionError: raise: https://user:***@",
    ):
        assert line in text
    assert "KeyError: '***'" in text, "the cause, too"
    assert "its signature is wrong" in text
    assert "DEBUG" in text


def test_the_web_views_are_clean(planted: Planted) -> None:
    shown = dict[str, str]()
    for path, text in planted.pages():
        clean(planted, path, text)
        shown[path] = shown.get(path, "") + text
    assert "fail: *** was refused" in shown[f"/node-runs/{planted.node_runs['fail']}"]
    assert "later: *** is locked" in shown[f"/api/node-runs/{planted.node_runs['later']}"]
    assert "*** and *** of /v1/" in shown[f"/api/node-runs/{planted.node_runs['refused by Port']}"]


def test_the_topics_are_clean(planted: Planted) -> None:
    async def found() -> dict[str, str]:
        texts: dict[str, str] = {}
        async for one in planted.records():
            parts = [one.key, one.value, *(part for name, value in one.headers for part in (name.encode(), value))]
            text = "\n".join(part.decode(errors="replace") for part in parts if part is not None)
            clean(planted, one.topic, text)
            texts[one.topic] = texts.get(one.topic, "") + text
        return texts

    texts = asyncio.run(found())
    prefix = f"{planted.cluster.org}.port-runs"
    assert {f"{planted.cluster.org}.runs", f"{prefix}.dead-letters", f"{prefix}-ledger-changelog"} <= set(texts)
    changelog = texts[f"{prefix}-ledger-changelog"]
    for part in ("fail: *** was refused", "later: *** is locked", "*** and *** of /v1/"):
        assert part in changelog
    assert "its signature is wrong" in texts[f"{prefix}.dead-letters"]


def test_what_is_on_disk_is_clean(planted: Planted) -> None:
    files = [path for path in planted.cluster.data_dir("worker").rglob("*") if path.is_file()]
    texts = [path.read_bytes().decode(errors="replace") for path in files]
    assert any("fail: *** was refused" in text for text in texts)
    for path, text in zip(files, texts, strict=True):
        clean(planted, path.name, text)
