"""Every offset is seen: `EveryOffset` on a log that records what it was asked, then `KafkaLog` on the real Kafka."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.consumer import fetcher
from aiokafka.errors import GroupLoadInProgressError
from faust.types import TP, EventT
from hypothesis import given
from hypothesis import strategies as st

import streams.offsets
from local.kafka import EmbeddedKafka
from streams.continuity import Committed, Continuity, Extent
from streams.incidents import Incidents
from streams.landmarks import NOTHING_SAID, Commit, digest_of
from streams.messages import Bad
from streams.offsets import MAX_CATCH_UP, STALLED_SECONDS, EveryOffset, KafkaLog, Turn
from streams.records import Source, UnreadableError
from streams.topics import TopicSpec
from streams.transport import Fetched, PartitionRecords
from tests.batches import GZIP, NO_UTF_8, Unsent, send_batch
from tests.streams.conftest import NewTopicOnKafka, unhurried

T0, T1, OTHER = TP("t", 0), TP("t", 1), TP("other", 0)
Handled = list[Turn[str]]


def decode(raw: bytes | None) -> str:
    if raw is None:
        raise UnreadableError("the record has no value")
    return raw.decode()


SPEC: TopicSpec[str] = TopicSpec("t", decode, 1)


def record(tp: TP, offset: int) -> ConsumerRecord[bytes, bytes]:
    return ConsumerRecord(
        topic=tp.topic,
        partition=tp.partition,
        offset=offset,
        timestamp=1000 + offset,
        timestamp_type=0,
        key=b"k%d" % offset,
        value=b"%d" % offset,
        checksum=None,
        serialized_key_size=1,
        serialized_value_size=1,
        headers=(),
    )


@dataclass
class RecordingLog:
    """A log of real lists. Says what it was asked."""

    commits: dict[TP, int] = field(default_factory=dict)
    said: dict[TP, Commit] = field(default_factory=dict)
    beginning: dict[TP, int] = field(default_factory=dict)
    records: dict[TP, list[ConsumerRecord[bytes, bytes]]] = field(default_factory=dict)
    end: dict[TP, int] = field(default_factory=dict)
    reads: list[tuple[TP, int, int]] = field(default_factory=list)
    answering: asyncio.Event | None = None

    async def committed(self, partitions: Iterable[TP]) -> Mapping[TP, Committed]:
        if self.answering is not None:
            await self.answering.wait()
        return {tp: Committed(self.commits.get(tp, 0), self.said.get(tp, NOTHING_SAID)) for tp in partitions}

    async def extents(self, partitions: Iterable[TP]) -> Mapping[TP, Extent]:
        return {tp: Extent(self.beginning.get(tp, 0), self._end(tp)) for tp in partitions}

    def _end(self, tp: TP) -> int:
        held = (one.offset + 1 for one in self.records.get(tp, ()))
        return self.end.get(tp, max(held, default=self.commits.get(tp, 0)))

    async def standing(self, wanted: Mapping[TP, int]) -> Mapping[TP, int | None]:
        return {tp: self._digest(tp, offset) for tp, offset in wanted.items()}

    def _digest(self, tp: TP, offset: int) -> int | None:
        held = (one for one in self.records.get(tp, ()) if one.offset == offset)
        return next((digest_of(one.timestamp / 1000, one.key, one.value) for one in held), None)

    async def ends(self, partitions: Iterable[TP]) -> Mapping[TP, int]:
        return {tp: self.end[tp] for tp in partitions if tp in self.end}

    async def read(self, partition: TP, start: int, end: int) -> AsyncIterator[ConsumerRecord[bytes, bytes]]:
        self.reads.append((partition, start, end))
        for found in self.records.get(partition, []):
            if start <= found.offset < end:
                await asyncio.sleep(0)
                yield found


@dataclass(frozen=True)
class FakeMessage:
    """What Faust's messages have of interest."""

    topic: str
    partition: int
    offset: int
    timestamp: float
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    timestamp_type: int = 0


@dataclass(frozen=True)
class FakeEvent:
    """A Faust event."""

    message: FakeMessage
    value: str


def event(tp: TP, offset: int, timestamp_type: int = 0) -> EventT[object]:
    found = record(tp, offset)
    message = FakeMessage(tp.topic, tp.partition, offset, found.timestamp / 1000, found.key or b"", found.value or b"")
    message = replace(message, timestamp_type=timestamp_type)
    return cast("EventT[object]", FakeEvent(message, found.value.decode() if found.value else ""))


