"""Makes sure, before Faust's consumer starts, that every topic is there and fits the settings.

Left to Faust, a fresh start may silently leave a topic without a reader, and a wrong number of partitions shows only
as lost events. So topics are created here, and whatever does not fit is refused with one line.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Final

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code
from stamina import AsyncRetryingCaller

from streams.cluster import Cluster
from streams.partition_counts import misfit, used_partitions
from streams.probe import ProbeError, Problem, probe
from streams.producers import IDEMPOTENCE_REMEDY, may_write, running
from streams.settings import Settings
from streams.topics import Topics, TopicSpec

logger = logging.getLogger(__name__)
_BROKERS_DEFAULT: Final = -1
_PAUSE_SECONDS: Final = 0.1
_PROBE_SECONDS: Final = 5.0
_until_it_answers: Final = AsyncRetryingCaller(attempts=None, timeout=None, wait_max=3.0).on((KafkaError, OSError))


class TopicsError(Exception):
    """A topic does not fit the settings, or the cluster refuses to make it; the text says what to do."""


class ClusterAwayError(TopicsError):
    """The cluster did not answer in time: to be tried again."""


async def ensure_topics(settings: Settings, topics: Topics, *, wait: float = 60.0) -> None:
    """Create the topics that are missing and check those that are there, and the right to write, in `wait` seconds.

    Past them it takes up to 5 seconds more to find out what the cluster lacks.

    Raises:
        TopicsError: one line that says what is wrong and what to do; ClusterAwayError where time may mend it.
    """
    brokers = f"Kafka at {','.join(settings.kafka_brokers)}"
    admin = AIOKafkaAdminClient(client_id=f"{settings.app_id}.topics", **settings.own.client())
    try:
        async with asyncio.timeout(wait):
            await _connect(admin, settings.own)
            while missing := await _missing(admin, topics, settings):
                await _create(admin, missing, settings)
                # The brokers learn of a new topic a moment after the controller.
                await asyncio.sleep(_PAUSE_SECONDS)
            if not await _until_it_answers(may_write, admin):
                raise TopicsError(f"{brokers}: this user may not write idempotently; {IDEMPOTENCE_REMEDY}")
    except TimeoutError:
        try:
            await probe(settings.own, timeout=min(wait, _PROBE_SECONDS))
        except ProbeError as error:
            kind = ClusterAwayError if error.problem is Problem.UNREACHABLE else TopicsError
            raise kind(f"{brokers}: the topics were not ready within {wait:g} seconds; {error}") from None
        reason = "its brokers let us in: check the rights on the topics"
        raise ClusterAwayError(f"{brokers}: the topics were not ready within {wait:g} seconds; {reason}") from None
    except (KafkaError, OSError) as error:
        raise ClusterAwayError(f"{brokers}: {error}") from error
    finally:
        await admin.close()


async def _connect(admin: AIOKafkaAdminClient, cluster: Cluster) -> None:
    """Connect, and wait for a cluster that is away. Raises TopicsError at once for what no waiting mends."""
    try:
        await admin.start()
    except (KafkaError, OSError):
        try:
            await probe(cluster, timeout=_PROBE_SECONDS)
        except ProbeError as error:
            if error.problem is not Problem.UNREACHABLE:
                raise TopicsError(str(error)) from None
        await _until_it_answers(admin.start)


async def _missing(admin: AIOKafkaAdminClient, topics: Topics, settings: Settings) -> list[TopicSpec[object]]:
    # Asked for by name, a missing topic is created by brokers with auto.create.topics.enable, Kafka's default, in a
    # shape that nobody chose. So all topics are asked for.
    described = await admin.describe_topics()
    there = {topic["topic"]: len(topic["partitions"]) for topic in described if not topic["error_code"]}
    if misfit(topics, there, settings.partitions, surplus=settings.ignores_surplus) is not None:
        used = await _used(settings, topics)
        amiss = misfit(topics, there, settings.partitions, surplus=settings.ignores_surplus, used=used)
        if amiss is not None:
            raise TopicsError(str(amiss))
    return [spec for spec in topics.all if spec.name not in there]


async def _used(settings: Settings, topics: Topics) -> int:
    consumer = AIOKafkaConsumer(client_id=f"{settings.app_id}.topics", group_id=None, **settings.own.client())
    async with running(consumer):
        return await used_partitions(consumer, topics)


async def _create(admin: AIOKafkaAdminClient, specs: Iterable[TopicSpec[object]], settings: Settings) -> None:
    answer = await admin.create_topics([new_topic(spec, settings) for spec in specs])
    for name, code, *text in answer.topic_errors:
        if not code:
            logger.info("topic %s is created", name)
        # Another worker that starts at the same time may have been quicker.
        elif code != TopicAlreadyExistsError.errno:
            reason = text[0] if text and text[0] else for_code(code).__name__
            raise TopicsError(f"topic {name} could not be created: {reason}")


def new_topic(spec: TopicSpec[object], settings: Settings) -> NewTopic:
    """Return what a topic is created as."""
    return NewTopic(
        spec.name,
        spec.partitions or settings.partitions,
        settings.replication_factor or _BROKERS_DEFAULT,
        # aiokafka takes the broker's default only together with an assignment, be it an empty one.
        replica_assignments=None if settings.replication_factor else {},
        topic_configs=spec.config,
    )
