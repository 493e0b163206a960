"""Faust's Kafka transport and aiokafka's record parser, with what cannot be set from outside set here.

Kept apart, because it leans on how faust-streaming 0.15.3 and aiokafka 0.14 behave.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, SupportsIndex, cast

from aiokafka import TopicPartition
from aiokafka.consumer import fetcher as fetching
from aiokafka.errors import ConsumerStoppedError
from aiokafka.record.default_records import DefaultRecordBatch, _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords, _MemoryRecordsPy
from aiokafka.structs import OffsetAndMetadata
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from streams import clients, producers
from streams.acknowledged import Gaps, passed
from streams.clients import PRODUCE_SECONDS, Contact
from streams.consumers import ISOLATION

FETCH_MAX_WAIT_MS: Final = 50
"""How long the broker may hold a fetch that finds nothing. Faust's is 1500, and aiokafka has one fetch under way for
each broker: a partition whose records were just being consumed is not in it, and would wait for its end.
"""


LOOKS_FOR_ROOM: Final = 0.05
"""How soon a topic of which no more was taken is looked at again, in seconds."""


class Fetched:
    """What a fetch brought of one partition: aiokafka's compiled parser, and the bytes that it reads."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        compiled = MemoryRecords(raw)
        self.has_next = compiled.has_next
        self.next_batch = compiled.next_batch
        self.size_in_bytes = compiled.size_in_bytes


class PartitionRecords(fetching.PartitionRecords):  # type: ignore[misc]
    """The records of one partition; the name of a header need not be UTF-8.

    Kafka asks for UTF-8 there, but its brokers do not check it, and aiokafka raises at such a record, whoever reads it:
    no worker would ever get past it. The rest of what was fetched is then read by aiokafka's parser in Python,
    several times as slow, with the bad bytes of the name replaced. Nothing here looks at the headers of what it reads.
    """

    _records: Any

    def _unpack_records(self) -> Iterator[Any]:
        try:
            yield from super()._unpack_records()
        except UnicodeDecodeError:
            self._records = _AnyNames(_rest(self._records.raw, self.next_fetch_offset))
            yield from super()._unpack_records()


def _rest(raw: bytes, offset: int) -> memoryview:
    """Return the batches from the one with this offset on: aiokafka would take up its offset from any before that."""
    batches, passed = _MemoryRecordsPy(raw), 0
    while (size := len(batches._next_slice)) and batches.next_batch().next_offset <= offset:
        passed += size
    return memoryview(raw)[passed:]


class _AnyNames(_MemoryRecordsPy):  # type: ignore[misc]
    """Batches of records whose headers have any names."""

    def next_batch(self) -> Any:
        raw = self._next_slice
        batch = super().next_batch()
        # Batches of before Kafka 0.11 have no headers, and another format.
        return _AnyNamesBatch(raw) if isinstance(batch, DefaultRecordBatch) else batch


class _AnyNamesBatch(_DefaultRecordBatchPy):  # type: ignore[misc]
    _buffer: bytearray

    def __iter__(self) -> _AnyNamesBatch:
        # Decompresses.
        super().__iter__()
        self._buffer = _Replacing(self._buffer)
        return self