async def stream(events: Iterable[EventT[object]]) -> AsyncIterator[EventT[object]]:
    for one in events:
        yield one


async def handle(offsets: EveryOffset, tp: TP, delivered: Iterable[int]) -> Handled:
    """The turns of a stream that delivers these offsets of a partition."""
    return [turn async for turn in offsets.turns(stream(event(tp, offset) for offset in delivered), SPEC)]


async def stalled(offsets: EveryOffset, time: float, fetched: int | None = 10**9) -> list[TP]:
    """The stalled partitions at a time, where Faust's consumer has fetched up to an offset."""

    async def position(_tp: TP) -> int | None:
        return fetched

    return await offsets.stalled(position, lambda: time)


def offsets_of(handled: Handled) -> list[int]:
    return [turn.offset for turn in handled]


def full(tp: TP, count: int) -> list[ConsumerRecord[bytes, bytes]]:
    return [record(tp, offset) for offset in range(count)]


class TestHoles:
    async def follow(self, log: RecordingLog, tp: TP = T0) -> EveryOffset:
        offsets = EveryOffset(log)
        await offsets.assigned([tp])
        return offsets

    async def test_a_contiguous_stream_is_left_as_it_is(self) -> None:
        log = RecordingLog(records={T0: full(T0, 10)})
        offsets = await self.follow(log)
        handled = await handle(offsets, T0, range(10))
        assert offsets_of(handled) == list(range(10))
        assert all(turn.event is not None for turn in handled)
        assert (log.reads, offsets.interventions, offsets.recovered) == ([], 0, 0)

    @pytest.mark.parametrize("size", [1, 2, 200])
    async def test_what_is_missing_comes_before_the_event_behind_it(self, size: int) -> None:
        log = RecordingLog(records={T0: full(T0, 300)})
        offsets = await self.follow(log)
        handled = await handle(offsets, T0, [*range(5), *range(5 + size, 300)])
        assert offsets_of(handled) == list(range(300))
        assert [turn.offset for turn in handled if turn.event is None] == list(range(5, 5 + size))
        assert log.reads == [(T0, 5, 5 + size)]
        assert (offsets.interventions, offsets.recovered) == (1, size)

    async def test_a_hole_at_the_very_start(self) -> None:
        log = RecordingLog(commits={T0: 3}, records={T0: full(T0, 12)})
        handled = await handle(await self.follow(log), T0, [10, 11])
        assert offsets_of(handled) == list(range(3, 12))

    async def test_two_holes(self) -> None:
        log = RecordingLog(records={T0: full(T0, 10)})
        offsets = await self.follow(log)
        handled = await handle(offsets, T0, [0, 3, 4, 8, 9])
        assert offsets_of(handled) == list(range(10))
        assert log.reads == [(T0, 1, 3), (T0, 5, 8)]
        assert (offsets.interventions, offsets.recovered) == (2, 5)

    async def test_a_repeat_below_goes_on_and_is_no_hole_for_what_follows(self) -> None:
        log = RecordingLog(records={T0: full(T0, 10)})
        handled = await handle(await self.follow(log), T0, [0, 1, 2, 0, 1, 2, 3, 6, 4, 5, 6, 7])
        assert offsets_of(handled) == [0, 1, 2, 0, 1, 2, 3, 4, 5, 6, 4, 5, 6, 7]
        assert [turn.offset for turn in handled if turn.repeated] == [0, 1, 2, 4, 5, 6]

    async def test_each_partition_is_followed_by_itself(self) -> None:
        log = RecordingLog(commits={T1: 5}, records={T0: full(T0, 3), T1: full(T1, 8)})
        offsets = EveryOffset(log)
        await offsets.assigned([T0, T1])
        events = [event(T0, 0), event(T1, 7), event(T0, 2)]
        handled = [(turn.partition, turn.offset) async for turn in offsets.turns(stream(events), SPEC)]
        assert handled == [(0, 0), (1, 5), (1, 6), (1, 7), (0, 1), (0, 2)]

    async def test_a_new_assignment_starts_from_what_is_committed(self) -> None:
        log = RecordingLog(records={T0: full(T0, 20)})
        offsets = await self.follow(log)
        assert offsets_of(await handle(offsets, T0, range(10))) == list(range(10))
        log.commits[T0] = 6
        await offsets.assigned([T0])
        handled = await handle(offsets, T0, [8, 9, 10])
        assert offsets_of(handled) == [6, 7, 8, 9, 10]
        assert not any(turn.repeated for turn in handled)

    async def test_what_goes_on_of_an_earlier_assignment_leaves_the_new_one_alone(self) -> None:
        log = RecordingLog(records={T0: full(T0, 20)})
        offsets = await self.follow(log)
        earlier = offsets.turns(stream([event(T0, 10)]), SPEC)
        assert (await anext(earlier)).offset == 0
        await offsets.assigned([T0])
        assert [turn.offset async for turn in earlier] == list(range(1, 11))
        handled = await handle(offsets, T0, range(12))
        assert offsets_of(handled) == list(range(12))
        assert not any(turn.repeated for turn in handled)

    async def test_what_is_left_of_a_partition_that_moved_away_passes_and_is_forgotten(self) -> None:
        log = RecordingLog(records={T0: full(T0, 20)}, end={T0: 20, T1: 0})
        offsets = await self.follow(log)
        await offsets.assigned([T1])
        assert offsets_of(await handle(offsets, T0, [7])) == [7]
        assert log.reads == []
        for time in (0.0, 1000.0):
            assert await stalled(offsets, time) == []

    async def test_no_event_has_its_turn_before_the_committed_offsets_are_known(self) -> None:
        log = RecordingLog(commits={T0: 3}, records={T0: full(T0, 10)}, answering=asyncio.Event())
        offsets = EveryOffset(log)
        handling = asyncio.create_task(handle(offsets, T0, [5]))
        assigning = asyncio.create_task(offsets.assigned([T0]))
        done, _ = await asyncio.wait({handling, assigning}, timeout=0.05)
        assert not done
        assert log.answering is not None
        log.answering.set()
        assert offsets_of(await handling) == [3, 4, 5]
        await assigning

    async def test_a_turn_says_all_of_its_record(self) -> None:
        log = RecordingLog(records={T0: full(T0, 2)})
        [missed, delivered] = await handle(await self.follow(log), T0, [1])
        for turn, offset in ((missed, 0), (delivered, 1)):
            assert (turn.topic, turn.partition, turn.offset) == ("t", 0, offset)
            assert (turn.key, turn.raw, turn.value) == (b"k%d" % offset, b"%d" % offset, str(offset))
            assert turn.timestamp == pytest.approx(1.0 + offset / 1000)
            assert turn.source("a:1") == Source(
                cluster="a:1", topic="t", partition=0, offset=offset, timestamp=turn.timestamp
            )
        assert missed.event is None
        assert delivered.event is not None

    async def test_a_turn_says_whose_its_time_is(self) -> None:
        appended = replace(record(T0, 0), timestamp_type=1)
        log = RecordingLog(records={T0: [appended, record(T0, 1)]})
        follow = await self.follow(log)
        turns = [turn async for turn in follow.turns(stream([event(T0, 2, timestamp_type=1)]), SPEC)]
        assert [turn.appended for turn in turns] == [True, False, True]
        assert [turn.source("a:1").appended for turn in turns] == [True, False, True]

    async def test_a_missed_record_that_is_unreadable_is_a_bad_one(self) -> None:
        tombstone = record(T0, 0)
        tombstone.value = None
        log = RecordingLog(records={T0: [tombstone]})
        [missed, _] = await handle(await self.follow(log), T0, [1])
        assert missed.value == Bad(None, "the record has no value")


