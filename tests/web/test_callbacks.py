"""The callbacks over HTTP: who is let in, what is taken, and that one word decides."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import aiohttp
import pytest
from yarl import URL

from agents.callbacks import PATH, Callbacks
from port.models import Result
from streams.records import ItemCompleted, ItemDeferred
from tables.state import Item, NodeRun
from tests.agents.test_callbacks import mutated
from tests.web.conftest import NewClient
from tests.web.fakes import NOON, FakeWorker
from tests.web.pairs import Client

ID = "wfnr_a"
DONE = {"result": "SUCCESS", "output": {"host": "10.0.0.7"}}
BROWSER = {"Accept": "text/html"}


@pytest.fixture
def path(urls: Callbacks) -> str:
    """Where the item's callback goes: what a proxy passes on."""
    return urls.url(ID, 0, "greet", 3600).removeprefix("https://runs.example/prefix")


@pytest.fixture
async def client(new_client: NewClient, worker: FakeWorker) -> Client:
    """A worker with a token, and a node run whose item is deferred."""
    worker.arrive(ID)
    worker.outcome(
        ItemDeferred(
            node_run_id=ID, index=0, message=0, attempt=1, until=NOON + 60, worker="w", started_at=NOON, at=NOON + 1
        )
    )
    return await new_client("a-web-token")


def state(worker: FakeWorker, node_run_id: str = ID) -> tuple[NodeRun, Item]:
    partition = worker.here.partition_of(node_run_id)
    run = worker.ledger.run(partition, node_run_id)
    assert run is not None
    item = worker.ledger.item(partition, run, 0)
    assert item is not None
    return run, item


async def said(client: Client, path: str, body: object, status: int) -> dict[str, Any]:
    answer = await client.post(path, json=body)
    assert answer.status == status, await answer.text()
    assert answer.content_type == "application/json"
    told: dict[str, Any] = await answer.json()
    return told


async def test_the_first_word_decides(client: Client, worker: FakeWorker, path: str) -> None:
    assert await said(client, path, DONE, 202) == {"nodeRunId": ID, "index": 0, "decided": True}
    run, item = state(worker)
    assert (run.result, item.result, json.loads(item.output or "")) == (Result.SUCCESS, Result.SUCCESS, DONE["output"])
    assert (await said(client, path, DONE, 200))["decided"] is True
    refused = await said(client, path, {"result": "FAILED", "error": "no"}, 409)
    assert refused["error"] == "ended"
    assert state(worker) == (run, item)


async def test_it_may_come_before_the_handler_has_returned(client: Client, worker: FakeWorker, urls: Callbacks) -> None:
    worker.arrive("wfnr_b")
    path = urls.url("wfnr_b", 0, "greet", 60).removeprefix("https://runs.example/prefix")
    await said(client, path, DONE, 202)
    worker.end("wfnr_b")
    run, item = state(worker, "wfnr_b")
    assert (run.result, item.event_type, json.loads(item.output or "")) == (Result.SUCCESS, "greet", DONE["output"])


async def test_a_failure_has_its_reason(client: Client, worker: FakeWorker, path: str) -> None:
    await said(client, path, {"result": "FAILED", "error": "x" * 5000, "output": {"step": 3}}, 202)
    run, item = state(worker)
    assert (run.result, item.error) == (Result.FAILED, "x" * 2000)


async def test_another_workers_node_run_is_passed_on(client: Client, worker: FakeWorker, path: str) -> None:
    worker.lose(worker.here.partition_of(ID))
    logs = [{"level": "WARN", "message": "slow"}, {"message": "done"}]
    assert (await said(client, path, DONE | {"logs": logs}, 202))["decided"] is False
    [event] = worker.sent
    assert isinstance(event, ItemCompleted)
    assert (event.node_run_id, event.index, event.result) == (ID, 0, Result.SUCCESS)
    assert [(line.level.value, line.message) for line in event.logs] == [("WARN", "slow"), ("INFO", "done")]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "result: Field required"),
        ({"result": "CANCELLED"}, "result: Input should be 'SUCCESS' or 'FAILED'"),
        ({"result": "success"}, "result: Input should"),
        ({"result": "FAILED"}, "error is required with FAILED"),
        ({"result": "FAILED", "error": ""}, "error: "),
        ({"result": "SUCCESS", "error": "no"}, "error is required with FAILED, and not allowed with SUCCESS"),
        ({"result": "SUCCESS", "output": [1]}, "output: "),
        ({"result": "SUCCESS", "output": "{}"}, "output: "),
        ({"result": "SUCCESS", "outputs": {}}, "outputs: Extra inputs are not permitted"),
        ({"result": "SUCCESS", "logs": ["a line"]}, "logs.0: "),
        ({"result": "SUCCESS", "logs": [{"level": "TRACE", "message": "m"}]}, "logs.0.level: "),
        ({"result": "SUCCESS", "logs": [{"message": "m"}] * 201}, "logs: "),
        ([DONE], "Input should be"),
    ],
)
async def test_a_wrong_body(client: Client, worker: FakeWorker, path: str, body: object, reason: str) -> None:
    before = state(worker)
    assert reason in (await said(client, path, body, 422))["message"]
    assert state(worker) == before


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"\xff",
        b'{"result": "SUCCESS", "output": {"x": NaN}}',
        b'{"result": "SUCCESS", "output": {"x": 1e999}}',
        b'{"result": "\\ud800"}',
        b"[" * 50_000,
    ],
    ids=["nothing", "cut off", "no UTF-8", "NaN", "no float", "lone surrogate", "deep"],
)
async def test_what_is_no_json(client: Client, path: str, raw: bytes) -> None:
    answer = await client.post(path, data=raw, headers={"Content-Type": "application/json"})
    assert answer.status == 422


