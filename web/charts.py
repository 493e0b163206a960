"""Charts of the last hour, as the numbers of an inline SVG: pages draw them without a script."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

WIDTH: Final = 600
HEIGHT: Final = 120
"""Of the drawing, in its own units."""
_MOST_COLUMNS: Final = 60


@dataclass(frozen=True)
class Bucket:
    """What was counted in one span of time; latencies in seconds, None where nothing ended."""

    at: datetime
    """When it began."""
    received: int
    succeeded: int
    failed: int
    p50: float | None
    p99: float | None


@dataclass(frozen=True)
class Line:
    """A line of a chart."""

    name: str
    """What it shows, in one word; also its class in the style."""
    path: str
    """The `d` of an SVG path, in WIDTH by HEIGHT."""
    latest: float | None


@dataclass(frozen=True)
class Chart:
    """Lines over one scale, which begins at 0: node runs a minute, or seconds."""

    top: float
    """The value at the upper edge."""
    begins_at: datetime
    ends_at: datetime
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Charts:
    """Both charts, and what was completed in their time."""

    throughput: Chart
    latency: Chart | None
    """None where nothing has ended."""
    succeeded: int
    failed: int


def charts(buckets: Sequence[Bucket], step_seconds: float) -> Charts | None:
    """Return the charts of buckets of so many seconds, the oldest first; None of less than two, which make no line."""
    size = -(-len(buckets) // _MOST_COLUMNS) or 1
    # All columns are whole: a part of one would show as a dip.
    columns = [_together(buckets[end - size : end]) for end in range(len(buckets), size - 1, -size)][::-1]
    if len(columns) < 2:
        return None
    minutes = size * step_seconds / 60
    counted: dict[str, Callable[[Bucket], float | None]] = {
        "received": lambda one: one.received / minutes,
        "succeeded": lambda one: one.succeeded / minutes,
        "failed": lambda one: one.failed / minutes,
    }
    timed: dict[str, Callable[[Bucket], float | None]] = {"p50": lambda one: one.p50, "p99": lambda one: one.p99}
    return Charts(
        throughput=_chart(columns, counted),
        latency=_chart(columns, timed) if any(one.p99 is not None for one in columns) else None,
        succeeded=sum(one.succeeded for one in buckets),
        failed=sum(one.failed for one in buckets),
    )


def _together(some: Sequence[Bucket]) -> Bucket:
    return Bucket(
        at=some[0].at,
        received=sum(one.received for one in some),
        succeeded=sum(one.succeeded for one in some),
        failed=sum(one.failed for one in some),
        # Quantiles cannot be added up: the worst of them is the honest one.
        p50=_worst(one.p50 for one in some),
        p99=_worst(one.p99 for one in some),
    )


def _worst(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _chart(columns: Sequence[Bucket], series: dict[str, Callable[[Bucket], float | None]]) -> Chart:
    values = {name: [value_of(one) for one in columns] for name, value_of in series.items()}
    top = max((value for line in values.values() for value in line if value is not None), default=0) or 1.0
    return Chart(
        top=top,
        begins_at=columns[0].at,
        ends_at=columns[-1].at,
        lines=tuple(Line(name, _path(line, top), line[-1]) for name, line in values.items()),
    )


def _path(values: Sequence[float | None], top: float) -> str:
    """Return a path with a gap where there is no value; a value that stands alone is a short stroke."""
    step = WIDTH / (len(values) - 1)
    parts: list[str] = []
    drawn = False
    for number, value in enumerate(values):
        if value is None:
            drawn = False
            continue
        x, y = number * step, HEIGHT * (1 - value / top)
        parts.append(f"L{x:.1f} {y:.1f}" if drawn else f"M{x:.1f} {y:.1f}h.1")
        drawn = True
    return "".join(parts)
