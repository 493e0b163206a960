"""What the overview says and draws, and a node run's timeline: pure functions of what is shown."""

from datetime import UTC, datetime, timedelta

import pytest

from agents.cancelling import Cancellation, RunningCall
from streams.records import (
    Action,
    Body,
    ItemAgain,
    ItemCompleted,
    ItemDeferred,
    ReportAgain,
    RunCancelled,
    Settled,
    Tries,
    Try,
)
from tables.state import State
from tests.web.fakes import NOON, FakeWorker, lines
from web.charts import HEIGHT, WIDTH, Bucket, charts
from web.data import Foreign, MissingWorker, NodeRunList, NodeRunShown, PortShown, instant, node_run_shown
from web.others import Missing
from web.overview import (
    FailedShown,
    OldestShown,
    OverviewShown,
    Pulse,
    SourceStatus,
    TopicLag,
    UnreadableShown,
    WorkShown,
    added_up,
)
from web.timeline import MOST_MOMENTS, timeline
from web.wellness import LATE, OLD_LAG_SECONDS, problems

NOW = datetime(2027, 1, 15, 9, tzinfo=UTC)


def _buckets(*p99: float | None, received: int = 4) -> list[Bucket]:
    return [Bucket(NOW + timedelta(minutes=n), received, 2, 1, one, one) for n, one in enumerate(p99)]


def pulse(**fields: object) -> Pulse:
    known: dict[str, object] = {
        "worker": "host-1",
        "url": "",
        "partitions": [],
        "assigned": [],
        "version": "1",
        "state": "ready",
        "recovery_remaining": 0,
        "uptime_seconds": 1.0,
        "memory_bytes": 1,
        "loop_lag_seconds": 0.01,
        "running": {},
        "waiting": 0,
        "stuck": None,
    }
    return Pulse.model_validate(known | fields)


def lag(seconds: float, records: int = 7, topic: str = "o.runs", partition: int = 2) -> TopicLag:
    return TopicLag(
        topic=topic, records=records, worst_partition=partition, worst_records=records, oldest_seconds=seconds
    )


def oldest(seconds: float, node_run_id: str = "wfnr_a") -> OldestShown:
    return OldestShown(node_run_id=node_run_id, index=0, event_type="greet", seconds=seconds)


def overview(
    *,
    port: dict[str, object] | None = None,
    work: dict[str, object] | None = None,
    counts: dict[State, int] | None = None,
    **fields: object,
) -> OverviewShown:
    away = {"unreachable_since": None, "reports_waiting": 0, "oldest_received_at": None, "rate_limit_remaining": None}
    idle: dict[str, object] = {
        "running": 0,
        "queued": 0,
        "oldest": None,
        "held": 0,
        "near_deadline": 0,
        "paused": {},
    }
    latest = NodeRunList(
        counts=dict.fromkeys(State, 0) | (counts or {}),
        node_runs=[],
        examined=0,
        workers=[],
        missing=[],
        foreign=Foreign(counts={}, samples=[]),
        port=PortShown.model_validate(away | (port or {})),
    )
    known: dict[str, object] = {
        "at": NOW,
        "workers": [pulse()],
        "lags": [],
        "sources": [],
        "incidents": [],
        "work": WorkShown.model_validate(idle | (work or {})),
        "failed": FailedShown(number=0, latest=[]),
        "dead_letters": 0,
        "latest": latest,
    }
    return OverviewShown.model_validate(known | fields)


