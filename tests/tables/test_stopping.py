"""What array policies and cancelled workflow runs make of a node run, and of its report."""

from __future__ import annotations

import json

import pytest

from port.models import Result
from streams.records import (
    Action,
    ArrayPolicy,
    Body,
    GraceOver,
    ItemAgain,
    ItemFinished,
    ReportAnswered,
    RunCancelled,
    Settled,
)
from tables.report import report_body, why_stopped
from tables.state import (
    AwaitWord,
    Cancel,
    Change,
    Item,
    NodeRun,
    Note,
    Report,
    Run,
    State,
    Stop,
    apply,
    apply_arrival,
    ask_of_item,
    ask_of_run,
    recount,
    state_of,
)
from tests.tables.examples import ID, arrival, completed, deferred, ended, finished, received, reporting, retry

ANY = ArrayPolicy(share=0, cancel_rest=True)
HALF = ArrayPolicy(share=0.5, cancel_rest=True)
SOFT_HALF = ArrayPolicy(share=0.5, cancel_rest=False)
STRICT = ArrayPolicy(share=1, cancel_rest=True)


def with_policy(policy: ArrayPolicy | None, count: int, *, array: bool = True) -> NodeRun:
    """A node run of so many items, as its first message brought it."""
    came = arrival(count=count, array=array).model_copy(update={"policy": policy})
    run = apply_arrival(None, None, came).run
    assert run is not None
    return run


def after(run: NodeRun, *events: ItemFinished | RunCancelled, grace: float = 0.0) -> NodeRun:
    """The node run after events of items of which nothing was written before."""
    for event in events:
        changed = apply(run, None, event, grace=grace).run
        assert changed is not None
        run = changed
    return run


def succeeds(*indexes: int) -> list[ItemFinished]:
    return [finished(index) for index in indexes]


def fails(*indexes: int) -> list[ItemFinished]:
    return [finished(index, error="broken") for index in indexes]


def is_cancelled(*indexes: int) -> list[ItemFinished]:
    gone = {"result": Result.CANCELLED, "attempt": 0}
    return [finished(index, error="cancelled").model_copy(update=gone) for index in indexes]


def cancelled(*, over: bool = False) -> RunCancelled:
    return RunCancelled(node_run_id=ID, over=over, at=300.0)


def soft() -> RunCancelled:
    return RunCancelled(node_run_id=ID, over=False, soft=True, at=300.0)


def by_hand() -> RunCancelled:
    return RunCancelled(node_run_id=ID, over=False, action=Action(id="1", who="cli: anna"), at=300.0)


@pytest.mark.parametrize(
    ("share", "items", "needed"),
    [(0, 1, 1), (0, 9, 1), (1, 9, 9), (0.5, 3, 2), (0.5, 4, 2), (0.07, 100, 7), (0.1, 30, 3), (1e-6, 10, 1)],
)
def test_how_many_items_must_succeed(share: float, items: int, needed: int) -> None:
    assert ArrayPolicy(share=share, cancel_rest=True).needed(items) == needed


@pytest.mark.parametrize(
    ("policy", "failing", "result"),
    [
        (None, 0, "SUCCESS"),
        (None, 1, "FAILED"),
        (ANY, 3, "SUCCESS"),
        (ANY, 4, "FAILED"),
        (HALF, 2, "SUCCESS"),
        (SOFT_HALF, 2, "SUCCESS"),
        (SOFT_HALF, 3, "FAILED"),
    ],
)
def test_the_policy_decides_the_result(policy: ArrayPolicy | None, failing: int, result: str) -> None:
    run = after(with_policy(policy, 4), *succeeds(*range(failing, 4)), *fails(*range(failing)))
    assert (run.covered, run.result) == (4, result)


