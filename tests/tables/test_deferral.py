"""What a deferral, another system's word and the end of a deferral make of an item, in every order."""

from __future__ import annotations

import pytest

from port.models import Result
from streams.records import By, DeferralExpired, ItemCompleted, ItemDeferred, RunCancelled
from tables.state import AwaitWord, Cancel, Change, Item, NodeRun, Note, Run, Stop, apply, ask_of_item, closed
from tests.tables.examples import ID, finished, received, reporting, retry

UNTIL = 1_700_000_000.0


def deferred(*, attempt: int = 1, until: float = UNTIL, index: int = 0) -> ItemDeferred:
    return ItemDeferred(
        node_run_id=ID,
        index=index,
        message=0,
        event_type="type 0",
        attempt=attempt,
        until=until,
        worker="w",
        started_at=199.0,
        at=200.0,
    )


def completed(digest: str = "d", *, error: str | None = None, index: int = 0) -> ItemCompleted:
    return ItemCompleted(
        node_run_id=ID,
        index=index,
        event_type="type 0",
        result=Result.SUCCESS if error is None else Result.FAILED,
        output='{"said":1}' if error is None else None,
        error=error,
        digest=digest,
        by=By.CALLBACK,
        at=300.0,
    )


def expired(until: float = UNTIL) -> DeferralExpired:
    return DeferralExpired(node_run_id=ID, index=0, until=until)


def item_of(change: Change) -> Item:
    assert change.item is not None
    return change.item


def run_of(change: Change) -> NodeRun:
    assert change.run is not None
    return change.run


def deferral() -> tuple[NodeRun, Item]:
    change = apply(received(), None, deferred())
    assert change.note is Note.APPLIED
    return run_of(change), item_of(change)


def test_a_deferred_item_waits_for_its_time() -> None:
    run, item = deferral()
    assert (item.attempt, item.deferred_until, item.result, run.all_ended) == (1, UNTIL, None, False)
    assert ask_of_item(run, 0, item) == AwaitWord(0, UNTIL)


def test_what_is_deferred_or_decided_is_of_a_format_that_older_workers_do_not_read() -> None:
    run, item = deferral()
    assert item.v == 2
    assert item_of(apply(run, item, completed())).v == 2
    assert item_of(apply(received(), None, completed())).v == 2
    assert item_of(apply(received(), None, finished())).v == 1


@pytest.mark.parametrize("event", [deferred(), deferred(until=1.0), finished(), finished(error="no"), retry()])
def test_the_first_outcome_of_a_repeated_call_counts(event: ItemDeferred) -> None:
    run, item = deferral()
    assert apply(run, item, event) == Change(run, Note.DUPLICATE, item=item)


def test_its_cancellation_ends_a_deferred_item() -> None:
    run, item = deferral()
    stopped = run_of(apply(run, item, RunCancelled(node_run_id=run.node_run_id, over=False, at=200.0)))
    assert ask_of_item(stopped, 0, item) == Cancel(0, Stop.RUN)
    change = apply(stopped, item, finished().model_copy(update={"v": 2, "result": Result.CANCELLED}))
    ended = item_of(change)
    assert (change.note, ended.result, ended.deferred_until, ended.v) == (Note.APPLIED, Result.CANCELLED, None, 2)
    assert (run_of(change).covered, run_of(change).result, run_of(change).v) == (1, Result.CANCELLED, 2)
    assert apply(run_of(change), ended, expired()).note is Note.DUPLICATE


def test_a_word_ends_a_deferred_item() -> None:
    run, item = deferral()
    change = apply(run, item, completed())
    ended = item_of(change)
    assert (change.note, ended.result, ended.output, ended.attempt) == (Note.APPLIED, Result.SUCCESS, '{"said":1}', 1)
    assert (ended.decided, ended.decided_by, ended.deferred_until, ended.ended_at) == ("d", By.CALLBACK, None, 300.0)
    assert (run_of(change).covered, run_of(change).result) == (1, Result.SUCCESS)
    assert ask_of_item(run_of(change), 0, ended) is None


def test_a_word_that_fails_it() -> None:
    run, item = deferral()
    change = apply(run, item, completed(error="no room"))
    assert (item_of(change).error, run_of(change).result) == ("no room", Result.FAILED)


