"""What a worker knows of its node runs: states, counts, lists and single node runs."""

import pytest
from aiokafka.partitioner import DefaultPartitioner

from agents.work import ItemWork
from streams.records import Settled
from tables.state import State
from tests.web.fakes import PARTITIONS, FakeWorker
from web import here as module
from web.here import NoSuchNodeRunError, NotHereError


@pytest.fixture
def worker() -> FakeWorker:
    return FakeWorker()


def states(worker: FakeWorker) -> dict[State, int]:
    counts = worker.here.counts(worker.here.now())
    return {state: number for state, number in counts.items() if number}


async def listed(worker: FakeWorker, limit: int = 50, state: State | None = None) -> list[tuple[str, State]]:
    found, _ = await worker.here.latest(worker.here.now(), limit, state)
    return [(run.node_run_id, run.state) for run in found]


class TestStates:
    async def test_each(self, worker: FakeWorker) -> None:
        for number, name in enumerate(("waits", "runs", "defers", "reports", "done", "refused", "over", "theirs"), 1):
            worker.arrive(f"wfnr_{name}")
            assert sum(worker.here.counts(worker.here.now()).values()) == number
        worker.run("wfnr_runs")
        worker.defer("wfnr_defers")
        for name in ("reports", "done", "refused", "over", "theirs"):
            worker.end(f"wfnr_{name}")
        worker.settle("wfnr_done")
        worker.settle("wfnr_refused", Settled.REFUSED, "no such node run")
        worker.settle("wfnr_over", Settled.CANCELLED)
        worker.settle("wfnr_theirs", Settled.COMPLETED)
        expected = [
            ("wfnr_theirs", State.COMPLETED),
            ("wfnr_over", State.CANCELLED),
            ("wfnr_refused", State.REFUSED),
            ("wfnr_done", State.REPORTED),
            ("wfnr_reports", State.REPORTING),
            ("wfnr_defers", State.DEFERRED),
            ("wfnr_runs", State.RUNNING),
            ("wfnr_waits", State.WAITING),
        ]
        assert await listed(worker) == expected
        assert states(worker) == dict.fromkeys(State, 1)
        for node_run_id, state in expected:
            assert worker.here.read(node_run_id, 0, 10).state is state
            assert await listed(worker, state=state) == [(node_run_id, state)]

    async def test_an_item_that_runs_or_waits_outweighs_one_that_is_deferred(self, worker: FakeWorker) -> None:
        worker.arrive("wfnr_a", count=3)
        worker.defer("wfnr_a", 0)
        assert states(worker) == {State.DEFERRED: 1}
        works = [worker.wait("wfnr_a", index) for index in (1, 2)]
        assert states(worker) == {State.WAITING: 1}
        assert worker.feeder.begin() is works[0]
        assert states(worker) == {State.RUNNING: 1}
        read = worker.here.read("wfnr_a", 0, 10)
        assert (read.state, read.running, read.deferred) == (State.RUNNING, frozenset({1}), frozenset({0}))

    async def test_two_items_of_a_node_run_that_run_count_once(self, worker: FakeWorker) -> None:
        worker.arrive("wfnr_a", count=2)
        worker.run("wfnr_a", 0)
        worker.run("wfnr_a", 1)
        assert states(worker) == {State.RUNNING: 1}

    async def test_a_late_item_that_runs_does_not_take_the_report_back(self, worker: FakeWorker) -> None:
        worker.arrive("wfnr_a")
        worker.end("wfnr_a")
        worker.settle("wfnr_a")
        worker.arrive("wfnr_a", text='{"payload":{"type":"greet","n":2}}')
        worker.run("wfnr_a", 1)
        worker.arrive("wfnr_b")
        assert states(worker) == {State.REPORTED: 1, State.WAITING: 1}

    async def test_what_runs_on_for_a_lost_partition_is_not_counted(self, worker: FakeWorker) -> None:
        worker.arrive("wfnr_a")
        worker.run("wfnr_a")
        worker.lose(worker.here.partition_of("wfnr_a"))
        assert states(worker) == {}
        assert await listed(worker) == []