GONE = MissingWorker(worker="host-2", url="http://x", partitions=[1], why="nobody listens there")
AWAY = SourceStatus(worker="host-1", connected=False, problem="no broker answers", since=NOW)
ROW = UnreadableShown(
    partition=3,
    key="o/wfnr_a",
    kind="open node run",
    node_run_id="wfnr_a",
    why="no JSON",
    effect="nothing is done with it",
)
OWNER = ROW.model_copy(update={"partition": 1, "key": "p/owner", "kind": "owner", "node_run_id": None})
NOT_WELL = [
    (overview(missing_workers=[GONE]), "bad", "host-2 gives no answer: nobody listens there", "/workers"),
    (overview(missing=[1, 3]), "bad", "partitions 1, 3", "/workers"),
    (overview(workers=[pulse(kafka="Kafka does not answer since noon")]), "bad", "since noon. Calls go on", "/workers"),
    (
        overview(workers=[pulse(misfit="topic a has 12: do this")]),
        "bad",
        "started: topic a has 12: do this.",
        "/workers",
    ),
    (overview(workers=[pulse(stuck="stuck: router")]), "bad", "no progress: stuck: router", "/workers"),
    (overview(workers=[pulse(state="recovering")]), "bad", "host-1 is not ready: recovering", "/workers"),
    (overview(sources=[AWAY]), "bad", "cannot copy from the source: no broker answers", "/workers"),
    (overview(incidents=["The log of t[0] went back."]), "bad", "The log of t[0] went back.", "/workers"),
    (
        overview(port={"trouble": {"kind": "credentials", "since": NOW, "said": "Port refuses our credentials."}}),
        "bad",
        "Port refuses our credentials.",
        "/node-runs?state=reporting",
    ),
    (
        overview(port={"oldest_waits_since": NOW - timedelta(minutes=6)}),
        "bad",
        "report waits for 6 min 0 s",
        "/node-runs?state=reporting",
    ),
    (
        overview(port={"parked": 2}),
        "bad",
        "2 reports parked: Port fails at them, and takes others.",
        "/stuck?why=parked",
    ),
    (overview(counts={State.REFUSED: 2}), "bad", "has refused 2 reports", "/stuck"),
    (overview(lags=[lag(61.0), lag(0.0)]), "bad", "7 records of o.runs wait, the oldest for 1 min 1 s", "/workers"),
    (overview(dead_letters=1), "bad", "1 dead letter came", "/dead-letters"),
    (
        overview(unreadable=[ROW], unreadable_rows=1),
        "bad",
        "Row o/wfnr_a of partition 3 of the ledger cannot be read (no JSON): nothing is done",
        "/node-runs/wfnr_a",
    ),
    (
        overview(topic_problems=["org.runs: max.message.bytes is 1: larger records are refused; set it"]),
        "bad",
        "Topic org.runs: max.message.bytes is 1: larger records are refused; set it.",
        "/dead-letters",
    ),
    (overview(unreadable=[OWNER], unreadable_rows=1), "bad", "Row p/owner of partition 1", "#unreadable"),
    (
        overview(port={"rate_limit_remaining": 749, "rate_limit": 15_000}),
        "warning",
        "749 calls left of 15,000 of the organization's rate limit",
        "#port",
    ),
    (overview(port={"rate_limit_remaining": 7}), "warning", "7 calls left of the", "#port"),
    (overview(failed=FailedShown(number=10, latest=[])), "warning", "10 node runs failed", "/failures?within=hour"),
    (overview(work={"oldest": oldest(301.0)}), "warning", "of greet waits for a free place", "/node-runs/wfnr_a"),
    (overview(work={"near_deadline": 1}), "warning", "1 call near the deadline", "/node-runs?state=running"),
    (overview(work={"paused": {"greet": 4}}), "warning", "greet is paused: 4 items wait", "/handlers"),
    (overview(work={"held": 1}), "warning", "1 item waits for a handler", "/stuck"),
    (overview(workers=[pulse(loop_lag_seconds=1.5)]), "warning", "host-1 was late by 1.5 s", "/workers"),
]


def test_many_unreadable_rows_are_told_by_their_number() -> None:
    rows = [ROW.model_copy(update={"key": f"o/wfnr_{n}", "node_run_id": f"wfnr_{n}"}) for n in range(20)]
    told = problems(overview(unreadable=rows, unreadable_rows=1007), 100)
    assert len(told) == 6
    assert told[-1].text == "1,002 further rows of the ledger cannot be read."


