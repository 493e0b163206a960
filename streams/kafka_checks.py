"""Looks at the own cluster: topics, replication, group. Nothing is changed by that.

No topic is created (the broker is only asked whether it would), no group joined, nothing committed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

from aiokafka import TopicPartition
from aiokafka.admin.config_resource import ConfigResourceType
from aiokafka.errors import GroupAuthorizationFailedError, for_code

from streams.creation import new_topic
from streams.findings import Finding, Say, counted, ok, step, warning, wrong
from streams.look import AGAIN, Look, Offsets
from streams.partition_counts import misfit, used_partitions
from streams.producers import IDEMPOTENCE_REMEDY, may_write
from streams.settings import Settings
from streams.topic_configs import AT_LEAST, POLICY, Configs, described, unfit
from streams.topics import Topics, TopicSpec

Spec: TypeAlias = TopicSpec[object]

_REPLICAS: Final = 3
BEHIND_END: Final = (
    "the topic was made anew, or its cluster restored, and what has come since may count as read: compare it with the "
    "node runs in Port, and set the group's offsets with kafka-consumer-groups --reset-offsets while no worker runs"
)
"""What to do where a group has committed more than there is."""
_FAUST: Final = "faust"
"""What Faust's assignor is called in a group."""
_IN_SYNC: Final = "min.insync.replicas"
_FACTOR: Final = "default.replication.factor"


async def check_own(own: Look, settings: Settings, topics: Topics, say: Say) -> None:
    """Look whether the application's topics and group can be used, and how safe the cluster keeps records."""
    configs: Configs = {}
    async with step("kafka topics", say, "give this user the rights to create and to describe topics"):
        there = [spec for spec in topics.all if spec.name in own.topics]
        configs = await _topic_configs(own, there, say)
        counts = {name: len(replicas) for name, replicas in own.topics.items()}
        async with own.consumer() as consumer:
            used = await used_partitions(consumer, topics)
        amiss = misfit(topics, counts, settings.partitions, surplus=settings.ignores_surplus, used=used)
        for spec in there:
            if amiss is not None and spec.partitions not in (None, counts[spec.name]):
                found = f"has {counts[spec.name]} partitions, PARTITIONS is {spec.partitions}"
                say(wrong(f"kafka topic {spec.name}", found, amiss.remedy))
            else:
                say(_of_topic(spec, own, settings, configs.get(spec.name, {})))
        await _check_creation(own, [spec for spec in topics.all if spec not in there], settings, say)
    async with step("kafka replication", say, AGAIN):
        say(of_replication(len(own.brokers), *await _copies(own, settings, topics, configs)))
    async with step("kafka writes", say, AGAIN):
        say(await _of_writes(own))
    async with step("kafka group", say, AGAIN):
        say(await _of_group(own, settings, topics))


async def _topic_configs(own: Look, specs: Sequence[Spec], say: Say) -> Configs:
    found = await _configs(own, ConfigResourceType.TOPIC, [spec.name for spec in specs], (POLICY, _IN_SYNC, *AT_LEAST))
    if hidden := sorted(spec.name for spec in specs if spec.name not in found):
        told = f"their configuration may not be seen: {', '.join(hidden)}"
        say(warning("kafka topics", told, "give this user the right DescribeConfigs, for this check alone"))
    return found


async def _configs(own: Look, kind: ConfigResourceType, names: Sequence[str], keys: Sequence[str]) -> Configs:
    if not names:
        return {}
    return await described(own.admin, kind, names, keys)


def _of_topic(spec: Spec, own: Look, settings: Settings, config: Mapping[str, str]) -> Finding:
    name, there = f"kafka topic {spec.name}", len(own.topics[spec.name])
    if (found := unfit(spec, config, settings)) is not None:
        return wrong(name, found.found, found.remedy)
    return ok(name, counted(there, "partition"))


async def _check_creation(own: Look, missing: Sequence[Spec], settings: Settings, say: Say) -> None:
    if not missing:
        return
    answer = await own.admin.create_topics([new_topic(spec, settings) for spec in missing], validate_only=True)
    refused = {
        name: text[0] if text and text[0] else for_code(code).__name__
        for name, code, *text in answer.topic_errors
        if code
    }
    for spec in missing:
        say(_of_missing(spec, settings, refused.get(spec.name)))


def _of_missing(spec: Spec, settings: Settings, refused: str | None) -> Finding:
    name, partitions = f"kafka topic {spec.name}", spec.partitions or settings.partitions
    if refused is not None:
        config = ", ".join(f"{key}={value}" for key, value in spec.config.items())
        remedy = (
            f"give this user the right to create topics, or create it with {partitions} partitions, {config}; where "
            "its replication is refused, set REPLICATION_FACTOR"
        )
        return wrong(name, f"is not there, and cannot be created: {refused}", remedy)
    if spec.name == f"{settings.port_org_id}.runs" and settings.source is None:
        remedy = "check PORT_ORG_ID and KAFKA_BROKERS; where the topic is on Port's Kafka, set SOURCE_BROKERS=port"
        return warning(name, "is not there: the worker creates it, but maybe nobody publishes there", remedy)
    return ok(name, f"is not there yet; the worker may create it, with {partitions} partitions")


