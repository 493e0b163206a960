"""Time that passes only where everybody waits for it, and a Port in it that limits calls."""

import asyncio
import math
import random
import selectors
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeVar

from local.emulator.faults import Bucket
from local.emulator.faults import RateLimit as Limit
from port.budget import Budget, RateLimit, Urgency

T = TypeVar("T")
Form = Literal["bucket", "window"]


class _Selector(selectors.DefaultSelector):
    """Does not wait: the clock is put on instead."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("everybody waits for ever")
        # A little later than asked for, as real timers fire.
        self.passed += 0.0 if ready or not timeout else timeout + 0.0005
        return ready


def simulate(main: Coroutine[None, None, T]) -> T:
    """Run it in an event loop whose clock jumps to whatever comes next."""
    selector = _Selector()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.passed  # type: ignore[method-assign]
    try:
        return loop.run_until_complete(main)
    finally:
        loop.close()


class FixedWindow:
    """A rate limit that starts anew with each period, as other gateways count."""

    def __init__(self, limit: Limit, clock: Callable[[], float]) -> None:
        self.limit, self._clock = limit, clock
        self._used, self._window = 0, 0

    def take(self) -> bool:
        window = int(self._clock() // self.limit.period)
        if window != self._window:
            self._used, self._window = 0, window
        self._used += 1
        return self._used <= self.limit.limit

    def headers(self) -> dict[str, str]:
        left = (self._window + 1) * self.limit.period - self._clock()
        return {
            "x-ratelimit-remaining": str(max(0, self.limit.limit - self._used)),
            "x-ratelimit-limit": str(self.limit.limit),
            "x-ratelimit-reset": str(math.ceil(left)),
        }


@dataclass
class Port:
    """Answers calls within its limit, after `latency` seconds; `seen` has time and status of each call."""

    limit: Limit | None
    latency: float = 0.05
    form: Form = "bucket"
    seen: list[tuple[float, int]] = field(default_factory=list)
    calls: list[tuple[int, Urgency]] = field(default_factory=list)
    _random: random.Random = field(default_factory=lambda: random.Random(1))

    @cached_property
    def _bucket(self) -> Bucket | FixedWindow | None:
        kind: type[Bucket | FixedWindow] = Bucket if self.form == "bucket" else FixedWindow
        return kind(self.limit, lambda: asyncio.get_running_loop().time()) if self.limit else None

    def count(self, status: int) -> int:
        return sum(one == status for _, one in self.seen)

    def take(self) -> bool:
        """A call of another tool."""
        return self._bucket is None or self._bucket.take()

    async def call(self, budget: Budget, urgency: Urgency = Urgency.FIRST, worker: int = 0) -> int:
        """One call of a worker; returns the status."""
        await budget.turn(urgency)
        try:
            await asyncio.sleep(self.latency * self._random.uniform(0.2, 0.8))
            status = 200 if self.take() else 429
            self.seen.append((asyncio.get_running_loop().time(), status))
            self.calls.append((worker, urgency))
            headers = self._bucket.headers() if self._bucket else {}
            await asyncio.sleep(self.latency * self._random.uniform(0.2, 0.8))
            told = _told(headers) if headers else None
            budget.learn(status, told, told.reset if told and status == 429 else None)
            return status
        finally:
            budget.ended()

    async def work(self, budget: Budget, calls: int, concurrency: int = 100, worker: int = 0) -> None:
        """A worker that has so many calls to make, and makes each until it is taken."""
        left = iter(range(calls))

        async def one() -> None:
            for _ in left:
                while await self.call(budget, worker=worker) == 429:
                    pass

        await asyncio.gather(*(one() for _ in range(concurrency)))


def _told(headers: dict[str, str]) -> RateLimit:
    return RateLimit(
        int(headers["x-ratelimit-remaining"]), float(headers["x-ratelimit-reset"]), int(headers["x-ratelimit-limit"])
    )
