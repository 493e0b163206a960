"""What is shown of a node run, in the form of the API."""

import json
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from port.models import Result
from streams.records import Body, Settled, Tries, Try
from tests.agents.examples import context
from tests.web.fakes import NOON, FakeWorker, lines
from web.data import ItemState, NodeRunShown, instant, node_run_shown


@pytest.fixture
def worker() -> FakeWorker:
    return FakeWorker()


def shown(worker: FakeWorker, node_run_id: str = "wfnr_a") -> NodeRunShown:
    return node_run_shown(worker.here.read(node_run_id, 0, 100))


def as_json(worker: FakeWorker) -> dict[str, Any]:
    loaded = json.loads(shown(worker).to_json())
    assert isinstance(loaded, dict)
    return loaded


def test_a_finished_node_run_in_full(worker: FakeWorker) -> None:
    worker.arrive("wfnr_a", text='{"context":{"nodeRunId":"wfnr_a"},"payload":{"type":"greet","password":"p"}}')
    worker.end("wfnr_a", output='{"said":"hello","apiKey":"k"}')
    worker.settle("wfnr_a")
    partition = worker.here.partition_of("wfnr_a")
    assert as_json(worker) == {
        "scope": "this worker",
        "nodeRunId": "wfnr_a",
        "workflowRunId": "wfr_1",
        "workflow": "deploy",
        "node": "publish",
        "eventTypes": ["greet"],
        "state": "reported",
        "result": "SUCCESS",
        "itemCount": 1,
        "succeeded": 1,
        "failed": 0,
        "cancelled": 0,
        "receivedAt": "2027-01-15T08:00:01Z",
        "endedAt": "2027-01-15T08:00:30Z",
        "durationSeconds": 29.0,
        "partition": partition,
        "worker": {
            "worker": "host-0123abcd",
            "url": "http://127.0.0.1:6066",
            "partitions": list(range(8)),
        },
        "report": {
            "sent": True,
            "coveredItems": 1,
            "body": "full",
            "status": 200,
            "reason": None,
            "tries": None,
            "nextTryAt": None,
            "parked": False,
        },
        "answers": [],
        "answersLeftOut": 0,
        "cancellation": None,
        "stopped": None,
        "completion": None,
        "portResult": None,
        "ending": "Port took the report: SUCCESS.",
        "seen": "0-0-1--reported",
        "softCancelledAt": None,
        "portUrl": "https://app.getport.io/organization/run?runId=wfr_1",
        "items": [
            {
                "index": 0,
                "eventType": "greet",
                "state": "ended",
                "result": "SUCCESS",
                "attempt": 1,
                "output": {"said": "hello", "apiKey": "***"},
                "error": None,
                "trace": None,
                "progress": None,
                "worker": "host-0123abcd",
                "startedAt": "2027-01-15T08:00:20Z",
                "endedAt": "2027-01-15T08:00:21.500000Z",
                "durationSeconds": 1.5,
                "dueAt": None,
                "heldUntil": None,
                "deferredUntil": None,
                "decidedBy": None,
                "calledAt": "2027-01-15T08:00:20Z",
                "logs": None,
                "calls": [],
                "callsLeftOut": 0,
                "decidedWho": None,
            }
        ],
        "nextItem": None,
        "messages": [
            {
                "firstItem": 0,
                "items": 1,
                "digest": "digest1",
                "source": {
                    "cluster": "k:9092",
                    "topic": "o.runs",
                    "partition": 0,
                    "offset": 1,
                    "timestamp": "2027-01-15T08:00:01Z",
                },
                "message": {"context": {"nodeRunId": "wfnr_a"}, "payload": {"type": "greet", "password": "***"}},
                "note": None,
            }
        ],
        "moreMessages": False,
    }


async def test_items_by_state(worker: FakeWorker) -> None:
    payload = '{"payload":[{"type":"greet"},{"type":"greet"},{"type":"greet"},{"type":"other"}]}'
    worker.arrive("wfnr_a", text=payload, count=4)
    worker.end("wfnr_a", 0, error="no: token=abc")
    worker.defer("wfnr_a", 1)
    worker.run("wfnr_a", 2)
    items = shown(worker).items
    assert [item.state for item in items] == [
        ItemState.ENDED,
        ItemState.DEFERRED,
        ItemState.RUNNING,
        ItemState.WAITING,
    ]
    assert (items[0].result, items[0].error) == (Result.FAILED, "no: token=***")
    assert items[1].due_at == instant(NOON + 600)
    # Of the last nothing is written yet: its event type is the payload's.
    assert items[3].event_type == "other"