class TestAddedUp:
    def test_unreadable_rows_of_all_workers_are_told(self) -> None:
        told = [overview(unreadable=[ROW], unreadable_rows=3), overview(unreadable=[OWNER], unreadable_rows=1)]
        shown = added_up(told, 10, Missing(partitions=[], workers=[]))
        assert (shown.unreadable, shown.unreadable_rows) == ([ROW, OWNER], 4)

    def test_lags_have_the_worst_partition_and_the_oldest_record(self) -> None:
        one = overview(lags=[lag(3.0, 7), lag(0.0, 1, "o.arrivals")])
        other = overview(lags=[lag(9.0, 4, partition=5)])
        shown = added_up([one, other], 10, Missing(partitions=[], workers=[]))
        assert shown.lags == [
            lag(0.0, 1, "o.arrivals"),
            TopicLag(topic="o.runs", records=11, worst_partition=2, worst_records=7, oldest_seconds=9.0),
        ]

    def test_work_is_summed_up_and_dead_letters_are_everybodys(self) -> None:
        one = overview(work={"running": 2, "queued": 1, "paused": {"a": 0}}, dead_letters=3)
        other = overview(work={"running": 3, "oldest": oldest(4.0), "paused": {"a": 2, "b": 1}}, dead_letters=3)
        shown = added_up([one, other], 10, Missing(partitions=[7], workers=[GONE]))
        assert (shown.work.running, shown.work.queued, shown.work.oldest) == (5, 1, oldest(4.0))
        assert (shown.work.paused, shown.dead_letters) == ({"a": 2, "b": 1}, 3)
        assert (shown.missing, shown.missing_workers, shown.scope) == ([7], [GONE], "all workers")


def _shown(worker: FakeWorker, items: int = 100) -> NodeRunShown:
    return node_run_shown(worker.here.read("wfnr_a", 0, items))


class TestCharts:
    def test_no_line_is_made_of_one_bucket(self) -> None:
        assert charts([], 60) is None
        assert charts(_buckets(1.0), 60) is None

    def test_a_line_has_a_gap_where_nothing_ended(self) -> None:
        drawn = charts(_buckets(2.0, None, 1.0, 0.0), 60)
        assert drawn is not None
        assert drawn.latency is not None
        [_, p99] = drawn.latency.lines
        assert (drawn.latency.top, p99.latest) == (2.0, 0.0)
        assert p99.path == "M0.0 0.0h.1M400.0 60.0h.1L600.0 120.0"
        assert (drawn.succeeded, drawn.failed) == (8, 4)

    def test_there_is_no_latency_where_nothing_ended(self) -> None:
        drawn = charts(_buckets(None, None, received=0), 60)
        assert drawn is not None
        assert drawn.latency is None

    def test_many_buckets_are_put_together(self) -> None:
        drawn = charts(_buckets(*[float(n) for n in range(360)]), 10)
        assert drawn is not None
        assert drawn.latency is not None
        assert (drawn.throughput.top, drawn.latency.top) == (24.0, 359.0)
        assert drawn.throughput.lines[0].path.count("L") == 59
        assert drawn.throughput.lines[0].path.endswith(f"L{WIDTH:.1f} 0.0")
        assert f"{HEIGHT:.1f}" not in drawn.throughput.lines[0].path

    def test_numbers_are_of_a_minute_whatever_a_column_is(self) -> None:
        for step_seconds, rate in ((10, 24.0), (60, 4.0)):
            drawn = charts(_buckets(None, None, None), step_seconds)
            assert drawn is not None
            assert drawn.throughput.lines[0].latest == rate

    def test_every_column_is_whole(self) -> None:
        # Of 61 the first is left out: it would be half a column.
        drawn = charts(_buckets(*[1.0] * 61), 10)
        assert drawn is not None
        assert drawn.throughput.lines[0].path == "M0.0 0.0h.1" + "".join(
            f"L{number * WIDTH / 29:.1f} 0.0" for number in range(1, 30)
        )


