import asyncio
from collections.abc import Callable

import aiohttp
import pytest
from pydantic import JsonValue, ValidationError

from local.emulator import Emulator, FaultRule, FaultSettings
from local.emulator.faults import Faults, Strike
from port.client import AnswerKind, PortClient
from port.models import LogLine
from tests.local.calls import COMPLETED, Body, Caller

REPORT = b'{"status":"COMPLETED","result":"SUCCESS","output":{"a":1}}'


def _client(emulator: Emulator, timeout: float = 5) -> PortClient:
    return PortClient(emulator.base_url, "emulator-client", emulator.config.client_secret, timeout=timeout)


async def _switch_on(caller: Caller, settings: JsonValue) -> Body:
    got = await caller.call("PUT", "/emulator/faults", settings)
    assert got.status == 200, got.message
    return got.body


# Each fault, as the client meets it


async def test_errors_are_answered_without_processing_for_so_many_calls(caller: Caller, emulator: Emulator) -> None:
    node_run = caller.register()
    await _switch_on(caller, {"paths": ["report"], "status": 502, "count": 2})
    async with _client(emulator) as client:
        kinds = [(await client.report("wfnr_1", None, REPORT)).kind for _ in range(2)]
        assert (kinds, node_run.status) == ([AnswerKind.UNAVAILABLE] * 2, "IN_PROGRESS")
        assert (await client.report("wfnr_1", None, REPORT)).kind is AnswerKind.ACCEPTED
    calls = [(call.status, call.fault, call.changed) for call in emulator.calls.named("report")]
    assert calls == [(502, "error 502", False), (502, "error 502", False), (200, None, True)]


async def test_an_error_may_ask_for_a_pause(caller: Caller, emulator: Emulator) -> None:
    caller.register()
    await _switch_on(caller, {"paths": ["report"], "status": 429, "retry_after": 2.5, "count": 1})
    async with _client(emulator) as client:
        got = [await client.report("wfnr_1", None, REPORT) for _ in range(2)]
    assert [(one.status, one.retry_after) for one in got] == [(429, 2.5), (200, None)]


async def test_a_reset_comes_before_processing(caller: Caller, emulator: Emulator) -> None:
    node_run = caller.register()
    await _switch_on(caller, {"paths": ["report"], "reset": True, "count": 1})
    async with _client(emulator) as client:
        got = await client.report("wfnr_1", None, REPORT)
        assert (got.kind, got.status, got.maybe_arrived) == (AnswerKind.UNAVAILABLE, None, True)
        assert "reset" in got.reason.lower()
        assert node_run.status == "IN_PROGRESS"
        assert (await client.report("wfnr_1", None, REPORT)).kind is AnswerKind.ACCEPTED
    call = emulator.calls.named("report")[0]
    assert (call.status, call.fault, call.changed) == (None, "reset", False)


async def test_a_dropped_answer_comes_after_processing(caller: Caller, emulator: Emulator) -> None:
    node_run = caller.register()
    await _switch_on(caller, {"paths": ["report"], "drop_answer": True, "count": 1})
    async with _client(emulator) as client:
        got = await client.report("wfnr_1", None, REPORT)
        assert (got.kind, got.maybe_arrived) == (AnswerKind.UNAVAILABLE, True)
        assert node_run.status == "COMPLETED"
        assert (await client.report("wfnr_1", None, REPORT)).kind is AnswerKind.CONFLICT
    call = emulator.calls.named("report")[0]
    assert (call.status, call.fault, call.changed) == (200, "drop_answer", True)


async def test_a_hanging_call_is_never_processed(caller: Caller, emulator: Emulator) -> None:
    node_run = caller.register()
    await _switch_on(caller, {"paths": ["report"], "hang": True})
    async with _client(emulator, timeout=0.3) as client:
        got = await client.report("wfnr_1", None, REPORT)
    assert (got.kind, got.maybe_arrived) == (AnswerKind.UNAVAILABLE, True)
    assert node_run.status == "IN_PROGRESS"


async def test_a_hanging_call_ends_when_the_faults_change(caller: Caller, emulator: Emulator) -> None:
    caller.register()
    emulator.faults.set(FaultSettings(rules=(FaultRule(paths=("report",), hang=True),)))
    async with _client(emulator, timeout=60) as client:
        report = asyncio.create_task(client.report("wfnr_1", None, REPORT))
        while not emulator.calls.named("report"):  # noqa: ASYNC110 - the record tells nobody when it grows
            await asyncio.sleep(0)
        emulator.faults.clear()
        async with asyncio.timeout(10):
            assert (await report).kind is AnswerKind.UNAVAILABLE


async def test_latency_delays_and_then_processes(caller: Caller, emulator: Emulator) -> None:
    caller.register()
    await _switch_on(caller, {"paths": ["report"], "latency_ms": 150})
    started = asyncio.get_running_loop().time()
    assert (await caller.report("wfnr_1", COMPLETED)).status == 200
    assert asyncio.get_running_loop().time() - started >= 0.15
    assert emulator.calls.named("report")[0].fault == "latency"


async def test_a_late_answer_comes_after_processing_though_nobody_waits(caller: Caller, emulator: Emulator) -> None:
    node_run = caller.register()
    async with _client(emulator, timeout=0.2) as client:
        await client.append_logs("wfnr_1", [LogLine(message="fetches the token")])
        await _switch_on(caller, {"paths": ["report"], "latency_ms": 400})
        got = await client.report("wfnr_1", None, REPORT)
        assert (got.kind, got.maybe_arrived, node_run.status) == (AnswerKind.UNAVAILABLE, True, "IN_PROGRESS")
    async with asyncio.timeout(10):
        while not emulator.calls.named("report"):  # noqa: ASYNC110 - the record tells nobody when it grows
            await asyncio.sleep(0)
    assert node_run.status == "COMPLETED"


