"""Two workers, each with half of the partitions, over real HTTP: each answers for both, and says what is missing."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import SecretStr

from streams.records import RunCancelled
from tests.web.conftest import NewClient
from tests.web.fakes import FakeWorker
from tests.web.pairs import BEARER, TOKEN, Pair
from web.others import Peer, Roster, Seal

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Handler], Awaitable[str]]]:
    """Serves a URL that somebody has put into the group."""
    servers: list[TestServer] = []

    async def start(handler: Handler) -> str:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", handler)
        server = TestServer(application)
        await server.start_server()
        servers.append(server)
        return str(server.make_url("")).rstrip("/")

    yield start
    for server in servers:
        await server.close()


async def test_a_node_run_is_answered_by_its_owner_whichever_is_asked(pair: Pair) -> None:
    for node_run_id, partition_of in zip(pair.ids, (pair.one, pair.other), strict=True):
        for client, headers in ((pair.first, BEARER), (pair.second, {})):
            answer = await client.get(f"/api/node-runs/{node_run_id}", headers=headers)
            assert answer.status == 200
            assert (await answer.json())["worker"]["worker"] == partition_of.app.incarnation
            page = await client.get(f"/node-runs/{node_run_id}", headers=headers)
            assert (page.status, page.content_type) == (200, "text/html")
            assert node_run_id in await page.text()


async def test_what_the_owner_does_not_know_is_unknown(pair: Pair) -> None:
    absent = next(
        f"wfnr_x{n}" for n in range(99) if pair.other.here.partition_of(f"wfnr_x{n}") in pair.other.here.partitions
    )
    answer = await pair.first.get(f"/api/node-runs/{absent}", headers=BEARER)
    assert (answer.status, (await answer.json())["worker"]) == (404, "host-other")


async def test_lists_are_of_both(pair: Pair) -> None:
    for client in (pair.first, pair.second):
        listed = await (await client.get("/api/node-runs", headers=BEARER)).json()
        assert {run["nodeRunId"] for run in listed["nodeRuns"]} == set(pair.ids)
        assert listed["counts"]["waiting"] == 2
        assert (listed["missing"], listed["missingWorkers"], listed["scope"]) == ([], [], "all workers")
        assert [one["worker"] for one in listed["workers"]] == ["host-0123abcd", "host-other"]
    one = await (await pair.first.get("/api/node-runs?limit=1&state=waiting", headers=BEARER)).json()
    assert len(one["nodeRuns"]) == 1


async def test_workers_are_shown_with_how_they_do(pair: Pair) -> None:
    pair.other.app.rebalancing = True
    pair.other.app.tables = _Tables({"a": 7, "b": 0})
    shown = await (await pair.first.get("/api/workers", headers=BEARER)).json()
    assert shown["asked"] == "host-0123abcd"
    told = {one["worker"]: (one["state"], one["partitions"], one["recoveryRemaining"]) for one in shown["workers"]}
    assert told == {"host-0123abcd": ("ready", [0, 2, 4, 6], 0), "host-other": ("rebalancing", [1, 3, 5, 7], 7)}
    assert all(one["memoryBytes"] > 1_000_000 and one["cpuSeconds"] > 0 and one["version"] for one in shown["workers"])
    page = await (await pair.first.get("/workers", headers=BEARER)).text()
    assert "host-other" in page
    assert "rebalancing" in page


class _Tables:
    def __init__(self, left: dict[str, int]) -> None:
        self.recovery = self
        self._left = left

    def active_remaining(self) -> dict[str, int]:
        return self._left


async def test_a_worker_that_is_gone_is_said_to_be_missing(pair: Pair) -> None:
    await pair.second.close()
    listed = await (await pair.first.get("/api/node-runs", headers=BEARER)).json()
    assert [run["nodeRunId"] for run in listed["nodeRuns"]] == [pair.ids[0]]
    assert listed["missing"] == [1, 3, 5, 7]
    [gone] = listed["missingWorkers"]
    assert (gone["worker"], gone["partitions"], gone["why"]) == ("host-other", [1, 3, 5, 7], "nobody listens there")
    for path in ("/", "/workers"):
        page = await (await pair.first.get(path, headers=BEARER)).text()
        assert "1, 3, 5, 7" in page
        assert "host-other" in page
        assert "nobody listens there" in page
    answer = await pair.first.get(f"/api/node-runs/{pair.ids[1]}", headers=BEARER)
    assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
    told = await answer.json()
    assert told["error"] == "owner-away"
    assert "host-other" in told["message"]


async def test_one_that_does_not_answer_costs_the_time_limit_at_most(
    pair: Pair, peers: list[Peer], serve: Callable[[Handler], Awaitable[str]]
) -> None:
    done = asyncio.Event()

    async def never(_request: web.Request) -> web.Response:
        await done.wait()
        return web.Response()

    for number in range(3):
        peers.append(Peer(f"host-silent-{number}", await serve(never), frozenset()))
    began = time.monotonic()
    listed = await (await pair.first.get("/api/node-runs", headers=BEARER)).json()
    took = time.monotonic() - began
    done.set()
    # One after the other they would take three times as long.
    assert 0.4 < took < 1.2
    assert {one["why"] for one in listed["missingWorkers"]} == {"no answer within 0.5 s"}
    assert {run["nodeRunId"] for run in listed["nodeRuns"]} == set(pair.ids)


async def test_partitions_that_nobody_has_are_missing(pair: Pair, peers: list[Peer]) -> None:
    pair.other.lose(3)
    peers[1] = replace(peers[1], partitions=peers[1].partitions - {3})
    lost = next(f"wfnr_x{n}" for n in range(99) if pair.other.here.partition_of(f"wfnr_x{n}") == 3)
    listed = await (await pair.first.get("/api/node-runs", headers=BEARER)).json()
    assert (listed["missing"], listed["missingWorkers"]) == ([3], [])
    answer = await pair.first.get(f"/api/node-runs/{lost}", headers=BEARER)
    assert (answer.status, (await answer.json())["error"]) == (503, "no-owner")
    # The group still says so, and the worker has it no more: no request goes around.
    peers[1] = replace(peers[1], partitions=peers[1].partitions | {3})
    answer = await pair.first.get(f"/api/node-runs/{lost}", headers=BEARER)
    assert answer.status == 503


async def test_a_url_that_somebody_put_into_the_group_gets_nothing_and_brings_nothing(
    pair: Pair, peers: list[Peer], serve: Callable[[Handler], Awaitable[str]]
) -> None:
    came: list[web.Request] = []

    async def catch(request: web.Request) -> web.Response:
        came.append(request)
        # What it is given opens no worker, under no name.
        for client in (pair.first, pair.second):
            answer = await client.get(request.rel_url.raw_path_qs, headers={"Authorization": given(request)})
            assert answer.status == 401
        return web.json_response({"nodeRuns": [{"nodeRunId": "wfnr_forged"}]})

    # It takes the name of a worker that there is.
    peers.append(Peer("host-other", await serve(catch), frozenset({1})))
    listed = await (await pair.first.get("/api/node-runs", headers=BEARER)).json()
    assert len(came) == 1
    assert TOKEN not in str(came[0].headers)
    assert [one["why"] for one in listed["missingWorkers"]] == ["what answers there is not that worker"]
    assert "wfnr_forged" not in str(listed)


def given(request: web.Request) -> str:
    return request.headers["Authorization"]


@pytest.mark.parametrize("url", ["", "file:///etc/passwd", "not a url", "http://", "gopher://127.0.0.1:1"])
async def test_what_is_no_url_is_not_called(pair: Pair, peers: list[Peer], url: str) -> None:
    peers.append(Peer("host-odd", url, frozenset()))
    listed = await (await pair.first.get("/api/node-runs", headers=BEARER)).json()
    assert [one["why"] for one in listed["missingWorkers"]] == ["what it says is its URL is none"]


async def test_a_redirect_is_not_followed(
    pair: Pair, peers: list[Peer], serve: Callable[[Handler], Awaitable[str]]
) -> None:
    async def away(_request: web.Request) -> web.Response:
        raise web.HTTPFound(pair.second.make_url("/healthz"))

    peers.append(Peer("host-away", await serve(away), frozenset()))
    listed = await (await pair.first.get("/api/node-runs", headers=BEARER)).json()
    assert [one["why"] for one in listed["missingWorkers"]] == ["what answers there is not that worker"]


async def test_an_answer_that_is_too_large_is_not_taken(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.others.MOST_BYTES", 100)
    listed = await (await pair.first.get("/api/node-runs", headers=BEARER)).json()
    assert [one["why"] for one in listed["missingWorkers"]] == ["its answer is larger than 100 bytes"]


async def test_an_answer_of_another_release_is_missing_and_breaks_nothing(
    pair: Pair, peers: list[Peer], serve: Callable[[Handler], Awaitable[str]]
) -> None:
    seal = Seal(SecretStr("k"), "app")

    async def later(request: web.Request) -> web.Response:
        body, token = b'{"another": "form"}', given(request).partition(" ")[2]
        headers = {"X-Port-Runs-Partitions": "", "X-Port-Runs-Answer": seal.answer(token, 200, "", body)}
        return web.Response(body=body, headers=headers)

    peers.append(Peer("host-later", await serve(later), frozenset()))
    for path in ("overview", "node-runs", "stuck", "handlers", "workers", "series"):
        listed = await pair.first.get(f"/api/{path}", headers=BEARER)
        assert listed.status == 200
        missing = [(one["worker"], one["why"]) for one in (await listed.json())["missingWorkers"]]
        assert missing == [("host-later", "it answers as another release does")]


async def test_an_action_is_done_by_the_owner_whichever_is_asked(pair: Pair) -> None:
    theirs = next(one for n in range(99) if pair.other.here.partition_of(one := f"wfnr_y{n}") % 2)
    pair.other.arrive(theirs, '{"payload":[{"type":"greet"},{"type":"greet"}]}', count=2)
    pair.other.end(theirs, 0, error="broken")
    asked = await pair.first.post(f"/api/node-runs/{theirs}/retry", json={}, headers=BEARER | {"X-Actor": "Zoë"})
    assert (asked.status, (await asked.json())["outcome"]) == (200, "applied")
    shown = await (await pair.second.get(f"/api/node-runs/{theirs}")).json()
    assert shown["items"][0]["result"] is None
    assert [event.action.who for event in pair.other.asked if event.action is not None] == ["Zoë"]
    refusals: list[tuple[str, dict[str, object], int, str]] = [
        ("retry", {}, 409, "nothing-to-do"),
        ("items/7/retry", {}, 404, "unknown"),
        ("items/0/retry", {"attempt": 9}, 409, "gone-on"),
        ("complete", {"result": "FAILED"}, 422, "wrong-body"),
        ("complete", {"surplus": 1}, 422, "wrong-body"),
    ]
    for path, body, status, error in refusals:
        refusal = await pair.first.post(f"/api/node-runs/{theirs}/{path}", json=body, headers=BEARER)
        assert (refusal.status, (await refusal.json())["error"]) == (status, error)
    ended = await pair.first.post(
        f"/api/node-runs/{theirs}/items/0/complete", json={"output": {"é": [1.5, None]}}, headers=BEARER
    )
    assert (ended.status, (await ended.json())["outcome"]) == (200, "applied")
    late = await pair.first.post(f"/api/node-runs/{theirs}/items/0/complete", json={}, headers=BEARER)
    # What was not done by the owner is told as the owner tells it.
    assert (late.status, (await late.json())["outcome"]) == (409, "refused")
    shown = await (await pair.second.get(f"/api/node-runs/{theirs}")).json()
    assert shown["items"][0]["output"] == {"é": [1.5, None]}


async def test_a_form_acts_on_what_another_worker_has(pair: Pair) -> None:
    theirs = pair.ids[1]
    page = await pair.first.post(
        f"/node-runs/{theirs}/cancel",
        data="",
        headers=BEARER | {"Accept": "text/html", "Content-Type": "application/x-www-form-urlencoded"},
    )
    assert (page.status, page.content_type) == (200, "text/html")
    assert f"/node-runs/{theirs}" in await page.text()
    [event] = pair.other.asked
    assert isinstance(event, RunCancelled)
    assert (event.node_run_id, event.action and event.action.who) == (theirs, "web")


async def test_who_may_not_act_acts_nowhere(new_client: NewClient, pair: Pair) -> None:
    asked = await pair.first.post(f"/api/node-runs/{pair.ids[1]}/cancel", json={})
    assert asked.status == 401
    assert pair.other.asked == []


async def test_an_action_comes_once_and_as_it_was_signed(pair: Pair) -> None:
    path, url = f"/api/node-runs/{pair.ids[1]}/cancel", pair.other.app.conf.canonical_url
    seal = Seal(SecretStr("k"), "app")

    async def send(token: str, body: str = "{}", actor: str = "ann") -> int:
        headers = {"Authorization": f"PortRunsWorker {token}", "X-Actor": actor, "Content-Type": "application/json"}
        return (await pair.second.post(path, data=body, headers=headers)).status

    def token(method: str = "POST") -> str:
        return seal.token("host-other", str(url), method, path, "ann", b"{}")

    assert await send(token(), actor="bob") == 401
    assert await send(token("GET")) == 401
    assert await send(token(), body='{"surplus":1}') == 401
    assert pair.other.asked == []
    good = token()
    assert await send(good) == 200
    assert await send(good) == 401
    assert len(pair.other.asked) == 1


async def test_an_owner_that_is_gone_has_done_nothing_and_one_that_is_silent_may_have(
    pair: Pair, peers: list[Peer], serve: Callable[[Handler], Awaitable[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    await pair.second.close()
    gone = await pair.first.post(f"/api/node-runs/{pair.ids[1]}/cancel", json={}, headers=BEARER)
    told = await gone.json()
    assert (gone.status, told["error"], gone.headers["Retry-After"]) == (503, "owner-away", "2")
    assert "not known" not in told["message"]
    done = asyncio.Event()

    async def silent(_request: web.Request) -> web.Response:
        await done.wait()
        return web.Response()

    monkeypatch.setattr("web.others.ACT_SECONDS", 0.1)
    monkeypatch.setattr("web.others._FRESH", -1.0)
    peers[1] = replace(peers[1], url=await serve(silent))
    answer = await pair.first.post(f"/api/node-runs/{pair.ids[1]}/cancel", json={}, headers=BEARER)
    done.set()
    assert answer.status == 503
    assert "whether it was done is not known" in (await answer.json())["message"]


async def test_workers_of_another_secret_do_not_answer(new_client: NewClient, pair: Pair, peers: list[Peer]) -> None:
    third = FakeWorker("host-third")
    client = await new_client(worker=third, key="another")
    third.app.conf.canonical_url = str(client.make_url("")).rstrip("/")
    peers.append(Peer("host-third", third.app.conf.canonical_url, frozenset()))
    listed = await (await pair.first.get("/api/node-runs", headers=BEARER)).json()
    assert [one["worker"] for one in listed["missingWorkers"]] == ["host-third"]


class TestSeal:
    clock = 1_000_000.0
    seal = Seal(SecretStr("secret"), "app", lambda: TestSeal.clock)
    where = ("host-a", "http://a:1", "POST", "/api/node-runs/wfnr_a/retry", "ann")

    def test_a_token_is_good_for_its_request_alone(self) -> None:
        token = self.seal.token(*self.where, b"{}")
        assert self.seal.is_token(token, *self.where)
        for number in range(len(self.where)):
            elsewhere = [part + "x" if index == number else part for index, part in enumerate(self.where)]
            assert not self.seal.is_token(token, *elsewhere)
        for other in (Seal(SecretStr("other"), "app"), Seal(SecretStr("secret"), "other")):
            assert not other.is_token(token, *self.where)
        assert self.seal.is_body(token, b"{}")
        assert not self.seal.is_body(token, b'{"result":"FAILED"}')

    def test_no_part_of_it_can_be_changed(self) -> None:
        parts = self.seal.token(*self.where, b"{}").split(".")
        for number, part in enumerate(parts):
            changed = [*parts[:number], part[:-1] + ("1" if part[-1] != "1" else "2"), *parts[number + 1 :]]
            assert not self.seal.is_token(".".join(changed), *self.where)

    def test_no_two_are_the_same(self) -> None:
        assert self.seal.token(*self.where) != self.seal.token(*self.where)

    @pytest.mark.parametrize("after", [-100, 61])
    def test_it_ends(self, after: float) -> None:
        token = self.seal.token(*self.where)
        later = Seal(SecretStr("secret"), "app", lambda: self.clock + after)
        assert not later.is_token(token, *self.where)

    @pytest.mark.parametrize("token", ["", ".", "x.y", "9999999999.", "9999999999." + "0" * 64, "\udcff.\udcff"])
    def test_nothing_else_is_one(self, token: str) -> None:
        assert not self.seal.is_token(token, *self.where)


async def test_the_group_is_remembered_while_it_cannot_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.others._FRESH", -1.0)
    told: list[list[Peer] | None] = [[Peer("a", "http://a", frozenset())], None]
    stuck = asyncio.Event()

    async def ask() -> list[Peer] | None:
        if not told:
            await stuck.wait()
        return told.pop(0)

    roster = Roster(ask)
    known = await roster.read(1)
    assert [peer.worker for peer in known] == ["a"]
    assert await roster.read(1) == known
    assert await roster.read(0.01) == known
    await roster.close()