class TestRest:
    def test_it_is_cancelled_when_the_share_cannot_be_reached_and_not_before(self) -> None:
        run = after(with_policy(HALF, 5), *fails(0, 1))
        assert (run.stopped, ask_of_item(run, 2, None)) == (None, Run(2, None))
        run = after(run, *fails(2))
        assert (run.stopped, run.covered) == (Stop.REST, None)
        assert ask_of_item(run, 3, None) == Cancel(3, Stop.REST)
        assert ask_of_item(run, 4, Item(index=4, message=0, attempt=1, due_at=300.0)) == Cancel(4, Stop.REST)
        assert ask_of_item(run, 2, ended(2, error="broken")) is None
        run = after(run, *is_cancelled(3), *succeeds(4))
        assert (run.succeeded, run.failed, run.cancelled) == (1, 3, 1)
        assert (run.result, ask_of_run(run)) == (Result.FAILED, Report(Body.FULL))

    @pytest.mark.parametrize("policy", [None, SOFT_HALF])
    def test_without_the_policy_to_do_so_every_item_runs(self, policy: ArrayPolicy | None) -> None:
        run = after(with_policy(policy, 4), *fails(0, 1, 2))
        assert ask_of_item(run, 3, None) == Run(3, None)

    def test_one_failure_decides_where_all_must_succeed(self) -> None:
        assert after(with_policy(STRICT, 3), *fails(0)).stopped is Stop.REST

    def test_where_further_messages_may_come_a_share_is_not_given_up(self) -> None:
        split = after(with_policy(HALF, 1, array=False), *fails(0), grace=5.0)
        assert (split.stopped, split.grace_from) == (None, 200.0)
        second = apply_arrival(split, None, arrival(1)).run
        assert second is not None
        done = apply(after(second, *succeeds(1), grace=5.0), None, GraceOver(node_run_id=ID, items=2, since=200.0)).run
        assert done is not None
        assert (done.covered, done.result) == (2, Result.SUCCESS)
        assert after(with_policy(STRICT, 1, array=False), *fails(0), grace=5.0).stopped is Stop.REST

    def test_a_later_message_does_not_change_the_policy(self) -> None:
        run = apply_arrival(with_policy(ANY, 2), None, arrival(1).model_copy(update={"policy": STRICT})).run
        assert run is not None
        assert run.policy == ANY

    def test_items_that_come_after_it_are_cancelled_too(self) -> None:
        run = apply_arrival(after(with_policy(STRICT, 2), *fails(0), *is_cancelled(1)), None, arrival(1)).run
        assert run is not None
        assert ask_of_item(run, 2, None) == Cancel(2, Stop.REST)
        run = after(run, *is_cancelled(2))
        assert (run.covered, run.all_ended, run.untold) == (2, True, 0)

    def test_item_rows_that_a_crash_left_ahead_stop_it(self) -> None:
        rows = [ended(0, error="broken"), ended(1).model_copy(update={"result": Result.CANCELLED})]
        run = recount(with_policy(STRICT, 3), rows)
        assert (run.succeeded, run.failed, run.cancelled, run.hopeless) == (0, 1, 1, True)
        assert recount(with_policy(ANY, 3), rows).policy == ANY