async def _copies(own: Look, settings: Settings, topics: Topics, configs: Configs) -> tuple[int, int]:
    """Return the smallest replication factor, and the largest number of replicas that must be in sync; 0: unknown."""
    node = str(own.brokers[0])
    broker = (await _configs(own, ConfigResourceType.BROKER, [node], (_FACTOR, _IN_SYNC))).get(node, {})
    there = [spec.name for spec in topics.all if spec.name in own.topics]
    factors = [min(own.topics[name]) for name in there]
    in_sync = [int(configs[name][_IN_SYNC]) for name in there if name in configs]
    if len(there) < len(topics.all):
        factors.append(settings.replication_factor or int(broker.get(_FACTOR, 0)))
        in_sync.append(int(broker.get(_IN_SYNC, 0)))
    return min(factors), max(in_sync, default=0)


def of_replication(brokers: int, factor: int, in_sync: int) -> Finding:
    """Say how safe records are, by the number of brokers, of replicas, and of those to be in sync; 0 means unknown."""
    name = "kafka replication"
    found = f"{counted(brokers, 'broker')}, replication factor {factor or 'unknown'}, {_IN_SYNC} {in_sync or 'unknown'}"
    if brokers == 1:
        return warning(name, f"{found}: what this broker loses is lost", "use a cluster of three brokers or more")
    if factor < _REPLICAS:
        before = f"set REPLICATION_FACTOR={_REPLICAS} before the first start; later, use kafka-reassign-partitions"
        return warning(name, found, before)
    if in_sync >= factor:
        away = f"{found}: with one broker away nothing can be written"
        return warning(name, away, f"set {_IN_SYNC} to {factor - 1} with kafka-configs")
    if in_sync < 2:
        once = f"{found}: a record may count as written with one copy"
        return warning(name, once, f"set {_IN_SYNC} to 2 with kafka-configs")
    return ok(name, found)


def still_to_read(
    partitions: Iterable[TopicPartition], committed: Offsets, first: Offsets, ends: Offsets
) -> tuple[int, int]:
    """Return how many records of a topic a group has still to read, and how many it has committed behind its end."""
    lag = beyond = 0
    for tp in partitions:
        ahead = ends[tp] - max(committed.get(tp, 0), first[tp])
        lag, beyond = lag + max(0, ahead), beyond + max(0, -ahead)
    return lag, beyond


async def _of_writes(own: Look) -> Finding:
    if await may_write(own.admin):
        return ok("kafka writes", "this user may write idempotently")
    refused = "this user may not write idempotently (CLUSTER_AUTHORIZATION_FAILED): no worker can start"
    return wrong("kafka writes", refused, IDEMPOTENCE_REMEDY)


async def _of_group(own: Look, settings: Settings, topics: Topics) -> Finding:
    name, id_ = "kafka group", settings.app_id
    try:
        group = await own.group(id_)
    except GroupAuthorizationFailedError:
        rights = "give this user the rights Read and Describe on the group, or set CONSUMER_GROUP"
        return wrong(name, f"{id_} is refused (GROUP_AUTHORIZATION_FAILED)", rights)
    if group.protocol not in (None, "", _FAUST):
        remedy = "set CONSUMER_GROUP to a name of its own, or end that consumer first"
        return wrong(name, f"{id_} is in use by another kind of consumer ({group.protocol})", remedy)
    lags = await _lags(own, group.committed, topics)
    if beyond := [f"{number:,} of {topic}" for topic, (_, number) in lags.items() if number]:
        return wrong(name, f"{id_} has committed offsets behind the end: {', '.join(beyond)}", BEHIND_END)
    left = ", ".join(f"{lag:,} of {topic}" for topic, (lag, _) in lags.items()) or "nothing"
    return ok(name, f"{id_}: {counted(group.members, 'worker')}, {group.state}; still to be read: {left}")


async def _lags(own: Look, committed: Offsets, topics: Topics) -> dict[str, tuple[int, int]]:
    """Return how many records the group has still to read of each topic that is there, and how many it has committed
    that are not there.
    """
    lags = {}
    async with own.consumer() as consumer:
        for spec in (topics.runs, topics.arrivals, topics.outcomes):
            if spec.name not in own.topics:
                continue
            partitions = own.partitions(spec.name)
            first, ends = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
            lags[spec.name] = still_to_read(partitions, committed, first, ends)
    return lags
