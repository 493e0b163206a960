import asyncio
import email.utils
import json
import logging
import socket
import time
import traceback
from collections.abc import AsyncIterator

import aiohttp
import pytest
import stamina
from aiohttp import web
from pydantic import SecretStr

from local.emulator import Emulator, FaultRule, FaultSettings
from port.client import LONGEST_REFUSAL, Answer, AnswerKind, PortClient
from port.errors import PortRefused, PortUnavailable
from port.models import LogLevel, LogLine, WorkflowRun
from port.trouble import TroubleKind
from tests.port.scripted import Answerer, ScriptedPort, answer, token

CANARY = "canary-secret-7d1e"
BODY = b'{"status":"COMPLETED","result":"SUCCESS","output":{}}'
NODE = "wfnr_1"


@pytest.fixture
async def port() -> AsyncIterator[ScriptedPort]:
    async with ScriptedPort() as server:
        yield server


@pytest.fixture
async def client(port: ScriptedPort) -> AsyncIterator[PortClient]:
    async with PortClient(port.base_url, "id", SecretStr(CANARY), timeout=5) as one:
        yield one


@pytest.mark.parametrize(
    ("status", "kind", "maybe_arrived"),
    [
        (200, AnswerKind.ACCEPTED, False),
        (204, AnswerKind.ACCEPTED, False),
        (301, AnswerKind.UNAVAILABLE, True),
        (400, AnswerKind.INVALID, False),
        (402, AnswerKind.INVALID, False),
        (403, AnswerKind.UNAUTHORIZED, False),
        (404, AnswerKind.NOT_FOUND, False),
        (405, AnswerKind.INVALID, False),
        (408, AnswerKind.UNAVAILABLE, True),
        (409, AnswerKind.CONFLICT, False),
        (413, AnswerKind.TOO_LARGE, False),
        (422, AnswerKind.INVALID, False),
        (425, AnswerKind.UNAVAILABLE, True),
        (429, AnswerKind.RATE_LIMITED, False),
        (500, AnswerKind.UNAVAILABLE, True),
        (502, AnswerKind.UNAVAILABLE, True),
        (503, AnswerKind.UNAVAILABLE, True),
        (599, AnswerKind.UNAVAILABLE, True),
    ],
)
async def test_each_status_has_its_kind(
    port: ScriptedPort, client: PortClient, status: int, kind: AnswerKind, maybe_arrived: bool
) -> None:
    port.calls = [
        answer(status, b"" if status == 204 else b'{"message":"because"}', {"Location": "http://127.0.0.1:1/"})
    ]
    got = await client.report(NODE, None, BODY)
    assert (got.kind, got.status, got.maybe_arrived) == (kind, status, maybe_arrived)
    assert len(port.seen) == 1, "nothing is sent twice, and no redirect is followed"


async def test_the_body_is_sent_as_it_is_on_both_forms(port: ScriptedPort, client: PortClient) -> None:
    await client.report(NODE, None, BODY)
    await client.report(NODE, "wfr_2", b"the very bytes")
    assert port.seen == [
        ("PATCH", "/v1/workflows/nodes/runs/wfnr_1", "Bearer t1", BODY),
        ("PATCH", "/v1/workflows/runs/wfr_2/nodes/wfnr_1", "Bearer t1", b"the very bytes"),
    ]
    assert port.auths == 1


@pytest.mark.parametrize("body", [b"<html>log in</html>", b'{"ok":false}', b"[]"])
async def test_a_2xx_that_is_not_ports_is_no_acceptance(port: ScriptedPort, client: PortClient, body: bytes) -> None:
    port.calls = [answer(200, body)]
    got = await client.report(NODE, None, BODY)
    assert (got.kind, got.maybe_arrived) == (AnswerKind.UNAVAILABLE, True)


async def test_a_status_counts_though_its_body_breaks_off(port: ScriptedPort, client: PortClient) -> None:
    async def break_off(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b'{"ok"')
        assert request.transport is not None
        request.transport.close()
        return response

    port.calls = [break_off]
    assert (await client.report(NODE, None, BODY)).kind is AnswerKind.ACCEPTED


