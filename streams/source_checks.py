"""Looks at `<orgId>.runs` and the cluster that it is on, Port's or the own one. Nothing is changed by that."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from datetime import UTC, datetime
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import GroupAuthorizationFailedError, TopicAuthorizationFailedError

from port.models import KafkaCredentials
from streams.beginning import first_offsets
from streams.findings import Finding, Say, counted, ok, skipped, step, warning, wrong
from streams.kafka_checks import BEHIND_END, check_own, still_to_read
from streams.look import AGAIN, Look, Offsets, look_at
from streams.settings import Settings
from streams.topics import Topics

_READ_SECONDS: Final = 6.0
_OLD_SECONDS: Final = 3600.0


async def check_kafka(settings: Settings, topics: Topics, given: KafkaCredentials | None, say: Say) -> None:
    """Look at the own cluster, then at the source. `given` is how to reach the source, where Port gave that."""
    async with contextlib.AsyncExitStack() as clients:
        own = await look_at("kafka", settings.own, say, clients)
        if own is not None:
            await check_own(own, settings, topics, say)
        else:
            for name in ("kafka topics", "kafka replication", "kafka group"):
                say(skipped(name, "the own cluster cannot be used"))
        if settings.source is None:
            await _check_own_runs(own, settings, topics.runs.name, say)
        else:
            await _check_source(own, settings, topics.runs.name, given, say, clients)


async def _check_own_runs(own: Look | None, settings: Settings, topic: str, say: Say) -> None:
    name = "kafka runs"
    if own is None:
        say(skipped(name, "the own cluster cannot be used"))
    elif topic not in own.topics:
        say(skipped(name, f"{topic} is not there"))
    else:
        async with step(name, say, AGAIN):
            say(await _of_runs(name, own, settings, topic, (await own.group(settings.app_id)).committed))


async def _check_source(
    own: Look | None,
    settings: Settings,
    topic: str,
    given: KafkaCredentials | None,
    say: Say,
    clients: contextlib.AsyncExitStack,
) -> None:
    source = await _source(settings, given, say, clients)
    if source is not None and own is not None and source.identity.same(own.identity):
        found = (
            f"SOURCE_BROKERS and KAFKA_BROKERS are one cluster, id {own.identity.id}: it would be copied onto itself"
        )
        remedy = "leave SOURCE_BROKERS empty, or set KAFKA_BROKERS to a cluster of your own"
        say(wrong("source cluster", found, remedy))
    committed = await _source_offsets(source, settings, say) if source is not None else None
    name = "source runs"
    if source is None or committed is None:
        say(skipped(name, "the source cannot be used" if source is None else "the group cannot be used"))
    elif topic not in source.topics:
        who = source.cluster.username or "this client"
        remedy = "check PORT_ORG_ID, and that SOURCE_BROKERS and the user belong to this organization"
        say(wrong(name, f"topic {topic} is not there, or {who} may not see it", remedy))
    else:
        async with step(name, say, AGAIN):
            say(await _of_runs(name, source, settings, topic, committed))


async def _source(
    settings: Settings, given: KafkaCredentials | None, say: Say, clients: contextlib.AsyncExitStack
) -> Look | None:
    cluster = settings.source
    if cluster is None:
        return None
    if settings.source_from_port:
        if given is None:
            say(skipped("source", "Port did not say how to reach its Kafka"))
            return None
        cluster = dataclasses.replace(
            cluster, brokers=tuple(given.brokers), username=given.username, password=given.password
        )
    return await look_at("source", cluster, say, clients)


async def _source_offsets(source: Look, settings: Settings, say: Say) -> Offsets | None:
    """Return what the group has committed at the source; None where it may not be used."""
    name, group = "source group", settings.app_id
    async with step(name, say, AGAIN):
        try:
            committed = (await source.group(group)).committed
        except GroupAuthorizationFailedError:
            prefix, user = settings.port_org_id, source.cluster.username
            remedy = f"leave CONSUMER_GROUP empty, or begin it with {prefix}. or set it to the Kafka user, {user}"
            say(wrong(name, f"{group} is refused (GROUP_AUTHORIZATION_FAILED)", remedy))
            return None
        say(ok(name, f"{group} may be used"))
        return committed
    return None


async def _of_runs(name: str, look: Look, settings: Settings, topic: str, committed: Offsets) -> Finding:
    partitions = look.partitions(topic)
    known = {tp: committed[tp] for tp in partitions if tp in committed}
    try:
        async with look.consumer() as consumer:
            first = await consumer.beginning_offsets(partitions)
            ends = await consumer.end_offsets(partitions)
            start = {**first, **known} if known else await first_offsets(consumer, partitions, settings.source_start)
            oldest = await _oldest(consumer, first, start, ends)
    except TopicAuthorizationFailedError:
        remedy = "give this user the right Read on the topic; check PORT_ORG_ID"
        return wrong(name, f"topic {topic} may not be read (TOPIC_AUTHORIZATION_FAILED)", remedy)
    lag, beyond = still_to_read(partitions, start, first, ends)
    count = counted(lag, "record")
    age = "" if oldest is None else f", the oldest of {_ago(oldest)}"
    there = f"{topic}: {counted(len(partitions), 'partition')}"
    if beyond and known:
        return wrong(name, f"{there}; {beyond:,} offsets are committed behind its end", BEHIND_END)
    if deleted := sum(max(0, first[tp] - offset) for tp, offset in known.items()):
        remedy = (
            "find those node runs in Port, and end them there; lengthen the topic's retention, or run without breaks"
        )
        return warning(name, f"{there}; {counted(deleted, 'record')} were deleted before they were read", remedy)
    if known:
        return ok(name, f"{there}; still to be read: {count}{age}")
    begins = f"{there}; nothing committed yet: SOURCE_START={settings.source_start} takes {count}{age}"
    if oldest is not None and time.time() - oldest > _OLD_SECONDS:
        return warning(name, begins, "where others have dealt with them already, set SOURCE_START=latest or a time")
    return ok(name, begins)


async def _oldest(consumer: AIOKafkaConsumer, first: Offsets, start: Offsets, ends: Offsets) -> float | None:
    """Return when the first record to be taken was written, in epoch seconds; None where there is none.

    Where nothing is to be taken the last record is read all the same: the right to read shows at a record alone.
    """
    held = [tp for tp in ends if first[tp] < ends[tp]]
    at = {tp: min(max(start[tp], first[tp]), ends[tp] - 1) for tp in held}
    consumer.assign(held)
    for tp, offset in at.items():
        consumer.seek(tp, offset)
    times = []
    for tp in held:
        when = await _timestamp(consumer, tp)
        if when is not None and start[tp] < ends[tp]:
            times.append(when)
    return min(times, default=None)


async def _timestamp(consumer: AIOKafkaConsumer, tp: TopicPartition) -> float | None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_READ_SECONDS):
            while True:
                for record in (await consumer.getmany(tp, timeout_ms=1000, max_records=1)).get(tp, []):
                    return float(record.timestamp) / 1000
    return None


def _ago(then: float) -> str:
    minutes = max(0, int(time.time() - then) // 60)
    days, hours = divmod(minutes // 60, 24)
    age = counted(days, "day") if days else counted(hours, "hour") if hours else counted(minutes, "minute")
    return f"{datetime.fromtimestamp(then, UTC):%Y-%m-%d %H:%M} UTC, {age} ago"
