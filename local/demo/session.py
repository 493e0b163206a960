"""One session of the demo: what is started, what is run through it, and how it is stopped."""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from local.demo import calls
from local.demo.errors import DemoError
from local.demo.folder import DataFolder
from local.demo.options import Options
from local.demo.program import Program
from local.demo.screen import Row, Screen
from local.examples import load_examples
from local.kafka import fetch_jars
from local.kafka.net import LOOPBACK, accepts, answers

_ORG_ID = "demo"
_CHECKOUT = Path(__file__).parents[2]
_HANDLERS = "examples.handlers"
_KAFKA_SECONDS = 60.0
_EMULATOR_SECONDS = 20.0
_RECEIVER_SECONDS = 20.0
_WORKER_SECONDS = 60.0
_EXAMPLES_SECONDS = 60.0
_POLL_SECONDS = 0.05
_WATCH_SECONDS = 0.2
_WORKER_STOP_SECONDS = 45.0
_EMULATOR_STOP_SECONDS = 10.0
_RECEIVER_STOP_SECONDS = 5.0
_KAFKA_STOP_SECONDS = 30.0
# Neither can write any more what it still wants to.
_STOP_SECONDS_WITHOUT_KAFKA = 3.0
# No more of this process's environment reaches the programs: neither settings nor proxies of the user.
_PASSED_ON = ("PATH", "HOME", "TMPDIR", "TZ", "LANG", "LC_ALL", "LOCAL_CACHE_DIR", "XDG_CACHE_HOME")


