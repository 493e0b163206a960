"""The one index of what becomes due: retries, ends of deferrals and of grace, and items that are held."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable
from typing import Final

_LONGEST_SLEEP: Final = 3600.0


class DueIndex:
    """Calls back at points in time, given in epoch seconds. Used from one event loop.

    An entry belongs to a partition, and goes with it. The heap is the event loop's own.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._entries: dict[int, dict[Hashable, asyncio.TimerHandle]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._entries.values()))

    def keys(self, partition: int) -> list[Hashable]:
        """Return what of a partition is to become due."""
        return list(self._entries.get(partition, ()))

    def waits(self, partition: int, key: Hashable) -> bool:
        """Whether there is such an entry."""
        return key in self._entries.get(partition, {})

    def set(self, partition: int, key: Hashable, at: float, call: Callable[[], None]) -> None:
        """Call `call` at `at`, at once if that has passed; takes the place of an entry with the same key."""
        self.drop(partition, key)
        # Slept in steps, so that a wall clock set forward is noticed within one.
        delay = min(max(0.0, at - self._clock()), _LONGEST_SLEEP)
        handle = asyncio.get_running_loop().call_later(delay, self._fire, partition, key, at, call)
        self._entries.setdefault(partition, {})[key] = handle

    def _fire(self, partition: int, key: Hashable, at: float, call: Callable[[], None]) -> None:
        self._entries.get(partition, {}).pop(key, None)
        if at > self._clock():
            self.set(partition, key, at, call)
            return
        call()

    def drop(self, partition: int, key: Hashable) -> None:
        """Forget an entry, if there is one."""
        handle = self._entries.get(partition, {}).pop(key, None)
        if handle is not None:
            handle.cancel()

    def drop_partition(self, partition: int) -> None:
        """Forget every entry of a partition."""
        for handle in self._entries.pop(partition, {}).values():
            handle.cancel()