class TestProblems:
    def test_none_where_all_is_well(self) -> None:
        assert problems(overview(port={"rate_limit_remaining": 5000, "rate_limit": 15_000}), 0) == []

    @pytest.mark.parametrize(("shown", "severity", "said", "to"), NOT_WELL)
    def test_each_is_said_and_leads_on(self, shown: OverviewShown, severity: str, said: str, to: str) -> None:
        [one] = problems(shown, 100)
        assert (one.severity, one.to) == (severity, to)
        assert said in one.text

    def test_just_below_is_well(self) -> None:
        shown = overview(
            lags=[lag(OLD_LAG_SECONDS)],
            work={"oldest": oldest(LATE.total_seconds())},
            failed=FailedShown(number=10, latest=[]),
            port={"oldest_waits_since": NOW - LATE, "rate_limit_remaining": 750, "rate_limit": 15_000},
            workers=[pulse(loop_lag_seconds=1.0), pulse(state="no-partitions"), pulse(state="source-away")],
        )
        assert problems(shown, 101) == []

    def test_the_worst_is_first(self) -> None:
        shown = overview(work={"paused": {"greet": 1}, "held": 2}, dead_letters=1, missing=[3])
        told = problems(shown, 0)
        assert [one.severity for one in told] == ["bad", "bad", "warning", "warning"]
        assert told[0].text == "No worker shows partitions 3."


