"""Every offset is seen: catches the records that Faust drops at rebalances.

Around a rebalance Faust may throw away a fetched batch, or a single record, deliver what follows, and commit past the
hole. The offsets of a plain topic are contiguous, so a hole shows: `EveryOffset` knows the next expected offset of each
partition, and where an event stands above it, reads the missing records again with a consumer of its own and hands
them on *before* that event. The event is acknowledged after them, so no commit passes them unseen.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar, cast

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupLoadInProgressError, KafkaError
from faust.types import TP, EventT
from stamina import AsyncRetryingCaller

from streams.clients import Contact, contacts_of
from streams.messages import Bad
from streams.metrics import RECOVERED
from streams.records import Source
from streams.topics import MAX_RECORD_BYTES, TopicSpec

logger = logging.getLogger(__name__)
V = TypeVar("V")
V_co = TypeVar("V_co", covariant=True)

STALLED_SECONDS: Final = 3.0
"""A partition whose end stays above the expected offset for so long, without progress, lost its last records."""
MAX_CATCH_UP: Final = 1000
MAX_BATCH: Final = 1000
"""Records that are read at once: aiokafka decodes them without a pause, some 10 µs each."""
_until_it_answers: Final = AsyncRetryingCaller(attempts=None, timeout=None, wait_max=5.0).on((KafkaError, OSError))


LOG_APPEND_TIME: Final = 1
"""The type of a record's timestamp where the broker has set it."""


@dataclass(frozen=True)
class Turn(Generic[V_co]):
    """One record's turn."""

    topic: str
    partition: int
    offset: int
    timestamp: float
    key: bytes | None
    raw: bytes | None
    value: V_co | Bad
    headers: Sequence[tuple[str, bytes]] = ()
    event: EventT[object] | None = None
    """The Faust event to acknowledge when the turn is done; None for a record that was read again."""
    appended: bool = False
    """Whether `timestamp` is when the broker has appended the record (`LogAppendTime`), not when it was sent."""
    repeated: bool = False
    """Whether the record had its turn before, since the partition was assigned: it is to be acknowledged only."""

    def source(self, cluster: str) -> Source:
        """Return where the record stands on its cluster."""
        return Source(
            cluster=cluster,
            topic=self.topic,
            partition=self.partition,
            offset=self.offset,
            timestamp=self.timestamp,
            appended=self.appended,
        )


class Log(Protocol):
    """The committed offsets of the group, and records read apart from it."""

    async def expected(self, partitions: Iterable[TP]) -> Mapping[TP, int]:
        """Return for each partition the offset that the group reads next."""

    async def ends(self, partitions: Iterable[TP]) -> Mapping[TP, int]:
        """Return for each partition the offset of the record that will be written next."""

    def read(self, partition: TP, start: int, end: int) -> AsyncIterator[ConsumerRecord[bytes, bytes]]:
        """Read the records from offset `start` up to, not including, `end`; offsets that hold none are passed over."""


