"""The pace of calls to Port's API, learned from what its answers say of the organization's rate limit.

Port counts the calls of all of an organization's tools together, and says in each answer how many are left. The workers
need not know of each other: each spreads what is left over the time until the reset. The more of them call, the fewer
are left, and the slower is each; they meet where the number no longer sinks, which is the rate that Port allows.
"""

import asyncio
import random
from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

PACED_BELOW: Final = 0.5
"""The share of the limit below which calls are spread out. Port's burst is a tenth of its limit: a token bucket that
tells how much is in it is always below, and the nearer it is to full the less it slows anybody down."""
SHORTEST_RESET: Final = 1.0
"""Port tells whole seconds. Spread over less than one, what is left would be a burst."""
LONGEST_WAIT: Final = 300.0
"""The window of Port's rate limit: no longer wait is heeded, whoever asks for it."""
FIRST_HOLD: Final = 0.5
"""After a 429 that asks for no wait; twice as long after each further one, up to LONGEST_HOLD."""
LONGEST_HOLD: Final = 30.0
STALE_SECONDS: Final = 60.0
"""What was said of the limit is forgotten after so long, or at its reset where that is later."""
AWAY_AFTER: Final = 10
"""After so many calls in a row that Port has not answered, or refused for a reason that is not the call's own, calls
are spread out until one is answered well: those of FIRST urgency at the rate that Port allows on average, since the
next one may be one that it takes; the others, which have failed before or can wait, to one a second."""
AWAY_FIRST_INTERVAL: Final = 0.02
AWAY_INTERVAL: Final = 1.0
LATE_SECONDS: Final = 0.25
"""Where as many calls are on their way as may be, one more goes out after so long: one that hangs holds nobody up."""
_NO_GOOD: Final = frozenset({401, 403, 408})
_CATCH_UP: Final = 0.05
"""Timers fire late. So many seconds of the pace may be made up for at once."""


