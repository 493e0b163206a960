import asyncio
import dataclasses

import pytest
from pydantic import JsonValue, SecretStr

from local.emulator import Emulator, EmulatorConfig, RateLimit
from local.emulator.state import Conflict
from port.client import AnswerKind, PortClient
from port.models import LogLine, NodeRunUpdate, Result, Status, WorkflowRun
from tests.local.calls import COMPLETED, Body, Caller


async def test_our_client_completes_a_node_run() -> None:
    async with Emulator(EmulatorConfig(kafka="k1:9092,k2:9092")) as emulator, Caller(emulator) as caller:
        caller.register()
        secret = emulator.config.client_secret
        async with PortClient(emulator.base_url, emulator.config.client_id, secret) as client:
            body = NodeRunUpdate(status=Status.COMPLETED, result=Result.SUCCESS, output={"a": 1}).to_json()
            assert (await client.append_logs("wfnr_1", [LogLine(message="hello")])).kind is AnswerKind.ACCEPTED
            assert (await client.report("wfnr_1", "wfr_1", body)).kind is AnswerKind.ACCEPTED
            assert (await client.report("wfnr_1", None, body)).kind is AnswerKind.CONFLICT
            assert (await client.report("wfnr_2", None, body)).kind is AnswerKind.NOT_FOUND
            assert (await client.report("wfnr_1", None, b"{}")).kind is AnswerKind.INVALID
            assert (await client.report("wfnr_1", None, b" " * 1_048_577)).kind is AnswerKind.TOO_LARGE
            run = await client.get_run("wfr_1")
            credentials = await client.kafka_credentials()
    assert isinstance(run, WorkflowRun)
    node = run.node_run("wfnr_1")
    assert node is not None
    assert (run.status, run.result, node.result, node.output) == ("COMPLETED", "SUCCESS", "SUCCESS", {"a": 1})
    assert credentials.brokers == ["k1:9092", "k2:9092"]


# Tokens


async def test_wrong_credentials_get_no_token_and_no_token_gets_nothing(caller: Caller) -> None:
    right: Body = {"clientId": "emulator-client", "clientSecret": "emulator-secret"}
    for wrong in ({}, {"clientSecret": "x"}, {"clientId": "x"}, {"clientId": 1, "clientSecret": None}):
        body: Body = {**right, **wrong} if wrong else {}
        assert (await caller.call("POST", "/v1/auth/access_token", body)).status == 401
    assert (await caller.call("POST", "/v1/auth/access_token", b"[")).status == 422
    for caller.token in (None, "another"):
        assert (await caller.report("wfnr_1", COMPLETED)).status == 401


async def test_a_token_is_the_same_until_it_expires() -> None:
    now = 1000.0
    async with Emulator(EmulatorConfig(token_seconds=100, clock=lambda: now)) as emulator, Caller(emulator) as caller:
        first = caller.token
        now = 1099.0
        again = await caller.log_in()
        assert (again.body["accessToken"], again.body["expiresIn"], again.body["tokenType"]) == (first, 1, "Bearer")
        assert (await caller.call("GET", "/v1/workflows/runs/wfr_1")).status == 404
        now = 1100.0
        assert (await caller.call("GET", "/v1/workflows/runs/wfr_1")).status == 401
        assert (await caller.log_in()).body["expiresIn"] == 100
        assert caller.token != first


async def test_revoked_tokens_are_refused_and_our_client_gets_over_it(caller: Caller, emulator: Emulator) -> None:
    caller.register()
    first = caller.token
    async with PortClient(emulator.base_url, "emulator-client", emulator.config.client_secret) as client:
        progress = NodeRunUpdate(status=Status.IN_PROGRESS).to_json()
        assert (await client.report("wfnr_1", None, progress)).kind is AnswerKind.ACCEPTED
        assert (await caller.call("POST", "/emulator/tokens/revoke")).status == 200
        assert (await caller.report("wfnr_1", COMPLETED)).status == 401
        assert (await client.report("wfnr_1", None, progress)).kind is AnswerKind.ACCEPTED
    await caller.log_in()
    assert caller.token != first