class _Replacing(bytearray):
    """The bytes of a batch. All that aiokafka decodes of them are the names of headers."""

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        found = super().__getitem__(index)
        return _Replacing(found) if isinstance(found, bytearray) else found

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return super().decode(encoding, "replace")


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """The thread that holds aiokafka's consumer."""

    def _create_worker_consumer(self, transport: driver.Transport) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = FETCH_MAX_WAIT_MS
        # Faust sets it in its exactly-once mode only.
        consumer._isolation_level = ISOLATION
        commit, said_of = consumer.commit, cast("Any", self.consumer.app).offsets.continuity.commit

        async def commit_with_landmarks(offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
            await commit({tp: OffsetAndMetadata(*said_of(TP(*tp), one.offset)) for tp, one in offsets.items()})

        consumer.commit = commit_with_landmarks
        return consumer

    def highwater(self, tp: TP) -> int:
        """Return the end of what can be read of a partition, as the last fetch told it."""
        return cast("int", self._ensure_consumer().last_stable_offset(tp))

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Called by Faust now and then, to complain of a partition that stands still."""
        state = self._ensure_consumer()._fetcher._subscriptions.subscription.assignment.state_value(tp)
        if state is not None and state.has_valid_position:
            # Without a position, as that of a log that went back is for a moment, Faust's would end the worker.
            super().verify_event_path(now, tp)

    def open_transaction(self, tp: TP) -> int | None:
        """Return the offset from which on an open transaction keeps a partition from being read; None where none does.

        As the last fetch told it, and only where everything before that was taken.
        """
        state = self._ensure_consumer()._fetcher._subscriptions.subscription.assignment.state_value(tp)
        if state is None or not state.has_valid_position or None in (state.lso, state.highwater):
            return None
        return cast("int", state.lso) if state.position >= state.lso < state.highwater else None

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Have the partitions read on from their committed offsets."""
        committed = await super().seek_to_committed()
        for tp, offset in committed.items():
            if offset == 0:
                # aiokafka leaves those where they are.
                self._ensure_consumer().seek(tp, 0)
        return committed

    def rejoin(self) -> None:
        """Have the group begin a rebalance."""
        self.thread_loop.call_soon_threadsafe(self._ensure_consumer()._coordinator.request_rejoin)

    async def _fetch_records(
        self,
        consumer: Any,
        active_partitions: set[TP],
        timeout: float | None = None,  # noqa: ASYNC109 - Faust's name
        max_records: int | None = None,
    ) -> Any:
        """Return what was fetched of the active partitions, a fair share of each.

        - Records are taken only at a moment when the flow is active, and never by a call that has waited through a
          rebalance. Faust's own takes them whenever they come; and it hands aiokafka its live set of active partitions,
          which is empty during a rebalance, and "none" means "all" to aiokafka. What is taken so Faust throws away: it
          is the record that a stream, or the recovery of a table, then lacks.
        - aiokafka hands out all it has of one partition before the next: behind a backlog of arrivals the outcomes
          would wait for half a minute.
        - Of a topic with a bound (`Worker.room`) no more is taken than there is room for, with what was taken before
          and has not had its turn yet: to pause a partition leaves what stands in the stream's buffer already.
        """
        fetcher, loop = consumer._fetcher, asyncio.get_running_loop()
        app, ends = cast("Any", self.consumer.app), loop.time() + (timeout or 0.0)
        generation = app.consumer_generation_id
        with fetcher._subscriptions.fetch_context():
            while self.consumer.flow_active and app.consumer_generation_id == generation:
                if consumer._closed or fetcher._closed:
                    raise ConsumerStoppedError
                found = await _taken(fetcher, active_partitions, max_records or 1, app)
                left = ends - loop.time()
                if found or left <= 0:
                    return found
                # That there is room again wakes nobody.
                await _wait_for_more(fetcher, min(left, LOOKS_FOR_ROOM) if app.room else left)
        return {}


async def _taken(fetcher: Any, active: set[TP], max_records: int, app: Any) -> dict[Any, Any]:
    """Take what is there; nothing is awaited that is not ready."""
    if fetcher._subscriptions.reassignment_in_progress:
        return {}
    ready = [tp for tp in list(fetcher._records) if tp in active]
    share = max(1, max_records // max(1, len(ready)))
    found: dict[Any, Any] = {}
    for tp in ready:
        wanted = min(share, _room(fetcher, tp.topic, app)) if tp.topic in app.room else share
        if wanted > 0:
            found.update(await fetcher.fetched_records([tp], timeout=0, max_records=wanted))
    return found


def _room(fetcher: Any, topic: str, app: Any) -> int:
    """Return how many records more of a topic may be taken."""
    assigned, expected = fetcher._subscriptions.subscription.assignment, app.offsets.expected
    states = [(tp, assigned.state_value(tp)) for tp in assigned.tps if tp.topic == topic]
    if any(tp not in expected for tp, _ in states):
        # Just assigned: what is taken now has its turn only when the committed offsets are known.
        return 0
    # What is taken, and has not had its turn.
    in_hand = sum(max(0, one.position - expected[tp]) for tp, one in states if one.has_valid_position)
    return cast("int", app.room[topic]() - in_hand)


async def _wait_for_more(fetcher: Any, seconds: float) -> None:
    waiter = fetcher._create_fetch_waiter()
    done, _ = await asyncio.wait({waiter}, timeout=seconds)
    if done:
        waiter.result()  # an error of the group's coordination
    else:
        waiter.cancel()


class _Offset(int):
    """An offset that is true where it is 0, too: Faust asks an offset whether there is one."""

    def __bool__(self) -> bool:
        return True


class _ReadOffsets(defaultdict[TP, "int | None"]):
    """Which offset of each partition was read last."""

    def __setitem__(self, tp: TP, offset: int | None) -> None:
        super().__setitem__(tp, None if offset is None else _Offset(offset))


class Consumer(driver.Consumer):
    """Faust's consumer.

    - Gaps are ranges. Faust's own makes lists of their offsets for a commit: 20 million of them took 1 GB and 3 s. It
      also takes the record behind a gap for a part of it, and does not see one that follows on offset 0.
    - Partitions whose logs went back are read again through a rebalance: when it is over nothing is left of what was
      in hand.
    """

    _thread: ConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._gap = cast("Any", defaultdict(Gaps))
        self._read_offset = _ReadOffsets(lambda: None)

    async def on_stop(self) -> None:
        """Leave the group, when the broker has what the last calls ended in. Faust has stopped the agents by now."""
        await cast("Any", self.app).outbox.empty()
        await super().on_stop()

    def _new_consumer_thread(self) -> driver.AIOKafkaConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        # Called by Faust with the record behind the gap as its end.
        cast("Any", self._gap[tp]).add(offset_from, offset_to)

    def _new_offset(self, tp: TP) -> int | None:
        acknowledged = self._acked[tp]
        acknowledged.sort()
        done = passed(acknowledged, cast("Any", self._gap[tp]), self._committed_offset[tp])
        if done is None:
            return None
        offset, taken = done
        self._acked_index[tp].difference_update(acknowledged[:taken])
        del acknowledged[:taken]
        return offset

    async def perform_seek(self) -> None:
        """Called by Faust at the end of a rebalance: have the partitions read on from where they were committed."""
        await cast("Any", self.app).offsets.begun()
        await super().perform_seek()

    async def go_back(self, offsets: Mapping[TP, int]) -> None:
        """Commit offsets that are before what was committed."""
        await self._commit(offsets)

    async def read_again(self, offsets: Mapping[TP, int]) -> None:
        """Have partitions read again from these offsets on, by whoever has them after a rebalance."""
        await self.go_back(offsets)
        self._thread.rejoin()

    def open_transaction(self, tp: TP) -> int | None:
        """Return the offset of an open transaction behind which nothing can be read; None where there is none."""
        return self._thread.open_transaction(tp)

    @property
    def contact(self) -> Contact | None:
        """What is known of its brokers; None before it has started."""
        client = self._client()
        return None if client is None else cast("Contact", client.contact)

    def partition_counts(self, topics: Iterable[str]) -> dict[str, int]:
        """Return how many partitions these topics had when Kafka was asked last; those it knows nothing of are left
        out.
        """
        client = self._client()
        found = {} if client is None else {topic: client.cluster.partitions_for_topic(topic) for topic in topics}
        return {topic: len(partitions) for topic, partitions in found.items() if partitions}

    def _client(self) -> Any:
        thread = cast("Any", self)._thread
        return None if thread is None or thread._consumer is None else thread._consumer._client


class Producer(driver.Producer):
    """Faust's producer, which writes nothing twice."""

    @property
    def contact(self) -> Contact | None:
        """What is known of its brokers; None before it has started."""
        return None if self._producer is None else cast("Contact", cast("Any", self._producer).client.contact)

    def refused_seconds(self) -> float:
        """Return for how long records wait that Kafka, which answers, does not take: it refuses them for now, or their
        partition has no leader.
        """
        if self._producer is None:
            return 0.0
        client, accumulator = cast("Any", self._producer).client, cast("Any", self._producer)._message_accumulator
        leaderless: list[float] = [
            batches[0]._ctime
            for tp, batches in list(accumulator._batches.items())
            if batches and client.cluster.leader_for_partition(tp) in (None, -1)
        ]
        now = time.monotonic()
        contact: Contact = client.contact
        return max(now - min(leaderless, default=now), contact.refused_seconds())

    def _settings_extra(self) -> Mapping[str, Any]:
        # Faust's own does so in exactly-once mode alone.
        return producers.IDEMPOTENT

    async def on_start(self) -> None:
        """Start; from then on nothing is sent by a process that stood still: others may own what it writes."""
        await super().on_start()
        # What the broker may take for a batch; how long the batch itself may wait is `producer_request_timeout`.
        cast("Any", self._producer)._sender._request_timeout_ms = int(PRODUCE_SECONDS * 1000)
        client, check = cast("Any", self._producer).client, cast("Any", self.app).standstill.check
        send = client.send

        async def checked(*args: Any, **kwargs: Any) -> Any:
            check()
            return await send(*args, **kwargs)

        client.send = checked

    async def flush(self) -> None:
        """Wait until the broker has what was sent so far.

        Faust's own also waits for the buffer of table writes to be empty, which under load takes ten seconds, and each
        commit waits for it. Here an event is acknowledged when its own writes are on the broker, so that no commit
        needs to wait for others'.
        """
        if self._producer is not None:
            await self._producer.flush()


def install() -> None:
    """Have every Faust app and every aiokafka client of this process use what is above, and `streams.clients`.

    Called before the first one is built.
    """
    clients.install()
    producers.install()
    fetching.MemoryRecords = Fetched
    fetching.PartitionRecords = PartitionRecords
    driver.Transport.Consumer = Consumer
    driver.Transport.Producer = Producer
