"""What each event makes of a node run, and what each state asks for."""

from __future__ import annotations

import pytest

from port.models import Result
from streams.records import Body, FailureTold, GraceOver, NodeRunEvent, Settled
from tables.state import (
    Change,
    EndGrace,
    Item,
    Message,
    NodeRun,
    Note,
    Report,
    Run,
    State,
    Tell,
    apply,
    apply_arrival,
    ask_of_item,
    ask_of_run,
    recount,
    state_of,
)
from tests.tables.examples import ID, answered, arrival, ended, finished, received, reporting, retry


def after(change: Change) -> NodeRun:
    assert change.run is not None
    return change.run


def message_of(change: Change) -> Message:
    assert change.message is not None
    return change.message


def item_of(change: Change) -> Item:
    assert change.item is not None
    return change.item


class TestArrival:
    def test_the_first_message_begins_the_node_run(self) -> None:
        change = apply_arrival(None, None, arrival(count=3, array=True))
        run = after(change)
        assert change.note is Note.APPLIED
        assert (run.node_run_id, run.workflow_run_id, run.received_at) == (ID, "wfr_a", 100.0)
        assert (run.items, run.array, run.event_types) == (3, True, ("type 0",))
        assert (message_of(change).first, message_of(change).count, message_of(change).text) == (0, 3, "text 0")
        assert ask_of_run(run) is None

    def test_a_further_message_brings_further_items(self) -> None:
        change = apply_arrival(received(count=2), None, arrival(1, count=3, array=True))
        assert (message_of(change).first, after(change).items) == (2, 5)
        assert after(change).event_types == ("type 0", "type 1")
        assert not after(change).array, "the first message says whether the payload is an array"

    def test_the_same_message_again_is_a_duplicate_and_is_written_again(self) -> None:
        first = apply_arrival(None, None, arrival())
        again = apply_arrival(first.run, first.message, arrival())
        assert (again.note, again.run, again.message) == (Note.DUPLICATE, first.run, first.message)

    def test_a_message_that_was_written_but_not_counted_before_a_crash_takes_its_place_anew(self) -> None:
        run = received()
        written = message_of(apply_arrival(run, None, arrival(1)))
        again = apply_arrival(run, written, arrival(1))
        assert (again.note, again.message, after(again).items) == (Note.APPLIED, written, 2)

    def test_a_message_that_cannot_be_handled_is_one_failed_item(self) -> None:
        change = apply_arrival(None, None, arrival(problem="the payload is missing"))
        run, item = after(change), item_of(change)
        assert (item.index, item.result, item.error) == (0, Result.FAILED, "the payload is missing")
        assert (run.failed, run.covered, run.result) == (1, 1, Result.FAILED)
        assert ask_of_run(run) == Report(Body.FULL)

    def test_an_item_after_the_report_is_not_covered(self) -> None:
        run = after(apply_arrival(reporting(), None, arrival(1)))
        assert (run.items, run.covered, run.result) == (2, 1, Result.SUCCESS)
        assert ask_of_run(run) == Report(Body.FULL)
        assert ask_of_item(run, 1, None) == Run(1, None)

    def test_an_item_after_the_end_opens_the_node_run_again(self) -> None:
        done = after(apply(reporting(), None, answered()))
        assert done.finished
        run = after(apply_arrival(done, None, arrival(1)))
        assert not run.finished
        assert ask_of_run(run) is None
        assert after(apply(run, None, finished(1))).finished

    def test_the_words_of_a_node_run_stay_few(self) -> None:
        run = received()
        for number in range(1, 30):
            run = after(apply_arrival(run, None, arrival(number)))
        assert len(run.event_types) == 8