class TestRunCancelled:
    def test_what_has_not_ended_is_cancelled_and_that_is_reported(self) -> None:
        run = after(with_policy(None, 3), *succeeds(0), cancelled())
        assert ask_of_item(run, 1, None) == Cancel(1, Stop.RUN)
        waiting = apply(run, None, retry(1))
        assert waiting.run is not None
        assert ask_of_item(waiting.run, 1, waiting.item) == Cancel(1, Stop.RUN)
        run = after(run, *is_cancelled(1), *fails(2))
        assert (run.result, ask_of_run(run)) == (Result.CANCELLED, Report(Body.FULL))

    def test_what_had_ended_before_counts(self) -> None:
        run = after(received(), cancelled(), *succeeds(0))
        assert (run.result, ask_of_run(run)) == (Result.SUCCESS, Report(Body.FULL))

    def test_what_port_has_ended_is_not_reported(self) -> None:
        run = after(received(), cancelled(over=True), *is_cancelled(0))
        assert (run.result, run.settled, run.settled_at, run.finished) == ("CANCELLED", "cancelled", 200.0, True)
        assert ask_of_run(run) is None
        assert state_of(run) is State.CANCELLED

    def test_the_same_where_it_waits_for_the_end_of_its_grace(self) -> None:
        run = after(received(), *succeeds(0), cancelled(over=True), grace=5.0)
        assert (run.grace_from, run.stopped) == (200.0, Stop.OVER)
        assert after(run, cancelled()).stopped is Stop.OVER
        done = apply(run, None, GraceOver(node_run_id=ID, items=1, since=200.0)).run
        assert done is not None
        assert (done.settled, done.result) == (Settled.CANCELLED, Result.SUCCESS)

    def test_it_comes_twice_and_too_late(self) -> None:
        run = after(received(), cancelled())
        assert apply(run, None, cancelled()) == Change(run, Note.DUPLICATE)
        assert apply(reporting(), None, cancelled(over=True)) == Change(reporting(), Note.DUPLICATE)
        assert apply(None, None, cancelled()) == Change(None, Note.LATE)

    def test_it_comes_after_the_rest_was_cancelled(self) -> None:
        run = after(with_policy(STRICT, 2), *fails(0), cancelled())
        assert run.stopped is Stop.RUN
        assert after(run, *is_cancelled(1)).result is Result.CANCELLED

    def test_a_report_that_was_not_heard_ends_in_a_word_of_its_own(self) -> None:
        answer = ReportAnswered(node_run_id=ID, body=Body.FULL, settled=Settled.CANCELLED, status=409, at=400.0)
        run = apply(reporting(), None, answer).run
        assert run is not None
        assert (state_of(run), run.finished) == (State.CANCELLED, True)


class TestSoftCancel:
    """Port is cancelling the workflow run, and lets what runs end."""

    def test_nothing_begins_and_what_is_deferred_waits(self) -> None:
        run = after(with_policy(None, 3), soft())
        assert (run.stopped, ask_of_item(run, 0, None)) == (Stop.SOFT, Cancel(0, Stop.SOFT))
        again = apply(run, None, retry(0))
        assert again.run is not None
        assert ask_of_item(again.run, 0, again.item) == Cancel(0, Stop.SOFT)
        waits = apply(run, None, deferred(1))
        assert waits.run is not None
        assert waits.item is not None
        assert ask_of_item(waits.run, 1, waits.item) == AwaitWord(1, waits.item.deferred_until or 0)
        # A cancellation that was made of what stood there before ends it no more.
        assert apply(waits.run, waits.item, is_cancelled(1)[0]).note is Note.DUPLICATE
        said = apply(waits.run, waits.item, completed(1))
        assert said.item is not None
        assert said.item.result is Result.SUCCESS

    @pytest.mark.parametrize(
        ("ends", "result"),
        [
            (succeeds(0, 1), Result.SUCCESS),
            ([*succeeds(0), *fails(1)], Result.FAILED),
            ([*succeeds(0), *is_cancelled(1)], Result.CANCELLED),
            ([*fails(0), *is_cancelled(1)], Result.CANCELLED),
            (is_cancelled(0, 1), Result.CANCELLED),
        ],
    )
    def test_the_report_says_how_each_has_ended(self, ends: list[ItemFinished], result: Result) -> None:
        run = after(with_policy(None, 2), soft(), *ends)
        assert (run.result, ask_of_run(run)) == (result, Report(Body.FULL))

    def test_a_policy_that_cannot_be_met_stops_the_rest_all_the_same(self) -> None:
        run = after(with_policy(STRICT, 3), soft(), *fails(0))
        assert (run.stopped, ask_of_item(run, 1, None)) == (Stop.REST, Cancel(1, Stop.REST))
        assert after(run, soft(), *is_cancelled(1, 2)).result is Result.FAILED

    @pytest.mark.parametrize("harder", [cancelled(), cancelled(over=True), by_hand()])
    def test_what_is_harder_takes_its_place_and_never_the_other_way_round(self, harder: RunCancelled) -> None:
        run = after(with_policy(None, 2), soft(), harder)
        assert run.stopped in (Stop.RUN, Stop.OVER, Stop.HAND)
        assert apply(run, None, soft()) == Change(run, Note.DUPLICATE)
        waits = Item(index=0, message=0, attempt=1, deferred_until=900.0)
        assert ask_of_item(run, 0, waits) == Cancel(0, run.stopped)
        assert run.history is not None
        assert run.history.soft_cancelled_at == 300.0
        assert run.history.cancelled is not None

    def test_it_comes_twice_and_too_late(self) -> None:
        run = after(received(), soft())
        assert apply(run, None, soft()) == Change(run, Note.DUPLICATE)
        assert apply(reporting(), None, soft()) == Change(reporting(), Note.DUPLICATE)

    def test_nothing_is_taken_up_again_by_hand(self) -> None:
        run = after(with_policy(None, 2), soft())
        waiting = apply(run, None, retry(0)).item
        assert waiting is not None
        asked = ItemAgain(node_run_id=ID, index=0, attempt=1, action=Action(id="1", who="web"), at=310.0)
        change = apply(run, waiting, asked)
        assert (change.note, change.why) == (Note.REFUSED, "the node run is cancelled")


