"""Every kind of event on the outcomes topic may come again, late and out of order: what a log has is read again."""

from __future__ import annotations

import random
from typing import Final, cast, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from port.models import Result
from streams.records import (
    Action,
    Arrival,
    Body,
    By,
    DeferralExpired,
    Died,
    FailureTold,
    GraceOver,
    ItemAgain,
    ItemCompleted,
    NodeRunEvent,
    OutcomeEvent,
    Record,
    Released,
    ReportAgain,
    ReportStopped,
    RunCancelled,
    RunningItem,
    Settled,
    Tick,
    TypePaused,
)
from tables.ledger import Ledger
from tables.ownership import Ownership, buried, released, taken
from tables.state import Note
from tests.tables.examples import ID, answered, arrival, completed, deferred, finished, retry
from tests.tables.histories import arrivals, profile
from tests.tables.model import PARTITION, Scenario, World
from tests.tables.rows import DictRows

ASKED: Final = Action(id="request-1", who="somebody")
LATER: Final = Action(id="request-0", who="somebody else")


def again(attempt: int, ended_at: float | None, at: float = 500.0) -> ItemAgain:
    return ItemAgain(node_run_id=ID, index=0, attempt=attempt, ended_at=ended_at, action=ASKED, at=at)


def second(event: Record) -> NodeRunEvent:
    """What a second call, made after the item was taken up again, says."""
    return cast("NodeRunEvent", event.model_copy(update={"attempt": 2, "ended_at": 600.0, "started_at": 599.0}))


FAILED: Final = finished(error="broken")
REFUSED: Final = answered(Settled.REFUSED)
EXPIRED: Final = DeferralExpired(node_run_id=ID, index=0, until=900.0)
CANCELS: Final = RunCancelled(node_run_id=ID, over=False, action=ASKED, at=300.0)
SEEN: Final = CANCELS.model_copy(update={"seen": "before it had ended"})
WORD: Final = completed()
OTHER_WORD: Final = completed(result=Result.FAILED).model_copy(update={"digest": "otherwise", "at": 260.0})
TOLD: Final = FailureTold(node_run_id=ID, index=0, attempt=2)
LATE_END: Final = second(finished(error="again"))
CANCELLED_END: Final = finished(at=350.0).model_copy(update={"result": Result.CANCELLED, "output": None})

HISTORIES: Final[dict[str, list[NodeRunEvent]]] = {
    "finished": [finished()],
    "failed, taken up again, finished": [FAILED, REFUSED, again(1, 200.0), second(finished())],
    "failed, taken up again, open": [FAILED, REFUSED, again(1, 200.0)],
    "cancelled by a call that was late, taken up again, open": [FAILED, CANCELLED_END, REFUSED, again(1, 200.0)],
    "retried, called at once": [retry(), again(1, None), second(finished())],
    "retried twice": [retry(), retry(attempt=2)],
    "deferred, completed": [deferred(), WORD, OTHER_WORD],
    "deferred, expired": [deferred(), EXPIRED, WORD],
    "expired, a word too late, taken up again, open": [deferred(), EXPIRED, WORD, REFUSED, again(1, 900.0)],
    "cancelled": [CANCELS, CANCELLED_END, answered()],
    "a cancellation too late, reported anew": [FAILED, SEEN, REFUSED, again(1, 200.0)],
    "reported again": [
        FAILED,
        REFUSED,
        ReportAgain(node_run_id=ID, report=0, action=ASKED, at=500.0),
        answered().model_copy(update={"report": 1}),
    ],
    "given up": [FAILED, ReportStopped(node_run_id=ID, report=0, action=ASKED, at=500.0)],
    "the output refused": [
        finished(),
        answered(Settled.OUTPUT_REFUSED),
        answered(body=Body.SMALL),
    ],
    "told": [FAILED, answered(), again(1, 200.0), LATE_END, TOLD],
    "grace": [FAILED, GraceOver(node_run_id=ID, items=1, since=200.0), REFUSED, again(1, 200.0), second(finished())],
}


def entered(events: list[NodeRunEvent], grace: float = 0.0) -> Ledger:
    ledger = Ledger(DictRows(), grace=grace)
    ledger.arrival(PARTITION, arrival())
    for event in events:
        ledger.outcome(PARTITION, event)
    return ledger


@pytest.mark.parametrize("name", HISTORIES)
@pytest.mark.parametrize("order", range(6))
def test_what_comes_again_in_any_order_changes_nothing(name: str, order: int) -> None:
    events = HISTORIES[name]
    ledger = entered(events, grace=5.0 if name == "grace" else 0.0)
    before = ledger.run(PARTITION, ID)
    assert before is not None
    item = ledger.item(PARTITION, before, 0)
    shuffled = [*events, *events]
    if order:
        random.Random(order).shuffle(shuffled)
    for event in shuffled:
        applied = ledger.outcome(PARTITION, event)
        assert applied.note is not Note.APPLIED, event
    after = ledger.run(PARTITION, ID)
    assert after == before
    assert ledger.item(PARTITION, after, 0) == item


def test_every_kind_has_a_history() -> None:
    tried = {type(event) for events in HISTORIES.values() for event in events}
    assert tried == set(get_args(NodeRunEvent))
    others = set(get_args(get_args(OutcomeEvent)[0])) - tried
    assert others == {TypePaused, Released, Died, Tick}, "each of these has a test below"


