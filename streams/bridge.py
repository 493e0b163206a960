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
from collections.abc import Mapping, Sequence
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
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
)
from faust.types import TP
from mode import Service
from pydantic import ValidationError

from port.client import PortClient
from port.errors import PortError
from streams.beginning import begin, partitions_of
from streams.cluster import Cluster
from streams.consumers import new_consumer
from streams.lag import Ends
from streams.metrics import SOURCE_COPIED, SOURCE_LAG, SOURCE_UP
from streams.offsets import LOG_APPEND_TIME
from streams.probe import ProbeError, probe
from streams.producers import IDEMPOTENT, running
from streams.records import Source
from streams.settings import Settings
from streams.topics import MAX_RECORD_BYTES

logger = logging.getLogger(__name__)

SOURCE_HEADER: Final = "port-runs-source"
"""The Kafka header of a copied record: a `Source` as JSON, where the record stood and when it was written."""
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
_LARGEST: Final = 64 * 1024 * 1024
"""What a record may unpack to: the limit of a topic holds for packed batches, and copies are packed as well."""


class SourceError(Exception):
    """The source cannot be read just now; the text is one line that says why, and what to do about it."""


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


class _Joined(ConsumerRebalanceListener):  # type: ignore[misc]
    """Knows whether the group has taken the consumer in, be it without a partition."""

    def __init__(self) -> None:
        self.yet = False

    def on_partitions_revoked(self, revoked: object) -> None:
        """Do nothing: what is on its way is copied, and maybe copied again by the next owner."""

    def on_partitions_assigned(self, assigned: object) -> None:
        """Called by aiokafka at the end of a rebalance."""
        self.yet = True


