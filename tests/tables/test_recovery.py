"""The changelog, read in bulk into the local store: the store is true to the changelog wherever the reading ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import pytest
from aiokafka import ConsumerRecord
from faust.tables.recovery import RebalanceAgain
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

import tables.rows
from streams.settings import Settings
from streams.worker import Worker
from tables.changelog import Write
from tables.recovery import Recovery, recover_in_bulk, restored
from tables.rows import LedgerTable, NotOwnedError
from tests.tables.histories import profile

CHANGELOG = TP("changelog", 0)
Batch = tuple[list[ConsumerRecord[bytes, bytes]], int]

keys = st.sampled_from([b"o/wfnr_a", b"f/wfnr_a", b"o/wfnr_b"])
writes = st.none() | st.tuples(keys, st.none() | st.binary(max_size=2))
"""What an offset holds; None where compaction, or the marker of a transaction, left no record."""


class DictLog:
    """A changelog of one partition; its records come in batches of `most` offsets."""

    def __init__(self, changes: Sequence[Write | None], most: int = 2) -> None:
        self.changes = changes
        self.most = most
        self.read: list[tuple[int, int]] = []
        self.closed = 0

    async def batches(self, partition: TP, start: int, end: int) -> AsyncGenerator[Batch, None]:
        self.read.append((start, end))
        try:
            for first in range(start, end, self.most):
                behind = min(first + self.most, end)
                records = [self._record(offset) for offset in range(first, behind) if self.changes[offset] is not None]
                yield records, behind
        finally:
            self.closed += 1

    def _record(self, offset: int) -> ConsumerRecord[bytes, bytes]:
        key, value = cast("Write", self.changes[offset])
        return cast("ConsumerRecord[bytes, bytes]", SimpleNamespace(offset=offset, key=key, value=value))


class DictStore:
    """The store of one partition, and after how many steps it goes."""

    def __init__(self, offset: int = -1, steps: int = 1000) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.offset = offset
        self.steps = steps

    def followed(self, partition: int) -> int:
        return self.offset

    def restore(self, partition: int, writes: list[Write], offset: int) -> None:
        if not self.steps:
            raise NotOwnedError("it went")
        self.steps -= 1
        for key, value in writes:
            put(self.rows, key, value)
        self.offset = offset


def put(rows: dict[bytes, bytes], key: bytes, value: bytes | None) -> None:
    if value is None:
        rows.pop(key, None)
    else:
        rows[key] = value


def rows_at(changes: Sequence[Write | None], offset: int) -> dict[bytes, bytes]:
    """Return the rows as the changelog makes them up to an offset."""
    rows: dict[bytes, bytes] = {}
    for change in changes[: offset + 1]:
        if change is not None:
            put(rows, *change)
    return rows


async def restore(log: DictLog, store: DictStore, end: int) -> list[int]:
    return [offset async for offset in restored(CHANGELOG, store.offset + 1, end, log, store)]


@profile(200)
@given(changes=st.lists(writes, max_size=12), most=st.integers(1, 5), steps=st.integers(0, 12), data=st.data())
def test_wherever_it_ends_the_store_is_true_to_the_changelog_and_the_next_one_goes_on(
    changes: list[Write | None], most: int, steps: int, data: st.DataObject
) -> None:
    end = data.draw(st.integers(0, len(changes)))
    log, store = DictLog(changes, most), DictStore(steps=steps)

    async def run() -> None:
        try:
            reached = await restore(log, store, end)
        except NotOwnedError:
            assert store.offset < end - 1
        else:
            assert reached == sorted(reached)
            assert store.offset == end - 1
        assert store.rows == rows_at(changes, store.offset)
        assert log.closed == len(log.read)
        store.steps = 1000
        await restore(log, store, len(changes))
        assert store.offset == len(changes) - 1
        assert store.rows == rows_at(changes, len(changes))

    asyncio.run(run())


async def test_a_store_that_has_it_all_reads_nothing() -> None:
    log, store = DictLog([(b"o/a", b"1")] * 3), DictStore(offset=2)
    assert await restore(log, store, 3) == []
    assert not log.read


async def test_of_a_changelog_whose_records_were_deleted_the_end_is_noted() -> None:
    log, store = DictLog([]), DictStore()
    assert [offset async for offset in restored(CHANGELOG, 7, 7, log, store)] == []
    assert store.offset == 6
    assert not log.read


async def test_others_have_their_turn_between_two_batches() -> None:
    log, store, turns = DictLog([(b"o/a", b"1")] * 6), DictStore(), list[int]()

    async def other() -> None:
        while store.offset < 5:
            turns.append(store.offset)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as both:
        both.create_task(other())
        both.create_task(restore(log, store, 6))
    assert {1, 3} <= set(turns)


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    settings = Settings.model_validate(
        {"port_org_id": "org", "port_client_id": "c", "port_client_secret": "s", "handlers": "h", "data_dir": tmp_path}
    )
    return Worker(settings, autodiscover=[])


@pytest.fixture
def table(worker: Worker) -> LedgerTable:
    """The real table, with the local store of partition 0 open."""
    table = LedgerTable(worker)
    worker.tables.add(table)
    cast("Any", table.data)._db_for_partition(0)
    return table


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Why the process would have been ended."""
    said: list[str] = []

    def stop(why: str) -> NoReturn:
        said.append(why)
        raise SystemExit(why)

    monkeypatch.setattr(tables.rows, "stop_process", stop)
    return said


