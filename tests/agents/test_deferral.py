"""A handler that returns `Deferred`: how its call ends, what is started for its item, and what Port is told."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest
from pydantic import JsonValue, SecretStr

from agents import CallNext, Context, Deferred, Output, handles
from agents.callbacks import Callbacks, word
from agents.execution import Call, Threads, execute
from agents.telling import MAX_LINE_CHARACTERS, Telling
from agents.testing import Outcome, run_handler
from port.models import LogLevel, LogLine, Result
from streams.records import By, DeferralExpired, ItemDeferred, ItemFinished
from tables.due import DueIndex
from tests.agents.desk import WORKER, Desk
from tests.agents.examples import ID, call_of, context, until
from tests.agents.test_telling import Desk as Port

NOW = 1000.0
GREETING: JsonValue = {"type": "greet"}
MANY = 100_000


async def event_of(call: Call) -> ItemDeferred:
    event = (await execute(call, Threads(), clock=lambda: NOW)).event
    assert isinstance(event, ItemDeferred)
    return event


class TestContract:
    @pytest.mark.parametrize("deadline", [0, 0.9, "0s", "999ms", -1, float("inf"), float("nan"), "soon"])
    def test_a_deadline_that_cannot_be(self, deadline: str | float) -> None:
        with pytest.raises(ValueError, match=r"deadline|duration"):
            Deferred(deadline)

    @pytest.mark.parametrize(("deadline", "seconds"), [("1s", 1), (1, 1), ("2d", 172_800), ("9999d", 863_913_600)])
    def test_a_deadline(self, deadline: str | float, seconds: float) -> None:
        assert Deferred(deadline).seconds == seconds

    @pytest.mark.parametrize("link", ["", "javascript:x", "/a", "https://", "https://a b", "https://" + "a" * 2001])
    def test_a_link_that_is_none(self, link: str) -> None:
        with pytest.raises(ValueError, match="link"):
            Deferred(link=link)


class TestExecution:
    async def test_a_coroutine_defers(self) -> None:
        async def handle(event: dict[str, object]) -> Deferred:
            return Deferred("2m", link="https://a/1")

        event = await event_of(call_of(handle))
        assert (event.until, event.at, event.link, event.attempt) == (NOW + 120, NOW, "https://a/1", 1)

    async def test_a_thread_defers(self) -> None:
        def handle(event: dict[str, object]) -> Deferred:
            return Deferred()

        assert (await event_of(call_of(handle, attempt=3))).until == NOW + 3600

    async def test_middleware_lets_it_pass(self) -> None:
        async def handle(event: dict[str, object]) -> Deferred:
            return Deferred("5s")

        async def around(ctx: Context, call_next: CallNext) -> Output:
            return await call_next()

        assert (await event_of(call_of(handle, middleware=(around,)))).until == NOW + 5

    async def test_without_a_public_url_the_item_fails_and_says_which_setting_is_missing(self) -> None:
        async def handle(event: dict[str, object], ctx: Context) -> Deferred:
            return Deferred(link=ctx.callback_url)

        call = call_of(handle)
        host = Telling({}, Callbacks((SecretStr("k" * 32),), "org", ""))
        event = (await execute(replace(call, context=replace(call.context, host=host)), Threads())).event
        assert isinstance(event, ItemFinished)
        assert event.error is not None
        assert "PUBLIC_URL" in event.error

    def test_the_url_is_of_the_item_and_has_a_life(self) -> None:
        urls = Callbacks((SecretStr("k" * 32),), "org", "https://runs.example")
        ctx = replace(context(index=3), host=Telling({}, urls))
        for url, life in ((ctx.callback_url, 365 * 86400), (ctx.callback_url_for("2h"), 7200)):
            ticket = urls.read(url.rpartition("/")[2])
            assert ticket is not None
            assert (ticket.node_run_id, ticket.index, ticket.event_type) == (ID, 3, "greet")
            assert abs(ticket.expires_at - time.time() - life) < 60


@handles("kit.deferred")
async def kit_deferred(event: dict[str, object], ctx: Context) -> Deferred:
    assert ctx.callback_url == "https://port-runs.invalid/callbacks/token-for-wfnr_test-0"
    return Deferred("90s")


def test_the_test_kit_says_that_it_is_deferred() -> None:
    assert run_handler(kit_deferred, {}) == Outcome(None, deferred=90.0)


def deferral(until: float, *, worker: str = WORKER) -> ItemDeferred:
    return ItemDeferred(
        node_run_id=ID, index=0, message=0, attempt=1, until=until, worker=worker, started_at=NOW, at=NOW
    )


class TestDispatch:
    async def test_its_end_is_said_when_its_time_has_come(self) -> None:
        desk = Desk()
        desk.arrive(GREETING)
        desk.outcome(deferral(desk.now + 0.02))
        desk.now += 1
        await until(lambda: bool(desk.sent))
        assert desk.sent == [DeferralExpired(node_run_id=ID, index=0, until=NOW + 0.02)]
        assert len(desk.items) == 1, "the handler is not called again"

    async def test_a_word_stops_the_waiting(self) -> None:
        desk = Desk()
        desk.arrive(GREETING)
        desk.outcome(deferral(desk.now + 100))
        assert desk.dispatch.due.keys(0) == [(ID, 0)]
        desk.outcome(word(ID, 0, Result.SUCCESS, By.CALLBACK))
        assert desk.dispatch.due.keys(0) == []
        assert len(desk.reports) == 1

    async def test_a_word_stops_the_waiting_for_a_retry(self) -> None:
        desk = Desk()
        desk.arrive(GREETING)
        desk.retry(pause=100)
        assert desk.dispatch.due.keys(0) == [(ID, 0)]
        desk.outcome(word(ID, 0, Result.SUCCESS, By.CALLBACK))
        assert (desk.dispatch.due.keys(0), len(desk.reports)) == ([], 1)

    async def test_a_new_owner_waits_on(self) -> None:
        desk = Desk(active=False)
        desk.arrive(GREETING)
        desk.outcome(deferral(desk.now + 100, worker="another"))
        await desk.take_over([0])
        assert (desk.items, desk.dispatch.due.keys(0)) == ([], [(ID, 0)])

    async def test_a_word_before_the_handlers_end_reports_once(self) -> None:
        desk = Desk()
        desk.arrive(GREETING)
        desk.outcome(word(ID, 0, Result.SUCCESS, By.CALLBACK))
        desk.finish(error="too late")
        desk.outcome(deferral(desk.now + 100))
        assert (len(desk.reports), len(desk.items), desk.dispatch.due.keys(0)) == (1, 1, [])


async def test_a_deadline_is_kept_however_many_others_are_open() -> None:
    """The cost of one is looked at beside 1,000 and beside 100,000 others; the wait for its time, beside 100,000."""

    def took(due: DueIndex, number: int) -> float:
        began = time.perf_counter()
        for index in range(number):
            due.set(index % 8, (f"wfnr_{index}", 0), time.time() + 3600 + index % 977, lambda: None)
        return (time.perf_counter() - began) / number

    few = min(took(DueIndex(), 1000) for _ in range(5))
    due, called = DueIndex(), asyncio.get_running_loop().create_future()
    each = took(due, MANY)
    assert len(due) == MANY
    at = time.time() + 0.5
    due.set(0, "near", at, lambda: called.set_result(time.time()))
    late = await asyncio.wait_for(called, 30) - at
    print(f"{each * 1e6:.1f} us each with {MANY:,}, {few * 1e6:.1f} us with 1,000; {late * 1e3:.1f} ms late")  # noqa: T201
    for partition in range(8):
        due.drop_partition(partition)
    assert each < 10 * few
    assert late < 1.0


class TestTelling:
    async def test_port_is_told_the_links_once(self) -> None:
        port = Port()
        for link in ("https://a/1", None, "https://a/2"):
            port.telling.deferred(context(), link)
        await until(lambda: bool(port.bodies))
        await port.telling.quiet(ID)
        assert port.bodies == [
            {"status": "IN_PROGRESS", "links": ["https://a/1", f"https://runs.example/node-runs/{ID}"]}
        ]

    async def test_nothing_is_told_where_there_is_no_link(self) -> None:
        port = Port()
        port.telling._callbacks = Callbacks((SecretStr("k" * 32),), "org", "")
        port.telling.deferred(context(), None)
        await port.telling.quiet(ID)
        assert port.bodies == []

    async def test_the_report_waits_for_links_on_their_way_and_not_for_others(self) -> None:
        port = Port()
        port.telling.deferred(context(), None)
        await port.telling.quiet(ID)
        assert port.bodies == [], "it had not begun"
        port.let_go.clear()
        other = replace(context(), node_run_id="wfnr_b")
        port.telling.deferred(other, None)
        await until(lambda: bool(port.bodies))
        quiet = asyncio.ensure_future(port.telling.quiet("wfnr_b"))
        await asyncio.sleep(0)
        assert not quiet.done()
        port.let_go.set()
        await asyncio.wait_for(quiet, 5)

    async def test_lines_of_another_system_go_to_the_node_runs_log(self) -> None:
        port = Port()
        lines = [LogLine(level=LogLevel.WARN, message="x" * 3000), LogLine(message="m")]
        port.telling.say(ID, lines)
        assert port.works == [ID]
        (warn, cut), (info, text) = port.lines()
        assert (warn, len(cut), info, text) == ("WARN", MAX_LINE_CHARACTERS, "INFO", "m")
        port.telling.say(ID, [])
        assert port.works == [ID]
