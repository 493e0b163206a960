"""The demo as a user starts, interrupts, kills and misuses it."""

import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from local.demo import calls
from local.demo.errors import DemoError
from local.demo.options import parse
from local.demo.program import Program
from local.kafka import free_port
from local.kafka.net import is_free

ROOT = Path(__file__).parents[2]
# The first start of a fresh clone downloads Kafka.
UP_SECONDS = 240.0
DOWN_SECONDS = 60.0


def until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def processes_in(folder: Path) -> dict[str, psutil.Process]:
    """What runs in the folder or with a file of it, by its command line; guards are left to name what they guard."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = " ".join(process.cmdline())
            if process.pid != os.getpid() and (str(folder) in line or process.cwd().startswith(str(folder))):
                found[line] = process
    return found


class Demo:
    """One start of the demo, with ports of its own."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self._log = folder / "output"
        self.kafka, self.emulator, self.receiver, self.mail, self.web = (free_port() for _ in range(5))
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def ports(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in ("kafka", "emulator", "receiver", "mail", "web")}

    @property
    def options(self) -> list[str]:
        ports = [part for name, port in self.ports.items() for part in (f"--{name}-port", str(port))]
        return [*ports, "--data-dir", str(self.data)]

    def start(self, *more: str, cwd: Path = ROOT, **environment: str) -> None:
        self._start([sys.executable, "-m", "local.demo", *self.options, *more], cwd, environment)

    def make(self) -> None:
        self._start(["make", "demo"], ROOT, {"DEMO_ARGS": " ".join(self.options)})

    def _start(self, command: list[str], cwd: Path, environment: dict[str, str]) -> None:
        # A shell that runs these tests in the background has SIGINT ignored, and what is started would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # These tests may themselves be run by make, whose flags are not meant for another one.
        own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "MFLAGS"}
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                command, cwd=cwd, env=own | environment, stdout=output, stderr=output, start_new_session=True
            )

    @property
    def started(self) -> "subprocess.Popen[bytes]":
        assert self.process is not None
        return self.process

    @property
    def output(self) -> str:
        return self._log.read_text()

    def wait_for(self, text: str) -> None:
        until(lambda: text in self.output or self.started.poll() is not None, UP_SECONDS)
        assert text in self.output, self.output

    def wait(self, seconds: float = DOWN_SECONDS) -> int:
        return self.started.wait(seconds)

    def ask(self, path: str, port: int | None = None) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port or self.emulator}{path}", timeout=10) as answer:
            return dict(json.load(answer))

    def assert_nothing_left(self) -> None:
        assert processes_in(self.data) == {}
        assert [name for name, port in self.ports.items() if not is_free(port)] == []


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    one = Demo(tmp_path)
    yield one
    if one.process is not None:
        one.process.kill()
        one.process.wait()
    until(lambda: not processes_in(one.data), DOWN_SECONDS)
    for process in processes_in(one.data).values():
        process.kill()


def assert_four_completions(demo: Demo) -> None:
    """By the emulator's record of what the worker told Port."""
    demo.wait_for("Ctrl-C stops all of it")
    told = [call for call in demo.ask("/emulator/calls")["calls"] if call["call"] == "report"]
    # Of what waits for the provisioner Port is told that it is in progress, which is no completion.
    reports = [call for call in told if call["body"]["status"] != "IN_PROGRESS"]
    assert [(call["status"], call["changed"]) for call in reports] == [(200, True)] * 4
    assert {(call["body"]["status"], call["body"]["result"]) for call in reports} == {("COMPLETED", "SUCCESS")}
    assert len({call["path"] for call in reports}) == 4
    names = "deployment.started", "service.deployed", "provision-infrastructure", "notification"
    assert [name for name in names if f"({name}) wfnr_" not in demo.output] == []
    assert demo.output.count("completed SUCCESS after") == 4


def assert_all_was_received(demo: Demo) -> None:
    """By what stands for the services that the handlers call: the receiver's page, which the demo names."""
    assert f"http://127.0.0.1:{demo.receiver}/" in demo.output
    received = demo.ask("/", demo.receiver)["received"]
    assert sorted(one["to"] for one in received) == ["callback", "mail", "provisioner", "slack", "webhook", "webhook"]
    by_service = {one["to"]: one for one in received}
    assert by_service["slack"]["body"] == {"text": "checkout 2.4.1 is live :rocket:"}
    assert by_service["mail"]["recipients"] == ["team@example.com"]
    assert by_service["mail"]["text"].startswith("checkout 2.4.1 was deployed by ")
    assert by_service["provisioner"]["body"]["parameters"]["instanceType"] == "m5.2xlarge"
    assert by_service["provisioner"]["body"]["callback"].keys() == {"url"}
    assert by_service["callback"]["status"] == 202
    posted = [one["body"] for one in received if one["to"] == "webhook"]
    assert {body.get("eventType") or body.get("event") for body in posted} == {"deployment.started", "service.deployed"}


