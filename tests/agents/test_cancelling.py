"""How a call is cancelled, and who looks at Port for that: in simulated time, how often."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import pairwise

from agents.cancelling import POLLS_PER_SECOND, Cancellation, NodeRunAt, Place, Poller, RunningCall, RunningCalls
from agents.contract import Context
from agents.execution import Call, Ended, Threads, execute
from port.client import Answer, AnswerKind, Before
from port.models import Result, WorkflowRun
from streams.records import ItemFinished
from tests.agents.examples import call_of, context
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
    told: list[tuple[str, bool]] = field(default_factory=list)
    waiting: dict[NodeRunAt, str | None] = field(default_factory=dict)

    def node_runs(self) -> list[NodeRunAt]:
        return list(self.waiting)

    def workflow_run_id(self, place: NodeRunAt) -> str | None:
        return self.waiting.get(place)

    def begin(self, run_id: str | None, node_run_id: str, index: int = 0) -> RunningCall:
        call = RunningCall(0, node_run_id, index, run_id, Cancellation(), asyncio.get_running_loop().time())
        self.calls.add(call)
        return call

    async def cancelled(self, place: Place, over: bool) -> None:
        self.told.append((place.node_run_id, over))
        self.calls.cancel_all(place.node_run_id, "cancelled")
        self.waiting.pop(NodeRunAt(place.partition, place.node_run_id), None)

    async def look(self, seconds: float) -> None:
        """Let the poller look for so long."""
        loop = asyncio.get_running_loop()
        poller = asyncio.create_task(
            Poller(self.calls, self, self.port.get_run, self.cancelled, 60.0, clock=loop.time).run()
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

        told = [("wfnr_1", False), ("wfnr_2", False), ("wfnr_3", True), ("wfnr_4", True)]
        assert sorted(simulate(main()).told) == told

    def test_what_waits_long_is_looked_at_in_turn_beside_the_calls(self) -> None:
        async def main() -> World:
            world = World()
            for number in range(20):
                world.begin(f"wfr_call_{number}", f"wfnr_call_{number}")
            for number in range(30):
                world.waiting[NodeRunAt(1, f"wfnr_{number}")] = f"wfr_{number}" if number else None
            world.port.answers["wfr_7"] = _run("wfr_7", "CANCELLING", wfnr_7=None)
            await world.look(2_000)
            return world

        world = simulate(main())
        looks = Counter(run_id for _, run_id in world.port.seen if "call" not in run_id)
        assert looks.pop("wfr_7") == 1
        assert len(looks) == 28, "none is left out, but for the one whose workflow run nobody knows"
        assert max(looks.values()) - min(looks.values()) <= 1, "and none comes more often than others"
        assert world.told == [("wfnr_7", False)]

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
