"""What the views show at a glance."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.records import Settled
from tables.overview import LATEST, Overview
from tables.state import NodeRun, State, apply
from tests.tables.examples import answered, received, reporting
from tests.tables.histories import profile


def node_run(number: int, at: float | None = None) -> NodeRun:
    return received().model_copy(
        update={"node_run_id": f"wfnr_{number:06d}", "received_at": float(number) if at is None else at}
    )


def settled(how: Settled) -> NodeRun:
    run = apply(reporting(), None, answered(how)).run
    assert run is not None
    return run


def counts(overview: Overview) -> dict[State, int]:
    return {state: count for state, count in overview.counts().items() if count}


def test_every_state_is_counted_from_nought() -> None:
    assert Overview().counts() == dict.fromkeys(State, 0)
    assert list(Overview().latest(9)) == []


def test_a_node_run_is_counted_where_it_stands() -> None:
    overview = Overview()
    overview.changed(0, None, received())
    assert counts(overview) == {State.WAITING: 1}
    overview.changed(0, received(), reporting())
    assert counts(overview) == {State.REPORTING: 1}
    overview.changed(0, reporting(), settled(Settled.REPORTED))
    assert counts(overview) == {State.REPORTED: 1}
    overview.changed(1, None, settled(Settled.REFUSED))
    assert counts(overview) == {State.REPORTED: 1, State.REFUSED: 1}


def test_what_waits_for_its_grace_counts_as_waiting() -> None:
    overview = Overview()
    overview.changed(0, None, received())
    overview.changed(0, received(), received().model_copy(update={"grace_from": 100.0}))
    assert counts(overview) == {State.WAITING: 1}


def test_an_event_for_nothing_changes_nothing() -> None:
    overview = Overview()
    overview.changed(0, None, None)
    assert counts(overview) == {}


def test_a_partition_goes_with_its_counts_and_its_latest() -> None:
    overview = Overview()
    overview.changed(0, None, node_run(1))
    overview.changed(1, None, node_run(2))
    overview.drop(0)
    overview.drop(7)
    assert counts(overview) == {State.WAITING: 1}
    assert list(overview.latest(9)) == [(1, "wfnr_000002")]


def test_the_open_ones_are_counted() -> None:
    overview = Overview()
    overview.changed(0, None, received())
    overview.changed(1, None, node_run(1))
    overview.changed(1, None, settled(Settled.REPORTED))
    assert overview.open == 2, "what has come and is finished is not open"
    overview.changed(0, received(), reporting())
    assert overview.open == 2
    overview.changed(0, reporting(), settled(Settled.REPORTED))
    assert overview.open == 1
    further = settled(Settled.REPORTED).model_copy(update={"items": 2})
    overview.changed(0, settled(Settled.REPORTED), further)
    assert overview.open == 2, "a further item opens a node run again"
    overview.drop(0)
    overview.drop(0)
    assert overview.open == 1
    overview.drop(1)
    assert overview.open == 0


def test_the_latest_come_first_over_all_partitions() -> None:
    overview = Overview()
    for number in (3, 1, 2):
        overview.changed(number, None, node_run(number))
    assert list(overview.latest(2)) == [(3, "wfnr_000003"), (2, "wfnr_000002")]


def test_a_change_does_not_list_a_node_run_twice() -> None:
    overview = Overview()
    overview.changed(0, None, received())
    overview.changed(0, received(), reporting())
    assert len(list(overview.latest(9))) == 1


def test_only_so_many_are_remembered_of_each_partition() -> None:
    overview = Overview()
    for number in reversed(range(LATEST + 100)):
        overview.changed(0, None, node_run(number))
    overview.changed(1, None, node_run(0))
    latest = list(overview.latest(10 * LATEST))
    assert len(latest) == LATEST + 1
    assert latest[:2] == [(0, f"wfnr_{LATEST + 99:06d}"), (0, f"wfnr_{LATEST + 98:06d}")]
    assert latest[-1] == (1, "wfnr_000000")
    assert counts(overview) == {State.WAITING: LATEST + 101}


@profile(100)
@given(times=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 50)), max_size=50), limit=st.integers(0, 60))
def test_the_latest_are_those_of_a_sorted_list(times: list[tuple[int, int]], limit: int) -> None:
    overview = Overview()
    known = []
    for number, (partition, at) in enumerate(times):
        run = node_run(number, float(at))
        overview.changed(partition, None, run)
        known.append((run.received_at, partition, run.node_run_id))
    expected = [(partition, name) for _, partition, name in sorted(known, reverse=True)[:limit]]
    assert list(overview.latest(limit)) == expected
