"""Who owns a partition, and what others still run of it."""

from __future__ import annotations

from streams.records import Died, Released, RunningItem
from tables.ownership import Ownership, buried, cleared, named, released, taken


def item(index: int, worker: str = "a", attempt: int = 1) -> RunningItem:
    return RunningItem(worker=worker, node_run_id="wfnr_a", index=index, attempt=attempt)


def nothing_ended(_: RunningItem) -> bool:
    return False


def test_who_takes_a_new_partition_waits_for_nobody() -> None:
    row = taken(None, "a")
    assert row == Ownership(owner="a", generation=1)
    assert named(row) == frozenset()


def heard(named: RunningItem, generation: int) -> RunningItem:
    """An item as a row has it that heard of it in this ownership."""
    return named.model_copy(update={"generation": generation})


def test_who_takes_a_partition_waits_for_its_last_owner_and_for_whom_that_one_waited() -> None:
    row = taken(taken(taken(None, "a"), "b"), "c")
    assert (row.owner, row.generation, row.awaited) == ("c", 3, {"a": 1, "b": 2})


def test_a_worker_waits_for_its_own_word_too() -> None:
    row = taken(taken(None, "a"), "a")
    assert row.awaited == {"a": 1}
    assert not released(row, Released(worker="a", generation=1)).awaited


def test_of_two_words_of_a_worker_the_latest_is_waited_for() -> None:
    row = taken(taken(taken(taken(None, "a"), "b"), "a"), "c")
    assert row.awaited == {"a": 3, "b": 2}
    assert released(row, Released(worker="a", generation=1, running=(item(0),))) is row, "a later word says it all"
    assert released(row, Released(worker="a", generation=3)).awaited == {"b": 2}


def test_a_word_names_what_runs_elsewhere() -> None:
    row = released(taken(taken(None, "a"), "b"), Released(worker="a", generation=1, running=(item(0), item(1))))
    assert row.elsewhere == (heard(item(0), 2), heard(item(1), 2))
    assert taken(row, "c").elsewhere == row.elsewhere, "it is carried on"


def test_a_word_that_comes_again_changes_nothing() -> None:
    word = Released(worker="a", generation=1, running=(item(0),))
    row = released(taken(taken(None, "a"), "b"), word)
    assert released(row, word) is row
    assert released(row, Released(worker="stranger", generation=1)) is row


def test_the_later_attempt_of_an_item_counts_whoever_says_so_first() -> None:
    row = taken(taken(taken(None, "a"), "b"), "c")
    first, second = item(0, "a", attempt=1), item(0, "b", attempt=2)
    words = (
        Released(worker="a", generation=1, running=(first,)),
        Released(worker="b", generation=2, running=(second,)),
    )
    assert released(released(row, words[0]), words[1]).elsewhere == (heard(second, 3),)
    assert released(released(row, words[1]), words[0]).elsewhere == (heard(second, 3),)


def test_the_dead_are_waited_for_no_longer() -> None:
    row = Ownership(owner="c", generation=3, awaited={"a": 1, "b": 2}, elsewhere=(item(0, "a"), item(1, "b")))
    assert cleared(row, {"a", "b", "c"}, nothing_ended) is row
    left = cleared(row, {"b", "c"}, nothing_ended)
    assert (left.awaited, left.elsewhere) == ({"b": 2}, (item(1, "b"),))
    assert cleared(row, {"c"}, nothing_ended) == Ownership(owner="c", generation=3)


def test_one_dead_worker_is_buried_alone() -> None:
    row = Ownership(owner="c", generation=3, awaited={"a": 1, "b": 2}, elsewhere=(item(0, "a"), item(1, "b")))
    assert named(row) == {"a", "b"}
    left = buried(row, Died(worker="a", generation=3))
    assert (left.awaited, left.elsewhere) == ({"b": 2}, (item(1, "b"),))
    assert buried(left, Died(worker="a", generation=3)) is left


def test_what_has_ended_runs_nowhere() -> None:
    row = Ownership(owner="b", generation=2, elsewhere=(item(0), item(1)))
    assert cleared(row, {"a"}, lambda one: one.index == 0).elsewhere == (item(1),)


def test_a_row_is_what_is_read_of_it() -> None:
    row = Ownership(owner="c", generation=3, awaited={"a": 1}, elsewhere=(item(0),))
    assert Ownership.model_validate_json(row.encode()) == row
