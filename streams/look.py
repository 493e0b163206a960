"""A look at a Kafka cluster, for the checks: connects without a group, and says why where that fails."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    NotCoordinatorForGroupError,
    for_code,
)
from stamina import AsyncRetryingCaller

from streams.cluster import Cluster, Identity
from streams.consumers import new_consumer
from streams.findings import SECONDS, Say, counted, ok, step, wrong
from streams.probe import ProbeError, probe

Offsets: TypeAlias = Mapping[TopicPartition, int]

AGAIN: Final = "make the check again; where it repeats, look at the brokers' logs"
_PROBE_SECONDS: Final = SECONDS - 2.0
_CLOSE_SECONDS: Final = 3.0
_OFFSETS_TOPIC: Final = "__consumer_offsets"
_CLIENT_ID: Final = "port-runs.check"


_once_coordinated: Final = AsyncRetryingCaller(attempts=None, timeout=None, wait_max=1.0).on(
    (GroupCoordinatorNotAvailableError, GroupLoadInProgressError, NotCoordinatorForGroupError)
)


class Group(NamedTuple):
    """A consumer group. `protocol` is how its members share the partitions, None where it has none."""

    state: str = "empty"
    protocol: str | None = None
    members: int = 0
    committed: Offsets = {}


@dataclasses.dataclass(frozen=True)
class Look:
    """A cluster that lets us in. `topics` are the numbers of replicas of each partition, by the topic's name."""

    cluster: Cluster
    admin: AIOKafkaAdminClient
    identity: Identity
    brokers: Sequence[int]
    topics: Mapping[str, Sequence[int]]

    def partitions(self, topic: str) -> list[TopicPartition]:
        """Return the partitions of a topic that is there."""
        return [TopicPartition(topic, number) for number in range(len(self.topics[topic]))]

    @property
    def unused(self) -> bool:
        """Whether no group ever committed there: asked about one, the broker would first create a topic for that."""
        return _OFFSETS_TOPIC not in self.topics and not self.cluster.protocol.sasl

    async def group(self, name: str) -> Group:
        """Return what the cluster knows of a group; waits for a coordinator that is not there yet.

        Raises KafkaError: GroupAuthorizationFailedError where the group may not be used.
        """
        return Group() if self.unused else await _once_coordinated(self._group, name)

    async def _group(self, name: str) -> Group:
        coordinator = await self.admin.find_coordinator(name)
        [answer] = await self.admin.describe_consumer_groups([name], coordinator)
        [(failed, _, state, _, protocol, members, *_)] = answer.groups
        if failed:
            raise for_code(failed)(name)
        found = await self.admin.list_consumer_group_offsets(name, coordinator)
        committed = {tp: told.offset for tp, told in found.items() if told.offset >= 0}
        return Group(state.lower(), protocol if members else None, len(members), committed)

    @contextlib.asynccontextmanager
    async def consumer(self) -> AsyncIterator[AIOKafkaConsumer]:
        """Yield a consumer that belongs to no group."""
        consumer = new_consumer(self.cluster.client(), client_id=_CLIENT_ID)
        try:
            await consumer.start()
            yield consumer
        finally:
            await _stop(consumer.stop)


async def look_at(name: str, cluster: Cluster, say: Say, clients: contextlib.AsyncExitStack) -> Look | None:
    """Connect, and say what came of it under this name; None where it failed. Closed with `clients`."""
    async with step(name, say, AGAIN):
        try:
            await probe(cluster, timeout=_PROBE_SECONDS)
        except ProbeError as error:
            found, _, remedy = str(error).partition("; ")
            say(wrong(name, found, remedy or "correct that setting"))
            return None
        admin = AIOKafkaAdminClient(client_id=_CLIENT_ID, **cluster.client())
        clients.push_async_callback(_stop, admin.close)
        await admin.start()
        return await _described(name, cluster, admin, say)
    return None


async def _described(name: str, cluster: Cluster, admin: AIOKafkaAdminClient, say: Say) -> Look | None:
    if strangers := await _unreachable(admin, cluster):
        found = f"{cluster.brokers[0]} lets us in, but names brokers that cannot be reached: {strangers}"
        remedy = "set the brokers' advertised.listeners to addresses that are known here, and open the firewall to them"
        say(wrong(name, found, remedy))
        return None
    there = await admin.describe_cluster()
    look = Look(
        cluster,
        admin,
        Identity.of(there, cluster.brokers),
        [broker["node_id"] for broker in there["brokers"]],
        {
            topic["topic"]: [len(partition["replicas"]) for partition in topic["partitions"]]
            for topic in await admin.describe_topics()
            if not topic["error_code"]
        },
    )
    brokers = counted(len(look.brokers), "broker")
    say(ok(name, f"{','.join(cluster.brokers)} lets us in: {brokers}, cluster id {look.identity.id}"))
    return look


async def _unreachable(admin: AIOKafkaAdminClient, cluster: Cluster) -> str:
    """Return why brokers cannot be reached by the addresses that they say they have; empty where all can."""
    named = {f"{broker.host}:{broker.port}" for broker in admin._client.cluster.brokers()} - set(cluster.brokers)

    async def reason(address: str) -> str | None:
        try:
            await probe(dataclasses.replace(cluster, brokers=(address,)), timeout=_PROBE_SECONDS)
        except ProbeError as error:
            return str(error).partition("; ")[0].partition(": ")[2]
        return None

    return "; ".join(filter(None, await asyncio.gather(*map(reason, sorted(named)))))


async def _stop(stop: Callable[[], Coroutine[object, object, None]]) -> None:
    """Stop a client, without waiting long for a cluster that is away."""
    # In a task of its own: aiokafka may raise CancelledError, though nobody cancelled.
    stopping = asyncio.create_task(stop())
    await asyncio.wait([stopping], timeout=_CLOSE_SECONDS)
    if not stopping.done():
        stopping.cancel()
    elif not stopping.cancelled():
        stopping.exception()
