"""Keeps what a worker takes on within bounds: above `MAX_OPEN` open node runs the rest waits in Kafka.

Only arrivals wait, outcomes never. The router still passes on what belongs to others. Node runs with a held item do not
count: they have a bound of their own (`agents/holding.py`), and nothing that this worker does would end them.
"""

from __future__ import annotations

import logging
from typing import Final

from faust.types import TP

from agents.shared import holding, overview, specs
from streams.app import app, settings

logger = logging.getLogger(__name__)
RESUME_SHARE: Final = 0.8
"""Of MAX_OPEN: with fewer open node runs than that, arrivals are taken on again."""


class Backlog:
    """Pauses the worker's partitions of the arrivals topic, and resumes them.

    Attributes:
        full: whether they are paused, on purpose.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.full = False

    def look(self) -> None:
        """Pause or resume, by how many node runs are open now, and not held."""
        count = overview.open - holding.node_runs
        if not self.full and count >= self._limit:
            self.full = True
            logger.info("%d node runs are open (MAX_OPEN=%d): further arrivals wait in Kafka", count, self._limit)
            app.consumer.pause_partitions(self._partitions())
        elif self.full and count < self._limit * RESUME_SHARE:
            self.full = False
            logger.info("%d node runs are open: arrivals are taken on again", count)
            app.consumer.resume_partitions(self._partitions())

    def again(self) -> None:
        """Called when a rebalance is over: Faust has resumed every partition."""
        self.full = False
        self.look()

    def _partitions(self) -> set[TP]:
        return {tp for tp in app.consumer.assignment() if tp.topic == specs.arrivals.name}


backlog: Final = Backlog(settings.max_open)
app.on_settled.append(backlog.again)
