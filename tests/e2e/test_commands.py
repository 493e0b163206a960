"""The commands for who writes handlers, as processes: what they print, how they end, what they refuse in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.record import Record
from tests.processes import SECRET, STARTS_WITHIN, Cluster, call, eventually, ready

HANDLERS = """
from pydantic import BaseModel
from agents import Context, Fail, RetryLater, handles

class Order(BaseModel):
    number: int
    express: bool = False

@handles("order.placed", concurrency=3, deadline="7s", retries=2, array=0.5)
async def order_placed(event: Order, ctx: Context) -> dict[str, object]:
    ctx.log("order %d", event.number)
    if event.number == 0:
        raise Fail("there is no order 0")
    if event.number == 1 and ctx.attempt == 1:
        raise RetryLater("2s", "not yet")
    return {"number": event.number, "express": event.express, "key": ctx.idempotency_key}

@handles("anything")
async def anything(event: dict) -> None: ...
"""

ONE_AFTER_ANOTHER = """
import contextlib, io, json, sys
sys.argv[:] = ["faust", "-A", "streams.app"]
from faust.cli.base import cli

def run(arguments, stdin):
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin.encode()))
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as error:
        try:
            cli(["-A", "streams.app", *arguments], prog_name="faust")
        except SystemExit as ended:
            return ended.code, out.getvalue(), error.getvalue()