# Reports


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "not JSON"),
        (b'{"status":NaN}', "not JSON"),
        ([], "must be an object"),
        ({}, "status must be"),
        ({"status": "DONE"}, "status must be"),
        ({"status": "COMPLETED"}, "result is required"),
        ({"status": "COMPLETED", "result": None}, "result is required"),
        ({"status": "COMPLETED", "result": ["SUCCESS"]}, "result is required"),
        ({"status": "COMPLETED", "result": "success"}, "result is required"),
        ({"status": "IN_PROGRESS", "result": "SUCCESS"}, "not allowed with IN_PROGRESS"),
        ({"status": "IN_PROGRESS", "output": None}, "output must be an object"),
        ({"status": "COMPLETED", "result": "SUCCESS", "output": [1]}, "output must be an object"),
        ({"status": "IN_PROGRESS", "summary": "x", "label": "y"}, "unknown field: label, summary"),
        ({"status": "IN_PROGRESS", "externalRunId": 1}, "externalRunId must be a string"),
        ({"status": "IN_PROGRESS", "links": {}}, "links must be an array"),
        ({"status": "IN_PROGRESS", "links": ["https://a"] * 4}, "3 at most"),
        ({"status": "IN_PROGRESS", "links": ["javascript:x"]}, "links[0] must be an http(s) URL"),
        ({"status": "IN_PROGRESS", "links": [{"label": "x"}]}, "links[0] must be an http(s) URL"),
        ({"status": "IN_PROGRESS", "links": [{"url": "https://a", "label": 1}]}, "every field must be a string"),
        ({"status": "IN_PROGRESS", "links": [{"url": "https://a", "href": "b"}]}, "unknown field: href"),
    ],
)
async def test_a_wrong_report_is_refused_with_a_reason(caller: Caller, body: JsonValue | bytes, reason: str) -> None:
    node_run = caller.register()
    got = await caller.report("wfnr_1", body)
    assert (got.status, got.body["ok"]) == (422, False)
    assert reason in got.message
    assert node_run.status == "IN_PROGRESS"


@pytest.mark.parametrize("run_id", [None, "wfr_1"])
async def test_progress_and_completion_are_kept(caller: Caller, run_id: str | None) -> None:
    caller.register()
    links: list[JsonValue] = ["https://a", {"url": "http://b", "label": "log"}]
    progress: Body = {"status": "IN_PROGRESS", "output": {"half": True}, "links": links, "externalRunId": "e1"}
    assert (await caller.report("wfnr_1", progress, run_id)).body == {"ok": True}
    assert (await caller.report("wfnr_1", COMPLETED, run_id)).body == {"ok": True}
    shown = (await caller.call("GET", "/emulator/node-runs/wfnr_1")).body["nodeRun"]
    assert isinstance(shown, dict)
    assert (shown["status"], shown["result"], shown["output"]) == ("COMPLETED", "SUCCESS", {"a": 1})
    assert (shown["links"], shown["externalRunId"]) == (links, "e1")
    assert shown["completedAt"] is not None


async def test_unknown_node_runs_and_wrong_pairs_are_not_found(caller: Caller) -> None:
    caller.register("wfnr_1", "wfr_1")
    caller.register("wfnr_2", "wfr_2")
    assert (await caller.report("wfnr_3", COMPLETED)).status == 404
    assert (await caller.report("wfnr_1", COMPLETED, "wfr_2")).status == 404
    assert (await caller.report("nonsense", COMPLETED)).status == 404
    assert (await caller.call("GET", "/v1/workflows/runs/wfr_3")).status == 404
    assert (await caller.call("POST", "/v1/workflows/runs/wfr_3/cancel")).status == 404
    assert (await caller.call("POST", "/v1/workflows/nodes/runs/wfnr_3/logs", {"logs": []})).status == 404
    assert (await caller.call("GET", "/v1/kafka-credentials")).status == 404
    assert (await caller.call("GET", "/v1/nothing")).status == 404
    assert (await caller.call("PUT", "/v1/workflows/nodes/runs/wfnr_1")).status == 405


