"""A partition that moves among workers, in random histories: see `tests.tables.ownership_model`.

And the model's own proof: each of these defects, put in on purpose, must be found by its search; the first two, which
need several moves in a row, by a history that is written down.

- *generation ignored*: an old word of a worker is taken for its last one;
- *old answer believed*: who joined after the question was asked is taken for dead;
- *word without its list*: what an earlier owner still runs is not taken over from its word;
- *no word awaited*: the new owner starts at once what earlier owners may be running;
- *dead runner never cleared*: what a dead worker ran is waited for for ever;
- *partition let go too early*, before the changelog has everything that was written;
- *dead buried too early*: before what they had sent is read, their items are started again;
- *ended call claimed*: a worker that has the partition again waits for a call whose outcome is already in the ledger;
- *ends wait for the rebalance*: a worker that stops does not notice that, and leaves without what its calls ended in.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

import agents.dispatch
from streams.records import Released
from tables import ownership
from tables.ownership import Ownership
from tests.tables.model import Violation
from tests.tables.ownership_model import World, arrival, search

_LONGER = 50 if os.environ.get("HYPOTHESIS_PROFILE") == "long" else 1
_SEARCHED = range(6000)

_released = ownership.released
_taken = ownership.taken


@pytest.fixture(autouse=True)
def _one_by_one() -> Iterator[None]:
    """A partition is taken over one node run after the other, with other things in between."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agents.dispatch, "_CHUNK", 1)
        yield


def test_without_a_crash_every_call_is_made_once_wherever_the_partition_goes() -> None:
    search(range(2000 * _LONGER), deaths=False)


def test_with_crashes_nothing_runs_twice_at_a_time_and_nothing_hangs() -> None:
    search(range(2000 * _LONGER))


def _all_settled(world: World) -> None:
    while world.learn() or world.recover():
        pass


def _begin_what_may(world: World) -> None:
    while world.outcome() or world.acknowledge() or world.take_over() or world.work():
        pass


def _begin_arrival(world: World) -> None:
    world.arrive()
    while world.acknowledge():
        pass
    assert world.work()


def _two_words_of_one_worker() -> None:
    world = World([arrival("wfnr_a", 1)], deaths=False)
    one, two = world.workers[0], world.join()
    for owner in (one, two, one):
        world.give_to(owner)
        _all_settled(world)
    _begin_arrival(world)
    world.give_to(two)
    _all_settled(world)
    for _ in range(2):
        world.outcome()  # the first words of both; the second one of `one` names its call
        while world.acknowledge() or world.take_over() or world.work():
            pass
    _begin_what_may(world)
    world.settle()


def _an_answer_of_long_ago(**defect: bool) -> None:
    world = World([arrival("wfnr_a", 1)], deaths=False, **defect)
    one, two = world.workers[0], world.join()
    world.give_to(one)
    _all_settled(world)
    world.give_to(two)
    _all_settled(world)
    assert two.answer is not None, "it has asked who lives, and not heard yet"
    three = world.join()
    world.give_to(three)
    _all_settled(world)
    _begin_arrival(world)
    world.give_to(two)
    two.learn()
    two.recovered()
    two.hear_of_the_dead()
    _begin_what_may(world)
    world.settle()


def test_the_first_word_of_a_worker_is_not_taken_for_its_second(monkeypatch: pytest.MonkeyPatch) -> None:
    _two_words_of_one_worker()
    monkeypatch.setattr(ownership, "released", _ignores_generation)
    with pytest.raises(Violation, match="begins at w2 and runs at"):
        _two_words_of_one_worker()


def test_who_joined_after_the_question_is_not_taken_for_dead() -> None:
    _an_answer_of_long_ago()
    with pytest.raises(Violation, match="begins at w2 and runs at"):
        _an_answer_of_long_ago(old_answers=True)


def _a_stop_in_a_rebalance(*, stays: bool, told_first: bool, **defect: bool) -> None:
    with closing(World([arrival("wfnr_a", 1)], deaths=False, **defect)) as world:
        one, two = world.workers[0], world.join()
        world.give_to(one)
        _all_settled(world)
        _begin_arrival(world)
        if told_first:
            world.stop()
        world.give_to(one if stays else two)
        if not told_first:
            world.stop()
        assert one.stopping
        _all_settled(world)
        world.end()
        while world.record() or world.passed_on() or world.acknowledge():
            pass
        for _ in range(2):
            world.stop()
        assert not one.alive
        world.settle()


@pytest.mark.parametrize("stays", [True, False])
@pytest.mark.parametrize("told_first", [True, False])
def test_what_a_call_of_a_stopping_worker_ends_in_outlives_a_rebalance(stays: bool, told_first: bool) -> None:
    _a_stop_in_a_rebalance(stays=stays, told_first=told_first)
    with pytest.raises(Violation, match="w1 leaves without"):
        _a_stop_in_a_rebalance(stays=stays, told_first=told_first, ends_wait=True)


def _ignores_generation(row: Ownership, event: Released, *, held: bool = False) -> Ownership:
    return _released(row, event.model_copy(update={"generation": row.awaited.get(event.worker, -1)}), held=held)


def _without_its_list(row: Ownership, event: Released, *, held: bool = False) -> Ownership:
    return _released(row, event.model_copy(update={"running": ()}), held=held)


def _awaits_nobody(row: Ownership | None, me: str) -> Ownership:
    return _taken(row, me).model_copy(update={"awaited": {}})


def _buries_nobody(row: Ownership, dead: str) -> Ownership:
    return row


@pytest.mark.parametrize(
    ("name", "mutant"),
    [
        pytest.param("released", _without_its_list, id="word without its list"),
        pytest.param("taken", _awaits_nobody, id="no word awaited"),
        pytest.param("buried", _buries_nobody, id="dead runner never cleared"),
    ],
)
def test_a_defect_is_found(monkeypatch: pytest.MonkeyPatch, name: str, mutant: Callable[..., Ownership]) -> None:
    monkeypatch.setattr(ownership, name, mutant)
    with pytest.raises(Violation):
        search(_SEARCHED)


@pytest.mark.parametrize(
    "defect",
    [
        pytest.param({"flushes": False}, id="partition let go too early"),
        pytest.param({"hasty_burial": True}, id="dead buried too early"),
        pytest.param({"claims_ended": True}, id="ended call claimed"),
        pytest.param({"ends_wait": True}, id="ends wait for the rebalance"),
    ],
)
def test_a_defect_of_what_surrounds_it_is_found(defect: dict[str, bool]) -> None:
    with pytest.raises(Violation):
        search(_SEARCHED, deaths=False, **defect)