def test_who_cancelled_by_hand_stands_in_the_report() -> None:
    run = after(received(), by_hand())
    assert (run.stopped, why_stopped(run)) == (Stop.HAND, "cancelled: it was cancelled by hand (cli: anna)")
    assert why_stopped(after(received(), soft())) == "cancelled: the workflow run was cancelled"
    assert why_stopped(after(received(), cancelled())) == "cancelled: the workflow run was cancelled"


class TestReport:
    def body(self, run: NodeRun, *items: Item) -> dict[str, object]:
        body: dict[str, object] = json.loads(report_body(run, items))
        return body

    def test_a_policy_that_is_met_is_a_success_that_counts_its_failures(self) -> None:
        run = after(with_policy(ANY, 2), *fails(0), *succeeds(1))
        items = [
            {"index": 0, "result": "FAILED", "eventType": "type 0", "error": {"message": "broken"}},
            {"index": 1, "result": "SUCCESS", "eventType": "type 0", "output": {"done": True}},
        ]
        output = {"succeeded": 1, "failed": 1, "items": items}
        assert self.body(run, ended(0, error="broken"), ended(1)) == {
            "status": "COMPLETED",
            "result": "SUCCESS",
            "output": output,
        }

    @pytest.mark.parametrize("kind", Body)
    def test_cancelled_items_are_counted(self, kind: Body) -> None:
        run = after(with_policy(STRICT, 3), *fails(0), *is_cancelled(1, 2)).model_copy(update={"body": kind})
        gone = {"result": Result.CANCELLED, "error": "cancelled: too many"}
        items = [ended(0, error="broken"), *(ended(index).model_copy(update=gone) for index in (1, 2))]
        body = self.body(run, *items)
        output = body["output"]
        assert isinstance(output, dict)
        assert body["result"] == "FAILED"
        assert output["error"]["message"].startswith("1 of 3 items failed, 2 were cancelled")
        if kind is Body.FULL:
            assert (output["succeeded"], output["failed"], output["cancelled"]) == (0, 1, 2)
            assert output["items"][2]["error"] == {"message": "cancelled: too many"}

    def test_a_single_cancelled_item(self) -> None:
        run = after(received(), cancelled(), *is_cancelled(0))
        item = ended(0).model_copy(update={"result": Result.CANCELLED, "error": "cancelled", "output": None})
        assert self.body(run, item) == {
            "status": "COMPLETED",
            "result": "CANCELLED",
            "output": {"error": {"message": "cancelled"}},
        }
