"""The bridge: copies `<orgId>.runs` from another cluster, Port's, to the own one, and commits there what arrived here.

The source can only be read, and may have one partition; all state is on the own cluster. Every worker runs a bridge;
the partitions of the source are shared among them by a consumer group of the same name as the own one. A record may be
copied twice (at a crash, or when a partition moves); the header says where it stood at the source, and by that a
second copy is known.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, cast

import stamina
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    CommitFailedError,
    GroupAuthorizationFailedError,
    IllegalStateError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    TopicAuthorizationFailedError,
)
from faust.types import TP
from mode import Service
from pydantic import ValidationError

from port.client import PortClient
from port.errors import PortError, PortUnavailable
from port.signature import refusal
from streams.beginning import begin, partitions_of
from streams.cluster import Cluster, Identity
from streams.consumers import new_consumer
from streams.continuity import Continuity
from streams.fitting import (
    REFUSALS,
    Form,
    NothingFitsError,
    letter_forms,
    sizes,
    why_refused,
    write_largest,
)
from streams.incidents import Incidents
from streams.lag import Ends
from streams.landmarks import digest_of
from streams.message_text import json_bytes
from streams.messages import NodeRunMessage, sort_out
from streams.metrics import SOURCE_COPIED, SOURCE_CUT, SOURCE_LAG, SOURCE_UP
from streams.offsets import LOG_APPEND_TIME, KafkaLog
from streams.probe import ProbeError, probe
from streams.producers import IDEMPOTENT, running
from streams.records import DeadLetter, LeftOut, Source
from streams.settings import Settings, Signature
from streams.topics import MAX_RECORD_BYTES, topics_of

logger = logging.getLogger(__name__)

SOURCE_HEADER: Final = "port-runs-source"
"""The Kafka header of a copied record: a `Source` as JSON, where the record stood and when it was written."""
LEFT_OUT_HEADER: Final = "port-runs-left-out"
"""The Kafka header of a copy that lacks something of its record: a `LeftOut` as JSON."""
BATCH: Final = 500
"""Records that are copied before a commit."""
LOOK_SECONDS: Final = 5.0
"""How often the end of the source is looked at. A source that does not answer is found out by that, too."""
ANSWER_SECONDS: Final = 10.0
CONNECT_SECONDS: Final = 60.0
PROBE_SECONDS: Final = 5.0
WRITE_SECONDS: Final = 60.0
"""How long the own cluster may take for a batch; after that the session ends, and says why."""
LONGEST_PAUSE: Final = 30.0
_MOST_NAMES: Final = 20
_LARGEST: Final = 64 * 1024 * 1024
"""What a record may unpack to: the limit of a topic holds for packed batches, and copies are packed as well."""


class SourceError(Exception):
    """The source cannot be read just now; the text is one line that says why, and what to do about it."""


class StuckError(SourceError):
    """The source can be read, and what stands there next cannot be copied."""


@dataclasses.dataclass
class SourceState:
    """What is known of the source, for the views."""

    connected: bool = False
    was_connected: bool = False
    """Whether it has been since the start of the process: its settings are right, then."""
    problem: str | None = None
    since: float | None = None
    """Epoch seconds from which on the problem lasts."""
    lag: dict[int, int] = dataclasses.field(default_factory=dict)
    """Records that are not copied yet, by partition; of the partitions that this worker copies."""
    lag_seconds: float = 0.0
    """For how long the oldest of them has waited at least."""


def copied_from(headers: Sequence[tuple[str, bytes]]) -> Source | None:
    """Return where a copied record stood at the source; None for a record that no bridge copied."""
    raw = next((value for name, value in reversed(headers) if name == SOURCE_HEADER), None)
    if raw is None:
        return None
    try:
        return Source.model_validate_json(raw)
    except ValidationError:
        return None


def left_out_of(headers: Sequence[tuple[str, bytes]]) -> LeftOut | None:
    """Return what a copy says that was left out of it; None for a whole one."""
    raw = next((value for name, value in reversed(headers) if name == LEFT_OUT_HEADER), None)
    if raw is None:
        return None
    try:
        return LeftOut.model_validate_json(raw)
    except ValidationError:
        return LeftOut(reason="it says that something of it was left out, and not what")


class _Joined(ConsumerRebalanceListener):  # type: ignore[misc]
    """Counts how often the group has taken the consumer in, be it without a partition."""

    def __init__(self) -> None:
        self.times = 0

    def on_partitions_revoked(self, revoked: object) -> None:
        """Do nothing: what is on its way is copied, and maybe copied again by the next owner."""

    def on_partitions_assigned(self, assigned: object) -> None:
        """Called by aiokafka at the end of a rebalance."""
        self.times += 1


class Bridge(Service):
    """Copies the runs topic for as long as the worker lives, waits out whatever keeps it from that, and loses nothing.

    Args:
        settings: with a source (ValueError otherwise).
        topic: the name of the runs topic, on both clusters.
        client_id: how it calls itself at both clusters.
        port: where brokers and credentials come from, if the settings say so.
        incidents: is told where the log of the source went back, and what was deleted there before it was read.
    """

    def __init__(self, settings: Settings, topic: str, client_id: str, port: PortClient, incidents: Incidents) -> None:
        super().__init__()
        if settings.source is None:
            raise ValueError("there is no source to copy from")
        self._settings = settings
        self._source = settings.source
        self._topic = topic
        self._client_id = client_id
        self._port = port
        self._incidents = incidents
        self.status = SourceState()
        self._ends = Ends()
        self._stuck = False
        """Whether the last session ended at what cannot be copied: a new connection is no good news then."""
        self.rounds = 0
        """Grows while it is connected, also where there is nothing to copy."""

    @Service.task
    async def _copy_for_ever(self) -> None:
        while True:
            # The pauses begin anew with short ones after each time that it went well.
            async for attempt in stamina.retry_context(
                on=Exception, attempts=None, timeout=None, wait_initial=0.5, wait_max=LONGEST_PAUSE, wait_jitter=1.0
            ):
                with attempt:
                    await self._session()

    async def _session(self) -> None:
        """Connect and copy. Raises what kept it from connecting; returns when a connection that was good is lost."""
        self.status.connected = False
        try:
            async with contextlib.AsyncExitStack() as clients:
                async with asyncio.timeout(CONNECT_SECONDS):
                    consumer, producer = await self._connect(clients)
                    log = KafkaLog(self._settings.app_id, self._source.client())
                    await clients.enter_async_context(running(log))
                joined = _Joined()
                consumer.subscribe([self._topic], listener=joined)
                await self._copy(consumer, producer, joined, Continuity(log, self._incidents, " at the source"))
        except Exception as error:
            was_good, self._stuck = self.status.connected, isinstance(error, StuckError)
            level = logging.ERROR if self._stuck or _waits_for_a_person(error) else logging.WARNING
            self._failed(await self._why(error), level)
            if self._stuck or not was_good:
                raise

    async def _connect(self, clients: contextlib.AsyncExitStack) -> tuple[AIOKafkaConsumer, AIOKafkaProducer]:
        source = self._source = await self._cluster()
        if not self.status.was_connected:
            # Whoever has begun, and finds no commit any more, reads a topic that was made again: all of it.
            await begin(source.client(), self._settings.app_id, self._topic, self._settings.source_start)
        consumer = new_consumer(
            source.client(),
            client_id=self._client_id,
            group_id=self._settings.app_id,
            # The own cluster may be away for as long as it takes.
            max_poll_interval_ms=2_000_000_000,
            # Out of range is told, and not passed over: see `_begin`.
            auto_offset_reset="none",
        )
        await clients.enter_async_context(running(consumer))
        if not await partitions_of(consumer, self._topic):
            raise SourceError(
                f"topic {self._topic} is not there, or {source.username or 'anybody'} may not read it: check "
                "PORT_ORG_ID, and that the user belongs to that organization"
            )
        if (await _identity_of(source)).same(await _identity_of(self._settings.own)):
            # Each copy would be copied again, without end.
            raise SourceError("SOURCE_BROKERS: this is the cluster of KAFKA_BROKERS, by another name; leave it empty")
        producer = AIOKafkaProducer(
            client_id=self._client_id,
            compression_type="lz4",
            linger_ms=5,
            max_request_size=_LARGEST,
            **IDEMPOTENT,
            **self._settings.own.client(),
        )
        await clients.enter_async_context(running(producer))
        return consumer, producer

    async def _cluster(self) -> Cluster:
        """Return the source; credentials that come from Port are asked for at each connection: they may be new."""
        if not self._settings.source_from_port:
            return self._source
        try:
            given = await self._port.kafka_credentials(attempts=1)
        except PortError as error:
            raise SourceError(f"Port's API does not give the credentials of its Kafka: {error}") from error
        return dataclasses.replace(
            self._source, brokers=tuple(given.brokers), username=given.username, password=given.password
        )

    async def _copy(
        self, consumer: AIOKafkaConsumer, producer: AIOKafkaProducer, joined: _Joined, source: Continuity
    ) -> None:
        looked, begun, expected = 0.0, 0, dict[TP, int]()
        while True:
            self.rounds += 1
            batch = await _next(consumer)
            if batch is None or begun != joined.times:
                # What was read meanwhile is read again, from where it is to begin.
                begun = joined.times
                expected = await _begin(consumer, source)
            elif batch:
                await self._pass_on(batch, producer)
                self._stuck = False
                _remember(source, batch)
                read = {TP(*tp): records[-1].offset + 1 for tp, records in batch.items()}
                expected |= read
                await _commit(consumer, source, read)
            if begun and not self.status.connected and not self._stuck:
                self._went_well()
            if time.monotonic() - looked > LOOK_SECONDS:
                looked = time.monotonic()
                await self._look(consumer)
                if await _look_back(consumer, source, expected):
                    begun = -1

    async def _pass_on(
        self, batch: Mapping[TopicPartition, Sequence[ConsumerRecord[bytes, bytes]]], producer: AIOKafkaProducer
    ) -> None:
        """Copy records, and return when the own cluster has acknowledged them all, or what it takes of them."""
        records = [record for several in batch.values() for record in several]
        self._refuse_copies(records)
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                sent = [await self._begin(producer, record) for record in records]
                answers = await asyncio.gather(*sent, return_exceptions=True)
        except TimeoutError:
            why = await self._what_is_away() or "see the brokers' logs"
            raise SourceError(f"the own Kafka did not take the copies within {WRITE_SECONDS:g} s: {why}") from None
        for record, answer in zip(records, answers, strict=True):
            if isinstance(answer, REFUSALS):
                # It may be its neighbour in a batch that is meant.
                await self._fit(producer, record, answer)
            elif isinstance(answer, BaseException):
                raise answer
        SOURCE_COPIED.inc(len(records))

    def _refuse_copies(self, records: Iterable[ConsumerRecord[bytes, bytes]]) -> None:
        """Raise where the source holds copies of this very topic: each would be copied again, without end."""
        for record in records:
            copied = copied_from(record.headers)
            if copied is not None and copied.topic == self._topic:
                raise StuckError(
                    f"SOURCE_BROKERS: {record.topic}[{record.partition}] offset {record.offset} is a copy by a bridge: "
                    "either this is the cluster of KAFKA_BROKERS by another address (then leave "
                    "SOURCE_BROKERS empty), or another bridge writes there (then copy from where that one reads)"
                )

    async def _begin(self, producer: AIOKafkaProducer, record: ConsumerRecord[bytes, bytes]) -> asyncio.Future[object]:
        """Send a record as it is; the future is done when the broker has answered."""
        try:
            form = Form(record.key, record.value, [*_foreign(record), self._stood(record)])
            return await _sending(producer, self._topic, form)
        except REFUSALS as refused:
            # aiokafka finds some by itself.
            failed: asyncio.Future[object] = asyncio.get_running_loop().create_future()
            failed.set_exception(refused)
            return failed

    async def _fit(
        self, producer: AIOKafkaProducer, record: ConsumerRecord[bytes, bytes], refused: BaseException
    ) -> None:
        """Copy what the own topic takes of a record that it has refused, or keep that as a dead letter."""
        where, why = f"{record.topic}[{record.partition}] offset {record.offset}", why_refused(refused)

        async def send(form: Form) -> object:
            return await (await _sending(producer, self._topic, form))

        try:
            form = await write_largest(send, self._forms(record, why))
        except NothingFitsError as nothing:
            why = str(nothing)
            await self._keep(producer, record, f"the own topic {self._topic} does not take it ({why})")
            form = None
        kept = "dead letter" if form is None else "whole" if form.value == record.value else "part"
        SOURCE_CUT.labels(kept).inc()
        told = {"whole": "it is copied without its headers or its key", "part": "it is copied in part"}
        logger.error("source: %s is refused by the own topic (%s): %s", where, why, told.get(kept, "a dead letter"))

    def _forms(self, record: ConsumerRecord[bytes, bytes], why: str) -> Iterator[Form]:
        """Yield a record whole, then ever less of it, and at last only where it stood."""
        stood, value = self._stood(record), record.value
        # A compacted topic takes no record without a key.
        place = f"{record.partition}/{record.offset}".encode()
        yield Form(record.key, value, [*_foreign(record), stood])
        yield Form(record.key, value, [stood])
        yield Form(place, value, [stood])
        whole, size = self._known(record), len(value or b"")
        cut = f"the own topic {self._topic} takes only a part of it ({why}; raise its max.message.bytes)"
        for kept in sizes(size, MAX_RECORD_BYTES // 2):
            said = whole.model_copy(update={"reason": f"{cut}: the first {kept:,} of its {size:,} bytes are kept"})
            yield Form(place, (value or b"")[:kept], [stood, _left_out(said)])
        said = whole.model_copy(update={"reason": f"{cut}: none of its {size:,} bytes are kept"})
        yield Form(place, b"", [stood, _left_out(said)])

    def _known(self, record: ConsumerRecord[bytes, bytes]) -> LeftOut:
        """Return what the node run that waits for a record must know of it: the whole is seen here alone."""
        raw = record.value or b""
        message = sort_out(raw)
        if not isinstance(message, NodeRunMessage) or not self._is_trusted(raw, record):
            return LeftOut(reason="")
        return LeftOut(
            reason="",
            digest=message.digest,
            node_run_id=message.node_run_id,
            workflow_run_id=message.workflow_run_id,
            workflow=message.workflow,
            node=message.node,
            names=message.names[:_MOST_NAMES],
            guessed=message.guessed,
        )

    def _is_trusted(self, raw: bytes, record: ConsumerRecord[bytes, bytes]) -> bool:
        signature = self._settings.signature
        if signature is Signature.OFF:
            return True
        required, source = signature is Signature.REQUIRED, self._source_of(record)
        sent_at = None if source.appended else source.timestamp
        return refusal(json_bytes(raw), sent_at, self._settings.client_secrets, required=required) is None

    async def _keep(self, producer: AIOKafkaProducer, record: ConsumerRecord[bytes, bytes], reason: str) -> None:
        topic = topics_of(self._settings).dead_letters.name
        letter = DeadLetter(reason=reason, source=self._source_of(record))

        async def send(form: Form) -> object:
            return await (await _sending(producer, topic, form))

        try:
            await write_largest(send, letter_forms(letter, record.key, record.value, MAX_RECORD_BYTES))
        except NothingFitsError as nothing:
            raise StuckError(
                f"{self._topic} and {topic} take no record at all ({nothing}): compare their configuration with "
                "docs/operations.md, and this machine's clock with the brokers'"
            ) from None

    def _source_of(self, record: ConsumerRecord[bytes, bytes]) -> Source:
        return Source(
            cluster=self._settings.source_name,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            timestamp=record.timestamp / 1000,
            appended=record.timestamp_type == LOG_APPEND_TIME,
        )

    def _stood(self, record: ConsumerRecord[bytes, bytes]) -> tuple[str, bytes]:
        # The copy's own timestamp is that of the copying: the topic's retention would delete an old one at once.
        return SOURCE_HEADER, self._source_of(record).model_dump_json().encode()

    async def _look(self, consumer: AIOKafkaConsumer) -> None:
        """Find out how far behind the copy is. Raises where the source does not answer: reading does not tell."""
        mine = consumer.assignment()
        async with asyncio.timeout(ANSWER_SECONDS):
            await consumer.topics()
            ends = await consumer.end_offsets(mine) if mine else {}
            lag, seconds = dict[int, int](), 0.0
            for tp, end in ends.items():
                with contextlib.suppress(IllegalStateError):  # it has just gone
                    position, place = await consumer.position(tp), TP(tp.topic, tp.partition)
                    lag[tp.partition] = max(0, end - position)
                    self._ends.saw(place, end, position)
                    seconds = max(seconds, self._ends.seconds(place, position))
        self._stuck = self._stuck and any(lag.values())
        SOURCE_LAG.clear()
        for partition, records in lag.items():
            SOURCE_LAG.labels(str(partition)).set(records)
        self.status.lag, self.status.lag_seconds = lag, seconds

    def _went_well(self) -> None:
        logger.info("source: copying %s", self._topic)
        SOURCE_UP.labels(self._settings.source_name).set(1)
        self.status = SourceState(connected=True, was_connected=True)

    def _failed(self, why: str, level: int) -> None:
        if self.status.problem != why:
            logger.log(level, "source: %s", why)
        SOURCE_UP.labels(self._settings.source_name).set(0)
        SOURCE_LAG.clear()
        since = self.status.since or time.time()
        self.status = SourceState(was_connected=self.status.was_connected, problem=why, since=since)

    async def _why(self, error: Exception) -> str:
        match error:
            case SourceError():
                return str(error)
            case GroupAuthorizationFailedError():
                return (
                    f"consumer group {self._settings.app_id} is refused: Port's Kafka wants CONSUMER_GROUP to begin "
                    f"with {self._settings.port_org_id}. or to be the Kafka user name"
                )
            case TopicAuthorizationFailedError():
                return f"topic {self._topic} may not be read by this user: check PORT_ORG_ID"
            case KafkaError() | OSError():
                return await self._what_is_away() or f"{type(error).__name__}: {error}"
        logger.exception("the bridge failed; it starts again")
        return f"{type(error).__name__}: {error}"

    async def _what_is_away(self) -> str | None:
        """Return why one of the clusters cannot be reached; None where both can be, by now."""
        for cluster in (self._source, self._settings.own):
            try:
                await probe(cluster, timeout=PROBE_SECONDS)
            except ProbeError as error:
                return str(error)
        return None


def _foreign(record: ConsumerRecord[bytes, bytes]) -> list[tuple[str, bytes]]:
    """Return a record's headers but those that only a bridge may write."""
    return [(name, value) for name, value in record.headers if name not in (SOURCE_HEADER, LEFT_OUT_HEADER)]


