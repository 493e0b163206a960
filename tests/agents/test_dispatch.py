"""What the states of the node runs ask for is started once each, on the worker that owns the partition."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import JsonValue

from streams.records import (
    Action,
    ArrayPolicy,
    Body,
    GraceOver,
    ItemAgain,
    ItemCompleted,
    RunCancelled,
    RunningItem,
    Settled,
)
from tables.ownership import Ownership
from tables.state import Item, NodeRun, State, Stop
from tests.agents.desk import WORKER, Desk, PartitionedRows
from tests.agents.examples import ID, turns_of_the_loop, until
from tests.tables.examples import answered, finished

GREETING: JsonValue = {"type": "greet"}


async def test_an_item_is_started_once_however_often_its_message_comes() -> None:
    desk = Desk()
    desk.arrive(GREETING)
    desk.arrive(GREETING, again=True)
    desk.act_again()
    assert desk.started == [(0, 1, "greet")]


async def test_the_items_of_an_array_and_of_further_messages_are_started_with_their_event_types() -> None:
    desk = Desk()
    desk.arrive([{"type": "a"}, {"event": "b"}, {"name": "no type"}])
    desk.arrive({"action": "c"})
    assert desk.started == [(0, 1, "a"), (1, 1, "b"), (2, 1, None), (3, 1, "c")]
    assert [work.message for work in desk.items] == [0, 0, 0, 3]


async def test_a_report_is_started_once_and_no_more_when_it_is_settled() -> None:
    desk = Desk()
    desk.arrive(GREETING)
    assert desk.reported == []
    desk.finish()
    desk.finish()
    desk.arrive(GREETING, again=True)
    assert desk.reported == [Body.FULL]
    desk.answer()
    desk.answer()
    desk.arrive(GREETING, again=True)
    assert (desk.reported, len(desk.items)) == ([Body.FULL], 1)


async def test_the_small_report_is_started_when_port_refused_the_output() -> None:
    desk = Desk()
    desk.arrive(GREETING)
    desk.finish()
    desk.answer(Settled.OUTPUT_REFUSED)
    desk.answer(Settled.OUTPUT_REFUSED)
    assert desk.reported == [Body.FULL, Body.SMALL]
    desk.answer(Settled.OUTPUT_REFUSED, body=Body.SMALL)
    assert desk.reported == [Body.FULL, Body.SMALL]
    assert desk.overview.counts()[State.REFUSED] == 1


async def test_a_failure_after_the_report_is_told_once() -> None:
    desk = Desk()
    desk.arrive(GREETING)
    desk.finish()
    desk.arrive(GREETING)
    desk.finish(1, message=1, error="no host")
    desk.finish(1, message=1, error="no host")
    desk.answer()
    assert [work.index for work in desk.told] == [1]
    desk.tell(1)
    desk.tell(1)
    desk.finish(1, message=1, error="no host")
    assert len(desk.told) == 1


async def test_nothing_is_started_for_a_partition_that_is_not_taken_over() -> None:
    desk = Desk(active=False)
    desk.arrive(GREETING)
    desk.act_again()
    desk.finish()
    assert (desk.items, desk.reports) == ([], [])


async def test_a_partition_that_has_just_gone_is_left_alone() -> None:
    desk = Desk()
    desk.arrive(GREETING)
    del desk.rows.partitions[0]
    desk.act_again()
    desk.act_again("wfnr_unknown")
    desk.act_again("wfnr_unknown", partition=1)
    assert len(desk.items) == 1


async def test_an_outcome_for_an_item_that_is_not_known_starts_nothing() -> None:
    desk = Desk()
    desk.arrive(GREETING)
    desk.finish(7, message=7)
    assert desk.started == [(0, 1, "greet")]


async def test_an_item_stays_claimed_until_the_call_that_this_worker_made_has_ended() -> None:
    desk = Desk()
    desk.arrive(GREETING)
    desk.retry(worker="an earlier life")
    await turns_of_the_loop()
    assert desk.started == [(0, 1, "greet")], "the call of this life runs still"
    desk.retry()
    await until(lambda: len(desk.items) == 2)
    assert desk.started[1:] == [(0, 2, "greet")]


async def test_the_end_of_an_item_by_another_life_ends_its_claim() -> None:
    desk = Desk()
    desk.arrive(GREETING)
    desk.finish(worker="an earlier life")
    assert desk.reported == [Body.FULL]
    desk.finish()
    assert (len(desk.items), len(desk.reports)) == (1, 1)


async def test_a_retry_is_started_when_it_is_due_and_not_before() -> None:
    desk = Desk()
    desk.arrive(GREETING)
    desk.retry(pause=0.02)
    desk.arrive(GREETING, again=True)
    await turns_of_the_loop()
    assert len(desk.items) == 1
    assert desk.dispatch.due.keys(0) == [(ID, 0)]
    desk.now += 0.02
    await until(lambda: len(desk.items) == 2)
    assert desk.started[1] == (0, 2, "greet")
    await turns_of_the_loop()
    assert len(desk.items) == 2
    desk.retry(attempt=2)
    await until(lambda: len(desk.items) == 3)


async def test_the_outcome_of_an_earlier_attempt_that_comes_again_starts_nothing() -> None:
    desk = Desk()
    desk.arrive(GREETING)
    desk.retry()
    await until(lambda: len(desk.items) == 2)
    desk.retry()
    desk.retry(worker="an earlier life")
    await turns_of_the_loop()
    assert desk.started == [(0, 1, "greet"), (0, 2, "greet")]


async def test_the_end_of_a_grace_is_sent_when_it_is_due() -> None:
    desk = Desk(grace=0.02)
    desk.arrive(GREETING)
    desk.finish()
    assert desk.dispatch.due.keys(0) == [(ID, -1)]
    desk.now += 0.02
    await until(lambda: bool(desk.sent))
    assert desk.sent == [GraceOver(node_run_id=ID, items=1, since=1000.0)]
    assert desk.reports == []
    desk.outcome(desk.sent[0])
    assert desk.reported == [Body.FULL]


async def test_a_further_item_ends_the_grace() -> None:
    desk = Desk(grace=1000.0)
    desk.arrive(GREETING)
    desk.finish()
    desk.arrive(GREETING)
    assert desk.dispatch.due.keys(0) == []
    desk.finish(1, message=1)
    assert desk.dispatch.due.keys(0) == [(ID, -1)]


def _with_work(count: int) -> Desk:
    """A worker that has taken nothing over, and a partition with so many node runs in several states."""
    desk = Desk(active=False)
    for number in range(count):
        desk.arrive(GREETING, node_run_id=f"wfnr_{number:04d}")
    desk.arrive([GREETING, GREETING])
    desk.finish(0)
    return desk


async def test_a_take_over_starts_what_the_open_node_runs_ask_for() -> None:
    desk = _with_work(3)
    desk.finish(1, error="no host")
    await desk.take_over([0, 1])
    assert [work.node_run_id for work in desk.items] == ["wfnr_0000", "wfnr_0001", "wfnr_0002"]
    assert [work.node_run_id for work in desk.reports] == [ID]
    assert desk.dispatch.active == {0, 1}
    counts = desk.overview.counts()
    assert (counts[State.WAITING], counts[State.REPORTING]) == (3, 1)


async def test_a_take_over_starts_the_items_that_have_not_ended() -> None:
    desk = _with_work(0)
    desk.arrive({"type": "more"})
    await desk.take_over([0])
    assert desk.started == [(1, 1, "greet"), (2, 1, "more")]


async def test_a_take_over_waits_for_retries_and_counts_finished_node_runs() -> None:
    desk = Desk(active=False)
    desk.arrive(GREETING)
    desk.retry(pause=500)
    await desk.take_over([0])
    assert (desk.items, desk.dispatch.due.keys(0)) == ([], [(ID, 0)])
    desk.dispatch.lost(0)
    desk.finish(worker="another")
    desk.answer()
    await desk.take_over([0])
    assert (desk.items, desk.reports) == ([], [])
    assert desk.overview.counts()[State.REPORTED] == 1
    assert list(desk.overview.latest(9)) == [(0, ID)]


async def test_a_take_over_lets_others_have_their_turn_and_stops_when_the_partition_goes() -> None:
    desk = _with_work(1000)
    taking = desk.take_over([0])
    taking.send(None)
    some = len(desk.items)
    assert 0 < some <= 50
    desk.dispatch.lost(0)
    with pytest.raises(StopIteration):
        taking.send(None)
    assert len(desk.items) == some
    assert desk.overview.counts()[State.WAITING] == 0


async def test_a_take_over_does_not_wait_for_the_count_of_all_that_has_finished() -> None:
    desk = Desk(active=False)
    for number in range(1000):
        node_run_id = f"wfnr_{number:04d}"
        desk.arrive(GREETING, node_run_id=node_run_id)
        for event in (finished(), answered()):
            desk.outcome(event.model_copy(update={"node_run_id": node_run_id}))
    desk.arrive(GREETING)
    taking = desk.take_over([0])
    taking.send(None)
    assert [work.node_run_id for work in desk.items] == [ID]
    assert 0 < desk.overview.counts()[State.REPORTED] <= 50
    assert desk.dispatch.counting == {0}
    with pytest.raises(StopIteration):
        while True:
            taking.send(None)
    assert desk.overview.counts()[State.REPORTED] == 1000
    assert desk.dispatch.counting == set()


async def test_a_partition_that_goes_and_comes_back_while_it_is_counted_is_counted_anew() -> None:
    desk = Desk(active=False)
    for number in range(200):
        desk.arrive(GREETING, node_run_id=f"wfnr_{number:04d}")
    desk.dispatch.begin(0, Ownership(owner=WORKER))
    counting = desk.dispatch.count()
    counting.send(None)
    desk.dispatch.lost(0)
    assert desk.dispatch.counting == set()
    desk.dispatch.begin(0, Ownership(owner=WORKER))
    # The first walk comes to its turn again, and tells nothing any more.
    with pytest.raises(StopIteration):
        while True:
            counting.send(None)
    await asyncio.wait_for(desk.dispatch.count(), 10)
    assert desk.dispatch.counting == set()
    assert desk.overview.counts()[State.WAITING] == 200


async def test_a_take_over_passes_a_partition_that_is_not_here_any_more() -> None:
    desk = _with_work(1)
    await desk.take_over([7, 0])
    assert len(desk.items) == 2
    assert desk.dispatch.active == {0}


class Vanishing(PartitionedRows):
    """Rows whose partition goes while it is read."""

    def get(self, partition: int, key: bytes) -> bytes | None:
        self.partitions.pop(partition, None)
        return super().get(partition, key)


async def test_a_partition_that_goes_while_it_is_taken_over_is_no_error() -> None:
    desk = _with_work(3)
    rows = Vanishing()
    rows.partitions = desk.rows.partitions
    desk.ledger.rows = rows
    await desk.take_over([0])
    assert desk.items == []


async def test_what_is_started_during_a_take_over_is_not_started_by_it_again() -> None:
    desk = _with_work(300)
    taking = desk.take_over([0])
    taking.send(None)
    desk.arrive(GREETING, node_run_id="wfnr_zzzz")
    desk.finish(1)
    with pytest.raises(StopIteration):
        while True:
            taking.send(None)
    ids = [work.node_run_id for work in desk.items]
    assert len(ids) == len(set(ids)) == 301
    assert len(desk.reports) == 1
    assert sum(desk.overview.counts().values()) == 302


async def test_a_lost_partition_is_forgotten_and_starts_afresh_when_it_comes_back() -> None:
    desk = Desk(grace=1000.0)
    desk.arrive(GREETING)
    desk.finish()
    desk.arrive(GREETING, node_run_id="wfnr_b", partition=1)
    desk.arrive([GREETING, GREETING], node_run_id="wfnr_c")
    started = len(desk.items)
    desk.dispatch.lost(0)
    assert desk.dispatch.active == {1}
    assert len(desk.dispatch.due) == 0
    assert sum(desk.overview.counts().values()) == 1
    desk.act_again("wfnr_b", partition=1)
    assert len(desk.items) == started, "the other partition's claims stand"
    await desk.take_over([0])
    assert [(work.node_run_id, work.index) for work in desk.items[started:]] == [("wfnr_c", 0), ("wfnr_c", 1)]
    assert desk.dispatch.due.keys(0) == [(ID, -1)]


async def test_a_call_that_ends_after_its_partition_was_lost_changes_nothing() -> None:
    desk = Desk()
    desk.arrive(GREETING)
    desk.dispatch.lost(0)
    desk.dispatch.call_ended(0, ID, 0, 1)
    desk.finish()
    assert desk.reports == []


async def test_a_payload_is_read_once_for_all_its_items() -> None:
    desk = Desk()
    desk.arrive([GREETING] * 100)
    run = desk.ledger.run(0, ID)
    assert run is not None
    first = desk.dispatch.payload(0, run, 0)
    assert len(first) == 100
    assert desk.dispatch.payload(0, run, 0) is first
    assert desk.rows.read[b"m"] == 1


async def test_many_payloads_push_the_oldest_out() -> None:
    desk = Desk()
    desk.arrive([GREETING] * 2)
    run = desk.ledger.run(0, ID)
    assert run is not None
    first = desk.dispatch.payload(0, run, 0)
    for number in range(50):
        desk.arrive({"type": "greet", "text": "x" * 100_000}, node_run_id=f"wfnr_{number}")
    again = desk.dispatch.payload(0, run, 0)
    assert again == first
    assert again is not first


async def test_a_message_that_is_not_there_is_not_remembered_as_empty() -> None:
    desk = Desk()
    desk.arrive(GREETING)
    run = desk.ledger.run(0, ID)
    assert run is not None
    assert desk.dispatch.payload(0, run, 1) == ()
    desk.arrive({"type": "more"})
    assert desk.started[-1] == (1, 1, "more")


STRICT = ArrayPolicy(share=1, cancel_rest=True)


def cancelled(*, soft: bool = False) -> RunCancelled:
    return RunCancelled(node_run_id=ID, over=False, soft=soft, at=1000.0)


async def test_a_cancelled_node_run_has_its_calls_cancelled_and_its_waiting_items_ended() -> None:
    desk = Desk()
    desk.arrive([GREETING] * 4)
    desk.calls = {1}
    desk.retry(pause=3600.0)
    desk.outcome(cancelled())
    await asyncio.gather(*desk.tasks)
    assert desk.cancelled_calls == [(1, Stop.RUN)]
    ends = [(work.index, work.attempt, work.event_type, why) for work, why in desk.ended_cancelled]
    why = "cancelled: the workflow run was cancelled"
    assert ends == [(0, 1, None, why), (2, 0, "greet", why), (3, 0, "greet", why)]
    assert len(desk.dispatch.due) == 0
    desk.outcome(cancelled())
    desk.arrive([GREETING] * 4, again=True)
    assert (len(desk.ended_cancelled), len(desk.tasks)) == (3, 1), "once each"


async def test_an_attempt_that_ends_in_a_retry_is_the_last_one_of_a_cancelled_item() -> None:
    desk = Desk()
    desk.arrive(GREETING)
    desk.calls = {0}
    desk.outcome(cancelled())
    await asyncio.gather(*desk.tasks)
    assert (desk.cancelled_calls, desk.ended_cancelled) == ([(0, Stop.RUN)], [])
    desk.retry()
    assert [work.attempt for work, _ in desk.ended_cancelled] == [1]
    assert len(desk.items) == 1


async def test_a_deferred_item_waits_for_its_time_and_no_handler_is_called_for_it() -> None:
    desk = Desk()
    desk.arrive({"type": "a"})
    desk.defer(until=desk.now + 5)
    assert (desk.dispatch.due.keys(0), desk.released) == ([(ID, 0)], [(0, ID, 0)])
    await desk.take_over([0])
    assert len(desk.items) == 1
    desk.defer(until=desk.now)
    assert desk.sent == [], "the deferral that stands is the first"


async def test_a_deferred_item_is_ended_where_its_node_run_is_cancelled() -> None:
    desk = Desk()
    desk.arrive({"type": "a"})
    desk.defer()
    desk.outcome(cancelled())
    await asyncio.gather(*desk.tasks)
    assert [(work.index, work.attempt) for work, _ in desk.ended_cancelled] == [(0, 1)]
    assert desk.dispatch.due.keys(0) == [], "nothing is left to expire"


async def test_a_call_that_defers_its_item_when_the_node_run_is_cancelled_has_not_saved_it() -> None:
    desk = Desk()
    desk.arrive({"type": "a"})
    desk.calls = {0}
    desk.outcome(cancelled())
    await asyncio.gather(*desk.tasks)
    assert (desk.cancelled_calls, desk.ended_cancelled) == ([(0, Stop.RUN)], [])
    desk.calls = set()
    desk.defer()
    assert [work.attempt for work, _ in desk.ended_cancelled] == [1]
    assert desk.dispatch.due.keys(0) == []


async def test_a_soft_cancel_lets_what_runs_end_and_what_is_deferred_wait() -> None:
    desk = Desk()
    desk.arrive([GREETING] * 3)
    desk.calls = {1}
    desk.defer()
    desk.outcome(cancelled(soft=True))
    await asyncio.gather(*desk.tasks)
    assert desk.cancelled_calls == [(1, Stop.SOFT)], "it is told, and goes on"
    assert [work.index for work, _ in desk.ended_cancelled] == [2]
    assert desk.dispatch.due.keys(0) == [(ID, 0)], "its deadline stands"
    desk.calls = set()
    desk.finish(1)
    # Port ends the run: nothing waits any more.
    desk.outcome(cancelled())
    await asyncio.gather(*desk.tasks)
    assert [work.index for work, _ in desk.ended_cancelled] == [2, 0]
    assert (desk.dispatch.due.keys(0), len(desk.items)) == ([], 3)


@pytest.mark.parametrize("lives", [True, False])
async def test_a_soft_cancel_waits_for_the_call_of_another_worker_as_long_as_that_lives(lives: bool) -> None:
    desk = Desk(active=False)
    desk.arrive(GREETING)
    item = RunningItem(worker="another", node_run_id=ID, index=0, attempt=1)
    desk.dispatch.begin(0, Ownership(owner=WORKER, elsewhere=(item,)))
    desk.outcome(cancelled(soft=True))
    await asyncio.gather(*desk.tasks)
    assert desk.ended_cancelled == []
    if lives:
        desk.finish(worker="another")
        assert (desk.ended_cancelled, desk.reported) == ([], [Body.FULL])
    else:
        desk.dispatch.owned(0, Ownership(owner=WORKER))
        await desk.dispatch.take_over()
        await asyncio.gather(*desk.tasks)
        assert [work.index for work, _ in desk.ended_cancelled] == [0]
    assert desk.items == []


async def test_the_rest_of_an_array_is_cancelled_and_what_comes_after_it() -> None:
    desk = Desk()
    desk.arrive([GREETING] * 3, policy=STRICT)
    desk.finish(1, error="broken")
    await asyncio.gather(*desk.tasks)
    assert [work.index for work, _ in desk.ended_cancelled] == [0, 2]
    desk.arrive([GREETING])
    assert [(work.index, why) for work, why in desk.ended_cancelled[2:]] == [
        (3, "cancelled: too many other items have failed")
    ]
    assert len(desk.items) == 3


async def test_what_is_cancelled_is_cancelled_and_not_called_after_a_takeover() -> None:
    desk = Desk(active=False)
    desk.arrive([GREETING] * 2)
    desk.outcome(cancelled())
    assert desk.tasks == []
    await desk.take_over([0])
    await asyncio.gather(*desk.tasks)
    assert desk.items == []
    assert [work.index for work, _ in desk.ended_cancelled] == [0, 1]


async def test_nothing_is_ended_that_an_earlier_owner_may_run() -> None:
    desk = Desk(active=False)
    desk.arrive([GREETING] * 2)
    desk.dispatch.begin(0, Ownership(owner="this worker", awaited={"another": 1}))
    desk.outcome(cancelled())
    await asyncio.gather(*desk.tasks)
    assert desk.ended_cancelled == []


async def test_ten_thousand_items_are_cancelled_in_chunks_that_read_each_once() -> None:
    desk = Desk()
    desk.arrive([GREETING] * 10_000, policy=STRICT)
    desk.rows.read.clear()
    turns = 0

    async def count() -> None:
        nonlocal turns
        while len(desk.ended_cancelled) < 9_999:
            turns += 1
            await asyncio.sleep(0)

    desk.finish(0, error="broken")
    await asyncio.gather(count(), *desk.tasks)
    assert turns >= 200, "the loop goes on meanwhile"
    assert desk.rows.read[b"i"] <= 10_010
    assert desk.rows.read[b"o"] < 20


def again(*, attempt: int, ended_at: float | None = None) -> ItemAgain:
    action = Action(id="1", who="web")
    return ItemAgain(node_run_id=ID, index=0, attempt=attempt, ended_at=ended_at, action=action, at=0.0)


async def test_an_item_that_waits_for_a_retry_is_called_at_once_where_somebody_wants_it() -> None:
    desk = Desk()
    desk.arrive(GREETING)
    desk.retry(pause=500)
    desk.outcome(again(attempt=1))
    assert desk.started == [(0, 1, "greet"), (0, 2, "greet")]
    assert desk.dispatch.due.keys(0) == []
    # While it is called nothing more begins.
    desk.outcome(again(attempt=1))
    assert len(desk.items) == 2


async def test_an_item_that_failed_is_called_again_and_its_report_comes_after_it() -> None:
    desk = Desk()
    desk.arrive(GREETING)
    desk.finish(error="broken")
    desk.answer(Settled.REFUSED)
    desk.outcome(again(attempt=1, ended_at=desk.now))
    assert (desk.started[1:], len(desk.reports)) == ([(0, 2, "greet")], 1)
    desk.finish(attempt=2)
    assert len(desk.reports) == 2


async def test_what_an_earlier_owner_may_be_calling_is_not_called_by_hand_before_its_word() -> None:
    desk = Desk(active=False)
    desk.arrive(GREETING)
    desk.retry(pause=500)
    desk.dispatch.begin(0, Ownership(owner="me", awaited={"another": 1}))
    desk.outcome(again(attempt=1))
    assert desk.items == []
    desk.dispatch.owned(0, Ownership(owner="me"))
    await desk.dispatch.take_over()
    assert desk.started == [(0, 2, "greet")]


async def test_an_item_that_ended_before_it_was_called_is_called_with_its_payload() -> None:
    desk = Desk()
    desk.arrive([{"type": "a"}, {"type": "b"}])
    said = {"node_run_id": ID, "index": 1, "result": "FAILED", "error": "no", "digest": "d", "by": "web", "at": 5.0}
    desk.outcome(ItemCompleted.model_validate(said))
    desk.outcome(again(attempt=0, ended_at=5.0).model_copy(update={"index": 1}))
    assert desk.started[2:] == [(1, 2, "b")]
    assert desk.items[-1].message == 0


class Told:
    """Follows the node runs, and remembers the items that it is told of."""

    def __init__(self) -> None:
        self.items: list[tuple[str, int, str | None]] = []

    def changed(self, partition: int, before: NodeRun | None, after: NodeRun, item: Item | None) -> None:
        if item is not None:
            self.items.append((after.node_run_id, item.index, item.error))

    def drop(self, partition: int) -> None:
        pass

    async def caught_up(self) -> None:
        pass


def _with_failures(count: int) -> Desk:
    desk = Desk(active=False)
    desk.arrive([GREETING] * count)
    for index in range(1, count, 2):
        desk.finish(index, error=f"no host {index}")
    desk.finish(0)
    return desk


async def test_after_a_take_over_who_follows_is_told_of_the_failed_items_with_rows_of_their_own() -> None:
    desk, told = _with_failures(121), Told()
    # Of one item, which stands in its node run's row: that is told of with it.
    desk.arrive(GREETING, node_run_id="wfnr_one")
    desk.outcome(finished(error="no disk").model_copy(update={"node_run_id": "wfnr_one"}))
    desk.overview.followers.append(told)
    await desk.take_over([0])
    assert told.items == [(ID, index, f"no host {index}") for index in range(1, 121, 2)]
    assert sum(desk.overview.counts().values()) == 2, "no node run is counted twice"


async def test_what_is_told_of_them_is_what_stands_there_now() -> None:
    desk, told = _with_failures(4), Told()
    desk.overview.followers.append(told)
    desk.dispatch.begin(0, Ownership(owner=WORKER))
    run = desk.ledger.run(0, ID)
    assert run is not None
    item = desk.ledger.item(0, run, 1)
    assert item is not None
    again = ItemAgain(
        node_run_id=ID, index=1, attempt=item.attempt, ended_at=item.ended_at, action=Action(id="a", who="ann"), at=1.0
    )
    desk.outcome(again)
    await desk.dispatch.count()
    assert told.items[-1:] == [(ID, 3, "no host 3")]
    assert (ID, 1, "no host 1") not in told.items
