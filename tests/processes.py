"""An emulator of Port and workers as processes of their own, on a real Kafka."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from local.kafka import EmbeddedKafka, free_port

SECRET = "a-secret-for-tests"
STARTS_WITHIN = 60.0
HANDLERS = """
import asyncio
from agents import Fail, RetryLater, handles

@handles("echo")
async def echo(event: dict) -> dict:
    return {"echo": event, "apiToken": "t0k3n"}

@handles("hang")
async def hang(event: dict) -> None:
    await asyncio.sleep(3600)

@handles("later")
async def later(event: dict) -> None:
    raise RetryLater("1h", "not yet")

@handles("fail")
async def fail(event: dict) -> None:
    raise Fail("no: <b>password=hunter2</b>")
"""
T = TypeVar("T")


@dataclass(frozen=True)
class Got:
    """An answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def call(port: int, method: str, path: str, headers: Mapping[str, str] | None = None, body: object = None) -> Got:
    """One call; a body that is not bytes is sent as JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method, path, body=data, headers=dict(headers or {}))
        answer = connection.getresponse()
        return Got(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def eventually(check: Callable[[], T | None], what: str, seconds: float = 30.0, every: float = 0.05) -> T:
    """Ask until there is an answer. Calls that find nobody listening count as no answer."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if found := check():
                return found
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(every)
    raise AssertionError(f"not within {seconds:g} s: {what}")


@dataclass(frozen=True)
class Process:
    """A child, its port and its log."""

    child: subprocess.Popen[bytes]
    port: int
    log: Path
    headers: Mapping[str, str]

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Got:
        """Call with the worker's token, or with these headers."""
        return call(self.port, "GET", path, self.headers if headers is None else headers)

    def kill(self) -> None:
        """End it as `kill -9` does."""
        self.child.kill()
        self.child.wait()

    def freeze(self) -> None:
        """Have it stand still, as a machine that sleeps does, until `thaw`."""
        self.child.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.child.send_signal(signal.SIGCONT)

    def stop(self, seconds: float = 30.0) -> int:
        """End it, and return its exit status."""
        self.child.send_signal(signal.SIGTERM)
        return self.ended(seconds)

    def ended(self, seconds: float) -> int:
        """Wait for its end, and return its exit status."""
        try:
            return self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            self.child.kill()
            raise


@contextmanager
def _started(arguments: list[str], environment: Mapping[str, str], port: int, log: Path) -> Iterator[Process]:
    token = environment.get("WEB_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with log.open("ab") as out:
        clean = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        child = subprocess.Popen(
            [sys.executable, *arguments],
            env=clean | dict(environment),
            cwd=log.parent,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Process(child, port, log, headers)
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()


@dataclass(frozen=True)
class Cluster:
    """One organization on a Kafka: starts its emulator and its workers."""

    kafka: EmbeddedKafka
    org: str
    folder: Path
    emulator_port: int
    handlers: str = HANDLERS
    """The text of the module with the handlers."""
    own: EmbeddedKafka | None = None
    """The workers' own Kafka, where it is another than the one that is published on."""

    @property
    def calls_file(self) -> Path:
        """Where the emulator writes every call of its API, over its restarts."""
        return self.folder / "calls.jsonl"

    @contextmanager
    def emulator(self, *more: str) -> Iterator[Process]:
        """Start the emulator, with more options where wanted; returns when it answers.

        Started again, it knows the node runs that it knew before.
        """
        options = {
            "--port": str(self.emulator_port),
            "--org-id": self.org,
            "--client-id": "client",
            "--client-secret": SECRET,
            "--kafka": self.kafka.bootstrap,
            "--create-topic": "1",
            "--record": str(self.calls_file),
            "--state-dir": str(self.folder / "emulator"),
        }
        arguments = ["-m", "local.emulator", *(part for option in options.items() for part in option), *more]
        with _started(arguments, {}, self.emulator_port, self.folder / "emulator.log") as process:
            eventually(lambda: process.get("/emulator/calls").status == 200, "the emulator answers")
            yield process

    def data_dir(self, name: str) -> Path:
        """Return where the worker of this name keeps its local stores."""
        return self.folder / name

    @contextmanager
    def worker(self, name: str, port: int | None = None, log_level: str = "info", **settings: str) -> Iterator[Process]:
        """Start a worker; does not wait for it. Without a port it takes a free one."""
        (self.folder / "test_handlers.py").write_text(self.handlers, encoding="utf-8")
        port = port or free_port()
        environment = {
            "PORT_ORG_ID": self.org,
            "PORT_CLIENT_ID": "client",
            "PORT_CLIENT_SECRET": SECRET,
            "PORT_API_BASE_URL": f"http://127.0.0.1:{self.emulator_port}",
            "KAFKA_BROKERS": (self.own or self.kafka).bootstrap,
            "DATA_DIR": str(self.data_dir(name)),
            "WEB_PORT": str(port),
            "HANDLERS": "test_handlers",
            "PYTHONPATH": str(self.folder),
        }
        arguments = ["-m", "faust", "-A", "streams.app", "worker", "-l", log_level]
        with _started(arguments, environment | settings, port, self.folder / f"{name}.log") as process:
            yield process

    def publish(self, payload: object, workflow: str = "a-workflow") -> str:
        """Run a Kafka action node with this payload; returns the node-run id."""
        node = {"identifier": "a-node", "config": {"type": "KAFKA", "payload": payload}}
        body = {"workflowIdentifier": workflow, "node": node, "trigger": {}}
        got = call(self.emulator_port, "POST", "/emulator/node-runs", body=body)
        assert got.status == 200, got.text
        return str(got.json["nodeRunId"])


@contextmanager
def receiver(folder: Path, mail_port: int) -> Iterator[Process]:
    """Start what stands for the services that the example handlers call; returns when it answers."""
    port = free_port()
    arguments = ["-m", "local.receiver", "--port", str(port), "--mail-port", str(mail_port)]
    with _started(arguments, {}, port, folder / "receiver.log") as process:
        eventually(lambda: process.get("/").status == 200, "the receiver answers")
        yield process


def ready(process: Process) -> bool:
    """Whether the worker is ready; fails at once where it died."""
    if process.child.poll() is not None:
        raise AssertionError(f"the worker died: {process.log.read_text(errors='replace')[-3000:]}")
    return process.get("/readyz", {}).status == 200