@pytest.mark.parametrize("later", [deferred(), finished(), finished(error="no"), retry(), expired()])
def test_a_word_may_come_before_the_handler_has_returned(later: ItemDeferred) -> None:
    change = apply(received(), None, completed())
    run, item = run_of(change), item_of(change)
    assert (item.result, item.event_type, item.decided) == (Result.SUCCESS, "type 0", "d")
    assert apply(run, item, later) == Change(run, Note.DUPLICATE, item=item)


def test_a_word_decides_an_item_that_waits_for_a_retry() -> None:
    waiting = item_of(apply(received(), None, retry()))
    assert ask_of_item(received(), 0, waiting) == Run(0, 300.0)
    change = apply(received(), waiting, completed())
    assert (item_of(change).result, item_of(change).error, item_of(change).due_at) == (Result.SUCCESS, None, None)
    assert ask_of_item(run_of(change), 0, item_of(change)) is None


def test_a_retried_item_may_be_deferred() -> None:
    waiting = item_of(apply(received(), None, retry()))
    assert apply(received(), waiting, deferred(attempt=1)).note is Note.DUPLICATE
    item = item_of(apply(received(), waiting, deferred(attempt=2)))
    assert (item.attempt, item.due_at, item.error, item.deferred_until) == (2, None, None, UNTIL)


def too_late(item: Item, word: ItemCompleted) -> Item:
    """An item that has heard a word that came too late."""
    return item.model_copy(update={"v": 2, "undone": (word.at,)})


def test_the_same_word_changes_nothing_and_a_different_one_is_refused() -> None:
    run, item = deferral()
    change = apply(run, item, completed())
    run, item = run_of(change), item_of(change)
    assert apply(run, item, completed()) == Change(run, Note.DUPLICATE, item=item)
    other = completed("other", error="no")
    # It is remembered, as it may come again when the item was taken up again.
    assert apply(run, item, other) == Change(run, Note.REFUSED, item=too_late(item, other))
    assert apply(run, too_late(item, other), other).note is Note.DUPLICATE


def test_a_word_on_what_its_handler_has_ended_is_refused() -> None:
    change = apply(received(), None, finished())
    run, item = run_of(change), item_of(change)
    assert apply(run, item, completed()) == Change(run, Note.REFUSED, item=too_late(item, completed()))


def test_without_a_word_it_has_failed_at_its_deadline() -> None:
    run, item = deferral()
    change = apply(run, item, expired())
    ended = item_of(change)
    assert (change.note, ended.result, ended.ended_at) == (Note.APPLIED, Result.FAILED, UNTIL)
    assert ended.error == "no callback came before the deadline of 2023-11-14T22:13:20Z"
    assert run_of(change).result is Result.FAILED
    assert apply(run_of(change), ended, expired()) == Change(run_of(change), Note.DUPLICATE, item=ended)
    assert apply(run_of(change), ended, completed()).note is Note.REFUSED


def test_the_end_of_another_deferral_is_void() -> None:
    run, item = deferral()
    assert apply(run, item, expired(UNTIL - 1)) == Change(run, Note.DUPLICATE, item=item)


def test_what_is_not_known_is_late() -> None:
    for event in (deferred(index=1), completed(index=1)):
        assert apply(received(), None, event) == Change(received(), Note.LATE)
    assert apply(received(), None, expired()) == Change(received(), Note.LATE)
    assert apply(None, None, completed()) == Change(None, Note.LATE)


def test_a_word_that_survived_a_crash_without_its_node_runs_row_still_closes_it() -> None:
    run, item = deferral()
    ended = item_of(apply(run, item, completed()))
    counted = run.model_copy(update={"succeeded": 1})
    for event in (completed(), completed("other"), expired(), finished()):
        assert apply(counted, ended, event).run == closed(counted, 0.0) != counted


def test_a_late_item_that_a_word_fails_is_told() -> None:
    run = reporting().model_copy(update={"items": 2})
    change = apply(run, None, completed(error="no", index=1))
    assert (run_of(change).untold, run_of(change).covered) == (1, 1)