def assert_all_of_it_runs(demo: Demo) -> None:
    lines = list(processes_in(demo.data))
    for name in ("kafka.Kafka", "local.emulator", "local.receiver", "streams.app worker"):
        assert any(name in line for line in lines), lines


def reported(demo: Demo) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{demo.web}/api/node-runs", timeout=10) as answer:
        return int(json.load(answer)["counts"]["reported"])


def test_make_demo_completes_the_examples_and_ends_with_ctrl_c(demo: Demo) -> None:
    demo.make()
    assert_four_completions(demo)
    assert_all_was_received(demo)
    assert_all_of_it_runs(demo)
    # Interrupted before it stands in the ledger that Port has answered, a report is sent again at the next start.
    assert until(lambda: reported(demo) == 4, 30.0)
    # As a terminal does: to everybody in its foreground.
    os.killpg(demo.started.pid, signal.SIGINT)
    demo.wait()
    demo.assert_nothing_left()
    assert "rror" not in demo.output
    assert demo.output.endswith("Stopped.\n")

    # The data have stayed: what was done is not done again. This time make alone is interrupted.
    demo.make()
    assert_four_completions(demo)
    assert (demo.ask("/emulator")["nodeRuns"], demo.ask("/emulator")["completed"]) == (8, 8)
    demo.started.send_signal(signal.SIGINT)
    demo.wait()
    demo.assert_nothing_left()
    assert demo.output.endswith("Stopped.\n")