async def test_an_outage_of_the_tokens_alone(caller: Caller, emulator: Emulator) -> None:
    caller.register()
    await _switch_on(caller, {"paths": ["auth"], "status": 500})
    async with _client(emulator) as client:
        got = await client.report("wfnr_1", None, REPORT)
    assert (got.kind, got.maybe_arrived) == (AnswerKind.UNAVAILABLE, False)
    assert (await caller.report("wfnr_1", COMPLETED)).status == 200


async def test_a_star_is_all_of_the_api_and_nothing_of_the_emulators_own(caller: Caller) -> None:
    caller.register()
    await _switch_on(caller, {"status": 503})
    logs: Body = {"logs": [{"level": "INFO", "message": "m"}]}
    answers = [
        await caller.report("wfnr_1", COMPLETED),
        await caller.call("POST", "/v1/workflows/nodes/runs/wfnr_1/logs", logs),
        await caller.call("GET", "/v1/workflows/runs/wfr_1"),
        await caller.call("GET", "/v1/kafka-credentials"),
        await caller.log_in(),
    ]
    assert {one.status for one in answers} == {503}
    assert (await caller.call("GET", "/emulator/node-runs")).status == 200


async def test_port_can_be_gone_for_a_while_and_come_back_with_its_memory(caller: Caller, emulator: Emulator) -> None:
    caller.register()
    url = emulator.base_url
    async with _client(emulator) as client:
        await emulator.stop()
        gone = [await client.report("wfnr_1", None, REPORT) for _ in range(2)]
        assert (gone[-1].kind, gone[-1].maybe_arrived) == (AnswerKind.UNAVAILABLE, False)
        await emulator.start()
        assert emulator.base_url == url
        assert (await client.report("wfnr_1", None, REPORT)).kind is AnswerKind.ACCEPTED


# The settings


async def test_settings_are_shown_with_what_is_left_and_can_be_put_back(caller: Caller) -> None:
    caller.register()
    rules: list[JsonValue] = [{"paths": ["report"], "reset": True, "count": 2}, {"paths": ["auth"], "latency_ms": 1}]
    shown = await _switch_on(caller, {"rules": rules, "seed": 7})
    with pytest.raises(aiohttp.ClientError):
        await caller.report("wfnr_1", COMPLETED)
    shown = (await caller.call("GET", "/emulator/faults")).body
    first = shown["rules"]
    assert isinstance(first, list)
    assert isinstance(first[0], dict)
    assert (first[0]["count"], first[0]["paths"], shown["seed"]) == (1, ["report"], 7)
    assert await _switch_on(caller, shown) == shown
    assert (await _switch_on(caller, {}))["rules"] == []
    assert (await caller.report("wfnr_1", COMPLETED)).status == 200


@pytest.mark.parametrize(
    "settings",
    [
        {"latency": 5},
        {"rules": [{"latency": 5}]},
        {"rules": [], "latency_ms": 5},
        {"paths": ["reports"], "reset": True},
        {"status": 200},
        {"error_rate": 2},
        {"hang": True, "reset": True},
        {"status": 500, "drop_answer": True},
        {"rate_limit": {"limit": 0}},
        {"rate_limit": {"burts": 1}},
        [],
        b"{",
    ],
)
async def test_wrong_settings_are_refused_and_change_nothing(caller: Caller, settings: JsonValue | bytes) -> None:
    before = await _switch_on(caller, {"paths": ["logs"], "status": 500})
    got = await caller.call("PUT", "/emulator/faults", settings)
    assert got.status == 422
    assert got.message
    assert (await caller.call("GET", "/emulator/faults")).body == before


def _faults(settings: Body, changed: Callable[[], None] = lambda: None) -> Faults:
    faults = Faults(changed)
    faults.set(FaultSettings.model_validate(settings))
    return faults


def test_shares_are_drawn_the_same_each_time() -> None:
    settings: Body = {"error_rate": 0.3, "seed": 5}
    drawn = [[_plan is not None for _plan in map(_faults(settings).plan, ["report"] * 1000)] for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert 250 < sum(drawn[0]) < 350
    assert [_faults({"reset": True, "probability": 0}).plan("report") for _ in range(20)] == [None] * 20


def test_a_count_is_used_up_by_strikes_alone() -> None:
    faults = _faults({"status": 500, "probability": 0.5, "count": 3})
    struck = [plan for plan in (faults.plan("report") for _ in range(100)) if plan is not None]
    assert [(plan.strike, plan.status) for plan in struck] == [(Strike.ERROR, 500)] * 3


def test_delays_add_up_before_the_first_rule_that_does_more() -> None:
    faults = _faults({"rules": [{"latency_ms": 100}, {"latency_ms": 200, "reset": True}, {"hang": True}]})
    plan = faults.plan("report")
    assert plan is not None
    assert (plan.label, plan.strike) == ("latency+latency+reset", Strike.RESET)
    assert plan.delay == pytest.approx(0.3)


def test_a_rule_says_one_thing() -> None:
    with pytest.raises(ValidationError, match="only one of"):
        FaultRule(reset=True, hang=True)
