"""What a node run and its items remember of what is over: each once, in order, and not without end."""

from __future__ import annotations

from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tables.history
from port.models import LogLevel, Result
from streams.records import (
    Action,
    Body,
    By,
    DeferralExpired,
    ItemAgain,
    ItemCompleted,
    ItemDeferred,
    ItemFinished,
    ItemRetry,
    Line,
    Lines,
    NodeRunEvent,
    ReportAgain,
    ReportAnswered,
    RunCancelled,
    Settled,
    Tries,
    Try,
)
from tables.history import MAX_LINES_CHARACTERS, MOST_KEPT, EarlierCall, EarlierCalls, How, first_line, with_call
from tables.ledger import INLINE_BYTES, Ledger
from tables.state import Change, Item, NodeRun, Note, apply
from tests.tables.examples import ID, answered, arrival, finished, received, reporting, retry
from tests.tables.histories import profile
from tests.tables.rows import DictRows

WHO = Action(id="a1", who="cli: anna")


def logged(text: str = "deploying", count: int = 1) -> Lines:
    return Lines(latest=tuple(Line(at=float(n), level=LogLevel.INFO, text=text) for n in range(count)))


def deferred(attempt: int = 1, until: float = 900.0) -> ItemDeferred:
    return ItemDeferred(
        node_run_id=ID, index=0, message=0, attempt=attempt, until=until, worker="w", started_at=210.0, at=220.0
    )


def again(item: Item, at: float = 500.0) -> ItemAgain:
    return ItemAgain(node_run_id=ID, index=0, attempt=item.attempt, ended_at=item.ended_at, action=WHO, at=at)


def after(run: NodeRun, *events: NodeRunEvent, item: Item | None = None) -> tuple[NodeRun, Item]:
    """Apply events, each of which counts."""
    for event in events:
        change = apply(run, item, event)
        assert change.note is Note.APPLIED, change.why
        assert change.run is not None
        run, item = change.run, change.item or item
    assert item is not None
    return run, item


def of(item: Item) -> list[tuple[int, How]]:
    assert item.earlier is not None
    return [(call.attempt, call.how) for call in item.earlier.calls]


def test_a_node_run_that_succeeds_at_its_first_call_remembers_nothing() -> None:
    run, item = after(received(), finished())
    run, _ = after(run, answered(), item=item)
    assert (item.earlier, item.logs, run.history) == (None, None, None)
    for record in (run, item, finished(), answered()):
        assert not {b"earlier", b"logs", b"history", b"tries"} & set(record.encode().replace(b'"', b" ").split())


def test_each_call_is_remembered_with_how_it_ended() -> None:
    first = retry().model_copy(
        update={"asked": True, "started_at": 200.0, "ended_at": 201.0, "error": "busy\nmore", "logs": logged()}
    )
    _, item = after(
        received(),
        first,
        retry(attempt=2, due_at=400.0),
        deferred(3),
        DeferralExpired(node_run_id=ID, index=0, until=900.0),
    )
    assert of(item) == [(1, How.RETRY), (2, How.RAISED), (3, How.DEFERRED)]
    assert item.earlier is not None
    one, two, three = item.earlier.calls
    assert one == EarlierCall(
        attempt=1,
        how=How.RETRY,
        started_at=200.0,
        ended_at=201.0,
        error="busy",
        worker="w",
        due_at=300.0,
        logs=logged(),
    )
    # An earlier version wrote no times of it.
    assert (two.started_at, two.ended_at, two.due_at) == (None, None, 400.0)
    assert (three.started_at, three.ended_at, three.due_at) == (210.0, 220.0, 900.0)
    assert (item.result, item.called_at) == (Result.FAILED, None), "no call has ended it"


def test_the_call_that_ended_an_item_is_among_the_earlier_ones_when_it_is_taken_up_again() -> None:
    end = finished(error="broken\nat line 2").model_copy(update={"logs": logged("the end")})
    run, item = after(received(count=2, array=True), retry(), end.model_copy(update={"attempt": 2}))
    assert (item.called_at, item.logs) == (199.0, logged("the end"))
    run, item = after(run, again(item), item=item)
    assert of(item) == [(1, How.RAISED), (2, How.FAILED)]
    assert item.earlier is not None
    last = item.earlier.calls[-1]
    assert (last.started_at, last.ended_at, last.error, last.logs) == (199.0, 200.0, "broken", logged("the end"))
    assert last.again is not None
    assert (last.again.who, last.again.at) == ("cli: anna", 500.0)
    _, item = after(run, finished(at=600.0).model_copy(update={"attempt": 3}), item=item)
    assert (of(item), item.called_at, item.logs) == ([(1, How.RAISED), (2, How.FAILED)], 599.0, None)


