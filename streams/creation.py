"""Makes sure, before Faust's consumer starts, that every topic is there and fits the settings.

Left to Faust, a fresh start may silently leave a topic without a reader, and a wrong number of partitions shows only
as lost events. So topics are created here, and whatever does not fit is refused with one line.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, for_code
from aiokafka.errors import TopicAlreadyExistsError, UnknownTopicOrPartitionError
from stamina import retry_context

from streams.settings import Settings
from streams.topics import Topics, TopicSpec

logger = logging.getLogger(__name__)
_DEFAULT_REPLICATION = "default.replication.factor"


class TopicsError(Exception):
    """A topic does not fit the settings, or the cluster refuses to make it; the text says what to do."""


async def ensure_topics(settings: Settings, topics: Topics) -> None:
    """Create the topics that are missing and check those that are there.

    Waits up to a minute for the cluster to answer.

    Raises:
        TopicsError: one line that says what is wrong and what to do.
    """
    admin = AIOKafkaAdminClient(client_id=f"{settings.app_id}.topics", **settings.kafka_client())
    try:
        async for attempt in retry_context(on=(KafkaError, OSError), attempts=None, timeout=60.0, wait_max=3.0):
            with attempt:
                await admin.start()
        missing = await _check(admin, topics.all)
        if missing:
            await _create(admin, missing, settings)
    except (KafkaError, OSError) as error:
        raise TopicsError(f"Kafka at {','.join(settings.kafka_brokers)}: {error}; check KAFKA_BROKERS") from error
    finally:
        await admin.close()


async def _partitions(admin: AIOKafkaAdminClient, names: Iterable[str]) -> Mapping[str, int]:
    described = await admin.describe_topics(list(names))
    counts: dict[str, int] = {}
    for topic in described:
        code = topic["error_code"]
        if code == UnknownTopicOrPartitionError.errno:
            continue
        if code:
            raise TopicsError(f"topic {topic['topic']}: {for_code(code).__name__}; grant Describe on it")
        counts[topic["topic"]] = len(topic["partitions"])
    return counts


async def _check(admin: AIOKafkaAdminClient, specs: Iterable[TopicSpec[object]]) -> list[TopicSpec[object]]:
    wanted = list(specs)
    there = await _partitions(admin, [spec.name for spec in wanted])
    for spec in wanted:
        if spec.partitions is not None and there.get(spec.name, spec.partitions) != spec.partitions:
            raise TopicsError(
                f"topic {spec.name} has {there[spec.name]} partitions, PARTITIONS is {spec.partitions}; the number is "
                f"fixed once topics exist: set PARTITIONS={there[spec.name]}, or start with a new CONSUMER_GROUP"
            )
    return [spec for spec in wanted if spec.name not in there]


async def _create(admin: AIOKafkaAdminClient, specs: Iterable[TopicSpec[object]], settings: Settings) -> None:
    replication = settings.replication_factor or await _default_replication(admin)
    new = [NewTopic(spec.name, spec.partitions or settings.partitions, replication, topic_configs=spec.config) for spec in specs]
    answer = await admin.create_topics(new)
    for name, code, *text in answer.topic_errors:
        # Another worker that starts at the same time may have been quicker.
        if code and code != TopicAlreadyExistsError.errno:
            reason = text[0] if text and text[0] else for_code(code).__name__
            raise TopicsError(f"topic {name} could not be created: {reason}")
        logger.info("topic %s is ready", name)


async def _default_replication(admin: AIOKafkaAdminClient) -> int:
    cluster = await admin.describe_cluster()
    broker = str(cluster["brokers"][0]["node_id"])
    resource = ConfigResource(ConfigResourceType.BROKER, broker, configs={_DEFAULT_REPLICATION: ""})
    for answer in await admin.describe_configs([resource]):
        for _code, _text, _type, _name, entries in answer.resources:
            for name, value, *_rest in entries:
                if name == _DEFAULT_REPLICATION and value:
                    return int(value)
    return 1
