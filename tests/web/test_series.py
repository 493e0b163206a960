"""The last hour for charts: steps of ten seconds, bounded, over real HTTP."""

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram

from streams.samples import Samples
from tests.web.conftest import NewClient
from tests.web.fakes import NOON
from web.series import STEP_SECONDS, STEPS, Series, count_of
from web.site import Area


class Counts:
    """What a worker counts."""

    def __init__(self) -> None:
        self.received = 5
        self.completed = {"SUCCESS": 3}
        self.now = NOON
        self.handler, self.report = Samples(), Samples()
        self.series = Series(
            "host-1",
            lambda: self.received,
            lambda: dict(self.completed),
            lambda: 7,
            self.handler,
            self.report,
            lambda: self.now,
        )

    def step(self) -> None:
        self.now += STEP_SECONDS
        self.series.step()


@pytest.fixture
def counts() -> Counts:
    return Counts()


@pytest.fixture
def areas(counts: Counts) -> list[Area]:
    return [counts.series]


async def test_what_happened_in_each_step(counts: Counts, new_client: NewClient) -> None:
    counts.handler.add(0.25)
    counts.series.late(0.2)
    counts.series.late(0.1)
    counts.step()
    counts.received += 2
    counts.completed |= {"SUCCESS": 4, "FAILED": 1}
    counts.report.add(1.5)
    counts.step()
    client = await new_client()
    shown = await (await client.get("/api/series")).json()
    nothing = {"handler": None, "report": None, "loopLag": 0.0}
    assert shown == {
        "worker": "host-1",
        "stepSeconds": 10,
        "steps": [
            nothing
            | {
                "at": "2027-01-15T08:00:00Z",
                "received": 5,
                "completed": {"SUCCESS": 3},
                "open": 7,
                "handler": {"count": 1, "p50": 0.25, "p99": 0.25},
                "loopLag": 0.2,
            },
            nothing
            | {
                "at": "2027-01-15T08:00:10Z",
                "received": 2,
                "completed": {"SUCCESS": 1, "FAILED": 1},
                "open": 7,
                "report": {"count": 1, "p50": 1.5, "p99": 1.5},
            },
        ],
    }


def test_an_hour_is_kept_and_no_more(counts: Counts) -> None:
    for _ in range(STEPS + 5):
        counts.step()
    steps = counts.series.shown().steps
    assert len(steps) == STEPS
    assert STEPS * STEP_SECONDS == 3600
    first, last = steps[0].at, steps[-1].at
    assert first is not None
    assert last is not None
    assert (last - first).total_seconds() == 3590


async def test_it_is_not_for_strangers(new_client: NewClient) -> None:
    client = await new_client("a-token")
    assert (await client.get("/api/series")).status == 401


def test_counts_are_summed_up_by_a_label() -> None:
    registry = CollectorRegistry()
    counter = Counter("c", "c", ["a", "b"], registry=registry)
    histogram = Histogram("h", "h", ["a"], registry=registry)
    counter.labels("x", "1").inc(2)
    counter.labels("x", "2").inc(3)
    counter.labels("y", "2").inc()
    histogram.labels("x").observe(0.1)
    assert count_of(counter, "a") == {"x": 5, "y": 1}
    assert count_of(counter, "a", b="2") == {"x": 3, "y": 1}
    assert count_of(histogram, "a", "_count") == {"x": 1}
