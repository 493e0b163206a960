"""Whether the configurations of the own topics fit: what a topic refuses, or deletes, is lost or holds others up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from streams.settings import Settings
from streams.topics import Topics, TopicSpec

logger = logging.getLogger(__name__)
LIMIT: Final = "max.message.bytes"
POLICY: Final = "cleanup.policy"
AT_LEAST: Final = {LIMIT: "larger records are refused", "delete.retention.ms": "deleted rows may come back"}
"""What a topic must have as much of as it would be created with, and what follows otherwise."""
_SECONDS: Final = 10.0

Configs: TypeAlias = Mapping[str, Mapping[str, str]]
"""Configurations by the name of the topic or broker; of those that may be seen."""


@dataclass(frozen=True)
class Unfit:
    """What is wrong with the configuration of a topic, and what to do about it."""

    found: str
    remedy: str


@dataclass(frozen=True)
class UnfitTopics:
    """What is wrong with the topics, by their names."""

    fatal: Mapping[str, Unfit]
    """State or messages would be lost, or the worker would end at a record that is refused."""
    others: Mapping[str, Unfit]
    """The worker does what it can with them."""


def unfit(spec: TopicSpec[object], config: Mapping[str, str], settings: Settings) -> Unfit | None:
    """Return what of a topic's configuration does not fit; None where all does that is known of it."""
    wanted = spec.config.get(POLICY, "delete")
    if (policy := config.get(POLICY, wanted)) != wanted:
        lost = "state" if wanted == "compact" else "messages"
        return Unfit(f"{POLICY} is {policy}: that loses {lost}", f"set it to {wanted} with kafka-configs")
    # Without a bridge the application writes nothing to the runs topic.
    if settings.source is None and spec.name == f"{settings.port_org_id}.runs":
        return None
    for key, effect in AT_LEAST.items():
        least = int(spec.config.get(key, 0))
        if (value := int(config.get(key, least))) < least:
            return Unfit(f"{key} is {value}: {effect}", f"set it to {least} with kafka-configs")
    return None


def sorted_out(topics: Topics, configs: Configs, settings: Settings) -> UnfitTopics:
    """Return what is wrong with the topics whose configurations are known."""
    found = {
        spec.name: wrong
        for spec in topics.all
        if (wrong := unfit(spec, configs.get(spec.name, {}), settings)) is not None
    }
    workable = {topics.runs.name, topics.dead_letters.name, topics.audit.name}
    return UnfitTopics(
        {name: wrong for name, wrong in found.items() if name not in workable},
        {name: wrong for name, wrong in found.items() if name in workable},
    )


async def unfit_topics(settings: Settings, topics: Topics) -> UnfitTopics:
    """Look at the configurations of the topics, which are there. What may not be seen counts as right.

    Raises nothing: a cluster that does not answer is found out by who needs it.
    """
    admin = AIOKafkaAdminClient(client_id=f"{settings.app_id}.topics", **settings.own.client())
    try:
        async with asyncio.timeout(_SECONDS):
            await admin.start()
            configs = await described(
                admin, ConfigResourceType.TOPIC, [spec.name for spec in topics.all], (POLICY, *AT_LEAST)
            )
    except (KafkaError, OSError, TimeoutError) as error:
        logger.info("the configurations of the topics are not known: %s: %s", type(error).__name__, error)
        configs = {}
    finally:
        await admin.close()
    return sorted_out(topics, configs, settings)


async def described(
    admin: AIOKafkaAdminClient, kind: ConfigResourceType, names: Iterable[str], keys: Iterable[str]
) -> Configs:
    """Return configurations by the name of the topic or broker; those that may not be seen are left out."""
    answers = await admin.describe_configs([ConfigResource(kind, name, dict.fromkeys(keys)) for name in names])
    return {
        name: {key: value for key, value, *_ in entries}
        for answer in answers
        for failed, _, _, name, entries in answer.resources
        if not failed
    }
