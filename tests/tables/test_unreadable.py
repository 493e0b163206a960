"""Rows that are there and cannot be read: each costs what it is of, and nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest
from pydantic import ValidationError

from port.models import Result
from streams.records import Action, Died, ItemAgain, NewerFormatError, Released, RunningItem, Source, TypePaused
from tables.ledger import Ledger, NodeRuns
from tables.ownership import UNKNOWN, Ownership, buried, released, taken
from tables.state import Note
from tables.unreadable import RowKind, UnreadableRow, UnreadableRowError, UnwritableRowError
from tests.tables.examples import ID, arrival, finished, retry
from tests.tables.rows import DictRows

BROKEN = b'{"v":1,"node_run_id":null}'
LARGE = '{"a":"' + "x" * 5000 + '"}'
ASKED = Action(id="1", who="web")


@pytest.fixture
def rows() -> DictRows:
    return DictRows()


@pytest.fixture
def ledger(rows: DictRows) -> Ledger:
    return Ledger(rows)


def kinds(ledger: Ledger) -> list[RowKind]:
    return [row.kind for row in ledger.unreadable]


def an_array(ledger: Ledger, count: int = 3) -> None:
    ledger.arrival(0, arrival(count=count, array=True))


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_no_record_has_a_number_that_is_not_finite(number: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        Source(cluster="c", topic="t", partition=0, offset=0, timestamp=number)
    with pytest.raises(ValidationError, match="finite"):
        retry(due_at=number)


@pytest.mark.parametrize("text", ["1e999", "-1e999", "NaN", "Infinity", '"Infinity"'])
def test_nor_is_one_read(text: str) -> None:
    with pytest.raises(ValidationError):
        Source.model_validate_json(f'{{"cluster":"c","topic":"t","partition":0,"offset":0,"timestamp":{text}}}')


@pytest.mark.parametrize(
    "update", [{"due_at": math.inf}, {"error": "half \ud83d"}, {"attempt": "some"}], ids=["number", "text", "kind"]
)
def test_what_could_not_be_read_back_is_not_written(rows: DictRows, ledger: Ledger, update: dict[str, object]) -> None:
    an_array(ledger)
    written = list(rows.written)
    with pytest.raises(UnwritableRowError):
        ledger.outcome(0, retry().model_copy(update=update))
    assert rows.written == written


@pytest.mark.parametrize("kind", ["o", "f"])
def test_a_node_run_that_cannot_be_read_takes_nothing_on(rows: DictRows, ledger: Ledger, kind: str) -> None:
    key = f"{kind}/{ID}".encode()
    rows.put(0, key, BROKEN)
    with pytest.raises(UnreadableRowError, match=f"row {kind}/{ID} of partition 0"):
        ledger.arrival(0, arrival())
    with pytest.raises(UnreadableRowError, match=f"row {kind}/{ID} of partition 0"):
        ledger.outcome(0, finished())
    assert rows.get(0, key) == BROKEN, "it is left for people to look at"


def test_the_walk_over_the_node_runs_passes_it_by_and_takes_note(rows: DictRows, ledger: Ledger) -> None:
    other = arrival().model_copy(update={"node_run_id": "wfnr_b"})
    ledger.arrival(0, other)
    rows.put(0, b"o/wfnr_a", BROKEN)
    rows.put(0, b"f/wfnr_c", b"\xff")
    assert [run.node_run_id for run in ledger.open_runs(0)] == ["wfnr_b"]
    assert list(ledger.finished_runs(0)) == []
    assert [(row.kind, row.node_run_id) for row in ledger.unreadable] == [
        (RowKind.OPEN, "wfnr_a"),
        (RowKind.FINISHED, "wfnr_c"),
    ]


def test_no_value_of_a_row_is_told(rows: DictRows, ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    rows.put(0, b"o/wfnr_a", b'{"node_run_id":{"secret":"hunter2"}}')
    assert list(ledger.open_runs(0)) == []
    [row] = ledger.unreadable
    assert "hunter2" not in str(row)
    assert "hunter2" not in caplog.text
    assert "node_run_id" in row.why
    list(ledger.open_runs(0))
    assert len(caplog.records) == 1, "it is told once"


def test_a_row_of_a_newer_version_is_none_of_these(rows: DictRows, ledger: Ledger) -> None:
    rows.put(0, b"o/wfnr_a", b'{"v":99,"node_run_id":"wfnr_a"}')
    with pytest.raises(NewerFormatError):
        list(ledger.open_runs(0))


def test_an_item_that_cannot_be_read_has_failed_and_the_others_end_as_they_do(rows: DictRows, ledger: Ledger) -> None:
    an_array(ledger)
    ledger.outcome(0, finished(1))
    rows.put(0, f"i/{ID}/00000001".encode(), BROKEN)
    later = Ledger(rows)
    later.outcome(0, finished(0))
    run = later.outcome(0, finished(2)).run
    assert run is not None
    assert (run.succeeded, run.failed, run.result) == (2, 1, Result.FAILED)
    item = later.item(0, run, 1)
    assert item is not None
    assert "cannot be read any more" in (item.error or "")
    assert kinds(later) == [RowKind.ITEM]
    again = ItemAgain(node_run_id=ID, index=1, attempt=item.attempt, ended_at=item.ended_at, action=ASKED, at=1.0)
    assert later.outcome(0, again).note is Note.REFUSED, "its report is on its way"


def test_it_can_be_retried_while_the_node_run_is_open(rows: DictRows, ledger: Ledger) -> None:
    an_array(ledger)
    rows.put(0, f"i/{ID}/00000001".encode(), BROKEN)
    later = Ledger(rows)
    run = later.run(0, ID)
    assert run is not None
    item = later.item(0, run, 1)
    assert item is not None
    again = ItemAgain(node_run_id=ID, index=1, attempt=item.attempt, ended_at=item.ended_at, action=ASKED, at=1.0)
    assert later.outcome(0, again).note is Note.APPLIED
    run = later.run(0, ID)
    assert run is not None
    taken_up = later.item(0, run, 1)
    assert taken_up is not None
    assert (taken_up.result, taken_up.message) == (None, 0)
    assert kinds(later) == [], "its row is written anew"


def test_with_a_grace_it_counts_as_ended_too(rows: DictRows) -> None:
    ledger = Ledger(rows, grace=5.0)
    an_array(ledger, 1)
    rows.put(0, f"i/{ID}/00000000".encode(), BROKEN)
    later = Ledger(rows, grace=5.0)
    assert later.resume(0, ID)
    run = later.run(0, ID)
    assert run is not None
    assert run.grace_from == run.received_at


def test_a_message_that_cannot_be_read_keeps_its_place(rows: DictRows, ledger: Ledger) -> None:
    an_array(ledger)
    ledger.arrival(0, arrival(1))
    rows.put(0, f"m/{ID}/00000000".encode(), BROKEN)
    run = ledger.run(0, ID)
    assert run is not None
    lost, kept = ledger.messages(0, run)
    assert (lost.first, lost.count, lost.text, lost.lost) == (0, 3, "", True)
    assert (kept.first, kept.lost) == (3, False)
    assert ledger.message(0, run, 0) == lost
    assert kinds(ledger) == [RowKind.MESSAGE]


def test_the_same_message_again_brings_it_back(rows: DictRows, ledger: Ledger) -> None:
    an_array(ledger)
    rows.put(0, f"m/{ID}/00000000".encode(), BROKEN)
    assert ledger.arrival(0, arrival(count=3, array=True)).note is Note.DUPLICATE
    run = ledger.run(0, ID)
    assert run is not None
    [message] = ledger.messages(0, run)
    assert (message.text, message.lost, run.items) == ("text 0", False, 3)
    assert kinds(ledger) == []


@pytest.mark.parametrize("raw", [b"no number", b"\xff"])
def test_a_digest_that_cannot_be_read_makes_no_message_new(rows: DictRows, ledger: Ledger, raw: bytes) -> None:
    ledger.arrival(0, arrival())
    ledger.arrival(0, arrival(1))
    rows.put(0, f"d/{ID}/digest 1".encode(), raw)
    assert ledger.arrival(0, arrival(1)).note is Note.DUPLICATE
    run = ledger.run(0, ID)
    assert run is not None
    assert run.items == 2
    assert kinds(ledger) == []


def test_a_pause_that_cannot_be_read_stays(rows: DictRows, ledger: Ledger) -> None:
    rows.put(0, b"p/paused/deployment.started", BROKEN)
    [paused] = ledger.paused(0)
    assert (paused.event_type, paused.paused) == ("deployment.started", True)
    assert kinds(ledger) == [RowKind.PAUSED]
    ledger.pause(0, TypePaused(event_type="deployment.started", paused=False, action=ASKED, at=1.0))
    assert (ledger.paused(0), kinds(ledger)) == ([], [])


class TestOwner:
    """Who had a partition whose row cannot be read is waited for as one that has died."""

    RUNS = RunningItem(worker="earlier", node_run_id=ID, index=0, attempt=1)

    def test_it_is_unknown_and_taken_over(self, rows: DictRows, ledger: Ledger) -> None:
        rows.put(0, b"p/owner", BROKEN)
        row = ledger.ownership(0)
        assert row is not None
        assert row.owner == UNKNOWN
        mine = taken(row, "me")
        assert set(mine.awaited) == {UNKNOWN}
        ledger.own(0, mine)
        assert kinds(ledger) == []

    def test_what_an_earlier_owner_says_counts_until_then(self) -> None:
        mine = taken(Ownership(owner=UNKNOWN), "me")
        said = released(mine, Released(worker="earlier", generation=7, running=(self.RUNS,)))
        runs = self.RUNS.model_copy(update={"generation": mine.generation})
        assert said.elsewhere == (runs,)
        after = buried(said, Died(worker=UNKNOWN, generation=mine.generation))
        assert (dict(after.awaited), after.elsewhere) == ({}, (runs,))

    def test_it_counts_too_where_it_comes_before_the_taking(self) -> None:
        said = released(Ownership(owner=UNKNOWN), Released(worker="earlier", generation=7, running=(self.RUNS,)))
        assert said.elsewhere == (self.RUNS.model_copy(update={"generation": 1}),)


@pytest.mark.parametrize(
    "break_", [lambda raw: raw[:-1], lambda raw: b"", lambda raw: b"[]", lambda raw: json.dumps(None).encode()]
)
def test_whatever_the_bytes_are(rows: DictRows, ledger: Ledger, break_: Callable[[bytes], bytes]) -> None:
    ledger.arrival(0, arrival())
    raw = rows.get(0, b"o/wfnr_a")
    assert raw is not None
    rows.put(0, b"o/wfnr_a", break_(raw))
    with pytest.raises(UnreadableRowError):
        ledger.run(0, ID)
    assert list(NodeRuns(rows).open_runs(0)) == []


def test_every_kind_says_what_is_done_instead() -> None:
    keys = [b"o/a", b"f/a", b"m/a/0", b"d/a/0", b"i/a/0", b"p/owner", b"p/paused/a"]
    rows = [UnreadableRow.at(0, key, "why") for key in keys]
    assert [row.kind for row in rows] == list(RowKind)
    assert all(row.effect for row in rows)


def test_what_is_of_a_partition_goes_with_it(rows: DictRows, ledger: Ledger) -> None:
    rows.put(0, b"o/wfnr_a", BROKEN)
    assert list(ledger.open_runs(0)) == []
    assert ledger.unreadable.counts()[RowKind.OPEN] == 1
    ledger.taken_over(0)
    assert ledger.unreadable.counts()[RowKind.OPEN] == 0
