"""Every offset is seen: catches the records that Faust drops at rebalances.

Around a rebalance Faust may throw away a fetched batch, or a single record, deliver what follows, and commit past the
hole. The offsets of a plain topic are contiguous, so a hole shows: `EveryOffset` knows the next expected offset of each
partition, and where an event stands above it, reads the missing records again with a consumer of its own and hands
them on *before* that event. The event is acknowledged after them, so no commit passes them unseen.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar, cast

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupLoadInProgressError, KafkaError, OffsetOutOfRangeError
from faust.types import TP, EventT
from stamina import AsyncRetryingCaller

from streams.clients import Contact, contacts_of
from streams.consumers import new_consumer
from streams.continuity import Committed, Continuity, Extent, Standing
from streams.incidents import Incidents
from streams.landmarks import Commit, digest_of
from streams.messages import Bad
from streams.metrics import RECOVERED
from streams.records import Source
from streams.topics import TopicSpec

logger = logging.getLogger(__name__)
V = TypeVar("V")
V_co = TypeVar("V_co", covariant=True)

STALLED_SECONDS: Final = 3.0
"""A partition whose end stays above the expected offset for so long, without progress, lost its last records."""
MAX_CATCH_UP: Final = 1000
_LOOKED_AT_ONCE: Final = 8 * 1024 * 1024
"""Bytes that one request brings at most where single records are looked at."""
_LOOK_SECONDS: Final = 30.0
MAX_BATCH: Final = 1000
"""Records that are read at once: aiokafka decodes them without a pause, some 10 µs each."""
_until_it_answers: Final = AsyncRetryingCaller(attempts=None, timeout=None, wait_max=5.0).on(
    (KafkaError, OSError, TimeoutError)
)


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


class Log(Standing, Protocol):
    """The committed offsets of the group, and records read apart from it."""

    async def ends(self, partitions: Iterable[TP]) -> Mapping[TP, int]:
        """Return for each partition the offset of the record that will be written next."""

    def read(self, partition: TP, start: int, end: int) -> AsyncIterator[ConsumerRecord[bytes, bytes]]:
        """Read the records from offset `start` up to, not including, `end`; offsets that hold none are passed over.

        Ends sooner where the log does.
        """


class KafkaLog:
    """`Log` on a real cluster, with clients of its own that join no group. Waits out a cluster that is away."""

    def __init__(self, group: str, client: Mapping[str, object]) -> None:
        self._group = group
        self._client = dict(client)
        self._lock = asyncio.Lock()
        self._looking = asyncio.Lock()
        self._admin: AIOKafkaAdminClient | None = None
        self._consumer: AIOKafkaConsumer | None = None
        self._looker: AIOKafkaConsumer | None = None

    async def start(self) -> None:
        """Connect. Called before the first event, so that no event meets a client that is not connected."""
        self._admin = AIOKafkaAdminClient(client_id=f"{self._group}.offsets", **self._client)
        self._consumer = self._new_consumer()
        # Of its own: what the other one has fetched ahead is lost with each change of its partitions.
        self._looker = self._new_consumer(fetch_max_bytes=_LOOKED_AT_ONCE)
        await self._admin.start()
        await self._consumer.start()
        await self._looker.start()

    def _new_consumer(self, **options: object) -> AIOKafkaConsumer:
        # Out of range is told, and not reset: to the beginning it would hand out what nobody asked for.
        return new_consumer(self._client, client_id=f"{self._group}.offsets", auto_offset_reset="none", **options)

    async def stop(self) -> None:
        """Disconnect."""
        for consumer in (self._consumer, self._looker):
            try:
                if consumer is not None:
                    await consumer.stop()
            except asyncio.CancelledError:
                # aiokafka 0.14 may raise it from the stop of a consumer without a group.
                logger.debug("the consumer of missed records was cancelled while it stopped")
        if self._admin is not None:
            await self._admin.close()

    @property
    def contacts(self) -> list[Contact]:
        """What its clients know of the brokers; nothing before `start`."""
        if self._admin is None or self._consumer is None or self._looker is None:
            return []
        return contacts_of(self._admin, self._consumer, self._looker)

    async def committed(self, partitions: Iterable[TP]) -> Mapping[TP, Committed]:
        """Return what the group has committed."""
        admin, _ = self._connected()
        if not (wanted := _plain(partitions)):
            return {}
        committed = await admin.list_consumer_group_offsets(self._group, partitions=wanted)
        if len(committed) < len(wanted):
            # aiokafka 0.14 takes the answer of a coordinator that is still loading for one without offsets.
            raise GroupLoadInProgressError("the group's coordinator did not answer for every partition")
        return {TP(*tp): Committed(one.offset, Commit.decode(one.metadata)) for tp, one in committed.items()}

    async def extents(self, partitions: Iterable[TP]) -> Mapping[TP, Extent]:
        """Return where the partitions begin and end."""
        _, consumer = self._connected()
        if not (wanted := _plain(partitions)):
            return {}
        first, end = await consumer.beginning_offsets(wanted), await consumer.end_offsets(wanted)
        return {TP(*tp): Extent(first[tp], end[tp]) for tp in wanted}

    async def topics(self) -> frozenset[str] | None:
        """Return the names of the topics that there are; None while the cluster does not answer."""
        admin, _ = self._connected()
        try:
            return frozenset(await admin.list_topics())
        except (KafkaError, OSError) as error:
            logger.info("the topics are not to be had now: %s", error)
            return None

    async def standing(self, wanted: Mapping[TP, int]) -> Mapping[TP, int | None]:
        """Return the digests of the records at these offsets; those out of range by now are left out."""
        if self._looker is None:
            raise RuntimeError("KafkaLog.start was not called")
        async with self._looking:
            self._looker.assign(_plain(wanted))
            for tp, offset in wanted.items():
                self._looker.seek(TopicPartition(*tp), offset)
            found = dict[TP, int | None]()
            async with asyncio.timeout(_LOOK_SECONDS):
                for tp, offset in wanted.items():
                    with contextlib.suppress(OffsetOutOfRangeError):
                        found[tp] = await _digest_at(self._looker, TopicPartition(*tp), offset)
            return found

    async def ends(self, partitions: Iterable[TP]) -> Mapping[TP, int]:
        """Return the end offsets; nothing while the cluster does not answer."""
        wanted = _plain(partitions)
        if not wanted:
            return {}
        _, consumer = self._connected()
        try:
            found = await consumer.end_offsets(wanted)
        except (KafkaError, OSError) as error:
            logger.info("end offsets are not to be had now: %s", error)
            return {}
        return {TP(*tp): offset for tp, offset in found.items()}

    async def read(self, partition: TP, start: int, end: int) -> AsyncIterator[ConsumerRecord[bytes, bytes]]:
        """Read a range; goes on until its end is reached, or that of the log, however long the cluster is away."""
        async for records, _ in self.batches(partition, start, end):
            for record in records:
                yield record

    async def batches(
        self, partition: TP, start: int, end: int
    ) -> AsyncGenerator[tuple[Sequence[ConsumerRecord[bytes, bytes]], int], None]:
        """Read a range in batches, maybe empty, each with the offset behind it; that of the last one is `end`.

        Goes on until the end is reached, however long the cluster is away. Ends sooner only where the log itself does:
        it went back.
        """
        tp, position = TopicPartition(*partition), start
        while position < end:
            records, behind = await _until_it_answers(self._batch, tp, position)
            if not records and behind == position and not await _until_it_answers(self._holds, partition, position):
                return
            position = behind
            yield (records if position <= end else [one for one in records if one.offset < end]), min(position, end)

    async def _holds(self, partition: TP, offset: int) -> bool:
        """Tell whether the log has come as far as an offset."""
        return (await self.extents([partition]))[partition].end > offset

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
            try:
                found = await consumer.getmany(tp, timeout_ms=1000, max_records=MAX_BATCH)
            except OffsetOutOfRangeError:
                # What was deleted is passed over; behind its end there is nothing.
                return (), max(start, (await consumer.beginning_offsets([tp]))[tp])
            return found.get(tp, ()), await consumer.position(tp)

    def _connected(self) -> tuple[AIOKafkaAdminClient, AIOKafkaConsumer]:
        if self._admin is None or self._consumer is None:
            raise RuntimeError("KafkaLog.start was not called")
        return self._admin, self._consumer


def _plain(partitions: Iterable[TP]) -> list[TopicPartition]:
    return [TopicPartition(*tp) for tp in partitions]


async def _digest_at(consumer: AIOKafkaConsumer, tp: TopicPartition, offset: int) -> int | None:
    """Return the digest of the record at an offset that the log has; None where there is none."""
    while True:
        if records := (await consumer.getmany(tp, timeout_ms=200, max_records=1)).get(tp):
            [record] = records
            return digest_of(record.timestamp / 1000, record.key, record.value) if record.offset == offset else None
        if await consumer.position(tp) > offset:
            return None


class EveryOffset:
    """Follows the offsets of the streams of one worker.

    Args:
        log: what the broker has.
        incidents: is told what is gone.
    """

    def __init__(self, log: Log, incidents: Incidents | None = None) -> None:
        self._log = log
        self.continuity = Continuity(log, incidents or Incidents())
        # One mapping for each assignment: what still goes on of an earlier one leaves the present one alone.
        self._expected: dict[TP, int] = {}
        self._known = asyncio.Event()
        self._begun = asyncio.Event()
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

    async def assigned(
        self, partitions: Iterable[TP], go_back: Callable[[Mapping[TP, int]], Awaitable[object]] | None = None
    ) -> None:
        """Take note of an assignment. Until that is done no event gets its turn: its commit could pass a hole.

        Args:
            partitions: all that are assigned.
            go_back: commits offsets of partitions whose logs went back.
        """
        self._known.clear()
        begun = await self.continuity.begin(partitions)
        if begun.back and go_back is not None:
            await go_back(begun.back)
        self._expected = dict(begun.expected)
        self._progress = {}
        self._known.set()
        self._begun.set()

    def revoked(self) -> None:
        """Take note that a rebalance has begun. What is in hand still has its turn."""
        self._begun.clear()

    async def begun(self) -> None:
        """Wait until the present assignment is known, and what its logs went back is committed."""
        await self._begun.wait()

    async def look_back(self) -> Mapping[TP, int]:
        """Return from which offsets on logs are to be read again that went back since; nothing in an outage."""
        try:
            return await self.continuity.look(self._expected)
        except (KafkaError, OSError, TimeoutError) as error:
            logger.info("whether the logs are still the same cannot be said now: %s", error)
            return {}

    async def turns(self, events: AsyncIterator[EventT[object]], spec: TopicSpec[V]) -> AsyncIterator[Turn[V]]:
        """Yield the turns of a stream's events, and of every record that is missing before one, in order of offset.

        A record may come twice: one below the expected offset that was seen is handed on as repeated. What was not,
        another record at that offset say, is handled: twice is harmless, and never is not.
        """
        async for event in events:
            await self._known.wait()
            message, follows = event.message, self._expected
            tp = TP(message.topic, message.partition)
            async for turn in self._missing(spec, tp, follows, message.offset):
                yield turn
            digest = digest_of(message.timestamp, message.key, message.value)
            repeated = message.offset < follows.get(tp, 0) and self.continuity.is_known(tp, message.offset, digest)
            self.continuity.saw(tp, message.offset, digest)
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
        schema, found, first = spec.schema, 0, end
        async for record in self._log.read(tp, start, end):
            found, first = found + 1, min(first, record.offset)
            self.continuity.saw(tp, record.offset, digest_of(record.timestamp / 1000, record.key, record.value))
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
        if first > start:
            await self._passed_over(tp, start, first)
        if not found:
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

    async def _passed_over(self, tp: TP, start: int, end: int) -> None:
        """Say why a range of offsets held no records."""
        kept = min(end, (await _until_it_answers(self._log.extents, [tp]))[tp].beginning)
        if kept > start:
            self.continuity.deleted(tp, start, kept)
        if end > max(start, kept):
            # A gap of the topic's own: what was aborted, or the markers of a transaction.
            logger.info("%s[%d]: offsets %d to %d hold no records", *tp, max(start, kept), end - 1)

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
