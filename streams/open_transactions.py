"""Transactions of producers that stay open: what is behind the first record of one cannot be read."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from faust.types import TP

logger = logging.getLogger(__name__)
HANGING_SECONDS: Final = 60.0
"""A transaction that is open for longer hangs, most likely: Kafka's own producers have it aborted after that time."""


@dataclass(frozen=True)
class OpenTransaction:
    """A transaction that keeps a partition from being read."""

    where: TP
    offset: int
    """Of its first record, at which the partition ends for readers."""
    seconds: float
    """For how long at least it has been open."""

    @property
    def text(self) -> str:
        """A sentence that says what to do."""
        topic, partition = self.where
        return (
            f"A transaction of a producer has been open in {topic}[{partition}] from offset {self.offset:,} on for "
            f"{self.seconds:.0f} s: nothing behind it can be read. Where its producer is gone abort it: "
            "kafka-transactions.sh --bootstrap-server <broker> abort "
            f"--topic {topic} --partition {partition} --start-offset {self.offset}"
        )


class OpenTransactions:
    """Those in the partitions that this worker reads.

    Args:
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[TP, tuple[int, float]] = {}
        self._said: set[tuple[TP, int]] = set()

    def saw(self, found: Mapping[TP, int | None]) -> None:
        """Take note of where partitions end for readers because of a transaction; None where none is in the way."""
        now, before = self._clock(), self._since
        held = {tp: offset for tp, offset in found.items() if offset is not None}
        self._since = {
            tp: before[tp] if before.get(tp, (-1, now))[0] == offset else (offset, now) for tp, offset in held.items()
        }
        self._said = {(tp, offset) for tp, offset in self._said if held.get(tp) == offset}
        for one in self.hanging():
            if (one.where, one.offset) not in self._said:
                self._said.add((one.where, one.offset))
                logger.error("%s", one.text)

    def all(self) -> list[OpenTransaction]:
        """Return them, also those that are open as any is."""
        now = self._clock()
        return [OpenTransaction(tp, offset, now - since) for tp, (offset, since) in sorted(self._since.items())]

    def hanging(self) -> list[OpenTransaction]:
        """Return those that have been open for too long."""
        return [one for one in self.all() if one.seconds >= HANGING_SECONDS]
