"""The last hour for charts: steps of ten seconds, bounded, over real HTTP."""

import json

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram

from streams.samples import Samples
from tests.web.conftest import NewClient
from tests.web.fakes import NOON
from tests.web.pairs import BEARER, Pair
from web.data import instant
from web.series import STEP_SECONDS, STEPS, Latency, Series, Step, added_up, count_of


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


def test_what_happened_in_each_step(counts: Counts) -> None:
    counts.handler.add(0.25)
    counts.series.late(0.2)
    counts.series.late(0.1)
    counts.step()
    counts.received += 2
    counts.completed |= {"SUCCESS": 4, "FAILED": 1}
    counts.report.add(1.5)
    counts.step()
    shown = json.loads(counts.series.shown().to_json())
    nothing = {"handler": None, "report": None, "loopLag": 0.0}
    assert shown == {
        "scope": "this worker",
        "missing": [],
        "missingWorkers": [],
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


def test_a_step_begins_at_ten_seconds_of_the_clock_however_late_it_ends(counts: Counts) -> None:
    for late in (0.4, -0.001, 3.0):
        counts.now += late
        counts.step()
        counts.now -= late
    steps = counts.series.shown().steps
    assert [step.at for step in steps] == [instant(NOON + number * STEP_SECONDS) for number in range(3)]


def step(number: int, **fields: object) -> Step:
    known = {"received": 1, "completed": {}, "open": 1, "handler": None, "report": None, "loop_lag": 0.0}
    return Step.model_validate(known | {"at": instant(NOON + number * STEP_SECONDS)} | fields)


def test_steps_of_several_workers_are_added_up() -> None:
    one = [
        step(0, completed={"SUCCESS": 3}),
        step(1, handler=Latency(count=2, p50=0.1, p99=3.0), loop_lag=0.5),
        step(2),
    ]
    other = [step(1, completed={"SUCCESS": 1, "FAILED": 2}, handler=Latency(count=5, p50=0.2, p99=0.4)), step(2)]
    assert added_up([one, other]) == [
        one[0],
        step(
            1,
            received=2,
            open=2,
            completed={"SUCCESS": 1, "FAILED": 2},
            handler=Latency(count=7, p50=0.2, p99=3.0),
            loop_lag=0.5,
        ),
        step(2, received=2, open=2),
    ]


def test_what_only_some_have_made_is_left_out() -> None:
    assert added_up([[step(0), step(1)], [step(0)]]) == [step(0, received=2, open=2)]
    assert added_up([[step(0), step(1)], []]) == [step(0), step(1)]
    assert added_up([[], []]) == []
    assert len(added_up([[step(number) for number in range(STEPS + 9)]])) == STEPS


async def test_it_is_of_all_workers_and_says_who_is_missing(pair: Pair, steps: list[Step]) -> None:
    steps.append(step(0, completed={"SUCCESS": 3}))
    for client in (pair.first, pair.second):
        shown = await (await client.get("/api/series", headers=BEARER)).json()
        assert (shown["scope"], shown["missing"], shown["missingWorkers"]) == ("all workers", [], [])
        assert [(one["received"], one["completed"]) for one in shown["steps"]] == [(2, {"SUCCESS": 6})]
    own = await (await pair.first.get("/api/series?scope=worker", headers=BEARER)).json()
    assert (own["worker"], own["scope"], own["steps"][0]["received"]) == ("host-0123abcd", "this worker", 1)
    await pair.second.close()
    shown = await (await pair.first.get("/api/series", headers=BEARER)).json()
    assert (shown["missing"], [one["worker"] for one in shown["missingWorkers"]]) == ([1, 3, 5, 7], ["host-other"])
    assert [one["received"] for one in shown["steps"]] == [1]


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