class TestGapsOfTheTopicItself:
    async def test_they_are_passed_and_said_once(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, logger="streams.offsets")
        log = RecordingLog(records={T0: [record(T0, 0), record(T0, 5), record(T0, 9)]})
        offsets = EveryOffset(log)
        await offsets.assigned([T0])
        assert offsets_of(await handle(offsets, T0, [0, 5, 5, 0, 5, 9, 9])) == [0, 5, 5, 0, 5, 9, 9]
        assert log.reads == [(T0, 1, 5), (T0, 6, 9)]
        assert [line.getMessage() for line in caplog.records] == [
            "t[0]: offsets 1 to 4 hold no records",
            "t[0]: offsets 6 to 8 hold no records",
        ]
        assert (offsets.interventions, offsets.recovered) == (0, 0)

    async def test_an_intervention_is_a_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        log = RecordingLog(records={T0: full(T0, 10)})
        offsets = EveryOffset(log)
        await offsets.assigned([T0])
        await handle(offsets, T0, [3])
        [line] = caplog.records
        assert line.levelno == logging.WARNING
        assert line.getMessage() == "t[0]: read 3 records again that were not delivered, offsets 0 to 2"


class TestCatchUp:
    async def caught_up(self, offsets: EveryOffset) -> list[int]:
        return [turn.offset async for turn in offsets.catch_up(SPEC, 0)]

    async def test_it_reads_on_to_the_end(self) -> None:
        log = RecordingLog(commits={T0: 3}, records={T0: full(T0, 8)}, end={T0: 8})
        offsets = EveryOffset(log)
        await offsets.assigned([T0])
        assert await self.caught_up(offsets) == [3, 4, 5, 6, 7]
        assert await self.caught_up(offsets) == []
        assert log.reads == [(T0, 3, 8)]
        assert offsets_of(await handle(offsets, T0, [6, 8])) == [6, 8]

    async def test_a_gap_of_the_topic_at_the_end_is_passed_once(self) -> None:
        log = RecordingLog(records={T0: full(T0, 4)}, end={T0: 6})
        offsets = EveryOffset(log)
        await offsets.assigned([T0])
        assert await self.caught_up(offsets) == [0, 1, 2, 3]
        assert await self.caught_up(offsets) == []
        assert log.reads == [(T0, 0, 6)]
        for time in (0.0, 1000.0):
            assert await stalled(offsets, time) == []

    async def test_it_is_bounded(self) -> None:
        count = 2 * MAX_CATCH_UP + 5
        log = RecordingLog(records={T0: full(T0, count)}, end={T0: count})
        offsets = EveryOffset(log)
        await offsets.assigned([T0])
        assert [len(await self.caught_up(offsets)) for _ in range(4)] == [MAX_CATCH_UP, MAX_CATCH_UP, 5, 0]

    async def test_nothing_of_a_partition_that_is_not_assigned_or_whose_end_is_unknown(self) -> None:
        log = RecordingLog(records={T0: full(T0, 5)}, end={T0: 5})
        offsets = EveryOffset(log)
        assert await self.caught_up(offsets) == []
        await offsets.assigned([T0])
        log.end.clear()
        assert await self.caught_up(offsets) == []
        assert log.reads == []

    async def test_what_is_delivered_while_the_end_is_asked_for_is_not_read_again(self) -> None:
        log = RecordingLog(records={T0: full(T0, 5)})
        offsets = EveryOffset(log)
        await offsets.assigned([T0])

        async def ends_late(partitions: Iterable[TP]) -> Mapping[TP, int]:
            await handle(offsets, T0, range(4))
            return {T0: 5}

        log.ends = ends_late  # type: ignore[method-assign]
        assert await self.caught_up(offsets) == [4]


