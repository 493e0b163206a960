"""A process that stood still ends, by a clock that is given."""

from __future__ import annotations

import threading

from streams.standstill import StandStill, uptime


class Clock:
    """Stands where it is put; tells when it has been looked at so many times."""

    def __init__(self) -> None:
        self.now = 100.0
        self.looks = threading.Semaphore(0)

    def __call__(self) -> float:
        self.looks.release()
        return self.now


def test_who_stood_still_for_too_long_ends() -> None:
    clock, said = Clock(), list[str]()
    still = StandStill(10.0, clock, said.append)
    still.start()
    try:
        clock.now += 10.0
        still.check()
        assert said == []
        clock.now += 10.5
        still.check()
        assert said[0].startswith("the process stood still for ")
        assert "its partitions may have other owners now" in said[0]
    finally:
        still.end()


def test_before_the_start_nothing_is_said() -> None:
    clock, said = Clock(), list[str]()
    still = StandStill(10.0, clock, said.append)
    clock.now += 1000.0
    still.check()
    assert said == []


def test_a_thread_looks_by_itself() -> None:
    clock, found = Clock(), threading.Event()
    still = StandStill(10.0, clock, lambda _: found.set())
    still.start()
    try:
        clock.now += 1000.0
        assert found.wait(10)
    finally:
        still.end()


def test_small_pauses_do_not_add_up() -> None:
    clock, said = Clock(), list[str]()
    still = StandStill(10.0, clock, said.append)
    still.start()
    try:
        assert clock.looks.acquire(timeout=10)
        for _ in range(3):
            clock.now += 4.0
            # Once for the check, once for the time of the beat; the second look may be of the time before.
            for _ in range(4):
                assert clock.looks.acquire(timeout=10)
        assert said == []
    finally:
        still.end()


def test_the_clock_goes_on() -> None:
    before = uptime()
    assert uptime() >= before