def test_a_word_that_is_undone_is_remembered_as_whose_it_was() -> None:
    said = ItemCompleted(
        node_run_id=ID, index=0, result=Result.FAILED, error="no", digest="d", by=By.CALLBACK, at=250.0
    )
    run, item = after(received(count=2, array=True), deferred(), said)
    _, item = after(run, again(item), item=item)
    assert of(item) == [(1, How.DEFERRED), (1, How.FAILED)]
    assert item.earlier is not None
    assert (item.earlier.calls[1].decided_by, item.earlier.calls[1].started_at) == (By.CALLBACK, None)


def test_who_did_not_want_to_wait_for_a_retry_is_remembered() -> None:
    run, item = after(received(), retry(due_at=9e9))
    _, item = after(run, again(item), item=item)
    assert item.earlier is not None
    [call] = item.earlier.calls
    assert call.again is not None
    assert (call.again.who, call.due_at) == ("cli: anna", 9e9)


def test_answers_before_the_last_one_are_remembered() -> None:
    tries = Tries(count=3, latest=(Try(at=390.0, status=503), Try(at=395.0)))
    too_large = answered(Settled.OUTPUT_REFUSED).model_copy(
        update={"status": 413, "reason": "too large", "tries": tries}
    )
    refused = answered(Settled.REFUSED, body=Body.SMALL).model_copy(update={"status": 404, "at": 401.0, "tries": tries})
    run = reporting()
    for event in (too_large, refused, ReportAgain(node_run_id=ID, report=0, action=WHO, at=500.0)):
        change = apply(run, None, event)
        assert change.run is not None
        assert change.note is Note.APPLIED
        run = change.run
        assert apply(run, None, event).run == run, "the same again adds nothing"
    assert run.history is not None
    first, second = run.history.answers
    assert (first.status, first.reason, first.body, first.settled) == (
        413,
        "too large",
        Body.FULL,
        Settled.OUTPUT_REFUSED,
    )
    assert (first.tries, first.again) == (tries, None)
    assert (second.status, second.at, second.body, second.tries) == (404, 401.0, Body.SMALL, tries)
    assert second.again is not None
    assert (second.again.who, run.history.tries) == ("cli: anna", None)
    final = ReportAnswered(
        node_run_id=ID, body=Body.FULL, settled=Settled.REPORTED, status=200, report=1, at=600.0, tries=tries
    )
    last = apply(run, None, final).run
    assert last is not None
    assert last.history is not None
    assert (last.history.tries, len(last.history.answers)) == (tries, 2)


def test_an_item_that_is_called_again_after_a_refused_report_keeps_that_answer_too() -> None:
    run, item = after(received(), finished(error="broken"))
    run, item = after(run, answered(Settled.REFUSED), item=item)
    run, item = after(run, again(item), item=item)
    assert run.history is not None
    assert [(one.settled, one.status) for one in run.history.answers] == [(Settled.REFUSED, 200)]


@pytest.mark.parametrize("who", ["", "web"])
def test_the_first_word_of_a_cancellation_is_remembered(who: str) -> None:
    action = Action(id="a", who=who) if who else None
    run = received()
    for over, at in ((False, 150.0), (True, 160.0)):
        change = apply(run, None, RunCancelled(node_run_id=ID, over=over, action=action, at=at))
        assert change.run is not None
        run = change.run
    assert run.history is not None
    assert run.history.cancelled is not None
    assert (run.history.cancelled.who, run.history.cancelled.at) == (who, 150.0)


def test_the_lines_of_earlier_calls_have_a_bound_together() -> None:
    earlier: EarlierCalls | None = None
    for attempt in range(1, 10):
        call = EarlierCall(attempt=attempt, how=How.RAISED, logs=logged("x" * 400, count=10))
        earlier = with_call(earlier, call)
    assert earlier is not None
    kept = [len(call.logs.latest) for call in earlier.calls if call.logs is not None]
    assert kept == [0] * 6 + [10] * 3, "the latest keep theirs"
    assert sum(call.logs.size for call in earlier.calls if call.logs is not None) <= MAX_LINES_CHARACTERS
    assert all(call.logs is not None and call.logs.left_out + len(call.logs.latest) == 10 for call in earlier.calls)


