"""What a worker remembers of a report that Port has not answered for good, and when it is tried again.

Pure: the times are given. It is kept in memory alone; a new owner of the partition tries anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from port.client import Answer
from port.routes import Route
from streams.records import Tries, Try

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0
LONGEST_PARKED: Final = 900.0
LONGEST_ASKED_PAUSE: Final = 300.0
"""No longer pause is heeded, whoever asks for it."""
PARK_AFTER: Final = 5
"""A report is parked when it has failed so often while Port took others: by the pauses, after a quarter of a minute."""
UNKNOWN_SECONDS: Final = 120.0
"""So long after the first 404, by the worker's own clock, a node run may yet become known to Port: its message may have
been quicker than what Port's API reads from, or the clocks of who published it, and of Port, may differ."""
MOST_UNKNOWN: Final = 6
"""Calls that are answered with 404 until that counts, both routes together."""
_UNKNOWN_AT: Final = (0.0, 1.0, 6.0, 30.0, UNKNOWN_SECONDS)
"""When the second call is made where there are two routes, and those after it; in seconds from the first 404."""
MOST_TRIES: Final = 5
"""The tries of a report that are remembered each; of the others, how many there were."""
_REASON_CHARACTERS: Final = 200


@dataclass(slots=True)
class Tried:
    """The tries of one report, or of one line for a log, that settled nothing."""

    partition: int
    arrived: bool
    """Whether one of them may have arrived all the same."""
    count: int = 0
    latest: tuple[Try, ...] = ()
    answer: Answer | None = None
    """That of the latest try."""
    failed: int = 0
    """How many failed, whoever else's did."""
    own: int = 0
    """How many failed after Port had taken another report since the one before."""
    taken: int = 0
    """How many others Port had taken when the latest failed."""
    disputed: Answer | None = None
    """An answer that is to be judged by a look at the workflow run, which has failed so far."""
    unknown: int = 0
    """How many were answered with 404."""
    unknown_since: float = 0.0
    """The monotonic time of the first of them."""
    routes: set[Route] = field(default_factory=set)
    """The routes by which Port did not know the node run."""
    parked_at: float | None = None
    """Epoch seconds since when it is parked; None where it is not."""

    def shown(self) -> Tries:
        """Return them for the views."""
        return Tries(count=self.count, latest=self.latest)

    def note(self, answer: Answer, at: float) -> None:
        """Take note of one more."""
        self.count += 1
        self.answer = answer
        self.arrived = self.arrived or answer.maybe_arrived
        reason = answer.reason.strip().partition("\n")[0][:_REASON_CHARACTERS] or None
        self.latest = (*self.latest[1 - MOST_TRIES :], Try(at=at, status=answer.status, reason=reason))

    def fail(self, taken: int, at: float) -> bool:
        """Take note that the latest failed, and how many others Port has taken by now; returns whether it parks it."""
        self.own += self.failed > 0 and taken > self.taken
        self.failed, self.taken = self.failed + 1, taken
        if self.parked_at is not None or self.own < PARK_AFTER:
            return False
        self.parked_at = at
        return True

    @property
    def pause(self) -> tuple[float, float]:
        """The shortest and the longest pause before the next try, in seconds; who waits draws one between them."""
        if self.parked_at is not None:
            pause = min(LONGEST_PAUSE * 2 ** min(self.own - PARK_AFTER + 1, 10), LONGEST_PARKED)
            return 0.9 * pause, pause
        asked = None if self.answer is None else self.answer.retry_after
        pause = min(FIRST_PAUSE * 2 ** min(self.failed - 1, 10), LONGEST_PAUSE)
        # Port may ask for no pause at all ("Retry-After: 0"): heeded, that would be a loop without one.
        if asked is None or asked < pause:
            return pause, pause + 1.0
        # Spread, so that those who were told the same do not come back all at once.
        asked = min(asked, LONGEST_ASKED_PAUSE)
        return asked, 1.1 * asked

    def miss(self, route: Route, now: float) -> None:
        """Take note that Port does not know the node run by this route."""
        if not self.unknown:
            self.unknown_since = now
        self.unknown += 1
        self.routes.add(route)

    def next_route(self, usable: tuple[Route, ...], now: float) -> Route:
        """Return the route to try next: one that was not tried, else by turns; the last time by node run alone."""
        untried = [route for route in usable if route not in self.routes]
        if untried:
            return untried[0]
        last = self.unknown >= MOST_UNKNOWN - 1 or now - self.unknown_since >= UNKNOWN_SECONDS
        return Route.ALONE if last else usable[self.unknown % len(usable)]

    def look_in(self, usable: tuple[Route, ...], now: float) -> float | None:
        """Return in how many seconds Port may know the node run; None where it does not, and that is the end of it."""
        waited = now - self.unknown_since
        if self.unknown >= MOST_UNKNOWN or (waited >= UNKNOWN_SECONDS and self.routes.issuperset(usable)):
            return None
        at = _UNKNOWN_AT[min(self.unknown - (len(usable) > 1), len(_UNKNOWN_AT) - 1)]
        return max(0.0, at - waited)