class Again(World):
    """A world in which events come again at any time: what the outcomes log holds, and what was entered directly."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        self.ever: list[Arrival | NodeRunEvent] = []

    def _enter(self, where: str, event: Arrival | NodeRunEvent) -> None:
        self.ever.append(event)
        super()._enter(where, event)

    def come_again(self, which: int) -> None:
        """Have an earlier event come once more."""
        if not self.ever:
            return
        event = self.ever[which % len(self.ever)].model_copy()
        if isinstance(event, Arrival):
            self.arrivals.append(event)
        else:
            self.outcomes.append(event)


@profile(200)
@given(
    messages=arrivals("wfnr_a"),
    steps=st.lists(st.integers(0, 255), max_size=150),
    repeats=st.lists(st.integers(0, 10_000), max_size=150),
    grace=st.sampled_from([0.0, 0.0, 5.0]),
)
def test_whatever_comes_again_meanwhile_each_node_run_ends_as_one_true_result(
    messages: list[Arrival], steps: list[int], repeats: list[int], grace: float
) -> None:
    world = Again(Scenario(tuple(messages), grace=grace, refused={"wfnr_a": (Body.FULL,)}))
    for number, step in enumerate(steps):
        world.step(step)
        if number < len(repeats):
            world.come_again(repeats[number])
    world.settle()
    run = world.worker.ledger.run(PARTITION, "wfnr_a")
    for event in reversed(list(world.ever)):
        if isinstance(event, Arrival):
            world.worker.ledger.arrival(PARTITION, event)
        else:
            world.worker.ledger.outcome(PARTITION, event)
    assert world.worker.ledger.run(PARTITION, "wfnr_a") == run


def pause(at: float, *, paused: bool = True, action: Action = ASKED) -> TypePaused:
    return TypePaused(event_type="greet", paused=paused, action=action, at=at)


class TestTypePaused:
    def test_the_latest_counts_in_whatever_order_they_come(self) -> None:
        words = [pause(1.0), pause(2.0, paused=False, action=LATER), pause(3.0), pause(4.0, paused=False)]
        for seed in range(20):
            ledger = Ledger(DictRows())
            shuffled = [*words, *words]
            random.Random(seed).shuffle(shuffled)
            for word in shuffled:
                ledger.pause(PARTITION, word)
            assert ledger.paused(PARTITION) == []

    def test_one_that_comes_again_does_not_flip_the_state(self) -> None:
        ledger = Ledger(DictRows())
        assert ledger.pause(PARTITION, pause(1.0)) is Note.APPLIED
        assert ledger.pause(PARTITION, pause(2.0, paused=False)) is Note.APPLIED
        assert ledger.pause(PARTITION, pause(1.0)) is Note.DUPLICATE
        assert ledger.paused(PARTITION) == []
        assert ledger.pause(PARTITION, pause(3.0)) is Note.APPLIED
        assert ledger.pause(PARTITION, pause(2.0, paused=False)) is Note.DUPLICATE
        assert [one.at for one in ledger.paused(PARTITION)] == [3.0]


RUNS: Final = RunningItem(worker="a", node_run_id=ID, index=0, attempt=1)


class TestReleased:
    def test_a_word_of_the_present_ownership_does_not_disown_who_holds_it(self) -> None:
        row = Ownership(owner="a", generation=5)
        assert released(row, Released(worker="a", generation=5, running=(RUNS,)), held=True) is row

    def test_one_that_comes_again_is_not_waited_for_again(self) -> None:
        word = Released(worker="a", generation=1, running=(RUNS,))
        row = released(taken(taken(None, "a"), "b"), word)
        assert [item.node_run_id for item in row.elsewhere] == [ID]
        after = row.model_copy(update={"elsewhere": ()})
        assert released(after, word, held=True) is after
        assert released(taken(after, "c"), word).elsewhere == ()


class TestDied:
    def test_one_that_comes_again_does_not_bury_who_has_owned_the_partition_since(self) -> None:
        row = taken(taken(None, "a"), "b")
        died = Died(worker="a", generation=row.generation)
        assert buried(row, died).awaited == {}
        # It was thought dead, and came back.
        row = taken(taken(buried(row, died), "a"), "b")
        assert "a" in row.awaited
        assert buried(row, died) is row
        heard = released(row, Released(worker="a", generation=row.awaited["a"], running=(RUNS,)), held=True)
        assert [item.worker for item in heard.elsewhere] == ["a"]
        assert buried(heard, died) is heard
        assert buried(heard, Died(worker="a", generation=heard.generation)).elsewhere == ()

    def test_of_somebody_else_it_changes_nothing(self) -> None:
        row = taken(taken(None, "a"), "b")
        assert buried(row, Died(worker="stranger", generation=9)) is row


def test_a_word_of_an_operator_that_came_too_late_is_void_for_the_next_call() -> None:
    late = ItemCompleted(node_run_id=ID, index=0, result=Result.SUCCESS, digest="d", by=By.CLI, action=LATER, at=450.0)
    ledger = entered([FAILED, late, REFUSED, again(1, 200.0)])
    assert ledger.outcome(PARTITION, late).note is Note.DUPLICATE
    # The same said anew is another word.
    assert ledger.outcome(PARTITION, late.model_copy(update={"at": 550.0})).note is Note.APPLIED
