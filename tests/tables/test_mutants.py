"""The model's own proof: each of these defects, put in on purpose, must be found by the search of the model.

Of the pure functions:
- *counts an outcome twice*: a repeated outcome is not known for one;
- *freezes too early*: the report is frozen when the first item ends;
- *lets the report cover late items*: what is covered grows with the items that come after the report;
- *begins in a soft cancel*, *a soft cancel cuts off what runs*, or *ends what is deferred*;
- *policy forgotten*, or *cancellation forgotten*, after a crash;
- *reports what Port has ended*: a node run that is over at Port is reported all the same;
- *recount forgotten*: after a crash the counters are believed, though the item rows are ahead of them;
- *body from unfrozen counters*: the small body says how many items there are, not how many are covered;
- *the last word wins*: a callback decides an item that has ended;
- *the end of a deferral wins*: it fails an item that a callback has completed;
- *a deferred item is called again*;
- *a retry that comes again is remembered twice*;
- *earlier calls forgotten*: an item's end leaves nothing of the calls before it;
- *an earlier answer forgotten*: of Port, to a report that was sent again.

Of the ledger's writes:
- *node run's row written first*, before the rows of its details;
- *small state kept inline*: an item's earlier state stands on in its node run's row when its end has a row of its own;
- *resume does nothing*: what a crash left half written is taken over as it is.

And of what surrounds the ledger, which it relies on:
- *acts on what is not acknowledged*: a report is sent for a state whose changelog record may still be lost;
- *source done too early*: its offset is committed before the changelog has what was entered;
- *store ahead of its changelog*: a local store survives a crash with writes that the changelog never got.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import Phase, settings
from pydantic import JsonValue

import tables.ledger
import tables.report
import tables.state
import tests.tables.model
from streams.records import Arrival, DeferralExpired, ItemCompleted, ItemFinished, ItemRetry, RunCancelled, Source
from tables.history import Again, EarlierCall, How, with_call
from tables.ledger import Ledger
from tables.state import AwaitWord, Cancel, Change, Item, ItemAsk, Message, NodeRun, Run, Stop
from tests.tables.histories import profile, search
from tests.tables.model import Violation
from tests.tables.rows import DictRows

# The same examples each time: a search of bounded length must not find the defect on some days only.
_SEARCH = settings(profile(4000), derandomize=True, phases=[Phase.generate], report_multiple_bugs=False)

_item_finished = tables.state._item_finished
_item_completed = tables.state._item_completed
_item_retry = tables.state._item_retry
_kept = tables.state._kept
_again = tables.state._again
_deferral_expired = tables.state._deferral_expired
_ask_of_item = tables.state.ask_of_item
_stop_of = tables.state._stop_of
_freeze = tables.state._freeze
_recount = tables.state.recount
_apply_arrival = tables.state.apply_arrival
_write_item = Ledger._write_item


def _counts_twice(run: NodeRun, item: Item | None, event: ItemFinished, grace: float) -> Change:
    return _item_finished(run, None, event, grace)


def _last_word(run: NodeRun, item: Item | None, event: ItemCompleted, grace: float) -> Change:
    return _item_completed(run, None, event, grace)


def _expires_all(run: NodeRun, item: Item | None, event: DeferralExpired, grace: float) -> Change:
    forgotten = None if item is None else item.model_copy(update={"result": None, "deferred_until": event.until})
    return _deferral_expired(run, forgotten, event, grace)


def _calls_again(run: NodeRun, index: int, item: Item | None) -> ItemAsk:
    ask = _ask_of_item(run, index, item)
    return Run(index, None) if isinstance(ask, AwaitWord) else ask


def _begins_softly(run: NodeRun, index: int, item: Item | None) -> ItemAsk:
    ask = _ask_of_item(run, index, item)
    return Run(index, None) if isinstance(ask, Cancel) and ask.why is Stop.SOFT else ask


def _cuts_softly(event: RunCancelled) -> Stop:
    stop = _stop_of(event)
    return Stop.RUN if stop is Stop.SOFT else stop


def _ends_deferred_softly(run: NodeRun, index: int, item: Item | None) -> ItemAsk:
    ask = _ask_of_item(run, index, item)
    return Cancel(index, Stop.SOFT) if isinstance(ask, AwaitWord) and run.stopped is Stop.SOFT else ask


def _remembers_twice(run: NodeRun, item: Item | None, event: ItemRetry) -> Change:
    change = _item_retry(run, item, event)
    if item is None or change.item is not item:
        return change
    twice = with_call(item.earlier, EarlierCall(attempt=event.attempt, how=How.RAISED))
    return replace(change, item=item.model_copy(update={"earlier": twice}))


def _forgets_calls(item: Item | None) -> tables.state._Kept:
    kept = _kept(item)
    kept.pop("earlier", None)
    return kept


def _forgets_answers(run: NodeRun, asked: Again) -> NodeRun:
    return _again(run, asked).model_copy(update={"history": None})


def _freezes_early(run: NodeRun, grace: float) -> NodeRun:
    return _freeze(run) if run.covered is None else run


def _covers_late_items(run: NodeRun | None, known: Message | None, arrival: Arrival) -> Change:
    change = _apply_arrival(run, known, arrival)
    if change.run is None or change.run.covered is None:
        return change
    return replace(change, run=change.run.model_copy(update={"covered": change.run.items}))


def _no_recount(run: NodeRun, items: Iterable[Item]) -> NodeRun:
    return run


def _forgets_policy(run: NodeRun, items: Iterable[Item]) -> NodeRun:
    return _recount(run, items).model_copy(update={"policy": None})


def _forgets_cancellation(run: NodeRun, items: Iterable[Item]) -> NodeRun:
    return _recount(run, items).model_copy(update={"stopped": None})


def _reports_what_is_over(run: NodeRun) -> NodeRun:
    return _freeze(run).model_copy(update={"settled": None, "settled_at": None})


def _unfrozen_small_output(run: NodeRun, items: Iterable[Item]) -> dict[str, JsonValue]:
    return {"error": {"message": f"{run.failed} of {run.items} items failed"}}


def _keeps_small_state(self: Ledger, partition: int, run: NodeRun, item: Item) -> NodeRun:
    written = _write_item(self, partition, run, item)
    return written.model_copy(update={"item": run.item}) if run.item else written


class _Reversed:
    """Rows that hold the writes of an event back, to make them in the opposite order."""

    def __init__(self, rows: DictRows) -> None:
        self._rows = rows
        self.held: list[tuple[bytes, bytes | None]] = []

    def get(self, partition: int, key: bytes) -> bytes | None:
        return self._rows.get(partition, key)

    def put(self, partition: int, key: bytes, value: bytes) -> None:
        self.held.append((key, value))

    def delete(self, partition: int, key: bytes) -> None:
        self.held.append((key, None))

    def release(self) -> None:
        for key, value in reversed(self.held):
            if value is None:
                self._rows.delete(0, key)
            else:
                self._rows.put(0, key, value)


_write = Ledger._write


def _row_first(self: Ledger, partition: int, change: Change) -> None:
    rows = self.rows
    assert isinstance(rows, DictRows)
    held = _Reversed(rows)
    self.rows = held  # type: ignore[assignment]
    _write(self, partition, change)
    self.rows = rows
    held.release()


def _resumes_nothing(self: Ledger, partition: int, node_run_id: str) -> bool:
    return False


@pytest.mark.parametrize(
    ("module", "name", "mutant"),
    [
        pytest.param(tables.state, "_item_finished", _counts_twice, id="counts an outcome twice"),
        pytest.param(tables.state, "_item_completed", _last_word, id="the last word wins"),
        pytest.param(tables.state, "_deferral_expired", _expires_all, id="the end of a deferral wins"),
        pytest.param(tests.tables.model, "ask_of_item", _calls_again, id="a deferred item is called again"),
        pytest.param(tests.tables.model, "ask_of_item", _begins_softly, id="begins in a soft cancel"),
        pytest.param(tables.state, "_stop_of", _cuts_softly, id="a soft cancel cuts off what runs"),
        pytest.param(
            tests.tables.model, "ask_of_item", _ends_deferred_softly, id="a soft cancel ends what is deferred"
        ),
        pytest.param(tables.state, "_item_retry", _remembers_twice, id="a retry that comes again is remembered twice"),
        pytest.param(tables.state, "_kept", _forgets_calls, id="earlier calls forgotten"),
        pytest.param(tables.state, "_again", _forgets_answers, id="an earlier answer forgotten"),
        pytest.param(tables.state, "closed", _freezes_early, id="freezes too early"),
        pytest.param(tables.ledger, "apply_arrival", _covers_late_items, id="lets the report cover late items"),
        pytest.param(tables.ledger, "recount", _no_recount, id="recount forgotten"),
        pytest.param(tables.ledger, "recount", _forgets_policy, id="policy forgotten"),
        pytest.param(tables.ledger, "recount", _forgets_cancellation, id="cancellation forgotten"),
        pytest.param(tables.state, "_freeze", _reports_what_is_over, id="reports what Port has ended"),
        pytest.param(tables.report, "_small_output", _unfrozen_small_output, id="body from unfrozen counters"),
        pytest.param(Ledger, "_write", _row_first, id="node run's row written first"),
        pytest.param(Ledger, "_write_item", _keeps_small_state, id="small state kept inline"),
        pytest.param(Ledger, "resume", _resumes_nothing, id="resume does nothing"),
    ],
)
def test_a_defect_is_found(monkeypatch: pytest.MonkeyPatch, module: object, name: str, mutant: object) -> None:
    monkeypatch.setattr(module, name, mutant)
    with pytest.raises(Violation):
        search(_SEARCH, most=1)


def test_acting_on_what_is_not_acknowledged_is_found() -> None:
    with pytest.raises(Violation):
        search(_SEARCH, most=1, careful=False)


def test_a_source_that_is_done_too_early_is_found() -> None:
    with pytest.raises(Violation):
        search(_SEARCH, most=1, hasty=True)


def test_a_store_ahead_of_its_changelog_is_found() -> None:
    with pytest.raises(Violation):
        search(_SEARCH, most=1, store_ahead=True)


def test_the_write_order_mutant_does_reverse() -> None:
    rows = DictRows()
    source = Source(cluster="c", topic="t", partition=0, offset=0, timestamp=0.0)
    arrival = Arrival(node_run_id="wfnr_a", source=source, digest="d", array=True, count=2)
    ledger = Ledger(rows)
    ledger.arrival(0, arrival)
    assert [key[:1] for key, _ in rows.written] == [b"m", b"o"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "_write", _row_first)
        ledger.arrival(0, arrival)
    assert [key[:1] for key, _ in rows.written[2:]] == [b"o", b"m"]
