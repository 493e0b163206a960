"""Whatever has work and makes no progress shows within a minute, and nothing else ever does."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.progress import LOOK_SECONDS, STUCK_SECONDS, Stage, Watch
from tests.tables.histories import profile


@dataclass
class World:
    """One stage, and time that passes with a look each second, unless the loop is blocked."""

    now: float = 1000.0
    mark: int = 0
    work: bool = True
    paused: bool = False

    def __post_init__(self) -> None:
        stage = Stage("handler-greet", "handlers", lambda: self.mark, lambda: self.work)
        self.watch = Watch([stage], lambda: self.paused, clock=lambda: self.now)
        self.watch.look()

    def passes(self, seconds: float, every: float = LOOK_SECONDS) -> None:
        until = self.now + seconds
        while self.now + every <= until:
            self.now += every
            self.watch.look()

    @property
    def stuck(self) -> bool:
        return self.watch.problem() is not None


def test_a_stage_with_work_and_without_progress_shows_within_a_minute_and_not_at_once() -> None:
    world = World()
    world.passes(STUCK_SECONDS - 1)
    assert not world.stuck
    world.passes(60 - STUCK_SECONDS)
    assert world.watch.problem() == "stuck: handlers"
    assert world.watch.standing()["handler-greet"] == pytest.approx(59)


def test_it_is_well_as_soon_as_it_goes_on() -> None:
    world = World()
    world.passes(100)
    world.mark += 1
    world.passes(1)
    assert not world.stuck
    assert world.watch.standing() == {"handler-greet": 0.0}


def test_without_work_it_never_shows() -> None:
    world = World(work=False)
    world.passes(1000)
    assert not world.stuck


def test_the_time_without_work_does_not_count_later() -> None:
    world = World()
    world.passes(STUCK_SECONDS - 2)
    world.work = False
    world.passes(1)
    world.work = True
    world.passes(STUCK_SECONDS - 2)
    assert not world.stuck


def test_what_is_paused_on_purpose_never_shows_and_has_all_its_time_afterwards() -> None:
    world = World(paused=True)
    world.passes(1000)
    assert not world.stuck
    world.paused = False
    world.passes(STUCK_SECONDS - 2)
    assert not world.stuck
    world.passes(3)
    assert world.stuck


def test_a_loop_that_was_blocked_is_no_fault_of_the_stages() -> None:
    world = World()
    world.passes(3000, every=300)
    assert not world.stuck


def test_a_slow_stage_is_well() -> None:
    world = World()
    for _ in range(100):
        world.passes(STUCK_SECONDS - 2)
        world.mark += 1
    assert not world.stuck


@given(moves=st.lists(st.floats(0.5, STUCK_SECONDS - 2), min_size=1, max_size=40))
@profile(100)
def test_who_moves_often_enough_never_shows(moves: list[float]) -> None:
    world = World()
    for seconds in moves:
        world.passes(seconds)
        assert not world.stuck
        world.mark += 1


def test_the_log_names_the_stage_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world = World()
    world.passes(STUCK_SECONDS + 20)
    world.mark += 1
    world.passes(5)
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "handler-greet has made no progress for 45 s, and has work: /healthz fails",
        "handler-greet goes on, or has no work any more",
    ]


async def test_it_looks_by_itself_says_how_late_the_loop_is_and_outlives_a_stage_that_fails() -> None:
    looks: list[float] = []

    def mark() -> int:
        looks.append(asyncio.get_running_loop().time())
        raise ValueError

    late: list[float] = []
    enough = asyncio.Event()

    def told(seconds: float) -> None:
        late.append(seconds)
        if len(looks) >= 2:
            enough.set()

    watch = Watch([Stage("broken", "broken", mark, lambda: True)], lambda: False)
    running = asyncio.create_task(watch.run(told))
    await asyncio.wait_for(enough.wait(), 30)
    running.cancel()
    assert looks[1] - looks[0] >= LOOK_SECONDS
    assert len(late) >= 4
    assert min(late) >= 0.0
