"""Event types with `*`, which stands for any characters, or none."""

from __future__ import annotations

from functools import cache


def is_pattern(event_type: str) -> bool:
    """Whether it is a pattern, not one event type."""
    return "*" in event_type


def rank(pattern: str) -> int:
    """Return what decides between patterns that match the same: the length of what stands before the first `*`."""
    return pattern.index("*")


def matches(pattern: str, event_type: str) -> bool:
    """Whether a pattern matches an event type. Takes time linear in its length: it comes from outside."""
    first, *middle, last = pattern.split("*")
    at, end = len(first), len(event_type) - len(last)
    if at > end or not event_type.startswith(first) or not event_type.endswith(last):
        return False
    for part in middle:
        found = event_type.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def takes(declared_for: str, event_type: str) -> bool:
    """Whether what a handler is declared for, an event type or a pattern, is or matches an event type."""
    return declared_for == event_type or (is_pattern(declared_for) and matches(declared_for, event_type))


def overlap(one: str, other: str) -> bool:
    """Whether there is an event type that both patterns match."""

    @cache
    def meet(a: int, b: int) -> bool:
        if a < len(one) and one[a] == "*":
            return meet(a + 1, b) or (b < len(other) and meet(a, b + 1))
        if b < len(other) and other[b] == "*":
            return meet(a, b + 1) or (a < len(one) and meet(a + 1, b))
        if a == len(one) or b == len(other):
            return a == len(one) and b == len(other)
        return one[a] == other[b] and meet(a + 1, b + 1)

    return meet(0, 0)