class Urgency(IntEnum):
    """Whose turn comes first."""

    FIRST = 0
    """Reports, and what a report or a worker's start waits for."""
    AGAIN = 1
    """Reports that Port has failed at before, while it took others."""
    LAST = 2
    """Lines in logs, and how far something is."""
    POLL = 3
    """Looks at whether something has changed at Port; the next one does as well."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """What an answer says: calls left, seconds until the reset, calls allowed in a period (None: it does not say)."""

    remaining: int
    reset: float
    limit: int | None = None


class Budget:
    """A gate that the calls of one worker pass, each with `turn` before and `ended` after it.

    Args:
        calls_per_second: never more than so many turns a second; None for no limit but Port's own.

    Without such a cap, and while Port says nothing of a limit, nobody waits; but for the first answers of a process,
    and those after a 429, of which the number on their way doubles from one on. Belongs to one event loop.
    """

    def __init__(self, calls_per_second: float | None = None) -> None:
        self._shortest = 1 / calls_per_second if calls_per_second else 0.0
        self._told: RateLimit | None = None
        self._told_until = 0.0
        self._last = float("-inf")  # when the latest turn was due
        self._held_until = float("-inf")
        self._holds = 0  # one after the other, without a good answer between
        self._failed = 0  # likewise
        self._on_their_way = 0
        self._most_on_their_way = 1
        self._waiting: tuple[deque[asyncio.Future[None]], ...] = tuple(deque() for _ in Urgency)
        self._timer: asyncio.TimerHandle | None = None

    @property
    def remaining(self) -> int | None:
        """What Port said last is left of the organization's limit; None where it did not say so lately."""
        return None if self._told is None else self._told.remaining

    @property
    def limit(self) -> int | None:
        """How many calls Port allows in a period, as it said last; None where it did not say so lately."""
        return None if self._told is None else self._told.limit

    @property
    def pausing(self) -> bool:
        """Whether calls wait for time to pass: for the end of the pause after a 429, or at the pace of what is left."""
        if self._timer is None or not any(self._waiting):
            return False
        urgency = next((urgency for urgency in Urgency if self._waiting[urgency]), Urgency.FIRST)
        return max(self._held_until, self._last + self._interval(urgency)) > asyncio.get_running_loop().time()

    async def turn(self, urgency: Urgency = Urgency.FIRST) -> None:
        """Wait for the turn of a call. Who got it gives it back with `ended`, whatever becomes of the call."""
        loop = asyncio.get_running_loop()
        if not any(self._waiting) and self._wait(urgency, now := loop.time()) <= 0:
            self._begin(urgency, now)
            return
        mine = loop.create_future()
        self._waiting[urgency].append(mine)
        self._go_on()
        try:
            await mine
        except asyncio.CancelledError:
            if not mine.cancelled():
                self.ended()
            raise

    def ended(self) -> None:
        """Give a turn back."""
        self._on_their_way -= 1
        if any(self._waiting):
            self._go_on()

    def close(self) -> None:
        """Let all who wait go on: what they call has ended."""
        if self._timer is not None:
            self._timer.cancel()
        for turn in (turn for queue in self._waiting for turn in queue if not turn.done()):
            self._on_their_way += 1
            turn.set_result(None)
        for queue in self._waiting:
            queue.clear()

    def learn(self, status: int | None, told: RateLimit | None, asked: float | None) -> None:
        """Take note of what came of a call: its status (None: no answer), and what Port said of its limit.

        After a 429 nobody has a turn for the `asked` seconds, or for a growing pause where Port asks for none. While
        Port answers nothing well turns are spread out.
        """
        now = asyncio.get_running_loop().time()
        failed = status is None or status >= 500 or status in _NO_GOOD
        self._failed = self._failed + 1 if failed else 0
        if told is not None:
            self._told, self._told_until = told, now + max(_bounded(told.reset), STALE_SECONDS)
        if status == 429:
            self._hold(now, asked or 0.0)
        elif status is not None and status < 500 and now >= self._held_until:
            self._holds = 0
            self._most_on_their_way += 1

    def _hold(self, now: float, asked: float) -> None:
        if now >= self._held_until:
            asked = max(asked, min(FIRST_HOLD * 2**self._holds, LONGEST_HOLD))
            self._holds = min(self._holds + 1, 10)
        # Spread, so that workers who were told the same do not come back all at once.
        wait = min(asked, LONGEST_WAIT) * random.uniform(1.0, 1.1)  # noqa: S311
        self._held_until = max(self._held_until, now + wait)
        self._most_on_their_way = 1
        if self._told is not None:
            # What is left after the wait the first call will tell.
            self._told_until = min(self._told_until, self._held_until)

    def _wait(self, urgency: Urgency, now: float) -> float:
        """Seconds until the next turn, none or less for now."""
        if self._told is not None and now >= self._told_until:
            self._told, self._most_on_their_way = None, 1
        interval = self._interval(urgency)
        if self._on_their_way >= self._most_on_their_way:
            interval = max(interval, LATE_SECONDS)
        return max(self._held_until, self._last + interval) - now

    def _interval(self, urgency: Urgency) -> float:
        if self._failed >= AWAY_AFTER:
            away = AWAY_FIRST_INTERVAL if urgency is Urgency.FIRST else AWAY_INTERVAL
            return max(self._shortest, away)
        told = self._told
        if told is None or (told.limit is not None and told.remaining >= told.limit * PACED_BELOW):
            return self._shortest
        # The others' calls that are on their way nobody can know of; one's own are no longer left.
        left = max(told.remaining - self._on_their_way, 1)
        return max(self._shortest, _bounded(told.reset) / left)

    def _begin(self, urgency: Urgency, now: float) -> None:
        self._last = max(self._last + self._interval(urgency), now - _CATCH_UP)
        self._on_their_way += 1

    def _go_on(self) -> None:
        """Give turns to those who wait, as far as that is allowed now, and see to it that the next one gets his."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        while (urgency := self._first()) is not None:
            wait = self._wait(urgency, now)
            if wait > 0:
                self._timer = loop.call_later(wait, self._go_on)
                return
            self._waiting[urgency].popleft().set_result(None)
            self._begin(urgency, now)

    def _first(self) -> Urgency | None:
        """The urgency of who is next; None where nobody waits. Those who gave up are dropped."""
        for urgency in Urgency:
            queue = self._waiting[urgency]
            while queue and queue[0].done():
                queue.popleft()
            if queue:
                return urgency
        return None


def _bounded(reset: float) -> float:
    """Clocks differ, where the reset is told as an epoch."""
    return min(max(reset, SHORTEST_RESET), LONGEST_WAIT)