class TestStalled:
    async def test_only_after_some_seconds_without_progress(self) -> None:
        log = RecordingLog(records={T0: full(T0, 20)}, end={T0: 10})
        offsets = EveryOffset(log)
        await offsets.assigned([T0])

        async def at(time: float) -> list[TP]:
            return await stalled(offsets, time)

        assert await at(100.0) == []
        assert await at(100.0 + STALLED_SECONDS - 0.01) == []
        assert await at(100.0 + STALLED_SECONDS) == [T0]
        assert await at(200.0) == [T0]
        # Progress starts the wait anew.
        await handle(offsets, T0, range(5))
        assert await at(200.5) == []
        assert await at(200.4 + STALLED_SECONDS) == []
        assert await at(200.5 + STALLED_SECONDS) == [T0]
        # At the end there is nothing to wait for.
        await handle(offsets, T0, range(5, 10))
        assert await at(300.0) == []
        log.end[T0] = 11
        assert await at(400.0) == []
        assert await at(400.0 + STALLED_SECONDS) == [T0]
        # So does a new assignment.
        await offsets.assigned([T0])
        assert await at(500.0) == []

    async def test_never_while_it_goes_on_however_slowly(self) -> None:
        log = RecordingLog(records={T0: full(T0, 200)}, end={T0: 200})
        offsets = EveryOffset(log)
        await offsets.assigned([T0])
        for offset in range(100):
            await handle(offsets, T0, [offset])
            assert await stalled(offsets, offset * 0.9 * STALLED_SECONDS) == []

    async def test_a_cluster_that_does_not_answer_is_no_loss(self) -> None:
        offsets = EveryOffset(RecordingLog())
        await offsets.assigned([T0])
        for time in (0.0, 1000.0):
            assert await stalled(offsets, time) == []

    @pytest.mark.parametrize(("position", "expected"), [(None, []), (5, []), (9, []), (10, [T0]), (11, [T0])])
    async def test_not_while_faust_has_still_to_fetch_the_last_records(
        self, position: int | None, expected: list[TP]
    ) -> None:
        offsets = EveryOffset(RecordingLog(records={T0: full(T0, 10)}, end={T0: 10}))
        await offsets.assigned([T0])
        assert await stalled(offsets, 0.0, position) == []
        assert await stalled(offsets, 1000.0, position) == expected


