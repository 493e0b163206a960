"""The pace of calls, in simulated time: against a Port that limits, alone and together with others."""

import asyncio

import pytest

from local.emulator.faults import RateLimit as Limit
from port.budget import FIRST_HOLD, LONGEST_HOLD, LONGEST_WAIT, STALE_SECONDS, Budget, RateLimit, Urgency
from tests.port.simulated import Form, Port, simulate
from tests.rates import most_within

PORTS = Limit()
"""15,000 calls in 5 minutes, 1,500 at once."""


def run(workers: int, calls: int, port: Port, concurrency: int = 100) -> list[float]:
    """Let workers make so many calls in all; returns when each was seen, the refused ones included."""

    async def all_of_them() -> None:
        await asyncio.gather(*(port.work(Budget(), calls // workers, concurrency, worker) for worker in range(workers)))

    simulate(all_of_them())
    return [time for time, _ in port.seen]


@pytest.mark.parametrize("latency", [0.005, 1.0])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_workers_share_ports_limit_without_a_word_between_them(workers: int, latency: float) -> None:
    port = Port(PORTS, latency)
    times = run(workers, 4000, port)
    assert port.count(429) == 0
    # The fewer they are the more of the burst they leave to others: a single one, half of it.
    assert (times[-1] - times[0]) * 50 < 1.1 * (4000 - PORTS.burst / 2), "and use what it allows"
    for seconds in (1, 10, 60):
        assert most_within(times, seconds) <= PORTS.burst + 50 * seconds


@pytest.mark.parametrize("workers", [1, 2])
def test_a_limit_that_starts_anew_with_each_period_is_kept_to(workers: int) -> None:
    port = Port(Limit(limit=1000, period=20), form="window")
    times = run(workers, 2500, port)
    assert port.count(429) == 0
    assert 40 < times[-1] - times[0] < 62


def test_many_workers_at_a_slow_port_are_refused_seldom() -> None:
    port = Port(PORTS, 1.0)
    run(10, 4000, port)
    assert port.count(429) < 0.05 * 4000


def test_what_other_tools_take_slows_the_worker_down() -> None:
    port = Port(PORTS, 0.05)

    async def others() -> None:
        for _ in range(40 * 120):
            assert port.take()
            await asyncio.sleep(1 / 40)

    async def both() -> None:
        working = asyncio.create_task(port.work(Budget(), 100_000))
        await others()
        working.cancel()
        await asyncio.wait({working})

    simulate(both())
    assert port.count(429) == 0
    late = [time for time, _ in port.seen if time > 60]
    assert 5 * 60 < len(late) < 15 * 60, "the others need 40 calls of the 50 a second"


# Where Port says nothing


def test_without_a_word_of_ports_nobody_waits() -> None:
    port = Port(None, 0.1)
    times = run(1, 10_000, port)
    # So many on their way at a time; and the first ones, which double from one on.
    assert times[-1] < 10_000 / 100 * 0.1 + 1.5
    assert most_within(times[:20], 0.05) <= 8


def test_nobody_is_made_to_wait_by_a_turn_alone() -> None:
    async def turns() -> float:
        budget, loop = Budget(), asyncio.get_running_loop()
        for _ in range(1000):
            budget.learn(200, None, None)
        for _ in range(1000):
            await budget.turn()
        return loop.time()

    assert simulate(turns()) == 0.0


@pytest.mark.parametrize("form", ["bucket", None])
def test_a_cap_is_kept_to(form: Form | None) -> None:
    port = Port(Limit() if form else None, 0.02)

    async def capped() -> None:
        await port.work(Budget(calls_per_second=20), 400)

    simulate(capped())
    times = [time for time, _ in port.seen]
    assert 19 < times[-1] - times[0] < 22
    assert most_within(times, 1.0) <= 23


# After a 429


def test_who_waits_for_the_end_of_a_pause_shows_and_who_waits_for_another_call_does_not() -> None:
    async def waits(budget: Budget) -> tuple[bool, bool, bool]:
        before = budget.pausing
        turn = asyncio.create_task(budget.turn())
        await asyncio.sleep(0)
        meanwhile = budget.pausing
        if not meanwhile:
            budget.ended()
        await turn
        return before, meanwhile, budget.pausing

    async def after_a_429() -> tuple[bool, bool, bool]:
        budget = Budget()
        budget.learn(429, None, 5.0)
        return await waits(budget)

    async def behind_another() -> tuple[bool, bool, bool]:
        budget = Budget()
        await budget.turn()
        return await waits(budget)

    assert simulate(after_a_429()) == (False, True, False)
    assert simulate(behind_another()) == (False, False, False)


async def _held(budget: Budget, asked: float | None) -> float:
    """How long after a 429 nobody has a turn."""
    loop = asyncio.get_running_loop()
    budget.learn(429, None, asked)
    since = loop.time()
    await budget.turn()
    budget.ended()
    return loop.time() - since


@pytest.mark.parametrize(("asked", "held"), [(7.0, 7.0), (0.0, FIRST_HOLD), (None, FIRST_HOLD), (3600.0, LONGEST_WAIT)])
def test_all_wait_for_what_port_asks(asked: float | None, held: float) -> None:
    assert held <= simulate(_held(Budget(), asked)) <= held * 1.1 + 0.01


def test_a_port_that_refuses_again_and_again_is_asked_ever_more_seldom() -> None:
    async def again() -> list[float]:
        budget = Budget()
        waits = [await _held(budget, None) for _ in range(10)]
        budget.learn(200, None, None)
        return [*waits, await _held(budget, None)]

    *waits, after_a_good_one = simulate(again())
    assert waits[1] > 1.5 * waits[0]
    assert LONGEST_HOLD <= waits[-1] <= LONGEST_HOLD * 1.1 + 0.01
    assert after_a_good_one < 2 * FIRST_HOLD


def test_after_the_wait_one_goes_first_and_the_rest_not_all_at_once() -> None:
    port = Port(None, 0.1)

    async def refused() -> None:
        budget = Budget()
        for _ in range(200):
            budget.learn(200, None, None)
        for _ in range(50):
            budget.learn(429, None, 5.0)
        await port.work(budget, 200)

    simulate(refused())
    times = [time for time, _ in port.seen]
    assert 5.0 < times[0] < 5.6
    assert most_within(times[:31], 0.03) < 20
    assert times[1] - times[0] > 0.02, "the others wait for the first one's answer"


def test_what_was_said_long_ago_is_forgotten() -> None:
    async def later() -> list[tuple[int | None, int | None]]:
        budget = Budget()
        budget.learn(200, RateLimit(3, 20.0, 100), None)
        seen = [(budget.remaining, budget.limit)]
        await asyncio.sleep(STALE_SECONDS + 1)
        await budget.turn()
        return [*seen, (budget.remaining, budget.limit)]

    assert simulate(later()) == [(3, 100), (None, None)]


# Turns


def test_reports_go_before_logs() -> None:
    port = Port(Limit(limit=1000, period=20, burst=100), 0.01)

    async def all_at_once() -> None:
        budget = Budget()
        logs = [port.call(budget, Urgency.LAST) for _ in range(100)]
        await asyncio.gather(*logs, *(port.call(budget, Urgency.FIRST) for _ in range(100)))

    simulate(all_at_once())
    urgencies = [urgency for _, urgency in port.calls]
    assert len(urgencies) == 200
    # The very first had nobody before it.
    assert urgencies[1:].index(Urgency.LAST) >= 99


def test_who_gives_up_leaves_his_turn_to_the_next() -> None:
    async def give_up() -> list[bool]:
        budget = Budget()
        await budget.turn()
        first, second, third = (asyncio.create_task(budget.turn()) for _ in range(3))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        budget.ended()
        # Its turn has come, and it does not know yet.
        second.cancel()
        await asyncio.wait({first, second, third})
        return [task.cancelled() for task in (first, second, third)]

    assert simulate(give_up()) == [True, True, False]


def test_at_the_end_nobody_waits_on() -> None:
    async def close() -> None:
        budget = Budget()
        budget.learn(429, None, 300.0)
        turns = [asyncio.create_task(budget.turn(urgency)) for urgency in (*Urgency, *Urgency)]
        await asyncio.sleep(0)
        budget.close()
        async with asyncio.timeout(1):
            await asyncio.gather(*turns)

    simulate(close())
