"""What the overview says and draws, and a node run's timeline: pure functions of what is shown."""

from datetime import UTC, datetime, timedelta

from tables.state import State
from tests.web.fakes import FakeWorker
from web.charts import HEIGHT, WIDTH, Bucket, charts
from web.data import Foreign, NodeRunList, NodeRunShown, PortShown, node_run_shown
from web.health import NotReady
from web.timeline import MOST_MOMENTS, timeline
from web.wellness import problems

NOW = datetime(2027, 1, 15, 9, tzinfo=UTC)


def _buckets(*p99: float | None, received: int = 4) -> list[Bucket]:
    return [Bucket(NOW + timedelta(minutes=n), received, 2, 1, one, one) for n, one in enumerate(p99)]


def _list(**port: object) -> NodeRunList:
    known = {"unreachable_since": None, "reports_waiting": 0, "oldest_received_at": None, "rate_limit_remaining": None}
    return NodeRunList(
        counts=dict.fromkeys(State, 0),
        node_runs=[],
        examined=0,
        workers=[],
        missing=[],
        foreign=Foreign(counts={}, samples=[]),
        port=PortShown.model_validate(known | port),
    )


def _shown(worker: FakeWorker, items: int = 100) -> NodeRunShown:
    return node_run_shown(worker.here.read("wfnr_a", 0, items))


class TestCharts:
    def test_no_line_is_made_of_one_bucket(self) -> None:
        assert charts([]) is None
        assert charts(_buckets(1.0)) is None

    def test_a_line_has_a_gap_where_nothing_ended(self) -> None:
        drawn = charts(_buckets(2.0, None, 1.0, 0.0))
        assert drawn is not None
        assert drawn.latency is not None
        [_, p99] = drawn.latency.lines
        assert (drawn.latency.top, p99.latest) == (2.0, 0.0)
        assert p99.path == "M0.0 0.0h.1M400.0 60.0h.1L600.0 120.0"
        assert (drawn.succeeded, drawn.failed) == (8, 4)

    def test_there_is_no_latency_where_nothing_ended(self) -> None:
        drawn = charts(_buckets(None, None, received=0))
        assert drawn is not None
        assert drawn.latency is None

    def test_many_buckets_are_put_together(self) -> None:
        drawn = charts(_buckets(*[float(n) for n in range(360)]))
        assert drawn is not None
        assert drawn.latency is not None
        assert (drawn.throughput.top, drawn.latency.top) == (24, 359.0)
        assert drawn.throughput.lines[0].path.count("L") == 59
        assert drawn.throughput.lines[0].path.endswith(f"L{WIDTH:.1f} 0.0")
        assert f"{HEIGHT:.1f}" not in drawn.throughput.lines[0].path


class TestProblems:
    def test_none_where_all_is_well(self) -> None:
        assert problems(_list(rate_limit_remaining=5000), None, NOW) == []

    def test_each_is_said(self) -> None:
        shown = _list(unreachable_since=NOW, oldest_received_at=NOW - timedelta(minutes=6), rate_limit_remaining=7)
        shown.counts[State.REFUSED] = 2
        said = problems(shown, NotReady.RECOVERING, NOW)
        for word in ("recovering", "does not answer", "older than 5 minutes", "7 calls", "refused the reports of 2"):
            assert any(word in one for one in said), word
        assert len(said) == 5


class TestTimeline:
    def test_from_the_receipt_to_ports_answer(self) -> None:
        worker = FakeWorker()
        worker.arrive("wfnr_a")
        assert [moment.what for moment in timeline(_shown(worker)).moments] == ["Received"]
        worker.end("wfnr_a", error="no")
        told = timeline(_shown(worker)).moments
        assert [one.what for one in told] == ["Received", "attempt 1 started", "FAILED", "Report on its way to Port"]
        assert told[2].since == 20.5
        worker.settle("wfnr_a")
        last = timeline(_shown(worker)).moments[-1]
        assert (last.what, last.kind) == ("Port answered the report: HTTP 200", "good")
        assert last.detail == "covers 1 of 1, full body"

    async def test_what_is_to_come(self) -> None:
        worker = FakeWorker()
        worker.arrive("wfnr_a", count=2)
        worker.defer("wfnr_a")
        worker.run("wfnr_a", 1)
        told = [(moment.what, moment.kind) for moment in timeline(_shown(worker)).moments]
        assert ("Item 0: is called again", "waits") in told
        assert told[-1] == ("Item 1: running", "started")

    def test_a_large_one_is_cut_in_the_middle(self) -> None:
        worker = FakeWorker()
        worker.arrive("wfnr_a", count=100)
        for index in range(100):
            worker.end("wfnr_a", index)
        worker.settle("wfnr_a")
        told = timeline(_shown(worker))
        assert (len(told.moments), told.left_out) == (MOST_MOMENTS, 202 - MOST_MOMENTS)
        assert (told.moments[0].what, told.moments[-1].kind) == ("Received", "good")