def _left_out(said: LeftOut) -> tuple[str, bytes]:
    return LEFT_OUT_HEADER, said.model_dump_json(exclude_none=True).encode()


async def _sending(producer: AIOKafkaProducer, topic: str, form: Form) -> asyncio.Future[object]:
    sent = await producer.send(topic, form.value, key=form.key, headers=form.headers)
    return cast("asyncio.Future[object]", sent)


def _waits_for_a_person(error: Exception) -> bool:
    """Whether somebody must mend it: credentials, rights, or the organization are not right."""
    if isinstance(error, SourceError):
        return not isinstance(error.__cause__, PortUnavailable)
    return isinstance(error, GroupAuthorizationFailedError | TopicAuthorizationFailedError)


async def _identity_of(cluster: Cluster) -> Identity:
    """Return what a cluster says that it is."""
    admin = AIOKafkaAdminClient(**cluster.client())
    try:
        await admin.start()
        return Identity.of(await admin.describe_cluster(), cluster.brokers)
    finally:
        await admin.close()


async def _next(consumer: AIOKafkaConsumer) -> dict[TopicPartition, list[ConsumerRecord[bytes, bytes]]] | None:
    """Return the next records, none after a few seconds: left to itself aiokafka waits for the end of a rebalance.

    Returns None where it is not known where to read on, or the log is not there.
    """
    batch: dict[TopicPartition, list[ConsumerRecord[bytes, bytes]]] = {}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LOOK_SECONDS):
            try:
                batch = await consumer.getmany(timeout_ms=1000, max_records=BATCH)
            except (OffsetOutOfRangeError, NoOffsetForPartitionError):
                return None
    return batch