class TestLedgerTable:
    def test_rows_and_the_offset_that_they_reach_enter_the_store_in_one(self, table: LedgerTable) -> None:
        assert table.followed(0) == -1
        table.restore(0, [(b"o/a", b"1"), (b"o/b", b"2")], 4)
        table.restore(0, [(b"o/a", None)], 7)
        assert table.followed(0) == 7
        assert dict(rows_of(table)) == {b"o/b": b"2"}

    def test_a_partition_whose_store_is_not_open_is_not_here(self, table: LedgerTable) -> None:
        with pytest.raises(NotOwnedError):
            table.followed(1)
        with pytest.raises(NotOwnedError):
            table.restore(1, [(b"o/a", b"1")], 0)

    def test_what_is_acknowledged_follows_on_what_was_recovered(self, table: LedgerTable, stops: list[str]) -> None:
        table.restore(0, [(b"o/a", b"1")], 4)
        table.follow(0, [(b"o/a", b"2"), (b"o/b", b"2")], 6)
        assert (table.followed(0), dict(rows_of(table)), stops) == (6, {b"o/a": b"2", b"o/b": b"2"}, [])

    @pytest.mark.parametrize("recovered", [-1, 4])
    def test_offsets_that_do_not_follow_on_end_the_process(
        self, table: LedgerTable, stops: list[str], recovered: int
    ) -> None:
        if recovered >= 0:
            table.restore(0, [], recovered)
        with pytest.raises(SystemExit):
            table.follow(0, [(b"o/a", b"2")], recovered + 2)
        assert "was written by another worker, too" in stops[0]
        assert table.followed(0) == recovered


def rows_of(table: LedgerTable) -> Iterator[tuple[bytes, bytes]]:
    store = table.store(0)
    assert store is not None
    return cast("Iterator[tuple[bytes, bytes]]", store.items(from_key=b"o/"))


class Asked:
    """What Faust asks of its consumer at this stage."""

    def __init__(self, earliest: int) -> None:
        self.earliest = earliest

    async def earliest_offsets(self, *tps: TP) -> dict[TP, int]:
        return dict.fromkeys(tps, self.earliest)


async def recovered(worker: Worker, table: LedgerTable, log: DictLog, *, earliest: int, last: int) -> Recovery:
    """Take Faust's recovery through the stage at which the changelog is read."""
    recovery = Recovery(worker.tables, log, table)
    recovery.add_active(table, CHANGELOG)
    recovery.active_highwaters[CHANGELOG] = last
    await recovery._build_offsets(Asked(earliest), recovery.active_tps, recovery.active_offsets, "active")
    return recovery


class TestRecovery:
    async def test_faust_finds_nothing_left_to_be_read(self, worker: Worker, table: LedgerTable) -> None:
        log = DictLog([(b"o/a", b"%d" % number) for number in range(5)])
        recovery = await recovered(worker, table, log, earliest=0, last=4)
        assert not recovery.need_recovery()
        assert recovery.active_offsets[CHANGELOG] == table.followed(0) == 4
        assert dict(rows_of(table)) == {b"o/a": b"4"}

    async def test_it_goes_on_where_the_store_is(self, worker: Worker, table: LedgerTable) -> None:
        table.restore(0, [], 1)
        log = DictLog([(b"o/a", b"1")] * 5)
        await recovered(worker, table, log, earliest=0, last=4)
        assert log.read == [(2, 5)]

    async def test_it_begins_no_sooner_than_the_changelog(self, worker: Worker, table: LedgerTable) -> None:
        log = DictLog([(b"o/a", b"1")] * 5)
        await recovered(worker, table, log, earliest=3, last=4)
        assert log.read == [(3, 5)]

    async def test_an_empty_changelog_is_nothing_to_read(self, worker: Worker, table: LedgerTable) -> None:
        log = DictLog([])
        recovery = await recovered(worker, table, log, earliest=0, last=-1)
        assert not recovery.need_recovery()
        assert (log.read, table.followed(0)) == ([], -1)

    async def test_where_the_partition_goes_meanwhile_the_next_rebalance_recovers(
        self, worker: Worker, table: LedgerTable
    ) -> None:
        class Going(DictLog):
            async def batches(self, partition: TP, start: int, end: int) -> AsyncGenerator[Batch, None]:
                async for batch in super().batches(partition, start, end):
                    yield batch
                    cast("Any", table.data).revoke_partitions(table, {TP(table.changelog_topic_name, 0)})

        with pytest.raises(RebalanceAgain):
            await recovered(worker, table, Going([(b"o/a", b"1")] * 5), earliest=0, last=4)

    async def test_a_stage_that_takes_long_is_waited_for(self, worker: Worker, table: LedgerTable) -> None:
        recovery, ends, ended = Recovery(worker.tables, DictLog([]), table), asyncio.Event(), list[bool]()

        async def stage() -> None:
            await ends.wait()
            ended.append(True)

        waiting = asyncio.create_task(recovery._wait(stage(), timeout=0.001))
        await asyncio.wait({waiting}, timeout=0.1)
        ends.set()
        await waiting
        assert ended == [True]

    async def test_a_rebalance_ends_the_waiting(self, worker: Worker, table: LedgerTable) -> None:
        recovery = Recovery(worker.tables, DictLog([]), table)
        recovery.signal_recovery_start.set()
        with pytest.raises(RebalanceAgain):
            await recovery._wait(asyncio.sleep(60))

    def test_a_worker_has_it(self, worker: Worker, table: LedgerTable) -> None:
        recover_in_bulk(worker, table)
        assert isinstance(cast("Any", worker.tables).recovery, Recovery)