class KafkaLog:
    """`Log` on a real cluster, with clients of its own that join no group. Waits out a cluster that is away."""

    def __init__(self, group: str, client: Mapping[str, object]) -> None:
        self._group = group
        self._client = dict(client)
        self._lock = asyncio.Lock()
        self._admin: AIOKafkaAdminClient | None = None
        self._consumer: AIOKafkaConsumer | None = None

    async def start(self) -> None:
        """Connect. Called before the first event, so that no event meets a client that is not connected."""
        self._admin = AIOKafkaAdminClient(client_id=f"{self._group}.offsets", **self._client)
        self._consumer = AIOKafkaConsumer(
            client_id=f"{self._group}.offsets",
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=MAX_RECORD_BYTES,
            **self._client,
        )
        await self._admin.start()
        await self._consumer.start()

    async def stop(self) -> None:
        """Disconnect."""
        if self._consumer is not None:
            try:
                await self._consumer.stop()
            except asyncio.CancelledError:
                # aiokafka 0.14 may raise it from the stop of a consumer without a group.
                logger.debug("the consumer of missed records was cancelled while it stopped")
        if self._admin is not None:
            await self._admin.close()

    @property
    def contacts(self) -> list[Contact]:
        """What its clients know of the brokers; nothing before `start`."""
        return [] if self._admin is None or self._consumer is None else contacts_of(self._admin, self._consumer)

    async def expected(self, partitions: Iterable[TP]) -> Mapping[TP, int]:
        """Return the committed offsets, and the beginning of partitions that have none."""
        wanted = [TopicPartition(tp.topic, tp.partition) for tp in partitions]
        found = await _until_it_answers(self._committed_or_beginning, wanted) if wanted else {}
        return {TP(tp.topic, tp.partition): offset for tp, offset in found.items()}

    async def _committed_or_beginning(self, wanted: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        admin, consumer = self._connected()
        committed = await admin.list_consumer_group_offsets(self._group, partitions=wanted)
        if len(committed) < len(wanted):
            # aiokafka 0.14 takes the answer of a coordinator that is still loading for one without offsets.
            raise GroupLoadInProgressError("the group's coordinator did not answer for every partition")
        # What was deleted in between is not missing: nobody will ever read it.
        beginning = await consumer.beginning_offsets(wanted)
        return {tp: max(meta.offset, beginning[tp]) for tp, meta in committed.items()}

    async def ends(self, partitions: Iterable[TP]) -> Mapping[TP, int]:
        """Return the end offsets; nothing while the cluster does not answer."""
        wanted = [TopicPartition(tp.topic, tp.partition) for tp in partitions]
        if not wanted:
            return {}
        _, consumer = self._connected()
        try:
            found = await consumer.end_offsets(wanted)
        except (KafkaError, OSError) as error:
            logger.info("end offsets are not to be had now: %s", error)
            return {}
        return {TP(tp.topic, tp.partition): offset for tp, offset in found.items()}

    async def read(self, partition: TP, start: int, end: int) -> AsyncIterator[ConsumerRecord[bytes, bytes]]:
        """Read a range; goes on until its end is reached, however long the cluster is away."""
        async for records, _ in self.batches(partition, start, end):
            for record in records:
                yield record

    async def batches(
        self, partition: TP, start: int, end: int
    ) -> AsyncGenerator[tuple[Sequence[ConsumerRecord[bytes, bytes]], int], None]:
        """Read a range in batches, maybe empty, each with the offset behind it; that of the last one is `end`.

        Goes on until the end is reached, however long the cluster is away.
        """
        tp = TopicPartition(partition.topic, partition.partition)
        position = start
        while position < end:
            records, position = await _until_it_answers(self._batch, tp, position)
            yield (records if position <= end else [one for one in records if one.offset < end]), min(position, end)

    async def _batch(self, tp: TopicPartition, start: int) -> tuple[Sequence[ConsumerRecord[bytes, bytes]], int]:
        """Return some records from `start` on, maybe none, and the offset behind them."""
        _, consumer = self._connected()
        # The lock is held for one batch and never across a yield: whoever handles the records may take long.
        async with self._lock:
            # Either makes the consumer forget what it has fetched already, many batches of it.
            if other := consumer.assignment() != {tp}:
                consumer.assign([tp])
            if other or await consumer.position(tp) != start:
                consumer.seek(tp, start)
            found = await consumer.getmany(tp, timeout_ms=1000, max_records=MAX_BATCH)
            return found.get(tp, ()), await consumer.position(tp)

    def _connected(self) -> tuple[AIOKafkaAdminClient, AIOKafkaConsumer]:
        if self._admin is None or self._consumer is None:
            raise RuntimeError("KafkaLog.start was not called")
        return self._admin, self._consumer


class EveryOffset:
    """Follows the offsets of the streams of one worker."""

    def __init__(self, log: Log) -> None:
        self._log = log
        # One mapping for each assignment: what still goes on of an earlier one leaves the present one alone.
        self._expected: dict[TP, int] = {}
        self._known = asyncio.Event()
        self._progress: dict[TP, tuple[int, float]] = {}
        self.interventions = 0
        """How often records were read again."""
        self.recovered = 0
        """How many records were read again."""
        self.turns_ended: Counter[str] = Counter()
        """How many turns have ended, by topic: whoever had one has asked for the next."""
        self._turns_begun: Counter[str] = Counter()

    @property
    def expected(self) -> Mapping[TP, int]:
        """The offset of each assigned partition that is to have its turn next."""
        return self._expected

    def in_hand(self, topic: str) -> bool:
        """Tell whether a record of the topic has its turn now."""
        return self._turns_begun[topic] > self.turns_ended[topic]

    async def assigned(self, partitions: Iterable[TP]) -> None:
        """Take note of an assignment. Until that is done no event gets its turn: its commit could pass a hole."""
        self._known.clear()
        self._expected = dict(await self._log.expected(partitions))
        self._progress = {}
        self._known.set()

    async def turns(self, events: AsyncIterator[EventT[object]], spec: TopicSpec[V]) -> AsyncIterator[Turn[V]]:
        """Yield the turns of a stream's events, and of every record that is missing before one, in order of offset.

        A record may come twice: an event below the expected offset is handed on as repeated.
        """
        async for event in events:
            await self._known.wait()
            message, follows = event.message, self._expected
            tp = TP(message.topic, message.partition)
            async for turn in self._missing(spec, tp, follows, message.offset):
                yield turn
            repeated = message.offset < follows.get(tp, 0)
            _pass(follows, tp, message.offset + 1)
            self._turns_begun[tp.topic] += 1
            try:
                yield Turn(
                    topic=tp.topic,
                    partition=tp.partition,
                    offset=message.offset,
                    timestamp=message.timestamp,
                    appended=message.timestamp_type == LOG_APPEND_TIME,
                    key=message.key,
                    raw=message.value,
                    value=cast("V | Bad", event.value),
                    headers=cast("Sequence[tuple[str, bytes]]", message.headers or ()),
                    event=event,
                    repeated=repeated,
                )
            finally:
                self.turns_ended[tp.topic] += 1

    async def catch_up(self, spec: TopicSpec[V], partition: int) -> AsyncIterator[Turn[V]]:
        """Yield what a partition holds between its expected offset and its end, `MAX_CATCH_UP` records at most."""
        tp = TP(spec.name, partition)
        end = (await self._log.ends([tp])).get(tp, 0)
        follows = self._expected
        async for turn in self._missing(spec, tp, follows, min(end, follows.get(tp, 0) + MAX_CATCH_UP)):
            yield turn

    async def _missing(self, spec: TopicSpec[V], tp: TP, follows: dict[TP, int], end: int) -> AsyncIterator[Turn[V]]:
        start = follows.get(tp, end)
        if start >= end:
            return
        schema, found = spec.schema, 0
        async for record in self._log.read(tp, start, end):
            found += 1
            _pass(follows, tp, record.offset + 1)
            where = f"{tp.topic}, partition {tp.partition}, offset {record.offset}"
            self._turns_begun[tp.topic] += 1
            try:
                yield Turn(
                    topic=tp.topic,
                    partition=tp.partition,
                    offset=record.offset,
                    timestamp=record.timestamp / 1000,
                    appended=record.timestamp_type == LOG_APPEND_TIME,
                    key=record.key,
                    raw=record.value,
                    value=schema.value_of(record.value, where),
                    headers=record.headers,
                )
            finally:
                self.turns_ended[tp.topic] += 1
        _pass(follows, tp, end)
        if not found:
            # A gap of the topic's own: compaction, or the markers of a transaction.
            logger.info("%s[%d]: offsets %d to %d hold no records", tp.topic, tp.partition, start, end - 1)
            return
        self.interventions += 1
        self.recovered += found
        RECOVERED.labels(tp.topic).inc(found)
        logger.warning(
            "%s[%d]: read %d records again that were not delivered, offsets %d to %d",
            tp.topic,
            tp.partition,
            found,
            start,
            end - 1,
        )

    async def stalled(
        self, position: Callable[[TP], Awaitable[int | None]], now: Callable[[], float] = time.monotonic
    ) -> list[TP]:
        """Return the partitions whose last records seem lost: nothing follows that would show the hole.

        Args:
            position: says which offset of a partition Faust's consumer fetches next. While that is below the end of
                the partition its records are not lost, but wait for their delivery.
            now: a monotonic clock, in seconds.
        """
        ends = await self._log.ends(list(self._expected))
        behind = [tp for tp, end in ends.items() if self._is_stalled(tp, end, now())]
        return [tp for tp in behind if (await position(tp) or 0) >= ends[tp]]

    def _is_stalled(self, tp: TP, end: int, now: float) -> bool:
        expected = self._expected.get(tp)
        if expected is None or end <= expected:
            self._progress.pop(tp, None)
            return False
        seen, since = self._progress.get(tp, (-1, now))
        if seen != expected:
            self._progress[tp] = (expected, now)
            return False
        return now - since >= STALLED_SECONDS


def _pass(follows: dict[TP, int], tp: TP, offset: int) -> None:
    # An event of a partition that moved away must not bring it back.
    if tp in follows:
        follows[tp] = max(offset, follows[tp])