class Session:
    """Everything that `run` starts is ended by `stop`, or at once by `kill`."""

    def __init__(self, options: Options, screen: Screen) -> None:
        self._options = options
        self._screen = screen
        self._folder = DataFolder(options.data_dir)
        kafka = ["--port", str(options.kafka_port), "--data-dir", str(self._folder.absolute / "kafka")]
        self._kafka = self._program("Kafka", ["local.kafka", *kafka])
        self._emulator = self._program("the emulator", ["local.emulator", *self._emulator_arguments()])
        receiver = ["--port", str(options.receiver_port), "--mail-port", str(options.mail_port)]
        self._receiver = self._program("the receiver", ["local.receiver", *receiver])
        worker = ["faust", "-A", "streams.app", "worker", "-l", "info"]
        self._worker = self._program("the worker", worker, self._handlers() | self._outside())

    @property
    def _programs(self) -> tuple[Program, ...]:
        return self._worker, self._receiver, self._emulator, self._kafka

    def run(self) -> int:
        """Run the demo, by `--once` to the end of the examples, else for ever. Returns the exit status.

        Raises DemoError or KafkaError where it cannot go on.
        """
        self._start()
        complete = self._run_examples()
        if self._options.once:
            return 0 if complete else 1
        self._tell_what_is_there()
        while True:
            self._check()
            time.sleep(_WATCH_SECONDS)

    def stop(self) -> None:
        """End everything in order: the worker first, so that what it still has to say is heard."""
        self._stop(self._worker, _WORKER_STOP_SECONDS)
        self._stop(self._receiver, _RECEIVER_STOP_SECONDS)
        self._stop(self._emulator, _EMULATOR_STOP_SECONDS)
        self._stop(self._kafka, _KAFKA_STOP_SECONDS)
        self._close_folder()

    def kill(self) -> None:
        """End everything at once."""
        for program in self._programs:
            program.kill()
        self._close_folder()

    def _stop(self, program: Program, seconds: float) -> None:
        if not program.started:
            return
        self._screen.step(f"Stopping {program.name}")
        limit = seconds if self._kafka.running else _STOP_SECONDS_WITHOUT_KAFKA
        if not program.stop(limit):
            self._screen.line(f"{program.subject} had not ended within {limit:g} s and was killed.")

    def _close_folder(self) -> None:
        if not self._folder.close():
            self._screen.fail(f"processes still use {self._options.data_dir}")

    def _start(self) -> None:
        began = time.monotonic()
        if not (_CHECKOUT / "examples" / "handlers").is_dir():
            raise DemoError("The demo needs the folder examples/handlers: start it in a checkout of port-runs.", 2)
        self._folder.open(self._screen.step)
        self._options.require_ports()
        fetch_jars(self._screen.step)
        kafka, emulator, web = self._options.kafka_port, self._options.emulator_port, self._options.web_port
        # Ready by the time it is waited for: Kafka takes longer.
        self._receiver.start(self._folder.children_lock)
        self._start_program(self._kafka, kafka, lambda: answers(kafka), _KAFKA_SECONDS)
        self._start_program(self._emulator, emulator, lambda: calls.is_ok(emulator, "/emulator"), _EMULATOR_SECONDS)
        receiver, mail = self._options.receiver_port, self._options.mail_port
        self._start_program(self._receiver, receiver, lambda: accepts(receiver) and accepts(mail), _RECEIVER_SECONDS)
        self._start_program(self._worker, web, lambda: calls.is_ok(web, "/readyz"), _WORKER_SECONDS)
        self._screen.line(f"All is up after {time.monotonic() - began:.1f} s")

    def _start_program(self, program: Program, port: int, is_ready: Callable[[], bool], seconds: float) -> None:
        self._screen.step(f"Starting {program.name} on {LOOPBACK}:{port}")
        if not program.started:
            program.start(self._folder.children_lock)
        if not self._becomes_true(is_ready, seconds):
            raise DemoError(f"{program.subject} was not ready within {seconds:g} s. {program.last_lines()}")
        self._screen.done(f"{program.subject} is up on {LOOPBACK}:{port}")

    def _run_examples(self) -> bool:
        """Publish the examples and wait for their completion. Returns whether all succeeded in time."""
        rows: list[Row] = []
        with self._screen.table():
            for example in load_examples().values():
                published = calls.publish(self._options.emulator_port, example)
                rows.append(Row(published.node, ", ".join(published.event_types), published.node_run_id))
                self._refresh(rows)
            self._becomes_true(lambda: self._refresh(rows), _EXAMPLES_SECONDS)
        if waiting := [row.node for row in rows if row.state == "waiting"]:
            text = f"Not completed within {_EXAMPLES_SECONDS:g} s: {', '.join(waiting)}. {self._worker.last_lines()}"
            self._screen.fail(text)
        elif failed := [row.node for row in rows if row.result != "SUCCESS"]:
            self._screen.fail(f"Completed, but without success: {', '.join(failed)}.")
        else:
            self._screen.line(f"All {len(rows)} node runs are completed.")
            return True
        return False

    def _refresh(self, rows: Sequence[Row]) -> bool:
        """Bring the rows up to date and show them. Returns whether all are completed."""
        for row in rows:
            if row.state != "waiting":
                continue
            node_run = calls.node_run(self._options.emulator_port, row.node_run_id)
            if node_run.status == "COMPLETED":
                row.state, row.result, row.milliseconds = "completed", node_run.result or "", node_run.milliseconds
        self._screen.show_rows(rows)
        return all(row.state == "completed" for row in rows)

    def _becomes_true(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait for the condition while all programs live. Returns whether it came true in time."""
        deadline = time.monotonic() + seconds
        while not condition():
            self._check()
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def _check(self) -> None:
        for program in self._programs:
            program.check(self._screen.line)

    def _tell_what_is_there(self) -> None:
        options = self._options
        emulator = f"http://{LOOPBACK}:{options.emulator_port}/emulator"
        self._screen.line(
            f"""
Web view        http://{LOOPBACK}:{options.web_port}/
Port emulator   {emulator}  (what it was told: {emulator}/calls)
Received        http://{LOOPBACK}:{options.receiver_port}/  (by what stands for Slack, mail, webhook and provisioner)
Logs            {options.data_dir}/logs
Publish yourself:
  curl {emulator}/node-runs --data @local/examples/notifications.json
Ctrl-C stops all of it; the data stay in {options.data_dir}."""
        )

    def _program(self, name: str, module: Sequence[str], more: dict[str, str] | None = None) -> Program:
        return Program(
            name,
            [sys.executable, "-m", *module],
            log=self._folder.absolute / "logs" / f"{name.removeprefix('the ').lower()}.log",
            environment=self._environment() | (more or {}),
            # Not the folder of the user, whose .env would be read.
            folder=self._folder.absolute / "worker",
        )

    def _emulator_arguments(self) -> list[str]:
        state = str(self._folder.absolute / "emulator")
        port = str(self._options.emulator_port)
        return ["--port", port, "--kafka", f"{LOOPBACK}:{self._options.kafka_port}", "--state-dir", state]

    def _handlers(self) -> dict[str, str]:
        """The examples, and handlers of the user's own, which are in the folder where the demo was started."""
        folders = os.pathsep.join(map(str, (_CHECKOUT, Path.cwd())))
        return {"HANDLERS": ",".join([_HANDLERS, *self._options.handlers]), "PYTHONPATH": folders}

    def _outside(self) -> dict[str, str]:
        """The settings that lead the example handlers to the receiver."""
        receiver = f"http://{LOOPBACK}:{self._options.receiver_port}"
        channels = {"slack": f"{receiver}/slack", "email": "mailto:team@example.com"}
        return {
            "WEBHOOK_URL": f"{receiver}/webhook",
            "PROVISIONER_URL": f"{receiver}/provisioner",
            "PUBLIC_URL": f"http://{LOOPBACK}:{self._options.web_port}",
            "NOTIFICATION_CHANNELS": json.dumps(channels),
            "OUTGOING_HTTP": "allow",
            "OUTGOING_PRIVATE": "allow",
            "SMTP_HOST": LOOPBACK,
            "SMTP_PORT": str(self._options.mail_port),
            "SMTP_SECURITY": "none",
            "SMTP_FROM": "port-runs@example.com",
        }

    def _environment(self) -> dict[str, str]:
        return {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | {
            "PYTHONUNBUFFERED": "1",
            "PORT_ORG_ID": _ORG_ID,
            "PORT_CLIENT_ID": "demo-client",
            "PORT_CLIENT_SECRET": "demo-secret",
            "PORT_API_BASE_URL": f"http://{LOOPBACK}:{self._options.emulator_port}",
            "KAFKA_BROKERS": f"{LOOPBACK}:{self._options.kafka_port}",
            "DATA_DIR": str(self._folder.absolute / "worker"),
            "WEB_PORT": str(self._options.web_port),
            "WEB_TEST_MESSAGES": "on",
        }