async def test_malformed_ids_never_reach_a_url(port: ScriptedPort, client: PortClient) -> None:
    for call in (
        client.report("wfnr_../x", None, BODY),
        client.report(NODE, "wfr_?", BODY),
        client.append_logs("wfr_1", [LogLine(message="m")]),
    ):
        with pytest.raises(ValueError, match=r"not a (node|workflow) run id"):
            await call
    with pytest.raises(ValueError, match="not a workflow run id"):
        await client.get_run("")
    assert port.seen == []


# Time-outs and broken connections


async def test_a_time_out_may_have_arrived(port: ScriptedPort) -> None:
    port.calls = [port.never]
    async with PortClient(port.base_url, "id", SecretStr(CANARY), timeout=0.3) as client:
        got = await client.report(NODE, None, BODY)
    assert (got.kind, got.status, got.maybe_arrived) == (AnswerKind.UNAVAILABLE, None, True)
    assert len(port.seen) == 1


async def test_a_refused_connection_has_not_arrived(unused_port: int) -> None:
    async with PortClient(f"http://127.0.0.1:{unused_port}", "id", SecretStr(CANARY)) as client:
        got = await client.report(NODE, None, BODY)
    assert (got.kind, got.status, got.maybe_arrived) == (AnswerKind.UNAVAILABLE, None, False)


async def test_a_report_refused_at_the_connection_has_not_arrived(port: ScriptedPort) -> None:
    async with PortClient(port.base_url, "id", SecretStr(CANARY)) as client:
        assert (await client.report(NODE, None, BODY)).kind is AnswerKind.ACCEPTED
        await port.__aexit__(None, None, None)
        got = [await client.report(NODE, None, BODY) for _ in range(2)][-1]
        assert (got.kind, got.maybe_arrived) == (AnswerKind.UNAVAILABLE, False)
        assert "127.0.0.1" in got.reason


async def test_a_name_that_does_not_resolve_has_not_arrived() -> None:
    async with PortClient("http://port.invalid", "id", SecretStr(CANARY), timeout=20) as client:
        got = await client.report(NODE, None, BODY)
    assert (got.kind, got.maybe_arrived) == (AnswerKind.UNAVAILABLE, False)


async def test_what_is_under_way_at_close_is_unavailable(port: ScriptedPort) -> None:
    asked = asyncio.Event()

    async def hang(request: web.BaseRequest) -> web.StreamResponse:
        asked.set()
        return await port.never(request)

    port.auth = [hang]
    client = PortClient(port.base_url, "id", SecretStr(CANARY))
    reports = [asyncio.create_task(client.report(NODE, None, BODY)) for _ in range(2)]
    await asked.wait()
    await client.close()
    assert [(await report).kind for report in reports] == [AnswerKind.UNAVAILABLE] * 2


# Waiting


async def _retry_after(port: ScriptedPort, headers: dict[str, str], status: int = 429) -> float | None:
    port.calls = [answer(status, b"{}", headers)]
    # One for each: it waits before its next call.
    async with PortClient(port.base_url, "id", SecretStr(CANARY)) as client:
        return (await client.report(NODE, None, BODY)).retry_after


async def test_how_long_port_asks_to_wait(port: ScriptedPort) -> None:
    assert await _retry_after(port, {"Retry-After": "7", "x-ratelimit-reset": "9"}) == 7
    assert await _retry_after(port, {"x-ratelimit-reset": "9"}) == 9
    assert await _retry_after(port, {"x-ratelimit-reset": "9999999"}) == 0
    assert await _retry_after(port, {"Retry-After": "9000"}) == 3600
    assert await _retry_after(port, {"Retry-After": "soon"}) is None
    assert await _retry_after(port, {"Retry-After": "nan"}) is None
    assert await _retry_after(port, {}) is None
    assert await _retry_after(port, {"Retry-After": "7"}, 503) == 7
    assert await _retry_after(port, {"x-ratelimit-reset": "9"}, 200) is None


async def test_a_reset_above_ten_thousand_is_an_epoch_and_a_date_is_understood(port: ScriptedPort) -> None:
    for headers in (
        {"x-ratelimit-reset": str(int(time.time()) + 60)},
        {"Retry-After": email.utils.formatdate(time.time() + 60, usegmt=True)},
    ):
        wait = await _retry_after(port, headers)
        assert wait is not None
        assert 30 < wait <= 60