class Bridge(Service):
    """Copies the runs topic for as long as the worker lives, waits out whatever keeps it from that, and loses nothing.

    Args:
        settings: with a source (ValueError otherwise).
        topic: the name of the runs topic, on both clusters.
        client_id: how it calls itself at both clusters.
        port: where brokers and credentials come from, if the settings say so.
    """

    def __init__(self, settings: Settings, topic: str, client_id: str, port: PortClient) -> None:
        super().__init__()
        if settings.source is None:
            raise ValueError("there is no source to copy from")
        self._settings = settings
        self._source = settings.source
        self._topic = topic
        self._client_id = client_id
        self._port = port
        self.status = SourceState()
        self._ends = Ends()
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
                joined = _Joined()
                consumer.subscribe([self._topic], listener=joined)
                await self._copy(consumer, producer, joined)
        except Exception as error:
            was_good = self.status.connected
            self._failed(await self._why(error))
            if not was_good:
                raise

    async def _connect(self, clients: contextlib.AsyncExitStack) -> tuple[AIOKafkaConsumer, AIOKafkaProducer]:
        source = self._source = await self._cluster()
        await begin(source.client(), self._settings.app_id, self._topic, self._settings.source_start)
        consumer = new_consumer(
            source.client(),
            client_id=self._client_id,
            group_id=self._settings.app_id,
            # The own cluster may be away for as long as it takes.
            max_poll_interval_ms=2_000_000_000,
        )
        await clients.enter_async_context(running(consumer))
        if not await partitions_of(consumer, self._topic):
            raise SourceError(
                f"topic {self._topic} is not there, or {source.username or 'anybody'} may not read it: check "
                "PORT_ORG_ID, and that the user belongs to that organization"
            )
        if await _id_of(source) == await _id_of(self._settings.own):
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

    async def _copy(self, consumer: AIOKafkaConsumer, producer: AIOKafkaProducer, joined: _Joined) -> None:
        looked = 0.0
        while True:
            self.rounds += 1
            if batch := await _next(consumer):
                await self._pass_on(batch, producer)
                await _commit(consumer, {tp: records[-1].offset + 1 for tp, records in batch.items()})
            if joined.yet and not self.status.connected:
                self._went_well()
            if time.monotonic() - looked > LOOK_SECONDS:
                looked = time.monotonic()
                await self._look(consumer)

    async def _pass_on(
        self, batch: Mapping[TopicPartition, Sequence[ConsumerRecord[bytes, bytes]]], producer: AIOKafkaProducer
    ) -> None:
        """Copy records, and return when the own cluster has acknowledged them all."""
        records = [record for several in batch.values() for record in several]
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                sent = [await self._send(producer, record) for record in records]
                answers = await asyncio.gather(*sent, return_exceptions=True)
        except TimeoutError:
            why = await self._what_is_away() or "see the brokers' logs"
            raise SourceError(f"the own Kafka did not take the copies within {WRITE_SECONDS:g} s: {why}") from None
        for record, answer in zip(records, answers, strict=True):
            if isinstance(answer, MessageSizeTooLargeError):
                # Nothing that can be kept here as it is. Its beginning becomes a dead letter, and the rest goes on.
                where = f"{record.topic}[{record.partition}] offset {record.offset}"
                logger.error("source: %s is larger than the own topic takes; its beginning is copied", where)
                await (await self._send(producer, record, most=MAX_RECORD_BYTES // 2))
            elif isinstance(answer, BaseException):
                raise answer
        SOURCE_COPIED.inc(len(records))

    async def _send(
        self, producer: AIOKafkaProducer, record: ConsumerRecord[bytes, bytes], most: int = _LARGEST // 2
    ) -> asyncio.Future[object]:
        value = None if record.value is None else record.value[:most]
        sent = await producer.send(self._topic, value, key=record.key, headers=self._headers(record))
        return cast("asyncio.Future[object]", sent)

    def _headers(self, record: ConsumerRecord[bytes, bytes]) -> list[tuple[str, bytes]]:
        # The copy's own timestamp is that of the copying: the topic's retention would delete an old one at once.
        stood = Source(
            cluster=self._settings.source_name,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            timestamp=record.timestamp / 1000,
            appended=record.timestamp_type == LOG_APPEND_TIME,
        )
        return [*record.headers, (SOURCE_HEADER, stood.model_dump_json().encode())]

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
        SOURCE_LAG.clear()
        for partition, records in lag.items():
            SOURCE_LAG.labels(str(partition)).set(records)
        self.status.lag, self.status.lag_seconds = lag, seconds

    def _went_well(self) -> None:
        logger.info("source: copying %s", self._topic)
        SOURCE_UP.labels(self._settings.source_name).set(1)
        self.status = SourceState(connected=True, was_connected=True)

    def _failed(self, why: str) -> None:
        if self.status.problem != why:
            logger.warning("source: %s", why)
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


async def _id_of(cluster: Cluster) -> str:
    """Return the id that a cluster gave itself."""
    admin = AIOKafkaAdminClient(**cluster.client())
    try:
        await admin.start()
        return str((await admin.describe_cluster())["cluster_id"])
    finally:
        await admin.close()


async def _next(consumer: AIOKafkaConsumer) -> dict[TopicPartition, list[ConsumerRecord[bytes, bytes]]]:
    """Return the next records, none after a few seconds: left to itself aiokafka waits for the end of a rebalance."""
    batch: dict[TopicPartition, list[ConsumerRecord[bytes, bytes]]] = {}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LOOK_SECONDS):
            batch = await consumer.getmany(timeout_ms=1000, max_records=BATCH)
    return batch


async def _commit(consumer: AIOKafkaConsumer, offsets: Mapping[TopicPartition, int]) -> None:
    try:
        # Left to itself aiokafka looks for the group's coordinator for ever.
        async with asyncio.timeout(ANSWER_SECONDS):
            await consumer.commit(dict(offsets))
    except (CommitFailedError, IllegalStateError) as gone:
        # The partition went to another worker meanwhile, which copies these records again.
        logger.info("source: not committed, a rebalance: %s", gone)
