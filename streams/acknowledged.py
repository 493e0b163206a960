"""Up to where a partition may be committed: what was acknowledged, and the gaps that hold nothing to acknowledge.

Gaps are ranges, never lists of offsets: that of an aborted transaction, or of a log that was emptied, may be millions
of offsets wide, and costs as much as one that is one wide.
"""

from __future__ import annotations

from collections import deque


class Gaps:
    """Ranges of offsets of one partition that hold no record, in order."""

    def __init__(self) -> None:
        self._ranges: deque[range] = deque()

    def add(self, start: int, end: int) -> None:
        """Add the offsets from `start` up to, not including, `end`. They come in order; what is known is skipped."""
        start = max(start, self._ranges[-1].stop) if self._ranges else start
        if start < end:
            self._ranges.append(range(start, end))

    def leave_behind(self, offset: int) -> None:
        """Forget what is before an offset."""
        while self._ranges and self._ranges[0].stop <= offset:
            self._ranges.popleft()

    def beyond(self, offset: int) -> int:
        """Return the offset behind the gap that has `offset`; `offset` itself where none has it."""
        self.leave_behind(offset)
        return self._ranges[0].stop if self._ranges and self._ranges[0].start <= offset else offset

    def __len__(self) -> int:
        """Return how many ranges there are."""
        return len(self._ranges)


def passed(acknowledged: list[int], gaps: Gaps, committed: int | None) -> tuple[int, int] | None:
    """Return up to where everything is done, and how many acknowledged offsets that takes; None where nothing is.

    Args:
        acknowledged: offsets, in order.
        gaps: what lies between them; what is before the result is forgotten.
        committed: up to where everything was done before; None where that is not known: then all before the first one
            is. Faust does not tell of a gap of one offset that begins there.
    """
    if not acknowledged:
        return None
    end = acknowledged[0] if committed is None else max(gaps.beyond(committed), gaps.beyond(committed + 1))
    taken = 0
    for offset in acknowledged:
        end = gaps.beyond(end) if offset > end else end
        if offset > end and (taken or committed is None or offset > committed + 1):
            break
        end, taken = max(end, offset + 1), taken + 1
    return (end, taken) if taken else None
