"""The stream of events over HTTP: what it says, how many there are, and when it ends."""

import asyncio

import pytest
from aiohttp import ClientResponse

from tests.web.conftest import NewClient
from tests.web.fakes import FakeWorker
from web import live


async def _next(answer: ClientResponse, word: str) -> None:
    async with asyncio.timeout(5):
        while (line := (await answer.content.readline()).decode()) != f"event: {word}\n":
            assert line, "the stream has ended"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "TICK_SECONDS", 0.01)


async def test_it_says_that_something_has_changed(new_client: NewClient, worker: FakeWorker) -> None:
    client = await new_client()
    async with client.get("/events") as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert answer.headers["Cache-Control"] == "no-store"
        await answer.content.readline()
        worker.arrive("wfnr_a")
        await _next(answer, "change")
        worker.run("wfnr_a")
        await _next(answer, "change")


async def test_it_beats_where_nothing_changes(new_client: NewClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "BEAT_SECONDS", 0.05)
    client = await new_client()
    async with client.get("/events") as answer:
        await _next(answer, "beat")
        await _next(answer, "beat")


async def test_there_are_never_too_many(new_client: NewClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MOST_STREAMS", 2)
    monkeypatch.setattr(live, "BEAT_SECONDS", 0.02)
    client = await new_client()
    first, second = await client.get("/events"), await client.get("/events")
    refused = await client.get("/events")
    assert (refused.status, (await refused.json())["error"]) == (503, "no-stream")
    first.close()
    async with asyncio.timeout(5):
        while (third := await client.get("/events")).status == 503:
            third.close()
    assert third.status == 200
    second.close()
    third.close()


async def test_it_ends_where_the_worker_stops(new_client: NewClient, worker: FakeWorker) -> None:
    client = await new_client()
    async with client.get("/events") as answer:
        worker.app.should_stop = True
        async with asyncio.timeout(5):
            await answer.content.read()
    assert (await client.get("/events")).status == 503


async def test_the_server_does_not_wait_for_it(new_client: NewClient) -> None:
    client = await new_client()
    async with client.get("/events") as answer, asyncio.timeout(5):
        await client.server.close()
        await answer.content.read()


async def test_it_ends_by_itself_so_that_the_guard_is_passed_again(
    new_client: NewClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "STREAM_SECONDS", 0.05)
    client = await new_client()
    async with client.get("/events") as answer, asyncio.timeout(5):
        await answer.content.read()
