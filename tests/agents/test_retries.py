"""What is tried again: when, in which order, and that nothing else waits for it; in simulated time."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from typing import Final, cast

import pytest

from agents.feeding import Feeder
from agents.retries import SELDOM_INTERVAL, Lane, Retries
from agents.settling import Later, Settler
from agents.tries import LONGEST_PARKED, LONGEST_PAUSE, MOST_UNKNOWN, UNKNOWN_SECONDS
from agents.work import ReportWork, TellWork
from port.budget import AWAY_AFTER, AWAY_FIRST_INTERVAL, Budget, Urgency
from port.client import Answer, AnswerKind, Before, PortClient
from port.models import Result
from streams.records import Body
from tables.state import Item, NodeRun
from tests.port import simulated
from tests.rates import most_within

PLACES: Final = 100
"""REPORT_CONCURRENCY, by default."""
ANSWERS: Final = {
    "200": Answer(AnswerKind.ACCEPTED, 200, "HTTP 200"),
    "403": Answer(AnswerKind.UNAUTHORIZED, 403, "HTTP 403: forbidden"),
    "404": Answer(AnswerKind.NOT_FOUND, 404, "HTTP 404: no such node run"),
    "408": Answer(AnswerKind.UNAVAILABLE, 408, "HTTP 408", maybe_arrived=True),
    "429": Answer(AnswerKind.RATE_LIMITED, 429, "HTTP 429"),
    "500": Answer(AnswerKind.UNAVAILABLE, 500, "HTTP 500: it fails", maybe_arrived=True),
    "none": Answer(AnswerKind.UNAVAILABLE, None, "TimeoutError", maybe_arrived=True),
}
Judge = Callable[[str], str]
"""Says which of them a node run's report gets."""


class FakePort:
    """Answers reports after a while, each as the judge says; through a real budget."""

    def __init__(self, judge: Judge, seconds: Mapping[str, float]) -> None:
        self.judge, self.seconds = judge, seconds
        self.budget = Budget()
        self.calls: list[tuple[float, str, str]] = []
        """When each began, of which node run, and what it was answered."""

    async def report(
        self, node_run_id: str, run_id: str | None, body: bytes, before: Before, urgency: Urgency = Urgency.FIRST
    ) -> Answer:
        await self.budget.turn(urgency)
        try:
            before()
            word = self.judge(node_run_id)
            self.calls.append((asyncio.get_running_loop().time(), node_run_id, word))
            await asyncio.sleep(self.seconds.get(word, 0.01))
            self.budget.learn(ANSWERS[word].status, None, None)
            return ANSWERS[word]
        finally:
            self.budget.ended()