@pytest.mark.parametrize(("identical", "status"), [(409, 409), (200, 200)])
async def test_a_second_completion(identical: int, status: int) -> None:
    async with Emulator(EmulatorConfig(identical_status=identical)) as emulator, Caller(emulator) as caller:
        caller.register()
        assert (await caller.report("wfnr_1", COMPLETED)).status == 200
        reordered = dict(reversed(COMPLETED.items()))
        assert (await caller.report("wfnr_1", reordered)).status == status
        for different in ({**COMPLETED, "result": "FAILED"}, {**COMPLETED, "output": {}}):
            assert (await caller.report("wfnr_1", different)).status == 409
        assert (await caller.report("wfnr_1", {"status": "IN_PROGRESS"})).status == 422
        assert [call.changed for call in emulator.calls.named("report")] == [True, False, False, False, False]


async def test_a_body_over_one_mebibyte_is_too_large(caller: Caller) -> None:
    caller.register()
    filler = 1_048_576 - len(b'{"status":"IN_PROGRESS","output":{"a":""}}')
    body = b'{"status":"IN_PROGRESS","output":{"a":"' + b"x" * filler + b'"}}'
    assert (await caller.report("wfnr_1", body)).status == 200
    assert (await caller.report("wfnr_1", body + b" ")).status == 413
    assert (await caller.report("wfnr_1", body * 8)).status == 413


async def test_unknown_node_runs_can_be_created_at_their_first_report() -> None:
    async with Emulator(EmulatorConfig(accept_unknown=True)) as emulator, Caller(emulator) as caller:
        assert (await caller.report("wfnr_1", COMPLETED)).status == 200
        assert (await caller.report("wfnr_2", COMPLETED, "wfr_9")).status == 200
        assert (await caller.report("wfnr_2", COMPLETED, "wfr_8")).status == 404
        assert (await caller.report("wfnr_3", {})).status == 422
        assert (await caller.report("nonsense", COMPLETED)).status == 404
        assert list(emulator.state.runs) == ["wfr_1", "wfr_9"]


# Logs and runs


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"logs": []},
        {"logs": ["text"]},
        {"logs": [{"level": "TRACE", "message": "m"}]},
        {"logs": [{"level": "INFO"}]},
        {"logs": [{"level": "INFO", "message": "m", "at": 1}]},
        {"logs": [{"level": "INFO", "message": "m"}], "more": 1},
    ],
)
async def test_wrong_logs_are_refused(caller: Caller, body: Body) -> None:
    caller.register()
    assert (await caller.call("POST", "/v1/workflows/nodes/runs/wfnr_1/logs", body)).status == 422


async def test_logs_are_kept_in_order_after_the_end_too(caller: Caller) -> None:
    node_run = caller.register()
    lines: list[JsonValue] = [{"level": "INFO", "message": "a"}, {"level": "ERROR", "message": "b"}]
    for logs in (lines, lines[:1]):
        body: Body = {"logs": logs}
        assert (await caller.call("POST", "/v1/workflows/nodes/runs/wfnr_1/logs", body)).status == 200
        await caller.report("wfnr_1", COMPLETED)
    assert node_run.detail()["logs"] == [*lines, lines[0]]


