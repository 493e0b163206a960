"""What the ledger writes, and what it costs."""

from __future__ import annotations

import pytest

from streams.records import ItemDeferred
from tables.ledger import INLINE_BYTES, Ledger
from tests.tables.examples import ID, answered, arrival, finished, retry
from tests.tables.rows import DictRows

LARGE = '{"a":"' + "x" * INLINE_BYTES + '"}'


def test_a_small_node_run_is_one_row_from_its_arrival_to_its_end() -> None:
    rows = DictRows()
    ledger = Ledger(rows)
    ledger.arrival(0, arrival())
    assert rows.keys(b"") == [b"o/wfnr_a"]
    ledger.outcome(0, retry())
    ledger.outcome(0, finished())
    assert rows.keys(b"") == [b"o/wfnr_a"]
    ledger.outcome(0, answered())
    assert rows.keys(b"") == [b"f/wfnr_a"]
    run = ledger.run(0, ID)
    assert run is not None
    assert [message.text for message in ledger.messages(0, run)] == ["text 0"]
    assert [item.output for item in ledger.items(0, run)] == ['{"done":true}']


def test_details_stand_in_rows_of_their_own_before_the_node_runs_row() -> None:
    rows = DictRows()
    ledger = Ledger(rows)
    ledger.arrival(0, arrival(count=2, array=True))
    ledger.arrival(0, arrival(1))
    ledger.outcome(0, finished(1))
    assert [key for key, _ in rows.written] == [
        b"m/wfnr_a/00000000",
        b"o/wfnr_a",
        b"d/wfnr_a/digest 1",
        b"m/wfnr_a/00000002",
        b"o/wfnr_a",
        b"i/wfnr_a/00000001",
        b"o/wfnr_a",
    ]


def test_an_item_that_grows_leaves_its_node_runs_row() -> None:
    ledger = Ledger(DictRows())
    ledger.arrival(0, arrival())
    ledger.outcome(0, retry())
    ledger.outcome(0, finished(output=LARGE))
    run = ledger.run(0, ID)
    assert run is not None
    assert run.item is None
    assert [item.output for item in ledger.items(0, run)] == [LARGE]
    ledger.outcome(0, finished())
    assert ledger.run(0, ID) == run, "its end is known"


def test_a_long_stack_trace_stands_in_a_row_of_its_own() -> None:
    rows = DictRows()
    ledger = Ledger(rows)
    ledger.arrival(0, arrival())
    ledger.outcome(0, retry().model_copy(update={"trace": "x" * (INLINE_BYTES + 1)}))
    assert rows.keys(b"") == [b"i/wfnr_a/00000000", b"o/wfnr_a"]
    ledger.outcome(0, finished().model_copy(update={"trace": "a short one"}))
    run = ledger.run(0, ID)
    assert run is not None
    assert [item.trace for item in ledger.items(0, run)] == ["a short one"]


def test_a_large_end_whose_node_runs_row_was_lost_counts_when_it_comes_again() -> None:
    rows = DictRows()
    ledger = Ledger(rows)
    ledger.arrival(0, arrival())
    ledger.outcome(0, finished(output=LARGE))
    assert [key[:1] for key, _ in rows.written] == [b"o", b"i", b"o"]
    ledger = Ledger(DictRows(rows.written[:2]))
    run = ledger.outcome(0, finished(output=LARGE)).run
    assert run is not None
    assert run.covered == 1


def test_what_stood_before_an_event_is_what_the_row_said() -> None:
    rows = DictRows()
    ledger = Ledger(rows)
    ledger.arrival(0, arrival(count=2, array=True))
    before = ledger.run(0, ID)
    assert before is not None
    ledger.outcome(0, finished(0))
    # The item's row has outlived a crash, its node run's has not: whoever counts node runs has counted this.
    rows.put(0, b"o/wfnr_a", before.encode())
    applied = Ledger(rows).outcome(0, finished(0))
    assert applied.before == before
    assert applied.run is not None
    assert (before.succeeded, applied.run.succeeded) == (0, 1)