class TestLatest:
    async def test_the_latest_first_and_no_more_than_asked(self, worker: FakeWorker) -> None:
        for number in range(30):
            worker.arrive(f"wfnr_{number}")
        assert [name for name, _ in await listed(worker, 3)] == ["wfnr_29", "wfnr_28", "wfnr_27"]

    async def test_a_state_is_looked_for_among_the_latest_only(
        self, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "MOST_EXAMINED", 150)
        for number in range(200):
            worker.arrive(f"wfnr_{number}")
        worker.end("wfnr_10")
        worker.end("wfnr_110")
        found, examined = await worker.here.latest(worker.here.now(), 50, State.REPORTING)
        assert [run.node_run_id for run in found] == ["wfnr_110"]
        assert examined == 150

    async def test_costs_what_is_listed_and_not_what_is_known(self, worker: FakeWorker) -> None:
        for number in range(300):
            worker.arrive(f"wfnr_{number}")
        worker.rows.reads = 0
        worker.here.counts(worker.here.now())
        await listed(worker, 10)
        assert worker.rows.reads <= 20


class TestOne:
    def test_items_come_in_pages(self, worker: FakeWorker) -> None:
        worker.arrive("wfnr_a", count=25)
        pages, start = [], 0
        while True:
            read = worker.here.read("wfnr_a", start, 10)
            pages.append(list(read.items))
            if read.next_item is None:
                break
            start = read.next_item
        assert pages == [list(range(10)), list(range(10, 20)), list(range(20, 25))]
        assert worker.here.read("wfnr_a", 25, 10).items == {}

    def test_a_page_ends_where_items_are_large(self, worker: FakeWorker) -> None:
        worker.arrive("wfnr_a", count=10)
        for index in range(10):
            worker.end("wfnr_a", index, output='{"a":"' + "x" * 1_500_000 + '"}')
        read = worker.here.read("wfnr_a", 0, 10)
        assert list(read.items) == [0, 1, 2]
        assert read.next_item == 3

    def test_texts_of_messages_are_left_out_where_they_are_large(self, worker: FakeWorker) -> None:
        for _ in range(5):
            worker.arrive("wfnr_a", text='{"payload":{"a":"' + "x" * 1_500_000 + '"}}')
        messages = worker.here.read("wfnr_a", 0, 10).messages
        assert [with_text for _, with_text in messages] == [True, True, True, False, False]

    def test_only_some_of_many_messages(self, worker: FakeWorker) -> None:
        for number in range(25):
            worker.arrive("wfnr_a", text=f'{{"payload":{{"n":{number}}}}}')
        read = worker.here.read("wfnr_a", 0, 10)
        assert len(read.messages) == 20
        assert read.more_messages

    def test_not_there_is_another_answer_than_not_here(self, worker: FakeWorker) -> None:
        worker.arrive("wfnr_a")
        partition = worker.here.partition_of("wfnr_a")
        with pytest.raises(NoSuchNodeRunError):
            worker.here.read("wfnr_absent", 0, 10)
        worker.lose(partition)
        with pytest.raises(NotHereError) as caught:
            worker.here.read("wfnr_a", 0, 10)
        assert (caught.value.partition, caught.value.owned) == (partition, False)
        assert worker.here.missing == [partition]

    def test_what_is_not_counted_yet_is_missing_in_lists(self, worker: FakeWorker) -> None:
        worker.here.dispatch.counting.add(3)
        assert (worker.here.missing, 3 in worker.here.partitions) == ([3], True)
        worker.here.dispatch.counting.clear()
        assert worker.here.missing == []

    @pytest.mark.parametrize("why", ["rebalancing", "taken over"])
    def test_not_there_cannot_be_said_while_a_partition_comes(self, worker: FakeWorker, why: str) -> None:
        worker.arrive("wfnr_a")
        if why == "rebalancing":
            worker.app.rebalancing = True
        else:
            worker.here.dispatch.active.clear()
        assert worker.here.read("wfnr_a", 0, 10).run.node_run_id == "wfnr_a"
        with pytest.raises(NotHereError) as caught:
            worker.here.read("wfnr_absent", 0, 10)
        assert caught.value.owned

    def test_the_partition_is_that_of_kafkas_default_partitioner(self, worker: FakeWorker) -> None:
        everything = list(range(PARTITIONS))
        seen = set()
        for number in range(100):
            node_run_id = f"wfnr_{number}"
            seen.add(partition := worker.here.partition_of(node_run_id))
            assert partition == DefaultPartitioner()(node_run_id.encode(), everything, everything)
        assert seen == set(everything)


def test_a_worker_shows_its_partitions(worker: FakeWorker) -> None:
    worker.lose(3)
    shown = worker.here.worker_shown()
    assert (shown.worker, shown.url) == ("host-0123abcd", "http://127.0.0.1:6066")
    assert shown.partitions == [0, 1, 2, 4, 5, 6, 7]


def test_work_is_what_the_feeder_holds(worker: FakeWorker) -> None:
    works = [worker.wait("wfnr_a", index) for index in range(4)]
    assert worker.feeder.waiting == 4
    assert all(isinstance(work, ItemWork) for work in works)
