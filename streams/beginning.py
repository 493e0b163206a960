"""Where a consumer group begins that has read nothing of a topic yet: `SOURCE_START`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalGenerationError, UnknownMemberIdError

from streams.consumers import new_consumer
from streams.settings import Start

logger = logging.getLogger(__name__)


async def begin(client: Mapping[str, object], group: str, topic: str, start: Start) -> None:
    """Commit where `group` begins in `topic`, unless it has committed offsets there.

    The beginning is written down before anything is read: were it found out anew at each start, what came between a
    first start at `latest` and its first commit would be left out. `earliest` is what a consumer does by itself.

    Raises KafkaError; to be tried again.
    """
    if start == "earliest":
        return
    async with new_consumer(client, group_id=group) as consumer:
        partitions = await partitions_of(consumer, topic)
        consumer.assign(partitions)
        if not partitions or any([await consumer.committed(tp) is not None for tp in partitions]):
            return
        offsets = await first_offsets(consumer, partitions, start)
        try:
            await consumer.commit(offsets)
        except (CommitFailedError, IllegalGenerationError, UnknownMemberIdError):
            logger.info("%s: another worker was quicker to begin", topic)
        else:
            shown = ", ".join(f"{tp.partition}: {offset}" for tp, offset in sorted(offsets.items()))
            logger.info("%s: %s begins at %s, by partition %s", topic, group, start, shown)


async def partitions_of(consumer: AIOKafkaConsumer, topic: str) -> list[TopicPartition]:
    """Return the topic's partitions; none where it does not exist, or may not be seen."""
    # Asked for by name, a missing topic would be created by brokers that do so. So all are asked for, which has no
    # public name in aiokafka but for `topics`, and that keeps the partitions to itself.
    there = await consumer._client.fetch_all_metadata()
    return [TopicPartition(topic, number) for number in sorted(there.partitions_for_topic(topic) or ())]


async def first_offsets(
    consumer: AIOKafkaConsumer, partitions: Sequence[TopicPartition], start: Start
) -> dict[TopicPartition, int]:
    """Return the offset at which each partition begins. With a time: the first record of that time or later."""
    if not partitions:
        return {}
    if start == "earliest":
        return dict(await consumer.beginning_offsets(partitions))
    ends = dict(await consumer.end_offsets(partitions))
    if not isinstance(start, datetime):
        return ends
    found = await consumer.offsets_for_times(dict.fromkeys(partitions, max(0, int(start.timestamp() * 1000))))
    return {tp: found[tp].offset if found.get(tp) is not None else ends[tp] for tp in partitions}
