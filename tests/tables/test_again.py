"""What people ask for by hand, as the pure functions decide it: items and reports again, and cancellation."""

import pytest

from port.models import Result
from streams.records import (
    Action,
    FailureTold,
    ItemAgain,
    ItemCompleted,
    ReportAgain,
    ReportStopped,
    RunCancelled,
    Settled,
    Tries,
    Try,
)
from tables.state import Change, Item, NodeRun, Note, Report, Run, Tell, apply, apply_arrival, ask_of_item, ask_of_run
from tests.tables.examples import ID, answered, arrival, ended, finished, received, reporting, retry

WHO = Action(id="a1", who="web")


def again(item: Item, **seen: object) -> ItemAgain:
    known = {"attempt": item.attempt, "ended_at": item.ended_at} | seen
    return ItemAgain.model_validate({"node_run_id": ID, "index": item.index, "action": WHO, "at": 500.0} | known)


def both(change: Change) -> tuple[NodeRun, Item]:
    assert change.note is Note.APPLIED, change.why
    assert change.run is not None
    assert change.item is not None
    return change.run, change.item


def failed(run: NodeRun, index: int = 0) -> tuple[NodeRun, Item]:
    return both(apply(run, None, finished(index, error="broken")))


def settled(run: NodeRun, how: Settled = Settled.REPORTED) -> NodeRun:
    after = apply(run, None, answered(how)).run
    assert after is not None
    return after


def test_a_failed_item_of_an_open_node_run_runs_again_and_its_attempts_count_on() -> None:
    run, item = failed(received(count=2, array=True))
    run, item = both(apply(run, item, again(item)))
    assert (run.failed, run.covered, item.result, item.attempt) == (0, None, None, 1)
    assert ask_of_item(run, 0, item) == Run(0, None)
    run, item = both(apply(run, item, finished(at=300.0).model_copy(update={"attempt": 2})))
    assert (run.succeeded, run.failed, item.attempt, item.result) == (1, 0, 2, Result.SUCCESS)


def test_what_was_said_of_it_before_changes_nothing_when_it_comes_again() -> None:
    run, item = failed(received(count=2, array=True))
    run, item = both(apply(run, item, again(item)))
    for event in (finished(error="broken"), retry(), again(item, ended_at=200.0)):
        change = apply(run, item, event)
        assert (change.note, change.run, change.item) == (Note.DUPLICATE, run, item)


def test_a_word_before_changes_nothing_when_it_comes_again_and_a_new_one_counts() -> None:
    said = {"node_run_id": ID, "index": 0, "result": "FAILED", "error": "no", "digest": "d", "by": "callback"}
    old = ItemCompleted.model_validate(said | {"at": 250.0})
    run, item = both(apply(received(count=2, array=True), None, old))
    run, item = both(apply(run, item, again(item)))
    # A call may have been under way, of which nothing is written: its outcome is void.
    assert item.attempt == 1
    assert apply(run, item, finished()).note is Note.DUPLICATE
    assert apply(run, item, old).note is Note.DUPLICATE
    run, item = both(apply(run, item, ItemCompleted.model_validate(said | {"at": 260.0})))
    assert (run.failed, item.ended_at) == (1, 260.0)


def test_one_that_waits_for_a_retry_is_called_now() -> None:
    run, item = both(apply(received(), None, retry(due_at=9e9)))
    run, item = both(apply(run, item, again(item)))
    assert ask_of_item(run, 0, item) == Run(0, None)


def test_what_a_report_says_is_not_changed_while_it_is_on_its_way() -> None:
    run, item = failed(received())
    change = apply(run, item, again(item))
    assert (change.note, change.run) == (Note.REFUSED, run)
    assert "on its way" in change.why


def test_after_the_report_an_item_runs_again_and_its_end_is_told_in_the_log() -> None:
    run, item = failed(received())
    run = settled(run)
    run, item = both(apply(run, item, again(item)))
    assert (run.finished, run.result, run.settled, item.late) == (False, Result.FAILED, Settled.REPORTED, True)
    assert ask_of_run(run) is None
    run, item = both(apply(run, item, finished(at=300.0).model_copy(update={"attempt": 2})))
    assert (ask_of_item(run, 0, item), run.untold, run.finished, run.result) == (Tell(0), 1, False, Result.FAILED)
    assert apply(run, item, FailureTold(node_run_id=ID, index=0, attempt=1)).note is Note.DUPLICATE
    run, item = both(apply(run, item, FailureTold(node_run_id=ID, index=0, attempt=2)))
    assert (run.finished, item.told) == (True, True)