@pytest.mark.parametrize(
    ("on_failure", "results", "status", "result"),
    [
        ("terminate", ["SUCCESS"], "IN_PROGRESS", None),
        ("terminate", ["SUCCESS", "SUCCESS"], "COMPLETED", "SUCCESS"),
        ("terminate", ["FAILED"], "COMPLETED", "FAILED"),
        ("continue", ["FAILED"], "IN_PROGRESS", None),
        ("continue", ["FAILED", "SUCCESS"], "COMPLETED", "SUCCESS"),
        ("terminate", ["SUCCESS", "CANCELLED"], "COMPLETED", "CANCELLED"),
    ],
)
async def test_a_run_ends_with_its_node_runs(
    caller: Caller, on_failure: str, results: list[str], status: str, result: str | None
) -> None:
    for node_run_id in ("wfnr_1", "wfnr_2"):
        caller.register(node_run_id, on_failure=on_failure)
    for node_run_id, one in zip(("wfnr_1", "wfnr_2"), results, strict=False):
        await caller.report(node_run_id, {"status": "COMPLETED", "result": one})
    run = (await caller.call("GET", "/v1/workflows/runs/wfr_1")).body["run"]
    assert isinstance(run, dict)
    assert (run["status"], run["result"]) == (status, result)


async def test_a_cancelled_run_waits_for_its_node_runs_unless_forced(caller: Caller) -> None:
    first, second = caller.register("wfnr_1", "wfr_1"), caller.register("wfnr_2", "wfr_2")
    runs = caller.emulator.state.runs
    assert (await caller.call("POST", "/v1/workflows/runs/wfr_1/cancel")).status == 200
    assert (runs["wfr_1"].status, first.status) == ("CANCELLING", "IN_PROGRESS")
    with pytest.raises(Conflict, match="no further node run begins"):
        caller.register("wfnr_3", "wfr_1")
    assert (await caller.report("wfnr_1", COMPLETED)).status == 200
    assert (runs["wfr_1"].status, runs["wfr_1"].result, first.result) == ("COMPLETED", "CANCELLED", "SUCCESS")
    assert (await caller.call("POST", "/v1/workflows/runs/wfr_1/cancel")).status == 422
    assert (await caller.call("POST", "/v1/workflows/runs/wfr_2/cancel?force=true")).status == 200
    assert (runs["wfr_2"].status, runs["wfr_2"].result, second.result) == ("COMPLETED", "CANCELLED", "FAILED")
    assert (await caller.report("wfnr_2", COMPLETED)).status == 409
    with pytest.raises(Conflict, match="no further node run begins"):
        caller.register("wfnr_4", "wfr_2")


# The rate limit


@pytest.mark.parametrize("form", ["seconds", "epoch"])
async def test_above_the_rate_limit_calls_are_refused_until_it_fills_again(form: str) -> None:
    now = 1_700_000_000.0
    limit = RateLimit.model_validate({"limit": 60, "period": 60, "burst": 2, "reset_form": form})
    config = EmulatorConfig(rate_limit=limit, clock=lambda: now)
    async with Emulator(config) as emulator, Caller(emulator) as caller:
        caller.register()
        progress: Body = {"status": "IN_PROGRESS"}
        answers = [await caller.report("wfnr_1", progress) for _ in range(3)]
        assert [one.status for one in answers] == [200, 200, 429]
        assert [one.headers["x-ratelimit-remaining"] for one in answers] == ["1", "0", "0"]
        headers = answers[2].headers
        assert (headers["x-ratelimit-period"], headers["x-ratelimit-limit"]) == ("60", "60")
        assert float(headers["x-ratelimit-reset"]) == (1 if form == "seconds" else now + 1)
        assert (await caller.log_in()).status == 200, "asking for a token is another kind of call"
        now += 1
        assert (await caller.report("wfnr_1", progress)).status == 200
        assert emulator.calls.named("report")[2].fault == "rate_limit"


async def test_our_client_tells_a_rate_limit(emulator: Emulator, caller: Caller) -> None:
    caller.register()
    await caller.call("PUT", "/emulator/faults", {"rate_limit": {"limit": 1, "period": 100, "burst": 1}})
    async with PortClient(emulator.base_url, "emulator-client", emulator.config.client_secret) as client:
        body = NodeRunUpdate(status=Status.IN_PROGRESS).to_json()
        assert (await client.report("wfnr_1", None, body)).remaining == 0
    # Another one: the first knows by now that nothing is left, and waits.
    async with PortClient(emulator.base_url, "emulator-client", emulator.config.client_secret) as client:
        limited = await client.report("wfnr_1", None, body)
    assert limited.kind is AnswerKind.RATE_LIMITED
    assert limited.retry_after is not None
    assert 90 < limited.retry_after <= 100