async def test_an_output_that_grows_where_it_is_written_is_too_large(
    client: Client, worker: FakeWorker, path: str
) -> None:
    raw = b'{"result": "SUCCESS", "output": {"x": [%s]}}' % b",".join([b"1e15"] * 190_000)
    assert len(raw) < 1_000_000
    before = state(worker)
    answer = await client.post(path, data=raw, headers={"Content-Type": "application/json"})
    assert answer.status == 413
    assert state(worker) == before


async def test_only_json(client: Client, path: str) -> None:
    assert (await client.post(path, data=DONE["result"])).status == 415
    assert (await client.post(path, data={"result": "SUCCESS"})).status == 415


async def test_only_so_much(client: Client, worker: FakeWorker, path: str) -> None:
    def sized(size: int) -> bytes:
        frame = b'{"result": "SUCCESS", "output": {"x": "%s"}}'
        return frame % (b"x" * (size - len(frame) + 2))

    headers = {"Content-Type": "application/json"}
    assert (await client.post(path, data=sized(1_000_001), headers=headers)).status == 413
    assert state(worker)[0].result is None
    assert (await client.post(path, data=sized(1_000_000), headers=headers)).status == 202


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_who_follows_the_link_changes_nothing(client: Client, worker: FakeWorker, path: str, method: str) -> None:
    before = state(worker)
    answer = await client.request(method, path, headers=BROWSER)
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    assert path.removeprefix(PATH) not in await answer.text()
    assert state(worker) == before


async def test_forged_and_expired_tokens_are_answered_alike(
    client: Client, worker: FakeWorker, urls: Callbacks, path: str
) -> None:
    before = state(worker)
    token = path.removeprefix(PATH)
    expired = urls.url(ID, 0, "greet", -1).rpartition("/")[2]
    safe = (one for one in mutated([token], [expired], 200) if one.isalnum())
    answers = set()
    for forged in [expired, token[:-1], token + "A", "x", "wfnr_a", *list(safe)[:20]]:
        answer = await client.post(f"{PATH}{forged}", json=DONE)
        answers.add((answer.status, await answer.text()))
    assert answers == {(404, '{"error":"not-found","message":"no such callback"}')}
    assert state(worker) == before


@pytest.mark.parametrize(
    "way", ["/callbacks/../api/node-runs", "/callbacks/%2e%2e/metrics", "/callbacks", "/callbacks/"]
)
async def test_nothing_else_is_behind_it(client: Client, way: str) -> None:
    base = client.make_url("/")
    async with aiohttp.ClientSession() as plain:
        for method in ("GET", "POST"):
            answer = await plain.request(method, URL(f"http://{base.host}:{base.port}{way}", encoded=True))
            assert answer.status == 401
    assert (await client.put("/callbacks/x", json=DONE)).status == 401


async def test_without_a_web_token_it_is_taken_under_any_name(
    new_client: NewClient, worker: FakeWorker, path: str
) -> None:
    worker.arrive(ID)
    client = await new_client()
    answer = await client.post(path, json=DONE, headers={"Host": "runs.example"})
    assert answer.status == 202
    assert (await client.get("/", headers={"Host": "runs.example"})).status == 403


async def test_a_broker_that_does_not_answer(
    client: Client, worker: FakeWorker, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(partition: int, event: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("web.callbacks.SECONDS", 0.05)
    monkeypatch.setattr(worker, "take", never)
    answer = await client.post(path, json=DONE)
    assert (answer.status, answer.headers["Retry-After"]) == (503, "5")


async def test_no_token_in_the_log(
    client: Client, worker: FakeWorker, path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(partition: int, event: object) -> None:
        raise RuntimeError("no")

    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(worker, "take", fails)
    assert (await client.post(path, json=DONE)).status == 500
    assert "POST /callbacks/… failed" in caplog.text
    ours = [one for one in caplog.records if one.name != "aiohttp.access"]
    assert path.removeprefix(PATH) not in "".join(one.getMessage() + (one.exc_text or "") for one in ours)


async def test_the_pages_say_that_it_waits_and_who_decided(client: Client, worker: FakeWorker, path: str) -> None:
    headers = {"Authorization": "Bearer a-web-token"}
    partition = worker.here.partition_of(ID)
    worker.here.dispatch.due.set(partition, (ID, 0), 4_000_000_000.0, lambda: None)
    shown = await (await client.get(f"/api/node-runs/{ID}", headers=headers)).json()
    assert (shown["state"], shown["items"][0]["state"]) == ("deferred", "deferred")
    assert shown["items"][0]["deferredUntil"] == "2027-01-15T08:01:00Z"
    page = await (await client.get(f"/node-runs/{ID}", headers=headers | BROWSER)).text()
    assert "Waits for a callback until" in page
    await said(client, path, DONE, 202)
    shown = await (await client.get(f"/api/node-runs/{ID}", headers=headers)).json()
    assert (shown["items"][0]["decidedBy"], shown["items"][0]["deferredUntil"]) == ("callback", None)
    assert "Decided by a callback" in await (await client.get(f"/node-runs/{ID}", headers=headers | BROWSER)).text()