class TestTimeline:
    def test_from_the_receipt_to_ports_answer(self) -> None:
        worker = FakeWorker()
        worker.arrive("wfnr_a")
        assert said(worker) == ["Received", "Waiting"]
        worker.end("wfnr_a", error="no")
        told = timeline(_shown(worker)).moments
        assert [one.what for one in told] == [
            "Received",
            "Waiting",
            "attempt 1 started",
            "FAILED",
            "Report on its way to Port",
        ]
        assert told[1].detail == "19.0 s until the first call"
        assert (told[3].since, told[3].detail) == (20.5, "no")
        worker.settle("wfnr_a")
        last = timeline(_shown(worker)).moments[-1]
        assert (last.what, last.kind) == ("Port answered the report: HTTP 200", "good")
        assert last.detail == "covers 1 of 1, full body"

    async def test_each_attempt_with_its_end_when_the_next_is_due_and_its_lines(self) -> None:
        worker = FakeWorker()
        worker.arrive("wfnr_a")
        worker.defer("wfnr_a", error="token=abc is busy", logs=lines("trying with password=p", "still"))
        worker.defer("wfnr_a", attempt=2)
        worker.end("wfnr_a", attempt=3, logs=lines("done"))
        told = timeline(_shown(worker)).moments
        assert [one.what for one in told[2:-1]] == [
            "attempt 1 started",
            "raised, and is called again",
            "attempt 2 started",
            "raised, and is called again",
            "attempt 3 started",
            "SUCCESS",
        ]
        assert (told[3].detail, told[3].due) == ("token=*** is busy", instant(NOON + 600))
        assert told[3].lines is not None
        assert [line.text for line in told[3].lines.latest] == ["trying with password=***", "still"]
        assert told[1].detail == "8.0 s until the first call"
        assert told[7].lines is not None
        keys = [one.key for one in told if one.lines is not None]
        assert keys == ["lines-0-1-raised", "lines-0-3"]

    async def test_a_deferral_and_the_word_that_ends_it(self) -> None:
        worker = FakeWorker()
        worker.arrive("wfnr_a")
        known = {"node_run_id": "wfnr_a", "index": 0}
        deferred = {"message": 0, "attempt": 1, "until": NOON + 900, "worker": "w", "started_at": NOON + 9}
        worker.outcome(ItemDeferred.model_validate(known | deferred | {"at": NOON + 10}))
        assert said(worker)[2:] == [
            "attempt 1 started",
            "deferred: waits for a callback",
            "waits for a callback until then",
        ]
        word = {"result": "SUCCESS", "output": "{}", "digest": "d", "by": "callback", "at": NOON + 50}
        worker.outcome(ItemCompleted.model_validate(known | word))
        told = timeline(_shown(worker)).moments
        assert [one.what for one in told[2:5]] == ["attempt 1 started", "deferred: waits for a callback", "SUCCESS"]
        assert (told[4].detail, told[4].at) == ("said by a callback", instant(NOON + 50))

    def test_what_was_done_by_hand(self) -> None:
        worker, action = FakeWorker(), Action(id="a", who="cli: anna")
        worker.arrive("wfnr_a", count=2)
        worker.end("wfnr_a", 0, error="no")
        seen = {"node_run_id": "wfnr_a", "action": action}
        again = seen | {"index": 0, "attempt": 1, "ended_at": NOON + 21.5, "at": NOON + 100}
        worker.outcome(ItemAgain.model_validate(again))
        worker.outcome(RunCancelled.model_validate(seen | {"over": False, "at": NOON + 200}))
        told = timeline(_shown(worker)).moments
        assert [(one.what, one.detail) for one in told[-2:]] == [
            ("Item 0: to be called again, by hand", "cli: anna"),
            ("Cancelled by hand", "cli: anna"),
        ]
        assert "Item 0: FAILED" in [one.what for one in told]

    def test_each_answer_of_port_and_the_tries_before_it(self) -> None:
        worker, tries = FakeWorker(), Tries(count=7, latest=(Try(at=NOON + 28, status=503), Try(at=NOON + 29)))
        worker.arrive("wfnr_a")
        worker.end("wfnr_a")
        worker.tries["wfnr_a"] = tries
        assert timeline(_shown(worker)).moments[-1].detail == "7 tries so far, last: no answer"
        worker.settle("wfnr_a", Settled.OUTPUT_REFUSED, "too large", tries=worker.tries.pop("wfnr_a"))
        assert timeline(_shown(worker)).moments[-1].detail == "last answer: 413"
        worker.settle("wfnr_a", Settled.REFUSED, "unknown", Body.SMALL)
        action = Action(id="a", who="web")
        worker.outcome(ReportAgain(node_run_id="wfnr_a", report=0, action=action, at=NOON + 36))
        worker.settle("wfnr_a", report=1)
        told = [(one.what, one.detail) for one in timeline(_shown(worker)).moments[4:]]
        assert told == [
            ("Report tried: HTTP 503; it is tried again", "after 5 other tries"),
            ("Report tried: no answer; it is tried again", ""),
            ("Port answered the report: HTTP 413", "its output was refused, a small body is next: too large"),
            ("Port answered the report: HTTP 404", "refused: unknown"),
            ("To be reported again, by hand", "web"),
            ("Port answered the report: HTTP 200", "covers 1 of 1, full body"),
        ]

    async def test_what_is_to_come(self) -> None:
        worker = FakeWorker()
        worker.arrive("wfnr_a", count=2)
        worker.defer("wfnr_a")
        worker.run("wfnr_a", 1)
        told = [(moment.what, moment.kind) for moment in timeline(_shown(worker)).moments]
        assert ("Item 0: is called again", "waits") in told
        assert told[-1] == ("Item 1: running", "started")

    async def test_a_call_that_is_made_with_what_it_has_logged_so_far(self) -> None:
        worker = FakeWorker()
        worker.arrive("wfnr_a")
        worker.defer("wfnr_a")
        worker.run("wfnr_a")
        worker.calls.add(RunningCall(0, "wfnr_a", 0, None, Cancellation()))
        worker.log("wfnr_a", "begun", "goes on")
        told = timeline(_shown(worker)).moments
        assert sorted(one.what for one in told) == [
            "Received",
            "Waiting",
            "attempt 1 started",
            "attempt 2 started",
            "raised, and is called again",
            "running",
        ]
        assert told[-1].what == "running"
        assert told[-1].lines is not None
        assert [line.text for line in told[-1].lines.latest] == ["begun", "goes on"]

    async def test_of_many_calls_the_first_and_the_latest(self) -> None:
        worker = FakeWorker()
        worker.arrive("wfnr_a")
        for attempt in range(1, 31):
            worker.defer("wfnr_a", attempt=attempt)
        told = said(worker)
        assert len([what for what in told if what.startswith("attempt")]) == 20
        assert told[2:6] == [
            "attempt 1 started",
            "raised, and is called again",
            "10 further calls are left out",
            "attempt 12 started",
        ]

    def test_a_large_one_is_cut_in_the_middle(self) -> None:
        worker = FakeWorker()
        worker.arrive("wfnr_a", count=100)
        for index in range(100):
            worker.end("wfnr_a", index)
        worker.settle("wfnr_a")
        told = timeline(_shown(worker))
        assert (len(told.moments), told.left_out) == (MOST_MOMENTS, 203 - MOST_MOMENTS)
        assert (told.moments[0].what, told.moments[-1].kind) == ("Received", "good")


def said(worker: FakeWorker) -> list[str]:
    return [moment.what for moment in timeline(_shown(worker)).moments]
