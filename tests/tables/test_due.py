"""The index of what becomes due."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from tables.due import DueIndex


class Clock:
    """A wall clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Calls:
    """What was called, in order; can be waited for."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._called = asyncio.Event()

    def named(self, name: str) -> Callable[[], None]:
        def call() -> None:
            self.names.append(name)
            self._called.set()

        return call

    async def wait_for(self, *names: str) -> None:
        async with asyncio.timeout(10):
            while len(self.names) < len(names):
                self._called.clear()
                await self._called.wait()
        assert self.names == list(names)


async def turns_of_the_loop() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_is_past_is_called_at_once_but_never_within_the_setting() -> None:
    due, calls = DueIndex(Clock()), Calls()
    due.set(0, "a", 1.0, calls.named("a"))
    assert calls.names == []
    await calls.wait_for("a")
    assert len(due) == 0


async def test_entries_are_called_in_the_order_of_their_times() -> None:
    due, calls = DueIndex(), Calls()
    now = time.time()
    for name, delay in (("late", 0.03), ("early", 0.01), ("between", 0.02)):
        due.set(0, name, now + delay, calls.named(name))
    assert len(due) == 3
    await calls.wait_for("early", "between", "late")
    assert len(due) == 0


async def test_an_entry_takes_the_place_of_one_with_the_same_key() -> None:
    due, calls = DueIndex(Clock()), Calls()
    due.set(0, "a", 1.0, calls.named("first"))
    due.set(0, "a", 1.0, calls.named("second"))
    due.set(1, "a", 1.0, calls.named("of another partition"))
    assert len(due) == 2
    await calls.wait_for("second", "of another partition")


async def test_a_dropped_entry_is_not_called() -> None:
    due, calls = DueIndex(Clock()), Calls()
    due.set(0, "a", 1.0, calls.named("a"))
    due.set(0, "b", 1.0, calls.named("b"))
    due.drop(0, "a")
    due.drop(0, "never set")
    due.drop(7, "of no partition")
    await calls.wait_for("b")
    await turns_of_the_loop()
    assert calls.names == ["b"]


async def test_the_entries_of_a_partition_go_with_it() -> None:
    due, calls = DueIndex(Clock()), Calls()
    for name in ("a", "b"):
        due.set(3, name, 1.0, calls.named(name))
    due.set(4, "c", 1.0, calls.named("c"))
    assert due.keys(3) == ["a", "b"]
    due.drop_partition(3)
    due.drop_partition(7)
    assert (due.keys(3), due.keys(4), len(due)) == ([], ["c"], 1)
    await calls.wait_for("c")
    await turns_of_the_loop()
    assert calls.names == ["c"]


async def test_an_entry_may_be_set_again_from_within_its_call() -> None:
    due, calls = DueIndex(Clock()), Calls()

    def again() -> None:
        calls.named("once")()
        due.set(0, "a", 1.0, calls.named("twice"))

    due.set(0, "a", 1.0, again)
    await calls.wait_for("once", "twice")


async def test_a_timer_that_comes_before_the_clock_says_so_waits_on() -> None:
    clock = Clock()
    due, calls = DueIndex(clock), Calls()
    due.set(0, "a", clock.now + 0.001, calls.named("a"))
    await asyncio.sleep(0.01)  # the loop's timer has passed, and the wall clock stands still
    assert calls.names == []
    assert due.keys(0) == ["a"]
    clock.now += 0.001
    await calls.wait_for("a")


async def test_a_far_time_is_waited_for_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tables.due._LONGEST_SLEEP", 0.001)
    clock = Clock()
    due, calls = DueIndex(clock), Calls()
    due.set(0, "a", clock.now + 10_000_000, calls.named("a"))
    await asyncio.sleep(0.01)
    assert calls.names == []
    assert due.keys(0) == ["a"]
    clock.now += 10_000_000  # the wall clock was set forward
    await calls.wait_for("a")
    assert len(due) == 0


async def test_a_far_entry_can_be_dropped_between_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tables.due._LONGEST_SLEEP", 0.001)
    clock = Clock()
    due, calls = DueIndex(clock), Calls()
    due.set(0, "a", clock.now + 10_000_000, calls.named("a"))
    await asyncio.sleep(0.01)
    due.drop(0, "a")
    clock.now += 10_000_000
    due.set(0, "b", 1.0, calls.named("b"))
    await calls.wait_for("b")
    await turns_of_the_loop()
    assert calls.names == ["b"]