def test_once_ends_by_itself_and_takes_nothing_from_the_users_settings(demo: Demo, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("KAFKA_SECURITY_PROTOCOL=SASL_SSL\nHANDLERS=nonsense\n")
    proxy = "http://127.0.0.1:9"
    demo.start("--once", cwd=tmp_path, http_proxy=proxy, HTTP_PROXY=proxy, HANDLERS="nonsense", PORT_ORG_ID="another")
    assert demo.wait(UP_SECONDS) == 0, demo.output
    assert "All 4 node runs are completed." in demo.output
    demo.assert_nothing_left()


def test_handlers_of_ones_own_in_the_folder_of_the_start(demo: Demo, tmp_path: Path) -> None:
    """The module and the call of the README, and before it a module that cannot be imported."""
    readme = (ROOT / "README.md").read_text()
    [module] = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    [body] = re.findall(r"curl -s \S+ -d '(.*?)'\n", readme, re.DOTALL)
    (tmp_path / "my_handlers.py").write_text("import nothing_like_this\n" + module)
    demo.start("--handlers", "my_handlers", cwd=tmp_path)
    assert demo.wait(UP_SECONDS) == 1
    why = "cannot be imported: ModuleNotFoundError: No module named 'nothing_like_this'"
    assert demo.output.count(f"HANDLERS: my_handlers ({tmp_path}/my_handlers.py:1) {why}") == 1
    assert "Traceback" not in demo.output
    demo.assert_nothing_left()

    (tmp_path / "my_handlers.py").write_text(module)
    demo.start("--handlers", "my_handlers", cwd=tmp_path)
    assert_four_completions(demo)
    calls.publish(demo.emulator, json.loads(body))
    assert until(lambda: results(demo) == ["SUCCESS"] * 5, 30.0), demo.output
    [output] = [call["body"]["output"] for call in demo.ask("/emulator/calls")["calls"][-1:]]
    assert output == {"deployed": "checkout 1.4.0"}


@pytest.mark.parametrize("modules", ["", "my_handlers.py", "one,,two", "handlers/mine"])
def test_what_is_no_module_is_refused(modules: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(["--handlers", modules])
    assert "argument --handlers: must be names of modules separated by commas" in capsys.readouterr().err


def test_nothing_outlives_a_demo_that_is_killed_and_the_next_one_goes_on(demo: Demo) -> None:
    demo.start()
    demo.wait_for("All is up")
    worker_of(demo).suspend()
    assert until(lambda: demo.output.count(": waiting") == 4, 30.0), demo.output
    assert_all_of_it_runs(demo)
    demo.started.kill()
    demo.wait()

    # On the same folder and ports at once, while the processes of the first are still ending.
    demo.start()
    demo.wait_for("Ctrl-C stops all of it")
    assert "Waiting for the processes of an earlier demo to end" in demo.output
    assert demo.output.count("completed SUCCESS after") == 4
    assert until(lambda: results(demo) == ["SUCCESS"] * 8, 30.0), results(demo)

    # A worker that does not end, and whoever does not want to wait for it.
    worker_of(demo).suspend()
    demo.started.send_signal(signal.SIGINT)
    demo.wait_for("Stopping the worker")
    time.sleep(1.1)  # what comes within a second is the same Ctrl-C
    demo.started.send_signal(signal.SIGINT)
    assert demo.wait() == 130
    demo.assert_nothing_left()
    assert demo.output.endswith("Stopped at once.\n")


def results(demo: Demo) -> list[str | None]:
    return [one["result"] for one in demo.ask("/emulator/node-runs")["nodeRuns"]]


def worker_of(demo: Demo) -> psutil.Process:
    found = processes_in(demo.data).items()
    return next(process for line, process in found if "streams.app worker" in line and "guard.py" not in line)


@pytest.mark.parametrize("name", ["kafka", "emulator", "receiver", "mail", "web"])
def test_a_busy_port_is_one_line_before_anything_is_started(demo: Demo, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        setattr(demo, name, port)
        demo.start()
        assert demo.wait() == 2
    assert demo.output.startswith(f"demo: Port {port} is in use: ")
    assert f"--{name}-port" in demo.output
    assert demo.output.count("\n") == 1
    assert [str(file) for file in demo.data.rglob("*.log")] == []


def test_ports_that_are_the_same_are_refused(demo: Demo) -> None:
    demo.web = demo.emulator
    demo.start()
    assert demo.wait() == 2
    assert (
        demo.output == "demo: --kafka-port, --emulator-port, --receiver-port, --mail-port and --web-port must differ.\n"
    )


def test_a_program_that_dies_at_the_start_is_told_with_its_log(demo: Demo) -> None:
    (demo.data / "emulator").mkdir(parents=True)
    (demo.data / "emulator" / "node-runs.jsonl").write_text("{\n")
    demo.start()
    assert demo.wait(UP_SECONDS) == 1
    told = f"demo: The emulator has ended with status 2. Its log is {demo.data}/logs/emulator.log, and ends with:\n  "
    assert told in demo.output
    assert "node-runs.jsonl, line 1" in demo.output
    demo.assert_nothing_left()


def test_a_folder_in_use_is_told(demo: Demo, tmp_path: Path) -> None:
    demo.data.mkdir()
    with (demo.data / "demo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        demo.start()
        assert demo.wait() == 2
    assert "Another demo runs in" in demo.output


def test_what_cannot_be_written_is_told(demo: Demo) -> None:
    demo.data.write_text("a file")
    demo.start()
    assert demo.wait() == 1
    assert str(demo.data) in demo.output
    assert "Traceback" not in demo.output


@pytest.mark.parametrize("port", ["0", "65536", "x", ""])
def test_a_wrong_port_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(["--web-port", port])
    assert "argument --web-port: must be a number from 1 to 65535" in capsys.readouterr().err


def test_the_help_tells_how_make_passes_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        parse(["--help"])
    assert 'make demo DEMO_ARGS="' in capsys.readouterr().out


def program(folder: Path, code: str) -> Program:
    return Program("the worker", [sys.executable, "-c", code], log=folder / "log", environment={}, folder=folder)


def checked(one: Program, folder: Path, code: str = "") -> list[str]:
    """What is said until the program ends for good."""
    said: list[str] = []
    with (folder / "lock").open("w") as lock:
        one.start(lock)
        deadline = time.monotonic() + 20
        with pytest.raises(DemoError) as caught:
            while time.monotonic() < deadline:
                one.check(said.append)
                time.sleep(0.01)
    one.kill()
    return [*said, str(caught.value)]


def test_status_70_is_a_restart_with_backoff(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys; lives = pathlib.Path('lives'); n = len(lives.read_text()) if lives.exists() else 0\n"
        "lives.write_text('x' * (n + 1)); print('life', n); sys.exit(70 if n < 2 else 3)"
    )
    began = time.monotonic()
    first, second, last = checked(program(tmp_path, code), tmp_path)
    assert "status 70 and starts again in 1 s." in first
    assert "status 70 and starts again in 2 s." in second
    assert "has ended with status 3." in last
    assert [text.splitlines()[-1] for text in (first, second, last)] == ["  life 0", "  life 1", "  life 2"]
    assert time.monotonic() - began >= 3


def test_a_program_that_wrote_nothing(tmp_path: Path) -> None:
    assert checked(program(tmp_path, "raise SystemExit(1)"), tmp_path) == [
        f"The worker has ended with status 1. It wrote nothing to its log, {tmp_path}/log."
    ]


def test_a_program_that_does_not_want_to_end_is_killed(tmp_path: Path) -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    )
    one = program(tmp_path, code)
    with (tmp_path / "lock").open("w") as lock:
        one.start(lock)
        assert until(lambda: "up" in (tmp_path / "log").read_text(), 20)
    assert one.started
    assert not one.stop(0.2)
    assert not one.started
    assert one.stop(0.2)  # once more does nothing


def test_the_end_of_the_parent_is_noticed() -> None:
    child = (
        "import time; from local.demo.interrupts import follow_parent, raise_on_signals; raise_on_signals()\n"
        "follow_parent(); print('up', flush=True)\n"
        "try: time.sleep(60)\n"
        "except KeyboardInterrupt: print('interrupted', flush=True)"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "up\n"
        running.kill()
        assert running.stdout.readline() == "interrupted\n"