def test_an_item_with_much_to_remember_has_a_row_of_its_own() -> None:
    rows = DictRows()
    ledger = Ledger(rows)
    ledger.arrival(0, arrival())
    few, many = logged("x" * 100, count=2), logged("x" * 100, count=INLINE_BYTES // 100)
    ledger.outcome(0, retry().model_copy(update={"logs": few}))
    assert rows.keys(b"i/") == []
    ledger.outcome(0, retry(attempt=2).model_copy(update={"logs": many}))
    assert len(rows.keys(b"i/")) == 1
    run = ledger.run(0, ID)
    assert run is not None
    assert run.item is None
    item = ledger.item(0, run, 0)
    assert item is not None
    assert of(item) == [(1, How.RAISED), (2, How.RAISED)]


def test_the_first_line_of_a_text() -> None:
    assert [first_line(text) for text in (None, "", " \n ", "\n a \nb", "x" * 1000)] == [
        None,
        None,
        None,
        "a ",
        "x" * 300,
    ]


def _next(item: Item | None, choice: int, at: float) -> NodeRunEvent | None:
    """Return something that may honestly happen next to an item; None where nothing can."""
    attempt = 0 if item is None else item.attempt
    if item is not None and item.result is not None:
        return again(item, at) if item.result is Result.FAILED else None
    said = {"result": Result.FAILED, "error": "no", "digest": str(at), "by": By.CALLBACK, "at": at}
    word = ItemCompleted.model_validate({"node_run_id": ID, "index": 0} | said)
    if item is not None and item.deferred_until is not None:
        return word if choice % 2 else DeferralExpired(node_run_id=ID, index=0, until=item.deferred_until)
    if choice % 8 == 7:
        return word
    if choice % 4 == 0:
        return finished(error="broken", at=at).model_copy(update={"attempt": attempt + 1})
    if choice % 4 == 1:
        return deferred(attempt + 1, until=at).model_copy(update={"at": at, "started_at": at - 0.5})
    if choice % 4 == 2 and item is not None and item.due_at is not None:
        return again(item, at)
    times = {"started_at": at - 0.5, "ended_at": at, "logs": logged(str(at))}
    return retry(attempt=attempt + 1, due_at=at + 5).model_copy(update=times)


Ended: TypeAlias = tuple[int, How, By | None]


def _left_behind(item: Item | None, event: NodeRunEvent, change: Change) -> Ended | None:
    """Return which end of an item is an earlier one by what was applied."""
    if change.note is not Note.APPLIED:
        return None
    match event:
        case ItemRetry():
            return event.attempt, How.RAISED, None
        case ItemDeferred():
            return event.attempt, How.DEFERRED, None
        case ItemAgain() if event.ended_at is not None:
            return event.attempt, How.FAILED, None if item is None else item.decided_by
    return None


@profile(300)
@given(choices=st.lists(st.integers(0, 255), max_size=120), most=st.integers(2, MOST_KEPT))
def test_each_call_is_remembered_once_and_in_order_whatever_comes_again(choices: list[int], most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables.history, "MOST_KEPT", most)
        run, item = received(count=2, array=True), None
        sent: list[NodeRunEvent] = []
        expected: list[Ended] = []
        for number, choice in enumerate(choices):
            # Half of what comes has come before.
            event = sent[choice // 2 % len(sent)] if choice % 2 and sent else _next(item, choice // 2, 1000.0 + number)
            if event is None:
                continue
            sent.append(event)
            change = apply(run, item, event)
            assert change.run is not None
            if (one := _left_behind(item, event, change)) is not None:
                expected.append(one)
            if change.note is Note.APPLIED:
                run, item = change.run, change.item
            elif change.item is not None:
                assert change.item == item, "what comes again changes nothing"
            _check(item, expected, most)


def _check(item: Item | None, expected: list[Ended], most: int) -> None:
    earlier = None if item is None else item.earlier
    calls = () if earlier is None else earlier.calls
    assert len(set(expected)) == len(expected)
    shown = expected if len(expected) <= most else [expected[0], *expected[1 - most :]]
    assert [(call.attempt, call.how, call.decided_by) for call in calls] == shown
    assert (0 if earlier is None else earlier.left_out) == len(expected) - len(shown)
    ends = [call.ended_at for call in calls if call.ended_at is not None]
    assert ends == sorted(ends)


def test_an_end_by_a_call_is_told_from_one_without() -> None:
    cancelled = ItemFinished(
        v=2,
        node_run_id=ID,
        index=0,
        message=0,
        attempt=1,
        result=Result.CANCELLED,
        worker="w",
        started_at=7.0,
        ended_at=7.0,
    )
    _, item = after(received(), retry(), cancelled)
    assert (item.called_at, of(item)) == (None, [(1, How.RAISED)])