def test_a_row_is_of_the_format_of_what_stands_in_it() -> None:
    rows = DictRows()
    ledger = Ledger(rows)
    ledger.arrival(0, arrival())
    plain = ledger.run(0, ID)
    deferred = ItemDeferred(
        node_run_id=ID, index=0, message=0, attempt=1, until=9.0, worker="w", started_at=1.0, at=2.0
    )
    ledger.outcome(0, deferred)
    run = ledger.run(0, ID)
    assert plain is not None
    assert run is not None
    assert run.item is not None
    assert (plain.v, run.v) == (1, 2)


def test_the_cost_of_ten_thousand_items_is_ten_thousand_times_that_of_one() -> None:
    count = 10_000
    rows = DictRows()
    ledger = Ledger(rows)
    ledger.arrival(0, arrival(count=count, array=True))
    for index in range(count):
        ledger.outcome(0, finished(index))
    assert len(rows.written) == 2 + 2 * count
    assert rows.scanned == 0, "a node run that is new here needs no recount"
    assert max(len(value) for key, value in rows.written if key[:1] == b"o" and value) < 1000

    ledger.taken_over(0)
    for index in range(100):
        ledger.outcome(0, finished(index))
    assert rows.scanned == count, "recounted once after a take-over, not at every event"


def _play(ledger: Ledger, node_run_id: str) -> None:
    ledger.arrival(0, arrival().model_copy(update={"node_run_id": node_run_id}))
    ledger.outcome(0, finished().model_copy(update={"node_run_id": node_run_id}))
    ledger.outcome(0, answered().model_copy(update={"node_run_id": node_run_id}))


@pytest.mark.parametrize("taken_over", [False, True])
def test_nothing_is_remembered_of_finished_node_runs_though_their_events_come_again(
    monkeypatch: pytest.MonkeyPatch, taken_over: bool
) -> None:
    monkeypatch.setattr("tables.ledger._MOST_FINISHED", 10)
    ledger = Ledger(DictRows())
    for number in range(100):
        _play(ledger, f"wfnr_{number}")
        assert not any(ledger._recounted.values())
    if taken_over:
        ledger.taken_over(0)
        assert not ledger._finished
    for number in range(100):
        _play(ledger, f"wfnr_{number}")
        assert not any(ledger._recounted.values())
    assert len(ledger._finished) == 10


def test_a_finished_node_run_of_many_items_is_recounted_once_though_all_their_ends_come_again() -> None:
    count = 1000
    rows = DictRows()
    ledger = Ledger(rows)
    ledger.arrival(0, arrival(count=count, array=True))
    for index in range(count):
        ledger.outcome(0, finished(index))
    ledger.outcome(0, answered())
    ledger.taken_over(0)
    for index in range(count):
        ledger.outcome(0, finished(index))
    assert rows.scanned == count


def test_a_finished_node_run_that_opens_again_is_remembered_until_it_is_finished() -> None:
    ledger = Ledger(DictRows())
    _play(ledger, ID)
    ledger.arrival(0, arrival(1))
    assert ledger._recounted == {0: {ID}}
    ledger.outcome(0, finished(1))
    assert ledger._recounted == {0: set()}


def test_a_message_that_a_crash_cut_off_leaves_nothing_to_the_one_that_takes_its_place() -> None:
    rows = DictRows()
    ledger = Ledger(rows)
    ledger.arrival(0, arrival())
    ledger.arrival(0, arrival(1, problem="unsound"))
    assert [key[:1] for key, _ in rows.written] == [b"o", b"d", b"m", b"i", b"o"]
    ledger = Ledger(DictRows(rows.written[:4]))
    run = ledger.arrival(0, arrival(2)).run
    assert run is not None
    assert [message.text for message in ledger.messages(0, run)] == ["text 0", "text 2"]
    assert ledger.item(0, run, 1) is None, "the item of the message that came instead has not ended"


def test_a_large_first_message_that_a_crash_cut_off_is_not_listed_beside_a_small_one() -> None:
    rows = DictRows()
    ledger = Ledger(rows)
    ledger.arrival(0, arrival().model_copy(update={"text": LARGE}))
    ledger = Ledger(DictRows(rows.written[:1]))
    ledger.arrival(0, arrival(1))
    run = ledger.arrival(0, arrival(2)).run
    assert run is not None
    assert [message.text for message in ledger.messages(0, run)] == ["text 1", "text 2"]
