"""Producers that write nothing twice: every producer of this process is one, Faust's included.

Without `enable_idempotence` a batch whose answer was lost stands in the topic twice. aiokafka 0.14 retries an
idempotent batch without end, so whoever waits for one sets a deadline of its own, and a producer whose batches will
never be taken has to be dropped by `running`.

Kept apart, because it leans on how aiokafka 0.14 behaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any, Final, Protocol, TypeVar

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    BrokerResponseError,
    ClusterAuthorizationFailedError,
    CorruptRecordException,
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    InvalidTimestampError,
    InvalidTopicError,
    MessageSizeTooLargeError,
    NotCoordinatorForGroupError,
    PolicyViolationError,
    ProducerClosed,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    for_code,
    kafka_errors,
)
from aiokafka.producer import sender as aiokafka_sender
from aiokafka.protocol.transaction import InitProducerIdRequest
from aiokafka.util import INTEGER_MAX_VALUE
from stamina import AsyncRetryingCaller

logger = logging.getLogger(__name__)

CLOSE_SECONDS: Final = 3.0
_LOOKS: Final = 20
UNENDING_MS: Final = 2_000_000_000
"""How long a producer waits for room and for acknowledgements: Kafka may be away for as long as it takes. The largest
round number of milliseconds that fits Kafka's int32."""
IDEMPOTENT: Final[dict[str, object]] = {"enable_idempotence": True, "acks": "all"}
"""What makes an aiokafka producer idempotent."""
IDEMPOTENCE_REMEDY: Final = (
    "give this user the right IdempotentWrite on the cluster; from Kafka 2.8 on Write on a topic is enough"
)


class InvalidRecordError(BrokerResponseError):  # type: ignore[misc]
    """A broker has refused a record, such as one without a key on a compacted topic. aiokafka does not know of it."""

    errno = 87
    message = "INVALID_RECORD"
    description = "the broker refuses the record: a compacted topic takes none without a key"


_NEVER_WRITTEN: Final = (
    CorruptRecordException,
    InvalidRecordError,
    InvalidTimestampError,
    InvalidTopicError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
)
"""By what a broker refuses a batch without having written anything of it."""


class Client(Protocol):
    """Whatever is started, and stopped."""

    async def start(self) -> None:
        """Connect."""

    async def stop(self) -> None:
        """Disconnect."""


C = TypeVar("C", bound=Client)


class _ProduceHandler(aiokafka_sender.SendProduceReqHandler):  # type: ignore[misc]
    """Sends batches, and notes what became of them."""

    def handle_response(self, response: Any) -> None:
        """Called with the broker's answer."""
        super().handle_response(response)
        for tp, batch in self._batches.items():
            self._client.contact.wrote(tp, taken=batch not in self._to_reenqueue)
            if _never_written(batch):
                # It has had its place in the partition's sequence; with that left empty all that follows is refused.
                self._sender._txn_manager.increment_sequence_number(tp, -batch.record_count)


def _never_written(batch: Any) -> bool:
    # One that was sent before may stand in the log, whatever the broker says now.
    ended = batch.future.done() and not batch.future.cancelled()
    return ended and batch.retry_count == 1 and isinstance(batch.future.exception(), _NEVER_WRITTEN)


def install() -> None:
    """Have all of aiokafka's producers of this process send so. Called before the first one is built."""
    aiokafka_sender.SendProduceReqHandler = _ProduceHandler
    kafka_errors[InvalidRecordError.errno] = InvalidRecordError


# A broker that has given no id out yet has none at first.
_once_it_has_one: Final = AsyncRetryingCaller(attempts=None, timeout=None, wait_max=1.0).on(
    (GroupCoordinatorNotAvailableError, GroupLoadInProgressError, NotCoordinatorForGroupError)
)


async def may_write(admin: AIOKafkaAdminClient) -> bool:
    """Ask for a producer id, as an idempotent producer does at its start; tells whether this user may have one.

    Raises KafkaError where it cannot be said now.
    """
    return await _once_it_has_one(_may_write, admin)


async def _may_write(admin: AIOKafkaAdminClient) -> bool:
    request = InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=INTEGER_MAX_VALUE)
    answer = await admin._send_request(request)
    if answer.error_code == ClusterAuthorizationFailedError.errno:
        return False
    if answer.error_code:
        raise for_code(answer.error_code)("no producer id is to be had")
    return True


@contextlib.asynccontextmanager
async def running(client: C) -> AsyncIterator[C]:
    """Start a client and stop it, without waiting long for a cluster that is away.

    What a producer has not sent by then is not sent any more.
    """
    try:
        await client.start()
        yield client
    finally:
        # In a task of its own: with the cluster away aiokafka may raise CancelledError, though nobody cancelled.
        stopping = asyncio.create_task(client.stop())
        await asyncio.wait([stopping], timeout=CLOSE_SECONDS)
        if not stopping.done():
            stopping.cancel()
            if isinstance(client, AIOKafkaProducer):
                await _abandon(client)
        elif not stopping.cancelled() and (error := stopping.exception()) is not None:
            logger.debug("a client did not stop well: %s", error)


async def _abandon(producer: AIOKafkaProducer) -> None:
    """End a producer that still has what no broker takes: it would try for ever."""
    client, task = producer.client, producer._sender.sender_task
    await _close(client)
    if task is None:
        return
    task.cancel()
    for _ in range(_LOOKS):
        # Who waits for news of the brokers waits in vain now.
        if (news := client._md_update_fut) is not None and not news.done():
            news.set_result(False)
        ended, _ = await asyncio.wait([task], timeout=0.1)
        if ended:
            break
    producer._message_accumulator.fail_all(ProducerClosed())
    # What it has opened since.
    await _close(client)


async def _close(client: Any) -> None:
    # A connection with bytes that nobody takes does not end by itself.
    await asyncio.wait([asyncio.create_task(client.close())], timeout=1.0)
