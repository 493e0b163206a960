"""`make dev`'s program: a change of a handler file starts the worker anew, a mistake is shown and waited out."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.dev import folders, main
from local.kafka import EmbeddedKafka, free_port
from tests.processes import STARTS_WITHIN, call, eventually

HANDLER = """
import sys
from agents import handles

@handles("{name}")
async def handler(event: dict) -> None: ...

sys.stderr.write("imported {name}\\n")
"""


def written(path: Path, text: str) -> None:
    """As editors do it: another file takes its place."""
    fresh = path.with_suffix(".fresh")
    fresh.write_text(text)
    fresh.replace(path)


class Dev:
    def __init__(self, folder: Path, child: "subprocess.Popen[bytes]", web_port: int) -> None:
        self.handlers, self.log, self.child, self._web_port = folder / "my_handlers.py", folder / "log", child, web_port

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def runs(self, name: str) -> None:
        """Wait until a worker with these handlers is ready."""
        eventually(lambda: f"imported {name}" in self.output() and self._is_ready(), f"{name} runs", STARTS_WITHIN)

    def _is_ready(self) -> bool:
        return call(self._web_port, "GET", "/readyz").status == 200


@pytest.fixture
def dev(kafka: EmbeddedKafka, unique: str, tmp_path: Path) -> Iterator[Dev]:
    port = free_port()
    (tmp_path / "my_handlers.py").write_text(HANDLER.format(name="first"))
    (tmp_path / ".env").write_text(
        f"PORT_ORG_ID={unique}\nPORT_CLIENT_ID=id\nPORT_CLIENT_SECRET=s\nPORT_API_BASE_URL=http://127.0.0.1:9\n"
        f"KAFKA_BROKERS={kafka.bootstrap}\nWEB_PORT={port}\nHANDLERS=my_handlers\nDATA_DIR=data\n"
    )
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-m", "local.dev"]
        with subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True) as child:
            try:
                yield Dev(tmp_path, child, port)
            finally:
                if child.poll() is None:
                    os.killpg(child.pid, signal.SIGKILL)


def test_a_change_restarts_and_a_mistake_is_waited_out(dev: Dev) -> None:
    dev.runs("first")

    written(dev.handlers, "import nothing_of_that_name\n")
    eventually(lambda: "waiting for a change" in dev.output(), "the mistake is shown", STARTS_WITHIN)
    assert "dev: changed: my_handlers.py" in dev.output()
    assert "HANDLERS: my_handlers (my_handlers.py:1) cannot be imported: ModuleNotFoundError" in dev.output()
    assert "the worker has ended with status 2" in dev.output()

    written(dev.handlers, HANDLER.format(name="second"))
    dev.runs("second")

    # As a terminal does: to everybody in its foreground.
    os.killpg(dev.child.pid, signal.SIGINT)
    assert dev.child.wait(STARTS_WITHIN) == 0
    assert dev.output().count("dev: stopping") == 1
    assert "Traceback" not in dev.output()
    assert [line for line in dev.output().splitlines() if "killed" in line] == []


def test_the_folders_are_those_of_the_handlers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "a_package" / "inner"
    (inner / "__pycache__").mkdir(parents=True)
    (tmp_path / "a_package" / "__init__.py").write_text("raise RuntimeError('is not imported')")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a_module.py").touch()
    (tmp_path / ".venv" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(elsewhere))
    found = folders(["a_package.inner", "a_module", "is_nowhere"])
    assert found == [tmp_path, tmp_path / "a_package", inner, elsewhere]


def test_missing_settings_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([]) == 2
    assert "PORT_ORG_ID: missing" in capsys.readouterr().err
