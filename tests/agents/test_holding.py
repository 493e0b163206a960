"""Items that wait for a handler to be deployed."""

from __future__ import annotations

from agents.holding import Holding
from agents.work import ItemWork
from tables.due import DueIndex
from tests.agents.examples import ID, turns_of_the_loop, until

HOUR = 3600.0


class Desk:
    """A holding whose time is set by hand; what was held long enough is kept in a list."""

    def __init__(self, *, limit: int = 100) -> None:
        self.now = 100_000.0
        self.due = DueIndex(lambda: self.now)
        self.holding = Holding(self.due, HOUR, limit, lambda: self.now)
        self.over: list[int] = []

    def hold(
        self, index: int = 0, *, ago: float = 0.0, partition: int = 0, node_run_id: str = ID, fresh: bool = True
    ) -> bool:
        work = ItemWork(partition, node_run_id, index, 0, "new", 1, fresh)
        return self.holding.hold(work, self.now - ago, lambda: self.over.append(index))


async def test_an_item_is_held_so_long_from_when_its_message_came() -> None:
    desk = Desk()
    assert desk.hold(ago=HOUR - 0.05)
    assert desk.holding.until(0, ID, 0) == desk.now + 0.05
    await turns_of_the_loop()
    assert desk.over == []
    desk.now += 0.05
    await until(lambda: desk.over == [0])
    assert desk.holding.until(0, ID, 0) is None
    assert desk.holding.node_runs == len(desk.due) == 0


async def test_one_whose_time_passed_while_nobody_was_there_is_over_at_once() -> None:
    desk = Desk()
    assert desk.hold(ago=3 * HOUR)
    await until(lambda: desk.over == [0])


async def test_a_message_from_a_time_to_come_is_held_no_longer_than_another() -> None:
    desk = Desk()
    desk.hold(ago=-1_000_000)
    assert desk.holding.until(0, ID, 0) == desk.now + HOUR


async def test_what_has_ended_is_held_no_more() -> None:
    desk = Desk()
    desk.hold(ago=2 * HOUR)
    desk.hold(1)
    desk.holding.ended(0, ID, 0)
    desk.holding.ended(0, ID, 7)
    desk.holding.ended(1, "wfnr_unknown", 0)
    await turns_of_the_loop()
    assert desk.over == []
    assert desk.due.keys(0) == [(ID, 1)]
    assert desk.holding.node_runs == 1


async def test_what_comes_anew_is_held_up_to_a_limit_and_what_is_taken_over_always() -> None:
    desk = Desk(limit=2)
    assert [desk.hold(index) for index in range(3)] == [True, True, False]
    assert desk.hold(3, fresh=False)
    assert not desk.hold(4)
    for index in (0, 1):
        desk.holding.ended(0, ID, index)
    assert desk.hold(4)


async def test_node_runs_count_once_and_a_lost_partition_not_at_all() -> None:
    desk = Desk(limit=4)
    desk.hold(0)
    desk.hold(1)
    desk.hold(0, partition=1, node_run_id="wfnr_b")
    assert desk.holding.node_runs == 2
    desk.holding.lost(0)
    desk.holding.lost(5)
    assert desk.holding.node_runs == 1
    assert desk.holding.until(0, ID, 0) is None
    assert [desk.hold(index) for index in range(4)] == [True, True, True, False]


async def test_an_item_that_is_held_again_counts_once() -> None:
    desk = Desk(limit=2)
    assert [desk.hold(), desk.hold(), desk.hold(1), desk.hold(2)] == [True, True, True, False]