def test_after_a_refused_report_the_node_run_is_reported_anew() -> None:
    run, item = failed(received())
    run = settled(run, Settled.REFUSED)
    run, item = both(apply(run, item, again(item)))
    assert (run.settled, run.covered, run.result, run.report, item.late) == (None, None, None, 1, False)
    run, _ = both(apply(run, item, finished(at=300.0).model_copy(update={"attempt": 2})))
    assert (run.result, ask_of_run(run)) == (Result.SUCCESS, Report(run.body))
    # The answer to the first report comes again.
    assert apply(run, None, answered(Settled.REFUSED)).note is Note.DUPLICATE
    assert apply(run, None, answered().model_copy(update={"report": 1})).note is Note.APPLIED


def test_a_refused_report_is_sent_again_once_for_each_time_that_it_is_asked_for() -> None:
    run = settled(reporting(), Settled.REFUSED)
    event = ReportAgain(node_run_id=ID, report=0, action=WHO, at=500.0)
    change = apply(run, None, event)
    assert change.run is not None
    assert (change.note, ask_of_run(change.run), change.run.finished) == (Note.APPLIED, Report(run.body), False)
    assert apply(change.run, None, event).note is Note.DUPLICATE
    assert apply(settled(reporting()), None, event).note is Note.REFUSED


def test_a_report_that_waits_may_be_wanted_now_and_nothing_changes() -> None:
    change = apply(reporting(), None, ReportAgain(node_run_id=ID, report=0, action=WHO, at=500.0))
    assert (change.note, change.run) == (Note.APPLIED, reporting())


def test_a_report_is_given_up_by_hand_and_says_who_and_what_port_said() -> None:
    tries = Tries(count=7, latest=(Try(at=1.0, status=500),))
    event = ReportStopped(
        node_run_id=ID, report=0, status=500, reason="HTTP 500: no", tries=tries, action=WHO, at=500.0
    )
    change = apply(reporting(), None, event)
    run = change.run
    assert run is not None
    assert (change.note, run.settled, run.status, run.settled_at) == (Note.APPLIED, Settled.REFUSED, 500, 500.0)
    assert run.reason == "given up by hand (web); Port's latest answer: HTTP 500: no"
    assert run.history is not None
    assert run.history.tries == tries
    assert ask_of_run(run) is None
    # It comes again, or another answer than that Port has taken it.
    assert apply(run, None, event).note is Note.DUPLICATE
    assert apply(run, None, answered(Settled.REFUSED)).note is Note.DUPLICATE
    # A try was under way: Port has taken it all the same.
    taken = apply(run, None, answered()).run
    assert taken is not None
    assert (taken.settled, taken.reason) == (Settled.REPORTED, None)
    # It is wanted again, after all.
    again = apply(run, None, ReportAgain(node_run_id=ID, report=0, action=WHO, at=600.0)).run
    assert again is not None
    assert (again.settled, ask_of_run(again), apply(again, None, event).note) == (
        None,
        Report(again.body),
        Note.DUPLICATE,
    )


@pytest.mark.parametrize("run", [received(), settled(reporting()), settled(reporting(), Settled.CANCELLED)])
def test_what_has_no_report_that_waits_cannot_be_given_up(run: NodeRun) -> None:
    event = ReportStopped(node_run_id=ID, report=0, action=WHO, at=500.0)
    change = apply(run, None, event)
    assert (change.note, change.why, change.run) == (Note.REFUSED, "it has no report that waits for Port", run)


def test_what_cannot_be_called_again_is_refused_and_said_why() -> None:
    succeeded = ended(0).model_copy(update={"ended_at": 200.0})
    assert "SUCCESS" in apply(reporting(), succeeded, again(succeeded)).why
    run, item = failed(received(count=2, array=True))
    assert "gone on" in apply(run, item, again(item, attempt=7)).why
    cancelled = apply(run, None, RunCancelled(node_run_id=ID, over=False, at=1.0)).run
    assert "cancelled" in apply(cancelled, item, again(item)).why
    assert "not been called" in apply(run, None, again(item, index=1)).why
    bad = apply_arrival(None, None, arrival(problem="no payload"))
    assert bad.item is not None
    assert "cannot be handled" in apply(bad.run, bad.item, again(bad.item)).why
    assert apply(None, None, again(item)).note is Note.LATE


def test_cancelling_by_hand_what_is_reported_is_refused() -> None:
    event = RunCancelled(node_run_id=ID, over=False, action=WHO, at=1.0)
    assert apply(reporting(), None, event).note is Note.REFUSED
    change = apply(received(), None, event)
    assert change.note is Note.APPLIED
    assert apply(change.run, None, event).note is Note.DUPLICATE