@dataclass(frozen=True)
class Assignment:
    """What Faust delivers of a partition between two rebalances, and the committed offset it began from."""

    committed: int
    delivered: list[int]


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[int], list[Assignment]]:
    """The offsets that hold records, and assignments that drop batches and single records and repeat some."""
    count = draw(st.integers(1, 60))
    gaps = draw(st.sets(st.integers(0, count - 1), max_size=6))
    held = [offset for offset in range(count) if offset not in gaps]
    assignments, seen = [], 0
    for _ in range(draw(st.integers(1, 4))):
        committed = draw(st.integers(0, seen))
        until = draw(st.integers(committed, count))
        delivered = [offset for offset in held if committed <= offset < until]
        for _ in range(draw(st.integers(0, 3))):  # batches and single records that are dropped
            at, size = draw(st.integers(0, count)), draw(st.sampled_from([1, 1, 2, 20]))
            del delivered[at : at + size]
        for _ in range(draw(st.integers(0, 3))):  # repeats, from anywhere that was delivered
            if delivered:
                back, at = draw(st.integers(0, len(delivered) - 1)), draw(st.integers(0, len(delivered)))
                delivered[at:at] = delivered[min(back, at) : at]
        assignments.append(Assignment(committed, delivered))
        # No commit passes what was handled.
        seen = max([committed, *(offset + 1 for offset in delivered)])
    return held, assignments


@unhurried
@given(histories())
def test_whatever_is_dropped_every_offset_is_handled_before_what_stands_behind_it(
    history: tuple[list[int], list[Assignment]],
) -> None:
    held, assignments = history

    async def run() -> None:
        end = held[-1] + 1 if held else 0
        log = RecordingLog(records={T0: [record(T0, offset) for offset in held]}, end={T0: end})
        offsets = EveryOffset(log)
        handled: set[int] = set()
        since_assigned: set[int] = set()

        def check(turn: Turn[str], committed: int) -> None:
            before = {offset for offset in held if committed <= offset < turn.offset}
            assert before <= handled
            assert turn.value == str(turn.offset)
            # Only what had its turn since the partition was assigned is a repeat, and all of that.
            assert turn.repeated == (turn.offset in since_assigned)
            handled.add(turn.offset)
            since_assigned.add(turn.offset)

        for assignment in assignments:
            log.commits[T0] = assignment.committed
            await offsets.assigned([T0])
            since_assigned.clear()
            events = stream(event(T0, offset) for offset in assignment.delivered)
            delivered = []
            async for turn in offsets.turns(events, SPEC):
                check(turn, assignment.committed)
                if turn.event is not None:
                    delivered.append(turn.offset)
            assert delivered == assignment.delivered
        async for turn in offsets.catch_up(SPEC, 0):
            check(turn, 0)
        assert handled == set(held)

    asyncio.run(run())


# From here on the real Kafka.


@pytest.fixture
async def log(kafka: EmbeddedKafka, unique: str) -> AsyncIterator[KafkaLog]:
    log = KafkaLog(unique, {"bootstrap_servers": kafka.bootstrap})
    await log.start()
    yield log
    await log.stop()


async def write(producer: AIOKafkaProducer, tp: TP, count: int) -> None:
    sent = [await producer.send(tp.topic, b"%d" % n, b"k%d" % n, tp.partition) for n in range(count)]
    await asyncio.gather(*sent)