class Reporter:
    """The reporter and the retrier, as in `agents.reporter`, without Faust."""

    def __init__(
        self, judge: Judge, *, places: int = PLACES, again: int = 25, seconds: Mapping[str, float] | None = None
    ) -> None:
        loop = asyncio.get_running_loop()
        self.port = FakePort(judge, {"none": 30.0} if seconds is None else seconds)
        self.here = {0}
        chance = random.Random(1)
        self.settler = Settler(
            cast("PortClient", self.port),
            self.here.__contains__,
            clock=loop.time,
            draw=chance.uniform,
            monotonic=loop.time,
        )
        self.feeder: Feeder[ReportWork] = Feeder()
        self.retries: Retries[ReportWork | TellWork] = Retries(
            self.settler.lane_of, self.settler.unknown_since, self._first
        )
        self.done: dict[str, tuple[float, str]] = {}
        """When each was settled, and how."""
        self.actors = [loop.create_task(self._each(self.feeder)) for _ in range(places)]
        self.actors += [loop.create_task(self._each(self.retries)) for _ in range(again)]

    def _first(self, work: ReportWork | TellWork) -> None:
        assert isinstance(work, ReportWork)
        self.feeder.add(work)

    def add(self, *node_run_ids: str) -> None:
        for node_run_id in node_run_ids:
            self.feeder.add(ReportWork(0, node_run_id, Body.FULL))

    async def _each(self, feeder: Feeder[ReportWork] | Feeder[ReportWork | TellWork]) -> None:
        while True:
            work = await feeder.take()
            assert isinstance(work, ReportWork)
            run = NodeRun(
                node_run_id=work.node_run_id,
                workflow_run_id="wfr_1",
                received_at=0.0,
                digest="d",
                items=1,
                covered=1,
                result=Result.SUCCESS,
            )
            try:
                answered = await self.settler.report(
                    work, run, iter([Item(index=0, message=0, result=Result.SUCCESS, output="{}")])
                )
                if isinstance(answered, Later):
                    self.retries.later(work, answered.seconds)
                else:
                    self.done[work.node_run_id] = (asyncio.get_running_loop().time(), answered.settled.value)
            finally:
                feeder.done(work)

    async def until(self, done: Callable[[], bool], seconds: float = 100_000.0) -> float:
        """Wait for it; returns how long that took, in simulated seconds."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not done():
            assert loop.time() - began < seconds, f"{len(self.done)} are done"
            await asyncio.sleep(0.05)
        return loop.time() - began

    def parked(self) -> int:
        return sum(1 for _ in self.settler.parked())

    def times(self, node_run_id: str) -> list[float]:
        return [at for at, whose, _ in self.port.calls if whose == node_run_id]


def names(word: str, number: int) -> list[str]:
    return [f"wfnr_{word}_{one}" for one in range(number)]


def by_name(node_run_id: str) -> str:
    """Answer what the node run is called."""
    return node_run_id.split("_")[1]


@pytest.mark.parametrize(("word", "seconds"), [("403", 2.0), ("408", 2.0), ("500", 2.0), ("none", 31.0)])
@pytest.mark.parametrize("places", [1, 5, PLACES])
def test_good_reports_are_sent_at_once_whatever_port_fails_at(word: str, seconds: float, places: int) -> None:
    async def go() -> None:
        reporter = Reporter(by_name, places=places)
        # Port has answered before: it is no first start.
        reporter.add(*names("200", 50))
        await reporter.until(lambda: len(reporter.done) == 50)
        reporter.done.clear()
        poison, good = names(word, 100), names("200", 200)
        reporter.add(*poison[:places], *good)
        # With one place what hangs keeps it for its time-out once.
        assert await reporter.until(lambda: len(reporter.done) == 200) < seconds + 0.02 * 200 / places
        reporter.add(*poison[places:])
        # By now each has failed at least once: those that follow meet them in no place.
        await asyncio.sleep(31.0 * 100 / places if word == "none" else 60.0)
        for _ in range(100):
            reporter.done.clear()
            reporter.add(*names("200", 20))
            assert await reporter.until(lambda: len(reporter.done) == 20) < 2.0 + 0.02 * 20 / places
            if reporter.parked() == 100:
                break
            await asyncio.sleep(20.0)
        assert reporter.parked() == 100

    simulate(go())


def test_what_port_fails_at_is_parked_with_growing_pauses_and_is_sent_when_port_takes_it() -> None:
    async def go() -> None:
        words = {"wfnr_bad": "500"}
        reporter = Reporter(lambda node_run_id: words.get(node_run_id, "200"))
        reporter.add("wfnr_bad")
        for number in range(3600):
            reporter.add(f"wfnr_{number}")
            await asyncio.sleep(1.0)
            if number == 30:
                assert reporter.parked() == 1
        times = reporter.times("wfnr_bad")
        pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert len(times) < 15, "of an hour"
        assert LONGEST_PAUSE < max(pauses) <= LONGEST_PARKED + 1.0
        due = reporter.retries.due_in(("wfnr_bad", -1))
        assert due is not None
        words.clear()
        await asyncio.sleep(due + 1.0)
        assert reporter.done["wfnr_bad"][1] == "reported"
        assert (reporter.parked(), reporter.retries.kept) == (0, 0)

    simulate(go())


@pytest.mark.parametrize("word", ["500", "403", "none"])
def test_nothing_is_parked_while_port_is_away_for_everybody_and_all_goes_out_when_it_is_back(word: str) -> None:
    async def go() -> None:
        now = {"": "200"}
        reporter = Reporter(lambda _: now[""])
        reporter.add(*names("early", 50))
        await reporter.until(lambda: len(reporter.done) == 50)
        now[""] = word
        reporter.port.calls.clear()
        reporter.add(*names("late", 5000))
        await asyncio.sleep(3600.0)
        times = [at for at, _, _ in reporter.port.calls]
        # Each is tried once, at the rate that Port allows; after that, one a second.
        assert most_within(times[PLACES + AWAY_AFTER :], 10.0) <= 10 / AWAY_FIRST_INTERVAL + 10
        assert most_within([at for at in times if at > times[0] + 1800], 60.0) <= 62
        assert reporter.parked() == 0
        now[""] = "200"
        assert await reporter.until(lambda: len(reporter.done) == 5050) < 60.0 + 30.0
        assert reporter.parked() == 0

    simulate(go())


def test_a_first_start_with_reports_that_hang_goes_on_to_the_good_ones() -> None:
    async def go() -> None:
        reporter = Reporter(by_name)
        reporter.add(*names("none", 100), *names("200", 200))
        # Nothing is known of Port yet: one call after the other would take fifty minutes.
        assert await reporter.until(lambda: len(reporter.done) == 200) < 60.0

    simulate(go())


def test_many_that_are_refused_for_the_rate_go_out_and_none_is_parked() -> None:
    async def go() -> None:
        left = Counter(dict.fromkeys(names("x", 20), 1))

        def judge(node_run_id: str) -> str:
            left[node_run_id] -= 1
            return "429" if left[node_run_id] == 0 else "200"

        reporter = Reporter(judge)
        reporter.add(*left)
        await reporter.until(lambda: len(reporter.done) == 20, 1200.0)
        assert reporter.parked() == 0

    simulate(go())


def test_a_backlog_of_dead_ids_leaves_the_rate_limit_to_others_and_comes_to_its_end() -> None:
    async def go() -> None:
        reporter = Reporter(by_name)
        reporter.add(*names("200", 10))
        await reporter.until(lambda: len(reporter.done) == 10)
        reporter.done.clear()
        reporter.add(*names("404", 1000))
        await asyncio.sleep(5.0)
        first = len(reporter.port.calls)
        assert first < 1010 + 6 / SELDOM_INTERVAL, "each was tried once"
        reporter.add(*names("200", 200))
        assert await reporter.until(lambda: len(reporter.done) == 200) < 2.0
        reporter.done.clear()
        await reporter.until(lambda: len(reporter.done) == 1000)
        again = [at for at, whose, _ in reporter.port.calls[first:] if "404" in whose]
        assert most_within(again, 60.0) <= 60.0 / SELDOM_INTERVAL + 1
        calls = Counter(whose for _, whose, _ in reporter.port.calls)
        assert max(calls.values()) <= MOST_UNKNOWN
        assert {settled for _, settled in reporter.done.values()} == {"refused"}
        assert all(reporter.done[one][0] - reporter.times(one)[0] >= UNKNOWN_SECONDS for one in names("404", 1000))

    simulate(go())


def test_a_new_node_run_that_port_learns_of_late_does_not_wait_for_a_backlog_of_dead_ids() -> None:
    async def go() -> None:
        known: set[str] = set()
        reporter = Reporter(lambda node_run_id: "200" if node_run_id in known else "404")
        known.update(names("good", 10))
        reporter.add(*known)
        await reporter.until(lambda: len(reporter.done) == 10)
        reporter.add(*names("dead", 5000))
        await asyncio.sleep(10.0)
        reporter.add("wfnr_new")
        await asyncio.sleep(0.3)
        known.add("wfnr_new")
        assert await reporter.until(lambda: "wfnr_new" in reporter.done) < 5.0

    simulate(go())


def test_a_partition_that_goes_takes_what_waits_with_it() -> None:
    async def go() -> None:
        reporter = Reporter(by_name)
        reporter.add(*names("500", 50))
        await asyncio.sleep(5.0)
        reporter.here.clear()
        reporter.retries.drop(0)
        reporter.settler.drop(0)
        assert (reporter.retries.kept, reporter.settler.tries_of("wfnr_500_0")) == (0, None)
        calls = len(reporter.port.calls)
        await asyncio.sleep(100.0)
        assert len(reporter.port.calls) == calls

    simulate(go())


def simulate(main: Coroutine[None, None, None]) -> None:
    """Run it in simulated time, and end what it leaves."""

    async def ended() -> None:
        try:
            await main
        finally:
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    simulated.simulate(ended())


class TestRetries:
    """The queue alone."""

    @staticmethod
    def queue(lane: Lane = Lane.AGAIN) -> tuple[Retries[ReportWork], list[ReportWork]]:
        first: list[ReportWork] = []
        return Retries(lambda _: lane, lambda work: float(work.node_run_id[-1]), first.append), first

    def test_one_that_waits_goes_out_once_and_at_its_time(self) -> None:
        async def go() -> None:
            retries, _ = self.queue()
            work = ReportWork(0, "wfnr_a", Body.FULL)
            retries.later(work, 10.0)
            retries.later(ReportWork(0, "wfnr_a", Body.FULL), 1.0)
            assert (retries.kept, retries.due_in(work.key)) == (1, 10.0)
            await asyncio.sleep(9.9)
            assert (retries.pending, retries.waiting) == ([], 1)
            await asyncio.sleep(0.2)
            assert (retries.pending, retries.kept, retries.due_in(work.key)) == ([work], 0, None)

        simulate(go())

    def test_one_that_is_wanted_now_or_no_more(self) -> None:
        async def go() -> None:
            retries, _ = self.queue()
            works = [ReportWork(0, f"wfnr_{name}", Body.FULL) for name in "abc"]
            for work in works:
                retries.later(work, 10.0)
            assert (retries.now(works[0].key), retries.now(works[0].key)) == (True, False)
            retries.forget(works[1].key)
            assert retries.pending == works[:1]
            await asyncio.sleep(11.0)
            assert retries.pending == [works[0], works[2]]

        simulate(go())

    def test_like_a_new_one(self) -> None:
        async def go() -> None:
            retries, first = self.queue(Lane.FIRST)
            retries.later(ReportWork(0, "wfnr_a", Body.FULL), 0.0)
            await asyncio.sleep(0.1)
            assert (len(first), retries.waiting) == (1, 0)

        simulate(go())

    def test_seldom_the_newest_and_the_oldest_by_turns(self) -> None:
        async def go() -> None:
            retries, _ = self.queue(Lane.SELDOM)
            for number in range(6):
                retries.later(ReportWork(0, f"wfnr_{number}", Body.FULL), 0.01 * number)
            await asyncio.sleep(0.1)
            retries.forget(("wfnr_3", -1))
            await asyncio.sleep(10 * SELDOM_INTERVAL)
            # The first had its turn before the others came.
            assert [work.node_run_id[-1] for work in retries.pending] == ["0", "1", "5", "2", "4"]

        simulate(go())

    def test_a_hundred_thousand_wait_in_little_memory_and_go_out_in_time(self) -> None:
        async def go() -> None:
            retries, first = self.queue(Lane.FIRST)
            for number in range(100_000):
                retries.later(ReportWork(number % 8, f"wfnr_{number}", Body.FULL), number % 30)
            loop = asyncio.get_running_loop()
            # asyncio keeps timers that are cancelled; here there is one.
            assert len(loop._scheduled) < 200  # type: ignore[attr-defined]
            retries.drop(3)
            await asyncio.sleep(31.0)
            assert (len(first), retries.kept) == (87_500, 0)

        simulate(go())

    def test_nothing_begins_after_a_stop(self) -> None:
        async def go() -> None:
            retries, first = self.queue(Lane.FIRST)
            retries.later(ReportWork(0, "wfnr_a", Body.FULL), 1.0)
            retries.stop()
            retries.later(ReportWork(0, "wfnr_b", Body.FULL), 1.0)
            await asyncio.sleep(5.0)
            assert first == []

        simulate(go())
