"""What was found to be wrong with the topics themselves: records that are gone, and logs that went back.

Each is an ERROR in the log, a metric, and for a day a sentence on the overview.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from faust.types import TP

from streams.metrics import DELETED_RECORDS, LOG_REWINDS

logger = logging.getLogger(__name__)
KEPT_SECONDS: Final = 86_400.0
_MOST_KEPT: Final = 100


@dataclass(frozen=True)
class Incident:
    """Something that was found to be wrong."""

    at: float
    """In epoch seconds."""
    text: str
    """A sentence."""


class Incidents:
    """Those of this worker since its start.

    Args:
        clock: the epoch seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._found: deque[Incident] = deque(maxlen=_MOST_KEPT)

    def went_back(self, where: TP, reached: int, end: int, start: int) -> None:
        """Take note of a log that holds other records than it did, or ends sooner.

        Args:
            where: the partition, with the topic as people know it.
            reached: the offset up to which it had been read.
            end: where it ends now.
            start: from which offset on it is read again.
        """
        LOG_REWINDS.labels(where.topic).inc()
        self._add(
            f"The log of {where.topic}[{where.partition}] went back: it was read up to offset {reached:,}; now it ends "
            f"at {end:,}, or holds other records. They were lost on the broker, or an older copy was restored. What it "
            f"holds from offset {start:,} on is read again, and what is known of it is not done twice."
        )

    def deleted(self, where: TP, first: int, count: int) -> None:
        """Take note of records that were deleted before they were read.

        Args:
            where: the partition, with the topic as people know it.
            first: the offset of the first of them.
            count: how many offsets they had.
        """
        DELETED_RECORDS.labels(where.topic).inc(count)
        self._add(
            f"Up to {count:,} records of {where.topic}[{where.partition}] from offset {first:,} on were deleted before "
            "they were read: the topic's retention is shorter than the time that they waited, or somebody deleted "
            "them. Their node runs get no result: end them at Port, and raise retention.ms and retention.bytes."
        )

    def recent(self) -> list[Incident]:
        """Return those of the last day, the oldest first."""
        since = self._clock() - KEPT_SECONDS
        return [one for one in self._found if one.at >= since]

    def _add(self, text: str) -> None:
        logger.error("%s", text)
        self._found.append(Incident(self._clock(), text))
