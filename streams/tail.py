"""Follows whole topics from their oldest record on, without a group: for what a view shows of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from streams.consumers import new_consumer

logger = logging.getLogger(__name__)
_PAUSE_SECONDS: Final = 5.0
_POLL_MS: Final = 1000
_CHUNK: Final = 100
"""Records that are taken before all else has its turn."""
READ_SECONDS: Final = 10.0
Taken: TypeAlias = ConsumerRecord[bytes, bytes]


class Tail:
    """Follows topics.

    Args:
        client: how to connect; see `streams.cluster.Cluster.client`.
        client_id: of the consumers.
        takers: what is called with each record of a topic, quickly. After a lost connection all records come again.
    """

    def __init__(
        self, client: Mapping[str, object], client_id: str, takers: Mapping[str, Callable[[Taken], None]]
    ) -> None:
        self._options = {**client, "client_id": client_id}
        self._takers = dict(takers)

    async def run(self) -> None:
        """Follow the topics until cancelled. A cluster that is away is waited for."""
        while True:
            try:
                await self._follow()
            except (KafkaError, OSError) as error:
                logger.info("what the views show of %s stands still: %s", ", ".join(self._takers), error)
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _follow(self) -> None:
        consumer = new_consumer(self._options, *self._takers)
        try:
            await consumer.start()
            while True:
                found = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_CHUNK)
                for records in found.values():
                    for record in records:
                        self._takers[record.topic](record)
                await asyncio.sleep(0)
        finally:
            await _stop(consumer)

    async def read(self, topic: str, partition: int, offset: int) -> Taken | None:
        """Return one record; None where it is not there any more, or never was.

        Raises TimeoutError, KafkaError or OSError where the cluster does not answer.
        """
        place = TopicPartition(topic, partition)
        consumer = new_consumer(self._options)
        try:
            async with asyncio.timeout(READ_SECONDS):
                await consumer.start()
                consumer.assign([place])
                # Of a partition that there is not nobody would answer; what a topic has is known after one of it.
                await consumer.beginning_offsets([TopicPartition(topic, 0)])
                if partition not in (consumer.partitions_for_topic(topic) or ()):
                    return None
                first, end = await consumer.beginning_offsets([place]), await consumer.end_offsets([place])
                if not first[place] <= offset < end[place]:
                    return None
                consumer.seek(place, offset)
                record = await consumer.getone(place)
                return record if record.offset == offset else None
        finally:
            await _stop(consumer)


async def _stop(consumer: AIOKafkaConsumer) -> None:
    # aiokafka 0.14 may raise CancelledError from it where the broker is away; in its own task that ends nobody else.
    await asyncio.wait([asyncio.create_task(consumer.stop())], timeout=READ_SECONDS)