class TestItemFinished:
    def test_the_last_item_freezes_what_is_reported(self) -> None:
        run = after(apply(received(count=2, array=True), None, finished(0)))
        assert (run.covered, ask_of_run(run)) == (None, None)
        change = apply(run, None, finished(1, at=201.0))
        run = after(change)
        assert (run.succeeded, run.failed, run.covered, run.result) == (2, 0, 2, Result.SUCCESS)
        assert run.last_ended_at == 201.0
        assert item_of(change).output == '{"done":true}'
        assert ask_of_run(run) == Report(Body.FULL)

    def test_one_failed_item_fails_the_node_run(self) -> None:
        assert reporting(count=3, failing=1).result is Result.FAILED

    def test_a_second_outcome_changes_nothing(self) -> None:
        first = apply(received(), None, finished())
        again = apply(first.run, first.item, finished(error="another call's outcome"))
        assert (again.note, again.run, again.item) == (Note.DUPLICATE, first.run, first.item)

    def test_a_repeated_outcome_freezes_where_only_its_item_survived_a_crash(self) -> None:
        run = recount(received(), [ended(0)])
        assert run.covered is None
        again = apply(run, ended(0), finished())
        whole = recount(reporting(), [ended(0)]).model_copy(update={"last_ended_at": None})
        assert (again.note, again.run) == (Note.DUPLICATE, whole)

    def test_an_outcome_of_an_item_that_is_not_known_is_late(self) -> None:
        run = received()
        assert apply(run, None, finished(1)) == Change(run, Note.LATE)

    def test_a_failure_after_the_report_is_to_be_told(self) -> None:
        run = after(apply_arrival(reporting(), None, arrival(1)))
        change = apply(run, None, finished(1, error="broken"))
        assert (after(change).untold, after(change).result) == (1, Result.SUCCESS)
        assert ask_of_item(after(change), 1, change.item) == Tell(1)

    def test_a_success_after_the_report_is_not_told(self) -> None:
        run = after(apply_arrival(reporting(), None, arrival(1)))
        change = apply(run, None, finished(1))
        assert ask_of_item(after(change), 1, change.item) is None


class TestItemRetry:
    def test_the_item_waits_for_its_time(self) -> None:
        run = received()
        change = apply(run, None, retry(due_at=300.0))
        assert (change.note, change.run, item_of(change).attempt) == (Note.APPLIED, run, 1)
        assert ask_of_item(run, 0, change.item) == Run(0, 300.0)

    def test_the_same_attempt_again_is_a_duplicate(self) -> None:
        first = apply(received(), None, retry(due_at=300.0))
        again = apply(first.run, first.item, retry(due_at=999.0))
        assert (again.note, again.item) == (Note.DUPLICATE, first.item)

    def test_a_later_attempt_counts(self) -> None:
        first = apply(received(), None, retry(attempt=1))
        assert item_of(apply(first.run, first.item, retry(attempt=2))).attempt == 2

    def test_an_item_that_has_ended_is_not_tried_again(self) -> None:
        change = apply(reporting(), ended(0), retry(attempt=5))
        assert (change.note, change.item) == (Note.DUPLICATE, ended(0))

    def test_an_item_that_is_not_known_is_late(self) -> None:
        assert apply(received(), None, retry(7)).note is Note.LATE


class TestGrace:
    def test_the_report_waits_for_further_messages(self) -> None:
        run = after(apply(received(), None, finished(at=200.0), grace=5.0))
        assert run.covered is None
        assert ask_of_run(run) == EndGrace(200.0, 1)

    def test_its_end_freezes_what_is_reported(self) -> None:
        run = after(apply(received(), None, finished(), grace=5.0))
        change = apply(run, None, GraceOver(node_run_id=ID, items=1, since=200.0))
        assert (change.note, after(change).covered, after(change).grace_from) == (Note.APPLIED, 1, None)
        assert ask_of_run(after(change)) == Report(Body.FULL)

    def test_a_further_message_ends_it_and_its_end_is_void(self) -> None:
        run = after(apply(received(), None, finished(), grace=5.0))
        run = after(apply_arrival(run, None, arrival(1)))
        assert ask_of_run(run) is None
        run = after(apply(run, None, finished(1, at=250.0), grace=5.0))
        assert apply(run, None, GraceOver(node_run_id=ID, items=1, since=200.0)) == Change(run, Note.DUPLICATE)
        assert ask_of_run(run) == EndGrace(250.0, 2)

    def test_a_repeated_outcome_does_not_begin_it_anew(self) -> None:
        first = apply(received(), None, finished(at=200.0), grace=5.0)
        assert apply(first.run, first.item, finished(at=999.0), grace=5.0).run == first.run

    def test_a_repeated_outcome_begins_it_where_only_its_item_survived_a_crash(self) -> None:
        item = item_of(apply(received(), None, finished(at=200.0)))
        run = after(apply(recount(received(), [item]), item, finished(at=200.0), grace=5.0))
        assert (run.covered, ask_of_run(run)) == (None, EndGrace(200.0, 1))


