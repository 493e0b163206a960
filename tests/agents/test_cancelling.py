"""How a call is cancelled, and who looks at Port for that: in simulated time, how often."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import pairwise

from agents.cancelling import (
    POLLS_PER_SECOND,
    Cancellation,
    NodeRunAt,
    Place,
    Poller,
    RunningCall,
    RunningCalls,
    stop_of,
)
from agents.contract import Context, Deferred, Fail, HandlerFunction, Output, RetryLater
from agents.execution import Call, Ended, Threads, execute
from port.client import Answer, AnswerKind, Before
from port.models import Result, WorkflowRun
from streams.records import ItemDeferred, ItemFinished, ItemRetry
from tables.state import Stop
from tests.agents.examples import call_of, context, turns_of_the_loop
from tests.port.simulated import simulate


async def cancelled(call: Call) -> Ended:
    """Begin a call, cancel it when it is under way, and return how it ended."""
    running = asyncio.create_task(execute(call, Threads()))
    await asyncio.sleep(0.02)
    call.context.cancellation.set("no longer wanted")
    call.context.cancellation.set("a second reason")
    return await running


def result_of(ended: Ended) -> tuple[Result, str | None, str | None]:
    assert isinstance(ended.event, ItemFinished)
    return ended.event.result, ended.event.error, ended.event.output


GONE = (Result.CANCELLED, "no longer wanted", None)


class TestCall:
    async def test_a_coroutine_gets_a_cancelled_error(self) -> None:
        seen: list[bool] = []

        async def waits(event: dict[str, object], ctx: Context) -> None:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                seen.append(ctx.cancelled and ctx.should_stop)
                raise

        ended = await cancelled(call_of(waits, retries=3))
        assert (result_of(ended), ended.remains, seen) == (GONE, None, [True])

    async def test_what_it_returns_then_does_not_count(self) -> None:
        async def returns(event: dict[str, object]) -> dict[str, object]:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                return {"late": True}
            return {}

        ended = await cancelled(call_of(returns))
        assert (result_of(ended), ended.remains) == (GONE, None)

    async def test_one_that_does_not_heed_it_remains(self) -> None:
        go_on = asyncio.Event()

        async def stubborn(event: dict[str, object]) -> None:
            while not go_on.is_set():
                try:
                    await go_on.wait()
                except asyncio.CancelledError:
                    continue

        ended = await cancelled(call_of(stubborn))
        assert result_of(ended) == GONE
        assert ended.remains is not None
        go_on.set()
        await ended.remains

    async def test_a_thread_that_waits_wakes_up(self) -> None:
        seen: list[bool] = []

        def waits(event: dict[str, object], ctx: Context) -> dict[str, object]:
            seen.extend((ctx.wait(3600), ctx.cancelled))
            return {"late": True}

        ended = await cancelled(call_of(waits))
        assert (result_of(ended), ended.remains, seen) == (GONE, None, [True, True])

    async def test_a_thread_that_does_not_ask_remains(self) -> None:
        go_on = threading.Event()

        def hangs(event: dict[str, object]) -> None:
            go_on.wait(60)

        ended = await cancelled(call_of(hangs))
        assert result_of(ended) == GONE
        assert ended.remains is not None
        go_on.set()
        await ended.remains

    async def test_an_end_that_came_before_counts(self) -> None:
        ended = await execute(call_of(_ends), Threads())
        assert result_of(ended) == (Result.SUCCESS, None, '{"done":true}')


class TestSoftly:
    """Port lets what runs end: the call is told, and goes on."""

    @staticmethod
    async def told(function: HandlerFunction, retries: int = 0) -> ItemFinished | ItemRetry | ItemDeferred:
        call = call_of(function, retries=retries)
        running = asyncio.create_task(execute(call, Threads()))
        await turns_of_the_loop()
        call.context.cancellation.announce("softly")
        ended = await running
        assert ended.remains is None
        return ended.event

    async def test_what_it_returns_counts(self) -> None:
        async def goes_on(event: dict[str, object], ctx: Context) -> dict[str, object]:
            while not ctx.cancelled:  # noqa: ASYNC110 - as a handler may
                await asyncio.sleep(0)
            assert ctx.should_stop
            return {"whole": True}

        def in_a_thread(event: dict[str, object], ctx: Context) -> dict[str, object]:
            return {"woken": ctx.wait(3600)}

        for function, output in ((goes_on, '{"whole":true}'), (in_a_thread, '{"woken":true}')):
            event = await self.told(function)
            assert isinstance(event, ItemFinished)
            assert (event.result, event.output) == (Result.SUCCESS, output)

    async def test_how_it_ends_otherwise_is_for_the_ledger_to_judge(self) -> None:
        def ending(error: BaseException | None) -> HandlerFunction:
            async def ends(event: dict[str, object], ctx: Context) -> Output:
                while not ctx.cancelled:  # noqa: ASYNC110 - as a handler may
                    await asyncio.sleep(0)
                if error is not None:
                    raise error
                return Deferred("1h")

            return ends

        assert isinstance(await self.told(ending(None)), ItemDeferred)
        assert isinstance(await self.told(ending(RetryLater("1h"))), ItemRetry)
        assert isinstance(await self.told(ending(ValueError("broken")), retries=1), ItemRetry)
        for error, result, text in (
            (ValueError("broken"), Result.FAILED, "ValueError: broken"),
            (Fail("no"), Result.FAILED, "no"),
            (asyncio.CancelledError(), Result.CANCELLED, "softly"),
        ):
            event = await self.told(ending(error))
            assert isinstance(event, ItemFinished)
            assert (event.result, event.error) == (result, text)

    async def test_it_is_cut_off_when_the_run_is_over(self) -> None:
        async def waits(event: dict[str, object]) -> None:
            await asyncio.sleep(3600)

        call = call_of(waits)
        running = asyncio.create_task(execute(call, Threads()))
        await turns_of_the_loop()
        call.context.cancellation.announce("softly")
        await turns_of_the_loop()
        assert not running.done()
        call.context.cancellation.set("over")
        call.context.cancellation.announce("softly, once more")
        assert result_of(await running) == (Result.CANCELLED, "over", None)


def test_what_a_look_at_port_stops() -> None:
    def found(
        status: str, result: str | None = None, node: str | None = None, known: Stop | None = None
    ) -> Stop | None:
        return stop_of(_run("wfr_a", status, result, wfnr_a=node), "wfnr_a", known)

    assert found("IN_PROGRESS") is None
    assert found("IN_PROGRESS", node="FAILED") is found("COMPLETED", "SUCCESS", node="SUCCESS") is Stop.ELSEWHERE
    assert found("CANCELLING") is found("CANCELLING", known=Stop.SOFT) is Stop.SOFT
    assert found("CANCELLING", node="FAILED") is found("COMPLETED", "CANCELLED", node="CANCELLED") is Stop.OVER
    # No cancellation makes it SUCCESS: somebody has completed it.
    assert found("CANCELLING", node="SUCCESS") is Stop.ELSEWHERE
    assert found("CANCELLED") is found("COMPLETED", "CANCELLED") is Stop.RUN
    # Another node has failed: nobody has cancelled this one, unless it was found so before.
    assert found("COMPLETED", "FAILED") is None
    assert found("COMPLETED", "FAILED", known=Stop.SOFT) is Stop.RUN
    assert found("IN_PROGRESS", known=Stop.SOFT) is None


async def _ends(event: dict[str, object], ctx: Context) -> dict[str, object]:
    asyncio.get_running_loop().call_soon(ctx.cancellation.set, "too late")
    return {"done": True}


def test_a_context_of_nobody_is_not_cancelled() -> None:
    ctx = context()
    assert not ctx.cancelled
    assert not ctx.wait(0.001)
    replace(ctx, cancellation=Cancellation()).cancellation.set("another one")
    assert not ctx.cancelled


class TestRunningCalls:
    def test_only_those_that_run_are_cancelled(self) -> None:
        calls = RunningCalls()
        first, second = (RunningCall(0, "wfnr_a", index, "wfr_a", Cancellation()) for index in (0, 1))
        calls.add(first)
        calls.add(second)
        assert calls.cancel("wfnr_a", 0, "why")
        assert (first.cancellation.reason, second.cancellation.is_set) == ("why", False)
        again = RunningCall(0, "wfnr_a", 0, "wfr_a", Cancellation())
        calls.add(again)
        calls.remove(first)
        assert list(calls) == [again, second]
        calls.cancel_all("wfnr_a", "all")
        assert (again.cancellation.reason, second.cancellation.reason) == ("all", "all")
        calls.remove(again)
        calls.remove(second)
        urgent, other = (RunningCall(0, "wfnr_c", i, "wfr_c", Cancellation(), at_once=i == 0) for i in (0, 1))
        calls.add(urgent)
        assert not calls.all_told("wfnr_c")
        calls.add(other)
        calls.cancel_all("wfnr_c", "softly", soft=True)
        assert [(call.cancellation.is_set, call.cancellation.is_cut) for call in (urgent, other)] == [
            (True, True),
            (True, False),
        ]
        assert calls.all_told("wfnr_c")
        calls.remove(urgent)
        calls.remove(other)
        calls.cancel_all("wfnr_a", "none is left")
        assert not calls.cancel("wfnr_a", 0, "why")
        assert list(calls) == []

    def test_they_say_when_they_began(self) -> None:
        calls, call = RunningCalls(), RunningCall(0, "wfnr_a", 1, "wfr_a", Cancellation())
        calls.add(call)
        began_at = calls.began_at("wfnr_a", 1)
        assert began_at is not None
        assert abs(began_at - time.time()) < 60
        assert calls.began_at("wfnr_a", 1) == began_at
        assert (calls.began_at("wfnr_a", 0), calls.began_at("wfnr_b", 1)) == (None, None)


@dataclass
class Port:
    """Answers looks at workflow runs; `seen` has the time of each."""

    seen: list[tuple[float, str]] = field(default_factory=list)
    answers: dict[str, WorkflowRun | Answer] = field(default_factory=dict)
    latency: float = 0.1

    async def get_run(self, run_id: str, before: Before) -> WorkflowRun | Answer:
        await asyncio.sleep(self.latency)
        before()
        self.seen.append((asyncio.get_running_loop().time(), run_id))
        return self.answers.get(run_id, WorkflowRun(identifier=run_id, status="IN_PROGRESS"))


@dataclass
class World:
    """Calls that run, a poller that looks every minute, and Port."""

    port: Port = field(default_factory=Port)
    calls: RunningCalls = field(default_factory=RunningCalls)
    told: list[tuple[str, Stop]] = field(default_factory=list)
    waiting: dict[NodeRunAt, str | None] = field(default_factory=dict)

    def node_runs(self) -> list[NodeRunAt]:
        return list(self.waiting)

    def workflow_run_id(self, place: NodeRunAt) -> str | None:
        return self.waiting.get(place)

    def begin(self, run_id: str | None, node_run_id: str, index: int = 0) -> RunningCall:
        call = RunningCall(0, node_run_id, index, run_id, Cancellation(), asyncio.get_running_loop().time())
        self.calls.add(call)
        return call

    async def seen(self, place: Place, run: WorkflowRun) -> None:
        known = Stop.SOFT if (place.node_run_id, Stop.SOFT) in self.told else None
        stop = stop_of(run, place.node_run_id, known)
        if stop is None or not stop.outdoes(known):
            return
        self.told.append((place.node_run_id, stop))
        self.calls.cancel_all(place.node_run_id, "cancelled", soft=stop is Stop.SOFT)
        if stop is not Stop.SOFT:
            self.waiting.pop(NodeRunAt(place.partition, place.node_run_id), None)

    async def look(self, seconds: float) -> None:
        """Let the poller look for so long."""
        loop = asyncio.get_running_loop()
        poller = asyncio.create_task(
            Poller(self.calls, self, self.port.get_run, self.seen, 60.0, clock=loop.time).run()
        )
        await asyncio.sleep(seconds)
        poller.cancel()
        await asyncio.gather(poller, return_exceptions=True)


def _run(run_id: str, status: str, result: str | None = None, **nodes: str | None) -> WorkflowRun:
    shown = [
        {"identifier": name, "status": "COMPLETED" if end else "IN_PROGRESS", "result": end}
        for name, end in nodes.items()
    ]
    return WorkflowRun.model_validate({"identifier": run_id, "status": status, "result": result, "nodeRuns": shown})


class TestPoller:
    def test_a_short_call_costs_nothing(self) -> None:
        async def main() -> World:
            world = World()
            for number in range(20):
                call = world.begin(f"wfr_{number}", f"wfnr_{number}")
                await world.look(50)
                world.calls.remove(call)
            world.begin(None, "wfnr_without")
            await world.look(300)
            return world

        assert simulate(main()).port.seen == []

    def test_one_look_for_all_items_of_a_workflow_run_each_interval(self) -> None:
        async def main() -> World:
            world = World()
            for index in range(500):
                world.begin("wfr_a", f"wfnr_{index % 2}", index)
            await world.look(605)
            return world

        times = [at for at, _ in simulate(main()).port.seen]
        assert len(times) == 9
        assert all(60 <= later - earlier < 63 for earlier, later in pairwise(times))

    def test_a_thousand_long_runs_are_looked_at_in_turn_at_a_bounded_pace(self) -> None:
        async def main() -> World:
            world = World()
            for number in range(1000):
                world.begin(f"wfr_{number}", f"wfnr_{number}")
            await world.look(2000)
            return world

        seen = simulate(main()).port.seen
        for start in range(0, 2000, 10):
            assert sum(start <= at < start + 10 for at, _ in seen) <= 10 * POLLS_PER_SECOND
        looks = Counter(run_id for _, run_id in seen)
        assert len(looks) == 1000, "none is left out"
        assert max(looks.values()) - min(looks.values()) <= 1, "and none comes more often than others"

    def test_what_is_cancelled_is_told_once_for_each_node_run(self) -> None:
        async def main() -> World:
            world = World()
            world.port.answers = {
                "wfr_c": _run("wfr_c", "CANCELLING", wfnr_1=None),
                "wfr_d": _run("wfr_d", "COMPLETED", "CANCELLED", wfnr_3="FAILED"),
                "wfr_e": _run("wfr_e", "IN_PROGRESS", wfnr_4="FAILED"),
                "wfr_f": _run("wfr_f", "COMPLETED", "FAILED", wfnr_5=None),
                "wfr_g": Answer(AnswerKind.UNAVAILABLE, 503, "away"),
            }
            for letter, number in ("c1", "c1", "c2", "d3", "e4", "f5", "g6"):
                world.begin(f"wfr_{letter}", f"wfnr_{number}", len(list(world.calls)))
            await world.look(200)
            return world

        told = [("wfnr_1", Stop.SOFT), ("wfnr_2", Stop.SOFT), ("wfnr_3", Stop.OVER), ("wfnr_4", Stop.ELSEWHERE)]
        assert sorted(simulate(main()).told) == told

    def test_a_run_that_is_cancelled_softly_is_looked_at_until_it_is_over(self) -> None:
        async def main() -> World:
            world = World()
            call = world.begin("wfr_c", "wfnr_1")
            world.waiting[NodeRunAt(0, "wfnr_2")] = "wfr_d"
            world.port.answers = {name: _run(name, "CANCELLING") for name in ("wfr_c", "wfr_d")}
            await world.look(200)
            assert (call.cancellation.is_set, call.cancellation.is_cut) == (True, False)
            # Port ends the runs, whatever their results.
            world.port.answers = {name: _run(name, "COMPLETED", "FAILED") for name in ("wfr_c", "wfr_d")}
            await world.look(200)
            assert call.cancellation.is_cut
            return world

        told = [(node_run_id, stop) for stop in (Stop.SOFT, Stop.RUN) for node_run_id in ("wfnr_1", "wfnr_2")]
        assert simulate(main()).told == told

    def test_what_waits_long_is_looked_at_in_turn_beside_the_calls(self) -> None:
        async def main() -> World:
            world = World()
            for number in range(20):
                world.begin(f"wfr_call_{number}", f"wfnr_call_{number}")
            for number in range(30):
                world.waiting[NodeRunAt(1, f"wfnr_{number}")] = f"wfr_{number}" if number else None
            world.port.answers["wfr_7"] = _run("wfr_7", "CANCELLED", wfnr_7=None)
            await world.look(2_000)
            return world

        world = simulate(main())
        looks = Counter(run_id for _, run_id in world.port.seen if "call" not in run_id)
        assert looks.pop("wfr_7") == 1
        assert len(looks) == 28, "none is left out, but for the one whose workflow run nobody knows"
        assert max(looks.values()) - min(looks.values()) <= 1, "and none comes more often than others"
        assert world.told == [("wfnr_7", Stop.RUN)]

    def test_what_waits_shortly_costs_nothing(self) -> None:
        async def main() -> World:
            world = World()

            async def come_and_go() -> None:
                for number in range(20):
                    world.waiting = {NodeRunAt(0, f"wfnr_{number}"): f"wfr_{number}"}
                    await asyncio.sleep(50)
                world.waiting = {}

            await asyncio.gather(come_and_go(), world.look(2_000))
            return world

        assert simulate(main()).port.seen == []

    def test_a_call_that_ends_before_its_turn_is_not_looked_at(self) -> None:
        async def main() -> World:
            world = World(Port(latency=30.0))
            call = world.begin("wfr_a", "wfnr_a")
            asyncio.get_running_loop().call_later(70, world.calls.remove, call)
            await world.look(200)
            return world

        assert simulate(main()).port.seen == []


async def test_a_cancellation_cuts_what_runs() -> None:
    cancellation, loop = Cancellation(), asyncio.get_running_loop()
    runs, ended = loop.create_future(), loop.create_future()
    ended.set_result(None)
    cut, kept = cancellation.cuts(runs), cancellation.cuts(ended)
    cancellation.set("why")
    assert (cut.done(), kept.done(), cancellation.cuts(runs).done()) == (True, False, True)