async def test_a_stack_trace_progress_and_until_when_an_item_is_held(worker: FakeWorker) -> None:
    worker.arrive("wfnr_a", count=3)
    worker.end("wfnr_a", 0, error="KeyError: 'x'", trace="Traceback\n  token=abc")
    work = worker.run("wfnr_a", 1)
    worker.telling.progress(context(index=1), 3, 10)
    worker.holding.hold(replace(work, index=2), time.time(), lambda: None)
    items = as_json(worker)["items"]
    assert [item["trace"] for item in items] == ["Traceback\n  token=***", None, None]
    assert [item["progress"] for item in items] == [None, {"done": 3, "total": 10}, None]
    assert [item["state"] for item in items] == ["ended", "running", "deferred"]
    assert items[1]["heldUntil"] is None
    assert datetime.fromisoformat(items[2]["heldUntil"]) > datetime.now(UTC)


async def test_earlier_calls_with_their_lines_and_earlier_answers(worker: FakeWorker) -> None:
    worker.arrive("wfnr_a")
    worker.defer("wfnr_a", error="password=p", logs=lines("Bearer abcdefgh"))
    worker.end("wfnr_a", attempt=2, logs=lines("done"))
    worker.settle("wfnr_a", Settled.OUTPUT_REFUSED, "token=abc is too large")
    worker.settle("wfnr_a", body=Body.SMALL, tries=Tries(count=1, latest=(Try(at=NOON + 31, status=502),)))
    seen = as_json(worker)
    [item] = seen["items"]
    assert item["calls"] == [
        {
            "attempt": 1,
            "how": "raised",
            "startedAt": "2027-01-15T08:00:09Z",
            "endedAt": "2027-01-15T08:00:09.500000Z",
            "durationSeconds": 0.5,
            "error": "password=***",
            "worker": "w",
            "dueAt": "2027-01-15T08:10:00Z",
            "decidedBy": None,
            "decidedWho": None,
            "logs": {
                "latest": [{"at": "2027-01-15T08:00:09Z", "level": "INFO", "text": "Bearer ***"}],
                "leftOut": 0,
            },
            "again": None,
        }
    ]
    assert [line["text"] for line in item["logs"]["latest"]] == ["done"]
    assert seen["answers"] == [
        {
            "body": "full",
            "settled": "output_refused",
            "status": 413,
            "reason": "token=*** is too large",
            "at": "2027-01-15T08:00:30Z",
            "tries": None,
            "again": None,
        }
    ]
    latest = [{"at": "2027-01-15T08:00:31Z", "status": 502, "reason": None}]
    assert seen["report"]["tries"] == {"count": 1, "latest": latest}


async def test_a_worker_of_an_earlier_version_does_not_say_what_is_new(worker: FakeWorker) -> None:
    worker.arrive("wfnr_a")
    worker.end("wfnr_a")
    worker.settle("wfnr_a")
    known = as_json(worker)
    for name in ("answers", "answersLeftOut", "cancellation", "portUrl"):
        del known[name]
    del known["report"]["tries"]
    for name in ("calledAt", "logs", "calls", "callsLeftOut"):
        del known["items"][0][name]
    assert NodeRunShown.model_validate(known).items[0].calls == []


def test_a_message_that_was_not_kept_or_is_no_json_says_so(worker: FakeWorker) -> None:
    worker.arrive("wfnr_a", text="", problem="too large")
    worker.arrive("wfnr_a", text="{broken")
    notes = [(message.message, message.note) for message in shown(worker).messages]
    assert notes == [
        (None, "the message is not kept here: its bytes stand in the dead letters"),
        ("{broken", "what was kept of it cannot be read as JSON"),
    ]


@pytest.mark.parametrize("value", ["1e999", "1" * 4000, '"\\u0000"', "[" * 150 + "]" * 150, '"<script>"', "-0.0"])
def test_odd_values_are_shown(worker: FakeWorker, value: str) -> None:
    worker.arrive("wfnr_a", text=f'{{"payload":{{"type":"greet","x":{value}}}}}')
    worker.end("wfnr_a", output=f'{{"x":{value}}}')
    assert as_json(worker)["messages"][0]["message"] is not None


@pytest.mark.parametrize("seconds", [None, 1e18, -1e18, float("nan"), float("inf")])
def test_times_that_no_calendar_has(seconds: float | None) -> None:
    assert instant(seconds) is None


def test_nothing_lasts_less_than_no_time(worker: FakeWorker) -> None:
    worker.arrive("wfnr_a")
    run = worker.here.read("wfnr_a", 0, 1).run
    assert run.received_at == NOON + 1
    worker.end("wfnr_a")
    worker.settle("wfnr_a")
    read = worker.here.read("wfnr_a", 0, 1)
    early = read.run.model_copy(update={"settled_at": NOON - 100})
    assert node_run_shown(type(read)(**{**vars(read), "run": early})).duration_seconds == 0.0
