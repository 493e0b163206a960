"""Keeps what a worker takes on within bounds: above `MAX_OPEN` open node runs the rest waits in Kafka.

Only arrivals wait, outcomes never. The router still passes on what belongs to others. Node runs with a held item do not
count: they have a bound of their own (`agents/holding.py`), and nothing that this worker does would end them.
"""

from __future__ import annotations

import logging
from typing import Final

from agents.shared import holding, overview, specs
from streams.app import app, settings

logger = logging.getLogger(__name__)
RESUME_SHARE: Final = 0.8
"""Of MAX_OPEN: with fewer open node runs than that, arrivals are taken on again."""


class Backlog:
    """Says how many more arrivals may be taken.

    Attributes:
        full: whether none may, on purpose.
        entering: how many node runs have been entered whose rows the changelog has not acknowledged yet. Where the
            broker is slow they are many more than what is counted as open by then.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.full = False
        self.entering = 0

    def look(self) -> None:
        """Begin or end to hold arrivals back, by how many node runs are open now, and not held."""
        count = self._count()
        if not self.full and count >= self._limit:
            self.full = True
            logger.info("%d node runs are open (MAX_OPEN=%d): further arrivals wait in Kafka", count, self._limit)
        elif self.full and count < self._limit * RESUME_SHARE:
            self.full = False
            logger.info("%d node runs are open: arrivals are taken on again", count)

    def room(self) -> int:
        """Return how many node runs may come besides those that are open. The consumer's thread asks."""
        return 0 if self.full else self._limit - self._count()

    def _count(self) -> int:
        return overview.open + self.entering - holding.node_runs


backlog: Final = Backlog(settings.max_open)


@app.timer(interval=1.0)  # type: ignore[untyped-decorator]
async def look_again() -> None:
    """Look, also where no event comes: partitions go and come with what is open in them."""
    backlog.look()


app.room[specs.arrivals.name] = backlog.room
app.on_settled.append(backlog.look)
