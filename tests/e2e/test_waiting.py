"""What waits outlives a `kill -9`: retries, with their count and due time, and items without a handler."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from local.kafka import EmbeddedKafka, free_port
from tests.e2e.record import Record
from tests.processes import STARTS_WITHIN, Cluster, Process, eventually, ready

HANDLERS = """
import json
import os
import time
from agents import Context, Retry, RetryLater, handles

@handles("flaky", concurrency=1, retries=Retry(attempts=3, first="500ms"))
async def flaky(event: dict, ctx: Context) -> dict:
    with open(os.environ["CALLS"], "a") as calls:
        calls.write(json.dumps([event["name"], ctx.attempt, time.time()]) + "\\n")
    ctx.log("attempt %d of %s", ctx.attempt, event["name"])
    if event["name"] == "quick":
        return {}
    if ctx.attempt == 2:
        raise RetryLater("29s", "the cluster is busy")
    raise ConnectionError("the cluster is gone")
"""
NEW_HANDLER = """
@handles("new")
async def new(event: dict, ctx: Context) -> dict:
    return {"attempt": ctx.attempt}
"""
WAITING: dict[str, object] = {
    "retried": {"type": "flaky", "name": "retried"},
    "new": {"type": "new"},
    "unknown": {"type": "unknown"},
    "another": {"type": "unknown", "n": 2},
}
NOT_WAITING: dict[str, object] = {
    "too many": {"type": "unknown", "n": 3},
    "no type": {"n": 4},
    "quick": {"type": "flaky", "name": "quick"},
}
PAUSE = 29.0
HOLD = 34.0
"""Both longer than it takes until a killed worker is known to be dead."""
LATE = 4.0
"""Seconds after its time within which what waits for it must have begun; the machine is busy."""


@dataclass
class Story:
    """Node runs that waited while their worker was killed and started again with one handler more."""

    record: Record
    calls: Path
    runs: dict[str, str] = field(default_factory=dict)
    """Node-run ids, by what is in them."""
    before: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The first item of each, as the web view showed it before the kill."""
    after: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Likewise at the end."""

    def called(self, name: str) -> list[tuple[int, float]]:
        """Return attempt and time of each call of the handler."""
        lines = map(json.loads, self.calls.read_text().splitlines())
        return [(attempt, at) for called, attempt, at in lines if called == name]

    def completed_at(self, name: str) -> float:
        [report] = [one for one in self.record.reports(self.runs[name]) if one["changed"]]
        return float(report["time"])


def item(worker: Process, node_run_id: str) -> dict[str, Any]:
    items: list[dict[str, Any]] = worker.get(f"/api/node-runs/{node_run_id}").json["items"]
    return items[0]


def at(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()


@pytest.fixture(scope="module")
def story(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("waiting")
    cluster, port = Cluster(kafka, folder.name, folder, free_port(), HANDLERS), free_port()
    story = Story(Record(cluster), folder / "called.jsonl")
    settings = {"UNKNOWN_EVENTS": "hold", "UNKNOWN_EVENTS_HOLD": f"{HOLD:g}s", "MAX_OPEN": "3"}
    settings["CALLS"] = str(story.calls)
    with cluster.emulator():
        with cluster.worker("one", port, **settings) as worker:
            eventually(lambda: ready(worker), "the worker is ready", STARTS_WITHIN)
            for name, payload in WAITING.items():
                story.runs[name] = cluster.publish(payload)
            eventually(lambda: len(story.called("retried")) == 2, "the handler was called twice")
            eventually(
                lambda: all(item(worker, story.runs[name])["state"] == "deferred" for name in WAITING), "all wait"
            )
            story.before = {name: item(worker, story.runs[name]) for name in WAITING}
            # Beyond what may be held, and beyond MAX_OPEN, if held ones counted.
            for name, payload in NOT_WAITING.items():
                story.runs[name] = cluster.publish(payload)
                story.record.completed(story.runs[name])
            assert len(story.called("retried")) == 2, "it waits still"
            worker.kill()
        with replace(cluster, handlers=HANDLERS + NEW_HANDLER).worker("one", port, **settings) as worker:
            for name in WAITING:
                story.record.completed(story.runs[name], 60.0)
            story.after = {name: item(worker, story.runs[name]) for name in WAITING}
            yield story


def test_a_retry_keeps_its_count_and_due_time(story: Story) -> None:
    before, calls = story.before["retried"], story.called("retried")
    assert [attempt for attempt, _ in calls] == [1, 2, 3]
    assert (before["attempt"], before["error"]) == (2, "the cluster is busy")
    assert calls[1][1] + PAUSE <= at(before["dueAt"]) < calls[1][1] + PAUSE + 1
    assert at(before["dueAt"]) <= calls[2][1] < at(before["dueAt"]) + LATE
    body = story.record.completed(story.runs["retried"])
    assert body == {
        "status": "COMPLETED",
        "result": "FAILED",
        "output": {"error": {"message": "ConnectionError: the cluster is gone"}},
    }


def test_each_attempt_is_seen_with_its_lines_as_before_the_kill(story: Story) -> None:
    before, after, calls = story.before["retried"], story.after["retried"], story.called("retried")
    assert [(call["attempt"], call["how"]) for call in after["calls"]] == [(1, "raised"), (2, "retry")]
    assert after["calls"] == before["calls"]
    first, second = after["calls"]
    assert (first["error"], second["error"]) == ("ConnectionError: the cluster is gone", "the cluster is busy")
    assert first["worker"] == second["worker"] != after["worker"], "the last call was the new worker's"
    assert second["dueAt"] == before["dueAt"]
    for call, (attempt, called_at) in zip((*after["calls"], after), calls, strict=True):
        [line] = call["logs"]["latest"]
        assert (line["level"], line["text"]) == ("INFO", f"attempt {attempt} of retried")
        began_at = at(call["startedAt"] if "how" in call else call["calledAt"])
        assert began_at <= called_at <= at(line["at"]) <= at(call["endedAt"])


def test_a_retry_holds_no_slot_while_it_waits(story: Story) -> None:
    [(attempt, called_at)] = story.called("quick")
    assert attempt == 1
    assert called_at < at(story.before["retried"]["dueAt"]) - 10


def test_the_stack_trace_is_in_the_web_view_and_not_in_port(story: Story) -> None:
    assert 'in flaky\n    raise ConnectionError("the cluster is gone")' in story.after["retried"]["trace"]
    assert "Traceback" not in json.dumps(story.record.calls)


def test_an_item_is_held_until_its_handler_is_deployed(story: Story) -> None:
    assert story.before["new"]["heldUntil"] is not None
    body = story.record.completed(story.runs["new"])
    assert (body["result"], body["output"]) == ("SUCCESS", {"attempt": 1})
    assert story.completed_at("new") < at(story.before["new"]["heldUntil"]) - 1
    assert story.after["new"]["heldUntil"] is None


def test_an_item_whose_time_has_passed_fails_with_the_reason(story: Story) -> None:
    body = story.record.completed(story.runs["unknown"])
    assert body["result"] == "FAILED"
    assert body["output"]["error"]["message"] == (
        "no handler for event type 'unknown': none was deployed within the 34 s that it was held"
    )
    until = at(story.before["unknown"]["heldUntil"])
    assert until <= story.completed_at("unknown") < until + LATE


def test_what_is_held_has_a_bound_and_does_not_keep_others_out(story: Story) -> None:
    def message(name: str) -> str:
        return str(story.record.completed(story.runs[name])["output"]["error"]["message"])

    assert message("too many") == (
        "no handler for event type 'unknown', and as many items as MAX_OPEN allows (3) are held already"
    )
    assert message("no type") == "the item has no event type (eventType, event, action or type)"