async def _begin(consumer: AIOKafkaConsumer, source: Continuity) -> dict[TP, int]:
    """Have all that is assigned read on from its commit, or from where its log is new since; returns the offsets."""
    async with asyncio.timeout(CONNECT_SECONDS):
        begun = await source.begin(TP(*tp) for tp in consumer.assignment())
    for tp, offset in begun.expected.items():
        with contextlib.suppress(IllegalStateError):  # it has just gone
            consumer.seek(TopicPartition(*tp), offset)
    if begun.back:
        await _commit(consumer, source, begun.back)
    return dict(begun.expected)


async def _look_back(consumer: AIOKafkaConsumer, source: Continuity, expected: Mapping[TP, int]) -> bool:
    """Tell whether a log went back; then it is committed from where it is new, and is to be begun there."""
    async with asyncio.timeout(CONNECT_SECONDS):
        back = await source.look(expected)
    if back:
        await _commit(consumer, source, back)
    return bool(back)


def _remember(source: Continuity, batch: Mapping[TopicPartition, Sequence[ConsumerRecord[bytes, bytes]]]) -> None:
    for tp, records in batch.items():
        for record in records:
            source.saw(TP(*tp), record.offset, digest_of(record.timestamp / 1000, record.key, record.value))


async def _commit(consumer: AIOKafkaConsumer, source: Continuity, offsets: Mapping[TP, int]) -> None:
    said = {TopicPartition(*tp): source.commit(tp, offset) for tp, offset in offsets.items()}
    try:
        # Left to itself aiokafka looks for the group's coordinator for ever.
        async with asyncio.timeout(ANSWER_SECONDS):
            await consumer.commit(said)
    except (CommitFailedError, IllegalStateError) as gone:
        # The partition went to another worker meanwhile, which copies these records again.
        logger.info("source: not committed, a rebalance: %s", gone)