print(json.dumps([run(*each) for each in json.load(sys.stdin)]))
"""
"""Runs commands in one process: each on its own takes two seconds, most of it for its imports."""


class Ended:
    """What came of a command."""

    def __init__(self, done: "subprocess.CompletedProcess[str]") -> None:
        self.status, self.out, self.error = done.returncode, done.stdout, done.stderr
        assert SECRET not in self.out + self.error
        assert "Traceback" not in self.error

    @property
    def json(self) -> Any:
        assert self.status == 0, self.error
        return json.loads(self.out)

    def refused(self, status: int) -> str:
        """Return the one line that says why."""
        assert (self.status, self.out) == (status, "")
        assert self.error.count("\n") == 1, self.error
        return self.error


class Shell:
    """A folder with handlers and settings, in which commands are run."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        (folder / "test_handlers.py").write_text(HANDLERS)
        self.settings = {
            "PORT_ORG_ID": "org",
            "PORT_CLIENT_ID": "client",
            "PORT_CLIENT_SECRET": SECRET,
            "PORT_API_BASE_URL": "http://127.0.0.1:9",
            "KAFKA_BROKERS": "127.0.0.1:9",
            "HANDLERS": "test_handlers",
        } | settings

    def __call__(self, *arguments: str, stdin: str = "") -> Ended:
        clean = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        done = subprocess.run(
            [sys.executable, "-m", "faust", "-A", "streams.app", *arguments],
            env=clean | {"PYTHONWARNINGS": "default"} | self.settings,
            cwd=self.folder,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Ended(done)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """No Kafka and no Port: there is nothing at their addresses."""
    return Shell(tmp_path)


def message(*items: object) -> str:
    context = {"workflowRunId": "wfr_1", "nodeRunId": "wfnr_1"}
    return json.dumps({"context": context, "payload": list(items) if len(items) > 1 else items[0]})


def order(number: int) -> dict[str, object]:
    return {"eventType": "order.placed", "number": number}


def test_handlers_are_listed(shell: Shell) -> None:
    text = shell("handlers")
    assert text.error == ""
    assert "order.placed\n  test_handlers.order_placed takes number, [express]; concurrency 3, deadline 7 s" in text.out
    assert "retries 2, 50% of an array must succeed, else the rest is cancelled\n" in text.out
    any_object, placed = shell("handlers", "--json").json
    assert (any_object["eventType"], any_object["schema"]) == ("anything", None)
    assert placed["schema"]["required"] == ["number"]
    assert placed["array"] == {"share": 0.5, "cancel_rest": True}
    assert (placed["eventType"], placed["concurrency"], placed["deadline"], placed["retries"]) == (
        "order.placed",
        3,
        7,
        2,
    )


def test_a_node_is_printed_rendered_and_replayed(shell: Shell) -> None:
    node = shell("node-json", "order.placed")
    assert node.json["config"]["payload"]["number"] == "{{ .outputs.trigger.number }}"
    (shell.folder / "node.json").write_text(node.out)
    rendered = shell(
        "send", "node.json", "--trigger", '{"number": 7}', "--node-run-id", "wfnr_7", "--run-id", "wfr_7", "--dry-run"
    )
    assert rendered.json["payload"] == order(7) | {"express": False}
    ended = shell("replay", "-", "--json", stdin=rendered.out)
    assert ended.error == "[wfnr_7-0] order 7\n"
    [end] = ended.json
    assert (end["result"], end["output"]) == ("SUCCESS", {"number": 7, "express": False, "key": "wfnr_7-0"})


def test_a_replay_tells_how_each_item_ends(shell: Shell) -> None:
    (shell.folder / "array.json").write_text(message(order(5), order(0), order(1), {"type": "unheard"}, {}))
    ended = shell("replay", "array.json")
    assert ended.status == 1
    assert ended.out.splitlines() == [
        'item 0, order.placed: SUCCESS {"number": 5, "express": false, "key": "wfnr_1-0"}',
        "item 1, order.placed: FAILED there is no order 0",
        "item 2, order.placed: would be called again in 2 s: not yet",
        "item 3, unheard: FAILED no handler for event type 'unheard'",
        "item 4, no event type: FAILED the item has no event type",
    ]
    again = shell("replay", "array.json", "--item", "2", "--attempt", "2")
    assert (again.status, again.out.count("\n")) == (0, 1)
    assert again.out.startswith("item 2, order.placed: SUCCESS")


WRONG: list[tuple[list[str], str, int, str]] = [
    (["node-json", "nothing"], "", 2, "no handler for event type 'nothing'; there are: anything, order.placed"),
    (["replay", "missing"], "", 2, "missing: No such file or directory"),
    (["replay", "-"], "{", 2, "-: a worker sends it to the dead letters: not JSON"),
    (
        ["replay", "-"],
        '{"context": {"runId": "r_1"}}',
        2,
        "-: a worker leaves it to other consumers: context.runId",
    ),
    (
        ["replay", "-"],
        '{"context": {"nodeRunId": "wfnr_1"}}',
        2,
        "-: a worker reports it as FAILED: the message has",
    ),
    (["replay", "-", "--item", "1"], message(order(1)), 2, "--item: - has 1, counted from 0"),
    (["send", "-"], '{"node": {}}', 1, "-: it is no Kafka action node: node.identifier: Field required"),
    (["send", "-"], "nonsense", 1, "-: it is no JSON"),
    (["send", "-", "--node-run-id", "wfnr_1"], "", 2, "--node-run-id and --run-id go together"),
    (["complete", "wfnr_/.."], "", 2, "'wfnr_/..' is no id of a node run"),
    (["complete", "wfnr_1", "--result", "FAILED"], "", 2, "--result FAILED: say why with --error"),
    (["complete", "wfnr_1", "--yes", "--output", "[]"], "", 2, "--output: must be a JSON object"),
    (["complete", "wfnr_1", "--yes"], "", 1, "wfnr_1: Port says unavailable: "),
]


def test_what_is_wrong_is_one_line(shell: Shell) -> None:
    asked = json.dumps([[arguments, stdin] for arguments, stdin, _, _ in WRONG])
    done = subprocess.run(
        [sys.executable, "-c", ONE_AFTER_ANOTHER],
        env=shell.settings,
        cwd=shell.folder,
        input=asked,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    answers = json.loads(done.stdout)
    assert done.stderr == ""
    for (arguments, _, status, said), (ended, out, error) in zip(WRONG, answers, strict=True):
        assert (ended, out, error.count("\n")) == (status, "", 1), (arguments, error)
        assert error.startswith(said), error


def test_a_template_that_fails_is_told_with_its_place(shell: Shell) -> None:
    node = {"identifier": "n", "config": {"type": "KAFKA", "payload": {"a": {"b": '{{ error("no") }}'}}}}
    assert shell("send", "-", stdin=json.dumps(node)).refused(1).startswith("-: payload.a.b in {{ error(")


def test_without_an_answer_nothing_is_completed(shell: Shell) -> None:
    asked = shell("complete", "wfnr_1", stdin="n\n")
    assert asked.status == 1
    assert '{"status":"COMPLETED","result":"SUCCESS","output":{}}? [y/N]' in asked.error
    assert asked.error.endswith("nothing was sent; --yes does not ask\n")


def test_what_is_sent_reaches_the_handler_and_what_is_completed_port(cluster: Cluster, record: Record) -> None:
    port = cluster.emulator_port
    kafka = {"KAFKA_BROKERS": cluster.kafka.bootstrap, "PORT_API_BASE_URL": f"http://127.0.0.1:{port}"}
    shell = Shell(cluster.folder, PORT_ORG_ID=cluster.org, SIGNATURE="required", **kafka)
    node = {
        "identifier": "n",
        "config": {"type": "KAFKA", "payload": {"eventType": "echo", "a": "{{ .outputs.trigger.a }}"}},
    }
    known = [{"nodeRunId": f"wfnr_{cluster.org}{i}", "workflowRunId": f"wfr_{cluster.org}{i}"} for i in range(3)]
    assert call(port, "POST", "/emulator/node-runs/register", body={"nodeRuns": known}).status == 200
    first, second, third = (each["nodeRunId"] for each in known)

    done = shell("complete", second, "--result", "FAILED", "--error", "by hand", stdin="y\n")
    assert (done.status, done.out) == (0, f"{second} is completed: FAILED\n")
    assert shell("complete", second, "--yes").refused(1).startswith(f"{second}: Port says conflict: ")
    told = next(line["body"] for line in record.read_on() if line["call"] == "report")
    assert told == {"status": "COMPLETED", "result": "FAILED", "output": {"error": {"message": "by hand"}}}

    done = shell("complete", third, "--yes", "--json")
    assert done.json == {"nodeRunId": third, "result": "SUCCESS", "message": f"{third} is completed: SUCCESS"}

    with cluster.worker("a", SIGNATURE="required") as worker:
        eventually(lambda: ready(worker), "the worker is ready", STARTS_WITHIN)
        ids = ("--node-run-id", first, "--run-id", known[0]["workflowRunId"])
        sent = shell("send", "-", "--trigger", '{"a": [1]}', *ids, stdin=json.dumps({"node": node}))
        assert sent.out.startswith(f"{first} is in {cluster.org}.runs, partition "), sent.error
        run = eventually(lambda: finished(port, first), "the node run is reported")
    assert run["result"] == "SUCCESS"
    assert run["output"]["echo"] == {"eventType": "echo", "a": [1]}

    elsewhere = Shell(cluster.folder, PORT_ORG_ID="nobody", **kafka)
    refused = elsewhere("send", "-", stdin=json.dumps(node)).refused(1)
    assert "topic nobody.runs is not on the own cluster: start a worker" in refused


def finished(port: int, node_run_id: str) -> dict[str, Any] | None:
    run: dict[str, Any] = call(port, "GET", f"/emulator/node-runs/{node_run_id}").json["nodeRun"]
    return run if run["status"] == "COMPLETED" else None