class TestReportAnswered:
    def test_reported(self) -> None:
        run = after(apply(reporting(), None, answered()))
        assert (run.settled, run.status, run.settled_at) == (Settled.REPORTED, 200, 400.0)
        assert run.finished
        assert ask_of_run(run) is None

    def test_refused(self) -> None:
        run = after(apply(reporting(), None, answered(Settled.REFUSED)))
        assert (run.settled, run.finished) == (Settled.REFUSED, True)

    def test_a_refused_output_is_followed_by_a_small_body(self) -> None:
        run = after(apply(reporting(), None, answered(Settled.OUTPUT_REFUSED)))
        assert (run.settled, ask_of_run(run)) == (None, Report(Body.SMALL))

    def test_a_refused_small_body_is_the_end(self) -> None:
        run = after(apply(reporting(), None, answered(Settled.OUTPUT_REFUSED)))
        run = after(apply(run, None, answered(Settled.OUTPUT_REFUSED, body=Body.SMALL)))
        assert (run.settled, run.finished) == (Settled.REFUSED, True)

    def test_an_answer_to_an_earlier_body_changes_nothing(self) -> None:
        run = after(apply(reporting(), None, answered(Settled.OUTPUT_REFUSED)))
        assert apply(run, None, answered(Settled.OUTPUT_REFUSED)) == Change(run, Note.DUPLICATE)

    def test_the_first_answer_counts(self) -> None:
        run = after(apply(reporting(), None, answered()))
        assert apply(run, None, answered(Settled.REFUSED)) == Change(run, Note.DUPLICATE)

    def test_an_answer_before_the_report_is_late(self) -> None:
        assert apply(received(), None, answered()).note is Note.LATE


class TestFailureTold:
    def test_it_ends_the_node_run(self) -> None:
        run = after(apply_arrival(after(apply(reporting(), None, answered())), None, arrival(1)))
        failed = apply(run, None, finished(1, error="broken"))
        assert not after(failed).finished
        told = apply(failed.run, failed.item, FailureTold(node_run_id=ID, index=1))
        assert (item_of(told).told, after(told).untold, after(told).finished) == (True, 0, True)
        assert ask_of_item(after(told), 1, told.item) is None
        assert apply(told.run, told.item, FailureTold(node_run_id=ID, index=1)).note is Note.DUPLICATE


@pytest.mark.parametrize(
    "event",
    [
        finished(),
        retry(),
        answered(),
        GraceOver(node_run_id=ID, items=1, since=200.0),
        FailureTold(node_run_id=ID, index=0),
    ],
    ids=lambda event: event.kind,
)
def test_an_event_for_an_unknown_node_run_is_late(event: NodeRunEvent) -> None:
    assert apply(None, None, event) == Change(None, Note.LATE)


class TestRecount:
    def test_the_item_rows_are_right(self) -> None:
        run = recount(received(count=3, array=True), [ended(0), ended(1, error="broken")])
        assert (run.succeeded, run.failed, run.covered) == (1, 1, None)

    def test_waiting_items_and_items_not_yet_counted_are_left_out(self) -> None:
        waiting = Item(index=0, message=0, attempt=1, due_at=300.0)
        run = recount(received(count=2, array=True), [waiting, ended(5)])
        assert (run.succeeded, run.failed) == (0, 0)

    def test_late_failures_are_untold_until_told(self) -> None:
        run = after(apply_arrival(reporting(count=2, failing=1), None, arrival(1, count=2, array=True)))
        items = [ended(0, error="broken"), ended(1), ended(2, error="late")]
        assert recount(run, items).untold == 1
        assert recount(run, [*items[:2], items[2].model_copy(update={"told": True})]).untold == 0

    def test_a_state_that_is_right_stays_as_it_is(self) -> None:
        run = reporting(count=2, failing=1)
        assert recount(run, [ended(0, error="broken"), ended(1)]) == run


def test_the_words_for_where_a_node_run_stands() -> None:
    assert state_of(received()) is State.WAITING
    assert state_of(received(), running=True) is State.RUNNING
    assert state_of(received(), deferred=True) is State.DEFERRED
    assert state_of(after(apply(received(), None, finished(), grace=5.0))) is State.DEFERRED
    assert state_of(reporting()) is State.REPORTING
    assert state_of(after(apply(reporting(), None, answered()))) is State.REPORTED
    assert state_of(after(apply(reporting(), None, answered(Settled.REFUSED)))) is State.REFUSED