async def write_transactions(bootstrap: str, tp: TP, sizes: Iterable[int]) -> None:
    """Each transaction leaves one offset behind its records that holds none."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=tp.topic) as producer:
        for size in sizes:
            async with producer.transaction():
                await write(producer, tp, size)


async def commit(bootstrap: str, group: str, offsets: Mapping[TP, int]) -> None:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False)
    await consumer.start()
    partitions = {TopicPartition(*tp): offset for tp, offset in offsets.items()}
    consumer.assign(list(partitions))
    await consumer.commit(partitions)
    await consumer.stop()


async def expected(log: KafkaLog, partitions: Iterable[TP]) -> Mapping[TP, int]:
    """Where a group begins that is given these partitions."""
    return (await Continuity(log, Incidents()).begin(partitions)).expected


async def read_offsets(log: KafkaLog, tp: TP, start: int, end: int) -> list[int]:
    return [found.offset async for found in log.read(tp, start, end)]


class TestKafkaLog:
    async def test_committed_offsets_and_the_beginning_of_those_without(
        self,
        kafka: EmbeddedKafka,
        unique: str,
        log: KafkaLog,
        admin: AIOKafkaAdminClient,
        producer: AIOKafkaProducer,
        new_topic: NewTopicOnKafka,
    ) -> None:
        one, two, old = await new_topic("one", partitions=3), await new_topic("two"), TP(await new_topic("old"), 0)
        for tp in (TP(one, 0), TP(one, 1), TP(two, 0), old):
            await write(producer, tp, 10)
        await commit(kafka.bootstrap, unique, {TP(one, 0): 7, TP(two, 0): 0, old: 3})
        await admin.delete_records({TopicPartition(one, 1): RecordsToDelete(4)})
        # Deleted while nobody read them.
        await admin.delete_records({TopicPartition(*old): RecordsToDelete(5)})
        assert await expected(log, [old]) == {old: 5}
        everything = [TP(one, 0), TP(one, 1), TP(one, 2), TP(two, 0)]
        assert await expected(log, everything) == {TP(one, 0): 7, TP(one, 1): 4, TP(one, 2): 0, TP(two, 0): 0}
        assert await log.ends(everything) == {TP(one, 0): 10, TP(one, 1): 10, TP(one, 2): 0, TP(two, 0): 10}

    async def test_a_group_that_is_unknown_begins_at_the_beginning(
        self, log: KafkaLog, producer: AIOKafkaProducer, new_topic: NewTopicOnKafka
    ) -> None:
        tp = TP(await new_topic("t"), 0)
        await write(producer, tp, 3)
        assert await expected(log, [tp]) == {tp: 0}

    @pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
    async def test_records_are_read_however_their_producer_compressed_them(
        self, kafka: EmbeddedKafka, log: KafkaLog, new_topic: NewTopicOnKafka, codec: str
    ) -> None:
        tp = TP(await new_topic("t"), 0)
        async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, compression_type=codec) as producer:
            await write(producer, tp, 50)
        assert [record.value async for record in log.read(tp, 0, 50)] == [b"%d" % n for n in range(50)]

    async def test_what_comes_in_batches_is_read_to_its_end_and_fetched_once(
        self, log: KafkaLog, producer: AIOKafkaProducer, new_topic: NewTopicOnKafka, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(streams.offsets, "MAX_BATCH", 100)
        tp, fetched = TP(await new_topic("t"), 0), list[object]()
        await write(producer, tp, 1050)
        send = log._connected()[1]._client.send

        async def counted(node: object, request: object, **more: object) -> object:
            if "Fetch" in type(request).__name__:
                fetched.append(request)
            return await send(node, request, **more)

        monkeypatch.setattr(log._connected()[1]._client, "send", counted)
        got = [([one.offset for one in records], behind) async for records, behind in log.batches(tp, 20, 1030)]
        assert [offset for offsets, _ in got for offset in offsets] == list(range(20, 1030))
        assert [behind for _, behind in got] == [*range(120, 1030, 100), 1030]
        # What is still to come may have been asked for already.
        assert len(fetched) <= 3

    async def test_two_who_read_at_the_same_time_do_not_disturb_each_other(
        self, log: KafkaLog, producer: AIOKafkaProducer, new_topic: NewTopicOnKafka, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(streams.offsets, "MAX_BATCH", 10)
        topic = await new_topic("t", partitions=2)
        for partition in (0, 1):
            await write(producer, TP(topic, partition), 50)
        ranges = [(0, 0, 50), (1, 0, 50), (0, 25, 50)]
        found = await asyncio.gather(*(read_offsets(log, TP(topic, one), start, end) for one, start, end in ranges))
        assert found == [list(range(start, end)) for _, start, end in ranges]

    async def test_nothing_is_asked_for_nothing(self, log: KafkaLog) -> None:
        assert (await expected(log, []), await log.ends([]), await log.standing({})) == ({}, {}, {})

    async def test_before_the_start_it_refuses(self, kafka: EmbeddedKafka) -> None:
        log = KafkaLog("group", {"bootstrap_servers": kafka.bootstrap})
        for asking in (
            log.committed([T0]),
            log.extents([T0]),
            log.standing({T0: 0}),
            log.ends([T0]),
            anext(log.read(T0, 0, 1)),
        ):
            with pytest.raises(RuntimeError, match=r"KafkaLog\.start was not called"):
                await asking
        await log.stop()

    async def test_a_coordinator_that_is_still_loading_is_asked_again(
        self,
        kafka: EmbeddedKafka,
        unique: str,
        log: KafkaLog,
        producer: AIOKafkaProducer,
        new_topic: NewTopicOnKafka,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        tp = TP(await new_topic("t"), 0)
        await write(producer, tp, 5)
        await commit(kafka.bootstrap, unique, {tp: 5})
        real, answers = AIOKafkaAdminClient.list_consumer_group_offsets, [{}, GroupLoadInProgressError()]

        async def loading(self: AIOKafkaAdminClient, *args: Any, **options: Any) -> Any:
            if not answers:
                return await real(self, *args, **options)
            answer = answers.pop()
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(AIOKafkaAdminClient, "list_consumer_group_offsets", loading)
        assert await expected(log, [tp]) == {tp: 5}
        assert answers == []

    @pytest.mark.parametrize(("start", "end"), [(0, 1000), (0, 1), (999, 1000), (400, 401), (10, 990), (5, 5)])
    async def test_a_range(
        self, log: KafkaLog, producer: AIOKafkaProducer, new_topic: NewTopicOnKafka, start: int, end: int
    ) -> None:
        tp = TP(await new_topic("t"), 0)
        await write(producer, tp, 1000)
        found = [one async for one in log.read(tp, start, end)]
        assert [one.offset for one in found] == list(range(start, end))
        assert [(one.key, one.value) for one in found] == [(b"k%d" % n, b"%d" % n) for n in range(start, end)]

    async def test_records_of_4_mib(self, kafka: EmbeddedKafka, log: KafkaLog, new_topic: NewTopicOnKafka) -> None:
        tp = TP(await new_topic("t", config={"max.message.bytes": str(4 * 1024 * 1024)}), 0)
        large = b"x" * (4 * 1024 * 1024 - 1000)
        async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, max_request_size=4 * 1024 * 1024) as producer:
            for _ in range(3):
                await producer.send_and_wait(tp.topic, large, partition=0)
        assert [len(one.value or b"") async for one in log.read(tp, 0, 3)] == [len(large)] * 3

    async def test_a_header_whose_name_is_no_utf_8(
        self, log: KafkaLog, producer: AIOKafkaProducer, new_topic: NewTopicOnKafka, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fetcher, "MemoryRecords", Fetched)
        monkeypatch.setattr(fetcher, "PartitionRecords", PartitionRecords)
        tp = TP(await new_topic("t"), 0)
        await write(producer, tp, 10)
        bad = [Unsent(b"%d" % n, NO_UTF_8 if n in (11, 14) else b"a") for n in range(10, 17)]
        assert await send_batch(producer, tp, bad[:3]) == 10
        assert await send_batch(producer, tp, bad[3:], GZIP) == 13
        await write(producer, tp, 10)
        for start, end in ((0, 27), (10, 12), (11, 12), (12, 13), (14, 17), (15, 27)):
            found = [(one.offset, one.value) async for one in log.read(tp, start, end)]
            written = [b"%d" % n for n in (*range(17), *range(10))]
            assert found == list(enumerate(written))[start:end]

    async def test_a_range_that_the_log_does_not_reach_any_more_ends_with_the_log(
        self, log: KafkaLog, producer: AIOKafkaProducer, new_topic: NewTopicOnKafka
    ) -> None:
        tp = TP(await new_topic("t"), 0)
        await write(producer, tp, 5)
        async with asyncio.timeout(30):
            assert await read_offsets(log, tp, 3, 50) == [3, 4]
            assert await read_offsets(log, tp, 40, 50) == []

    async def test_single_records_are_looked_at(
        self, kafka: EmbeddedKafka, log: KafkaLog, producer: AIOKafkaProducer, new_topic: NewTopicOnKafka
    ) -> None:
        topic = await new_topic("t", partitions=3)
        tps = [TP(topic, partition) for partition in range(3)]
        await write(producer, tps[0], 100)
        await write(producer, tps[1], 3)
        await write_transactions(kafka.bootstrap, tps[2], [2])  # 0 1 -
        written = {one.offset: one async for one in log.read(tps[0], 0, 100)}
        for offset in (40, 99, 0):
            one, wanted = written[offset], {tps[0]: offset, tps[1]: 1, tps[2]: 2}
            found = await log.standing(wanted)
            assert found[tps[0]] == digest_of(one.timestamp / 1000, one.key, one.value)
            assert (found.keys(), found[tps[2]]) == (wanted.keys(), None)
        assert await log.standing({tps[1]: 3_000}) == {}

    async def test_while_other_partitions_are_read(
        self, log: KafkaLog, producer: AIOKafkaProducer, new_topic: NewTopicOnKafka
    ) -> None:
        topic, other = await new_topic("t", partitions=3), await new_topic("other")
        everything = [TP(topic, 0), TP(topic, 1), TP(topic, 2), TP(other, 0)]
        for tp in everything:
            await write(producer, tp, 700)
        reading = [read_offsets(log, tp, 100, 650) for tp in everything for _ in range(2)]
        found = await asyncio.gather(*reading, log.ends(everything), expected(log, everything))
        assert found[:-2] == [list(range(100, 650))] * 8
        assert found[-2:] == [dict.fromkeys(everything, 700), dict.fromkeys(everything, 0)]

    async def test_one_whose_reader_waits_or_goes_away_holds_up_no_other(
        self, log: KafkaLog, producer: AIOKafkaProducer, new_topic: NewTopicOnKafka
    ) -> None:
        first, second = TP(await new_topic("first"), 0), TP(await new_topic("second"), 0)
        for tp in (first, second):
            await write(producer, tp, 50)
        slow = log.read(first, 0, 50)
        assert (await anext(slow)).offset == 0
        async with asyncio.timeout(10):
            assert await read_offsets(log, second, 0, 50) == list(range(50))
        assert [found.offset async for found in slow] == list(range(1, 50))

    async def test_offsets_without_records_are_passed_over(
        self, kafka: EmbeddedKafka, log: KafkaLog, new_topic: NewTopicOnKafka
    ) -> None:
        tp = TP(await new_topic("t"), 0)
        await write_transactions(kafka.bootstrap, tp, [2, 1, 3])  # 0 1 - 3 - 5 6 7 -
        assert await log.ends([tp]) == {tp: 9}
        assert await read_offsets(log, tp, 0, 9) == [0, 1, 3, 5, 6, 7]
        assert await read_offsets(log, tp, 2, 3) == []
        assert await read_offsets(log, tp, 2, 4) == [3]
        assert await read_offsets(log, tp, 4, 6) == [5]
        assert await read_offsets(log, tp, 8, 9) == []

    async def test_offsets_that_were_deleted_are_passed_over(
        self, log: KafkaLog, admin: AIOKafkaAdminClient, producer: AIOKafkaProducer, new_topic: NewTopicOnKafka
    ) -> None:
        tp = TP(await new_topic("t"), 0)
        await write(producer, tp, 10)
        await admin.delete_records({TopicPartition(*tp): RecordsToDelete(6)})
        assert await read_offsets(log, tp, 2, 8) == [6, 7]
        await admin.delete_records({TopicPartition(*tp): RecordsToDelete(10)})
        assert await read_offsets(log, tp, 2, 8) == []

    async def test_a_cluster_that_is_away_is_waited_for(
        self, kafka: EmbeddedKafka, log: KafkaLog, producer: AIOKafkaProducer, new_topic: NewTopicOnKafka
    ) -> None:
        tp = TP(await new_topic("t"), 0)
        await write(producer, tp, 10)
        kafka.pause()
        try:
            reading = asyncio.create_task(read_offsets(log, tp, 0, 10))
            expecting = asyncio.create_task(cast("Any", expected(log, [tp])))
            done, _ = await asyncio.wait({reading, expecting}, timeout=1.5)
            assert not done
        finally:
            kafka.resume()
        async with asyncio.timeout(30):
            assert await reading == list(range(10))
            assert await expecting == {tp: 0}

    async def test_a_hole_in_a_stream_is_filled_from_the_real_log(
        self, kafka: EmbeddedKafka, unique: str, log: KafkaLog, new_topic: NewTopicOnKafka
    ) -> None:
        tp = TP(await new_topic("t"), 0)
        await write_transactions(kafka.bootstrap, tp, [100, 100, 100])
        await commit(kafka.bootstrap, unique, {tp: 50})
        offsets = EveryOffset(log)
        await offsets.assigned([tp])
        spec: TopicSpec[str] = TopicSpec(tp.topic, decode, 1)
        events = stream(event(tp, offset) for offset in (60, 61, 250))
        held = [offset for offset in range(303) if offset not in (100, 201, 302)]
        assert [turn.offset async for turn in offsets.turns(events, spec)] == [n for n in held if 50 <= n <= 250]
        assert [turn.offset async for turn in offsets.catch_up(spec, 0)] == [n for n in held if n > 250]
        assert [turn.offset async for turn in offsets.catch_up(spec, 0)] == []