async def test_what_is_left_of_the_rate_limit_is_told(port: ScriptedPort, client: PortClient) -> None:
    port.calls = [
        answer(200, headers={"x-ratelimit-remaining": "12"}),
        answer(200, headers={"x-ratelimit-remaining": "-"}),
    ]
    assert (await client.report(NODE, None, BODY)).remaining == 12
    assert (await client.report(NODE, None, BODY)).remaining is None


# The budget


async def test_the_budget_learns_from_each_form_of_the_reset(port: ScriptedPort, client: PortClient) -> None:
    told = {"x-ratelimit-limit": "15000", "x-ratelimit-remaining": "1", "x-ratelimit-period": "300"}
    for reset in (
        {"x-ratelimit-reset": "1"},
        {"x-ratelimit-reset": str(int(time.time()) + 2)},
        {"x-ratelimit-reset": str(int(time.time()) - 1000)},
    ):
        port.calls = [answer(200, headers=told | reset), answer(200)]
        async with PortClient(port.base_url, "id", SecretStr(CANARY)) as one:
            await one.report(NODE, None, BODY)
            assert one.budget.remaining == 1
            began = time.monotonic()
            await one.report(NODE, None, BODY)
            assert 0.4 < time.monotonic() - began < 5
    await client.report(NODE, None, BODY)
    assert client.budget.remaining is None


async def test_a_429_holds_up_all_calls_and_the_ones_for_tokens_too(port: ScriptedPort) -> None:
    now = 0.0
    port.auth = [token("t1", 60), token("t2")]
    port.calls = [answer(429, headers={"Retry-After": "1"}), answer(200)]
    async with PortClient(port.base_url, "id", SecretStr(CANARY), clock=lambda: now) as client:
        await client.report(NODE, None, BODY)
        now, began = 100.0, time.monotonic()
        logs = client.append_logs(NODE, [LogLine(message="m")])
        waiting = [asyncio.ensure_future(call) for call in (logs, client.report(NODE, None, BODY))]
        await asyncio.sleep(0.2)
        assert (len(port.seen), port.auths) == (1, 1)
        assert [one.kind for one in await asyncio.gather(*waiting)] == [AnswerKind.ACCEPTED] * 2
    assert time.monotonic() - began >= 0.95
    assert [call[0] for call in port.seen] == ["PATCH", "PATCH", "POST"], "the log goes last"
    assert port.auths == 2


async def test_a_429_to_the_call_for_a_token_holds_up_all_calls(port: ScriptedPort, client: PortClient) -> None:
    port.auth = [answer(429, headers={"Retry-After": "1", "x-ratelimit-remaining": "0"}), token("t1")]
    assert (await client.report(NODE, None, BODY)).kind is AnswerKind.RATE_LIMITED
    assert client.budget.remaining is None, "it says nothing of the limit of the other calls"
    began = time.monotonic()
    answers = await asyncio.gather(*(client.report(NODE, None, BODY) for _ in range(20)))
    assert {one.kind for one in answers} == {AnswerKind.ACCEPTED}
    assert time.monotonic() - began >= 0.95
    assert port.auths == 2


async def test_the_last_word_before_sending_is_the_callers(port: ScriptedPort, client: PortClient) -> None:
    seen: list[int] = []

    def before() -> None:
        seen.append(port.auths)
        if len(seen) == 3:
            raise LookupError("not any more")

    port.calls = [answer(401), answer(200)]
    assert (await client.report(NODE, None, BODY, before)).kind is AnswerKind.ACCEPTED
    assert seen == [1, 2], "asked again before it is sent again"
    for call in (client.report(NODE, None, BODY, before), client.get_run("wfr_1", before)):
        with pytest.raises(LookupError):
            await call
        seen.pop()
    assert len(port.seen) == 2
    assert (await client.report(NODE, None, BODY)).kind is AnswerKind.ACCEPTED, "and its turn was given back"


async def test_who_waits_for_a_turn_at_close_is_unavailable(port: ScriptedPort) -> None:
    port.calls = [answer(429, headers={"Retry-After": "300"})]
    client = PortClient(port.base_url, "id", SecretStr(CANARY))
    await client.report(NODE, None, BODY)
    waiting = asyncio.create_task(client.report(NODE, None, BODY))
    await asyncio.sleep(0)
    await client.close()
    assert (await waiting).kind is AnswerKind.UNAVAILABLE
    assert len(port.seen) == 1


