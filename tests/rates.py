"""What a rate limit is held against."""

from collections.abc import Sequence


def most_within(times: Sequence[float], seconds: float) -> int:
    """The largest number of calls in any window of this length."""
    first = most = 0
    for last, time in enumerate(times):
        while time - times[first] > seconds:
            first += 1
        most = max(most, last - first + 1)
    return most
