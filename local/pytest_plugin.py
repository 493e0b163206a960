"""Fixtures for the tests of a project with handlers: a real Kafka, an emulator of Port, and a worker.

In conftest.py: pytest_plugins = ["local.pytest_plugin"]; needs `pip install "port-runs[testing]"`.

| fixture | is |
|---|---|
| `embedded_kafka` | the `EmbeddedKafka`, one for all tests |
| `port_emulator` | a `PortEmulator` that publishes on it, with an organization of its own for each test |
| `start_worker` | a function that starts a worker with your handlers and waits until it is ready |
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Final, Self, TypeVar

import pytest
from pydantic import JsonValue

from local.emulator import Emulator, EmulatorConfig, PublishRequest
from local.kafka import EmbeddedKafka, free_port
from local.kafka.net import LOOPBACK

T = TypeVar("T")
_STARTS_WITHIN: Final = 60.0
_STOPS_WITHIN: Final = 45.0
_CALL_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.05
_LAST_CHARACTERS: Final = 4_000
# Settings of the developer's own do not reach the worker.
_PASSED_ON: Final = ("PATH", "HOME", "TMPDIR", "TZ", "LANG", "LC_ALL")


@dataclass(frozen=True)
class Completion:
    """What Port was told of a node run in the end."""

    result: str
    """`SUCCESS`, `FAILED` or `CANCELLED`."""
    output: JsonValue
    logs: tuple[JsonValue, ...]


class PortEmulator:
    """An emulator of Port in a thread of its own, so that tests need no event loop. Use it as a context manager.

    Attributes:
        emulator: the emulator itself, for what is not here: faults, calls, tokens.
    """

    def __init__(self, config: EmulatorConfig) -> None:
        self.emulator = Emulator(config)
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="port-emulator", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self.emulator.start())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self.emulator.stop())
        self.emulator.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def publish(
        self,
        node: Mapping[str, JsonValue],
        *,
        trigger: Mapping[str, JsonValue] | None = None,
        outputs: Mapping[str, JsonValue] | None = None,
    ) -> str:
        """Run a Kafka action node: render it, publish its message, and return the node-run id.

        `trigger` is what its templates find under `.outputs.trigger`, `outputs` what earlier nodes put out. Raises
        pydantic's ValidationError for what is no node, RenderError for a template, PublishError for Kafka.
        """
        fields = {"node": node, "trigger": trigger or {}, "outputs": outputs or {}}
        published = self._run(self.emulator.publish(PublishRequest.model_validate(fields)))
        return published.node_run_id

    def publish_payload(self, payload: JsonValue) -> str:
        """Run a Kafka action node with this payload."""
        return self.publish({"identifier": "a-node", "config": {"type": "KAFKA", "payload": payload}})

    def completion(self, node_run_id: str, within: float = 30.0) -> Completion:
        """Wait until the node run is completed, and return what Port was told.

        Raises AssertionError where that takes longer than `within` seconds, KeyError for an unknown node run.
        """
        end = time.monotonic() + within
        while (node_run := self.emulator.state.node_runs[node_run_id]).result is None:
            if time.monotonic() > end:
                raise AssertionError(f"{node_run_id} is not completed within {within:g} s, but {node_run.status}")
            time.sleep(_POLL_SECONDS)
        detail = node_run.detail()
        return Completion(str(node_run.result), detail["output"], tuple(node_run.logs or ()))

    def _run(self, work: Coroutine[object, object, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_CALL_SECONDS)


StartWorker = Callable[..., None]
"""`start_worker("my_handlers", REPORT_GRACE="1s")`: modules as in HANDLERS, further settings by name."""


@pytest.fixture(scope="session")
def embedded_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """One broker for all tests. The first use on a machine downloads Kafka."""
    with EmbeddedKafka(tmp_path_factory.mktemp("kafka")) as kafka:
        yield kafka


@pytest.fixture
def port_emulator(embedded_kafka: EmbeddedKafka) -> Iterator[PortEmulator]:
    """Port, with an organization of its own for this test."""
    org_id = f"org{uuid.uuid4().hex[:8]}"
    with PortEmulator(EmulatorConfig(org_id=org_id, kafka=embedded_kafka.bootstrap, topic_partitions=1)) as emulator:
        yield emulator


@pytest.fixture
def start_worker(port_emulator: PortEmulator, embedded_kafka: EmbeddedKafka, tmp_path: Path) -> Iterator[StartWorker]:
    """Start workers for this test, which imports what the test can import. They are stopped at its end.

    The function raises AssertionError, with the end of the worker's log, where it does not get ready.
    """
    with contextlib.ExitStack() as workers:

        def start(handlers: str, **settings: str) -> None:
            config, port = port_emulator.emulator.config, free_port()
            folder = tmp_path / f"worker-{port}"
            folder.mkdir()
            environment = {
                "PORT_ORG_ID": config.org_id,
                "PORT_CLIENT_ID": config.client_id,
                "PORT_CLIENT_SECRET": config.client_secret.get_secret_value(),
                "PORT_API_BASE_URL": port_emulator.emulator.base_url,
                "KAFKA_BROKERS": embedded_kafka.bootstrap,
                "DATA_DIR": str(folder / "data"),
                "WEB_PORT": str(port),
                "HANDLERS": handlers,
                "PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path),
            }
            workers.enter_context(_worker(folder, environment | settings, port))

        yield start


@contextlib.contextmanager
def _worker(folder: Path, environment: Mapping[str, str], port: int) -> Iterator[None]:
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    log = folder / "worker.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-m", "faust", "-A", "streams.app", "worker", "-l", "info"],
            env=passed_on | dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        ) as child,
    ):
        try:
            _wait_until_ready(child, port, log)
            yield
        finally:
            child.terminate()
            try:
                child.wait(_STOPS_WITHIN)
            except subprocess.TimeoutExpired:
                child.kill()


def _wait_until_ready(child: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + _STARTS_WITHIN
    while not _is_ready(port):
        if child.poll() is not None or time.monotonic() > end:
            how = "is not ready" if child.returncode is None else f"has ended with status {child.returncode}"
            raise AssertionError(f"the worker {how}; its log ends with:\n{log.read_text()[-_LAST_CHARACTERS:]}")
        time.sleep(_POLL_SECONDS)


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=2.0)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