# Whether Port can be reached


async def test_since_when_port_is_unreachable(
    port: ScriptedPort, client: PortClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.unreachable_since is None
    began = time.time()
    port.calls = [answer(503), answer(500), port.drop, answer(200, b"<html>"), answer(404), answer(502), answer(429)]
    since: list[float | None] = []
    for _ in range(7):
        await client.report(NODE, None, BODY)
        since.append(client.unreachable_since)
    first = since[0]
    assert first is not None
    assert began <= first <= time.time()
    assert since[:4] == [first] * 4, "until the next good one"
    assert [one is None for one in since[4:]] == [True, False, True]


async def test_without_a_try_nobody_knows_whether_port_is_away(
    port: ScriptedPort, client: PortClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    port.auth = [answer(503)]
    await client.report(NODE, None, BODY)
    assert client.unreachable_since is not None
    later = time.monotonic() + 3600
    monkeypatch.setattr("port.client.time.monotonic", lambda: later)
    assert client.unreachable_since is None


# Tokens


async def test_many_who_wait_share_one_call_for_a_token(port: ScriptedPort, client: PortClient) -> None:
    answers = await asyncio.gather(*(client.report(NODE, None, BODY) for _ in range(50)))
    assert {one.kind for one in answers} == {AnswerKind.ACCEPTED}
    assert port.auths == 1


async def test_one_who_gives_up_does_not_take_the_token_from_the_others(port: ScriptedPort, client: PortClient) -> None:
    asked, go = asyncio.Event(), asyncio.Event()

    async def slow(request: web.BaseRequest) -> web.StreamResponse:
        asked.set()
        await go.wait()
        return await token("t1")(request)

    port.auth = [slow]
    first, second = (asyncio.create_task(client.report(NODE, None, BODY)) for _ in range(2))
    await asked.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    go.set()
    assert (await second).kind is AnswerKind.ACCEPTED
    assert port.auths == 1


async def test_a_401_fetches_a_token_once_and_sends_the_same_again(port: ScriptedPort, client: PortClient) -> None:
    port.auth = [token("t1"), token("t2")]
    port.calls = [answer(401), answer(200)]
    assert (await client.report(NODE, None, BODY)).kind is AnswerKind.ACCEPTED
    assert [call[2:] for call in port.seen] == [("Bearer t1", BODY), ("Bearer t2", BODY)]


async def test_a_second_401_is_an_answer(port: ScriptedPort, client: PortClient) -> None:
    port.calls = [answer(401)]
    got = await client.report(NODE, None, BODY)
    assert (got.kind, got.status, got.maybe_arrived) == (AnswerKind.UNAUTHORIZED, 401, False)
    assert (len(port.seen), port.auths) == (2, 2)


async def test_many_401s_at_once_fetch_one_token(port: ScriptedPort, client: PortClient) -> None:
    port.auth = [token("t1"), token("t2")]

    async def only_t2(request: web.BaseRequest) -> web.StreamResponse:
        fine = request.headers["Authorization"] == "Bearer t2"
        return await answer(200 if fine else 401)(request)

    port.calls = [only_t2]
    answers = await asyncio.gather(*(client.report(NODE, None, BODY) for _ in range(30)))
    assert {one.kind for one in answers} == {AnswerKind.ACCEPTED}
    assert port.auths == 2


async def test_a_token_is_used_to_its_end_and_then_asked_for_once(port: ScriptedPort) -> None:
    now = 1000.0
    port.auth = [token("nearly expired", 20), token("expired", 0), token("new", 10_800)]
    async with PortClient(port.base_url, "id", SecretStr(CANARY), clock=lambda: now) as client:
        for now, auths, used in (  # noqa: B007 - the clock reads it
            (1000.0, 1, "nearly expired"),
            (1020.9, 1, "nearly expired"),
            (1021.1, 2, "expired"),
            (1022.0, 2, "expired"),
            (1022.2, 3, "new"),
            (1022.2 + 10_800, 3, "new"),
            (1022.2 + 10_802, 4, "new"),
        ):
            await client.report(NODE, None, BODY)
            assert (port.auths, port.seen[-1][2]) == (auths, f"Bearer {used}")


async def test_no_report_is_sent_with_a_token_that_ended_while_no_other_can_be_had(port: ScriptedPort) -> None:
    now = 0.0
    port.auth = [token("t1", 600), answer(503)]
    async with PortClient(port.base_url, "id", SecretStr(CANARY), clock=lambda: now) as client:
        assert (await client.report(NODE, None, BODY)).kind is AnswerKind.ACCEPTED
        now = 600.0
        assert (await client.report(NODE, None, BODY)).kind is AnswerKind.ACCEPTED
        now = 602.0
        got = await client.report(NODE, None, BODY)
    assert (got.kind, got.maybe_arrived, len(port.seen)) == (AnswerKind.UNAVAILABLE, False, 2)
    assert got.reason.startswith("no access token: ")


@pytest.mark.parametrize(
    ("auth", "kind"),
    [
        (answer(401), AnswerKind.UNAUTHORIZED),
        (answer(404), AnswerKind.UNAUTHORIZED),
        (answer(422), AnswerKind.UNAUTHORIZED),
        (answer(429, headers={"Retry-After": "3"}), AnswerKind.RATE_LIMITED),
        (answer(500), AnswerKind.UNAVAILABLE),
        (answer(200, b'{"ok":true}'), AnswerKind.UNAVAILABLE),
    ],
)
async def test_without_a_token_nothing_was_sent(
    port: ScriptedPort, client: PortClient, auth: Answerer, kind: AnswerKind
) -> None:
    port.auth = [auth]
    got = await client.report(NODE, None, BODY)
    assert (got.kind, got.maybe_arrived, port.seen) == (kind, False, [])
    assert got.retry_after == (3 if kind is AnswerKind.RATE_LIMITED else None)


# The other calls


async def test_logs_go_in_one_call_and_no_lines_are_no_call(port: ScriptedPort, client: PortClient) -> None:
    lines = [LogLine(message="one"), LogLine(level=LogLevel.ERROR, message="two")]
    assert (await client.append_logs(NODE, lines)).kind is AnswerKind.ACCEPTED
    assert (await client.append_logs(NODE, [])).kind is AnswerKind.ACCEPTED
    assert [call[:2] for call in port.seen] == [("POST", "/v1/workflows/nodes/runs/wfnr_1/logs")]
    assert port.seen[0][3] == (b'{"logs": [{"level": "INFO", "message": "one"}, {"level": "ERROR", "message": "two"}]}')


async def test_a_run_or_why_there_is_none(port: ScriptedPort, client: PortClient) -> None:
    port.calls = [answer(200, b'{"ok":true,"run":{"identifier":"wfr_1"}}'), answer(404), answer(200, b'{"ok":true}')]
    run = await client.get_run("wfr_1")
    assert isinstance(run, WorkflowRun)
    missing, odd = await client.get_run("wfr_1"), await client.get_run("wfr_1")
    assert isinstance(missing, Answer)
    assert missing.kind is AnswerKind.NOT_FOUND
    assert isinstance(odd, Answer)
    assert odd.kind is AnswerKind.UNAVAILABLE
    assert "identifier: Field required" in odd.reason


async def test_kafka_credentials_are_tried_for_while_port_is_unavailable(
    port: ScriptedPort, client: PortClient
) -> None:
    body = b'{"credentials":{"brokers":["b:9196"],"username":"u","password":"p"}}'
    port.calls = [answer(503), answer(429), answer(200, body)]
    with stamina.set_testing(True, attempts=3):
        credentials = await client.kafka_credentials()
    assert (credentials.brokers, credentials.username) == (["b:9196"], "u")


async def test_kafka_credentials_end_in_an_error(port: ScriptedPort, client: PortClient) -> None:
    with stamina.set_testing(True, attempts=2):
        port.calls = [answer(503)]
        with pytest.raises(PortUnavailable, match="HTTP 503") as unavailable:
            await client.kafka_credentials()
        assert unavailable.value.status == 503
        port.calls = [answer(403, b'{"message":"no right to it"}')]
        with pytest.raises(PortRefused, match="HTTP 403: no right to it"):
            await client.kafka_credentials()
    assert len(port.seen) == 3


# Around the calls


async def test_every_call_is_counted(port: ScriptedPort, unused_port: int) -> None:
    calls: list[tuple[str, int | None]] = []

    def count(name: str, status: int | None, seconds: float) -> None:
        assert seconds >= 0
        calls.append((name, status))

    port.calls = [answer(401), answer(200)]
    async with PortClient(port.base_url, "id", SecretStr(CANARY), on_call=count) as client:
        await client.report(NODE, None, BODY)
    assert calls == [("auth", 200), ("report", 401), ("auth", 200), ("report", 200)]
    calls.clear()
    async with PortClient(f"http://127.0.0.1:{unused_port}", "id", SecretStr(CANARY), on_call=count) as client:
        await client.report(NODE, None, BODY)
    assert calls == [("auth", None)]


SECRETS = ['canary "quoted" ü\\/', "canary token 1/+=", "canary token 2/+=", "canary of Kafka"]


async def test_secrets_show_nowhere(
    port: ScriptedPort, unused_port: int, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    loop = asyncio.get_running_loop()
    # With it asyncio logs every single step, and what it was called with.
    loop.set_debug(True)
    loop.slow_callback_duration = 0.0
    secret, first, second, password = SECRETS
    echoes = [
        answer(status, body.encode())
        for status in (401, 422, 200, 503)
        for body in (
            json.dumps({"message": SECRETS[:3]}),
            json.dumps({"accessToken": SECRETS[:3]}, ensure_ascii=False),
            " ".join(SECRETS[:3]),
        )
    ]
    credentials = {"brokers": ["b:9196"], "username": "u", "password": password}
    port.auth = [token(first), token(second)]
    port.calls = [*echoes, answer(200, json.dumps({"credentials": credentials}).encode())]
    shown: list[object] = []
    async with PortClient(port.base_url, "id", SecretStr(secret), timeout=5) as client:
        while len(port.calls) > 1:
            shown += [await client.report(NODE, None, BODY), await client.get_run("wfr_1")]
        shown.append(await client.kafka_credentials())
        port.calls = [answer(403, json.dumps({"message": SECRETS[:3]}).encode()), answer(200, b'{"credentials":{}}')]
        with stamina.set_testing(True, attempts=1):
            for error in (PortRefused, PortUnavailable):
                with pytest.raises(error) as raised:
                    await client.kafka_credentials()
                shown += [raised.value, "".join(traceback.format_exception(raised.value))]
        shown += [client, *_inside(client)]
    for auth in (answer(401, secret.encode()), answer(200, json.dumps({"accessToken": first}).encode()), token("a\nb")):
        port.auth = [auth]
        async with PortClient(port.base_url, "id", SecretStr(secret)) as client:
            shown.append(await client.report(NODE, None, BODY))
    async with PortClient(f"http://127.0.0.1:{unused_port}", "id", SecretStr(secret)) as client:
        shown.append(await client.report(NODE, None, BODY))
    said = [str(vars(record)) for record in caplog.records]
    assert said, "asyncio was to say much"
    everything = "\n".join([*map(repr, shown), *map(str, shown), *said, caplog.text, *capfd.readouterr()])
    assert "***" in everything
    assert [line[:500] for line in everything.splitlines() if "canary" in line] == []


def _inside(thing: object, depth: int = 4) -> list[object]:
    """What an object of the client's is made of, but for what keeps secrets in order to find them in texts."""
    if depth == 0 or not type(thing).__module__.startswith("port."):
        return []
    values = [value for name, value in getattr(thing, "__dict__", {}).items() if name != "_hidden"]
    return values + [part for value in values for part in _inside(value, depth - 1)]


async def test_reasons_are_short(port: ScriptedPort, client: PortClient) -> None:
    for body in (b"x" * 1_000_000, b'{"message":"' + b"y" * 50_000 + b'"}', b'{"error":{"deep":[1]}}', b"\xff\xfe"):
        port.calls = [answer(422, body)]
        got = await client.report(NODE, None, BODY)
        assert got.kind is AnswerKind.INVALID
        assert 8 < len(got.reason) <= 500


@pytest.mark.parametrize(
    "url", ["", "api.getport.io", "ftp://api.getport.io", "https://", "https://u:p@api.getport.io", "https://a/?b=1"]
)
def test_a_base_url_must_be_one_without_credentials(url: str) -> None:
    with pytest.raises(ValueError, match="base URL") as caught:
        PortClient(url, "id", SecretStr(CANARY))
    assert "u:p" not in str(caught.value)


async def test_a_session_that_was_handed_in_stays_open(port: ScriptedPort) -> None:
    async with aiohttp.ClientSession() as session:
        async with PortClient(port.base_url + "/", "id", SecretStr(CANARY), session) as client:
            assert (await client.report(NODE, None, BODY)).kind is AnswerKind.ACCEPTED
        assert not session.closed


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


# What is wrong, in words.


async def test_refused_credentials_are_told_once_and_tokens_are_asked_for_ever_more_seldom(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [0.0]
    async with Emulator() as emulator:
        wrong = SecretStr("not-the-secret")
        async with PortClient(emulator.base_url, "x", wrong, clock=lambda: now[0]) as client:
            for _ in range(1000):
                answer = await client.report("wfnr_1", None, b"{}")
                assert (answer.kind, answer.status) == (AnswerKind.UNAUTHORIZED, 401)
                now[0] += 0.1
            assert len(emulator.calls.named("auth")) == 7, "in 100 seconds"
            assert emulator.calls.named("report") == []
            assert client.trouble is not None
            assert client.trouble.kind is TroubleKind.CREDENTIALS
            assert client.trouble.said.startswith("Port refuses our credentials (HTTP 401: ")
            assert "PORT_CLIENT_ID and PORT_CLIENT_SECRET" in client.trouble.said
            assert not client.logged_in
            now[0] += 3600.0
            await client.log_in()
            now[0] += LONGEST_REFUSAL - 1.0
            await client.log_in()
            assert len(emulator.calls.named("auth")) == 8, "a minute at most"
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1
    assert errors[0].startswith("Port refuses our credentials")
    assert "not-the-secret" not in caplog.text


async def test_tokens_that_are_given_and_refused_are_refused_credentials_too() -> None:
    now = [0.0]
    async with Emulator() as emulator:
        emulator.faults.set(FaultSettings(rules=(FaultRule(paths=("report",), status=401),)))
        config = emulator.config
        async with PortClient(
            emulator.base_url, config.client_id, config.client_secret, clock=lambda: now[0]
        ) as client:
            for _ in range(1000):
                assert (await client.report("wfnr_1", None, b"{}")).kind is AnswerKind.UNAUTHORIZED
                now[0] += 0.1
            assert len(emulator.calls.named("auth")) <= 14
            assert client.trouble is not None
            assert client.trouble.kind is TroubleKind.CREDENTIALS
            emulator.faults.clear()
            now[0] += LONGEST_REFUSAL
            assert (await client.report("wfnr_1", None, b"{}")).status == 404
            assert client.trouble is None


@pytest.mark.parametrize(("status", "kind"), [(500, TroubleKind.ERRORS), (403, TroubleKind.RIGHTS)])
async def test_what_port_answers_with_is_told_when_it_comes_again_and_when_it_is_over(
    caplog: pytest.LogCaptureFixture, status: int, kind: TroubleKind
) -> None:
    caplog.set_level("INFO")
    async with Emulator() as emulator:
        config = emulator.config
        async with PortClient(emulator.base_url, config.client_id, config.client_secret) as client:
            emulator.faults.set(FaultSettings(rules=(FaultRule(paths=("report",), status=status, count=5),)))
            for _ in range(5):
                await client.report("wfnr_1", None, b"{}")
            assert client.trouble is not None
            assert client.trouble.kind is kind
            assert f"HTTP {status}: a fault that was switched on" in client.trouble.said
            assert "does not answer" not in client.trouble.said
            await client.report("wfnr_1", None, b"{}")
            assert client.trouble is None
    told = [record.getMessage() for record in caplog.records if record.name == "port.trouble"]
    assert len(told) == 2
    assert told[0].startswith(("Port's API answers with errors", "Port refuses what we ask"))
    assert told[1].startswith("Port's API is well again")


@pytest.mark.parametrize(
    ("url", "kind"),
    [("http://127.0.0.1:1", TroubleKind.NO_ANSWER), ("https://no-such-host.invalid", TroubleKind.NAME)],
)
async def test_why_no_answer_comes(url: str, kind: TroubleKind) -> None:
    async with PortClient(url, "x", SecretStr("y")) as client:
        answer = await client.log_in()
        assert (answer.kind, answer.trouble) == (AnswerKind.UNAVAILABLE, kind)
        assert client.trouble is not None
        assert client.trouble.kind is kind