# The record


async def test_the_record_tells_of_every_call_in_order(caller: Caller) -> None:
    caller.register()
    await caller.report("wfnr_1", COMPLETED, "wfr_1")
    await caller.report("wfnr_1", b"not json")
    got = (await caller.call("GET", "/emulator/calls?after=1")).body
    calls = got["calls"]
    assert isinstance(calls, list)
    assert got["last"] == 3
    shown = [{**call, "time": None} for call in calls if isinstance(call, dict)]
    common = {"time": None, "call": "report", "method": "PATCH", "fault": None}
    run_path, node_path = "/v1/workflows/runs/wfr_1/nodes/wfnr_1", "/v1/workflows/nodes/runs/wfnr_1"
    assert shown == [
        {**common, "seq": 2, "path": run_path, "status": 200, "changed": True, "body": COMPLETED},
        {**common, "seq": 3, "path": node_path, "status": 422, "changed": False, "body": "not json"},
    ]
    assert (await caller.call("GET", "/emulator/calls?after=3")).body["calls"] == []
    few = (await caller.call("GET", "/emulator/calls?after=0&limit=2")).body
    assert few["last"] == 2


async def test_the_record_can_be_forgotten_while_its_numbers_go_on(caller: Caller) -> None:
    assert (await caller.call("DELETE", "/emulator/calls")).status == 200
    assert len(caller.emulator.calls) == 0
    await caller.log_in()
    assert [call.seq for call in caller.emulator.calls] == [2]


async def test_every_window_of_the_record_is_right(caller: Caller) -> None:
    for _ in range(9):
        await caller.log_in()
    for after in range(12):
        for limit in (1, 3, 100):
            found = [call.seq for call in caller.emulator.calls.after(after, limit)]
            assert found == list(range(after + 1, 11))[:limit]


async def test_secrets_and_tokens_are_in_no_record_and_no_log(
    caplog: pytest.LogCaptureFixture, tmp_path_factory: pytest.TempPathFactory
) -> None:
    caplog.set_level("DEBUG")
    secret, record = "canary-3b1f", tmp_path_factory.mktemp("record") / "calls.jsonl"
    config = EmulatorConfig(client_secret=SecretStr(secret), record_file=record)
    async with Emulator(config) as emulator, Caller(emulator) as caller:
        caller.register()
        token = caller.token or ""
        await caller.call("POST", "/v1/auth/access_token", {"clientId": "x", "clientSecret": "a-wrong-canary"})
        output: Body = {"echo": f"{secret} and {token}"}
        await caller.report("wfnr_1", {"status": "IN_PROGRESS", "output": output})
        await caller.call("GET", f"/v1/workflows/runs/{secret}?{token}")
        shown = str((await caller.call("GET", "/emulator/calls")).body) + repr(emulator.config) + caplog.text
        written = record.read_text()
    assert written.count("\n") == 4
    for canary in (secret, token, "a-wrong-canary"):
        assert canary not in shown
        assert canary not in written


# Many at once


async def test_calls_at_the_same_time_are_each_answered(caller: Caller) -> None:
    for number in range(200):
        caller.register(f"wfnr_{number}", f"wfr_{number}")
    answers = await asyncio.gather(*(caller.report(f"wfnr_{number}", COMPLETED) for number in range(200)))
    assert {one.status for one in answers} == {200}
    about = (await caller.call("GET", "/emulator")).body
    assert (about["nodeRuns"], about["completed"]) == (200, 200)


def test_a_config_is_a_value() -> None:
    config = EmulatorConfig(org_id="acme")
    assert config.topic == "acme.runs"
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.org_id = "other"  # type: ignore[misc]
