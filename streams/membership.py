"""What the broker says of the application's own consumer group."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata
from aiokafka.errors import KafkaError

from streams.clients import Contact, contacts_of

logger = logging.getLogger(__name__)
_TRIES: Final = 20
_PAUSE_SECONDS: Final = 0.5


@dataclass(frozen=True)
class Member:
    """A member of the group, by its own word and the leader's."""

    client_id: str
    """The worker's incarnation."""
    url: str
    """Where it says that its web server is; empty where it says nothing that can be read."""
    assigned: Mapping[str, frozenset[int]]
    """Its partitions, by topic."""


class Group:
    """The consumer group of all workers of one app id.

    Args:
        group: its id.
        client: the keyword arguments that connect an aiokafka client.
        topics: the topics that some member must read.
    """

    def __init__(self, group: str, client: Mapping[str, object], topics: frozenset[str]) -> None:
        self._group = group
        self._client = dict(client)
        self._admin: AIOKafkaAdminClient | None = None
        self._topics = topics

    async def start(self) -> None:
        """Connect."""
        self._admin = AIOKafkaAdminClient(client_id=f"{self._group}.group", **self._client)
        await self._admin.start()

    async def stop(self) -> None:
        """Disconnect."""
        if self._admin is not None:
            await self._admin.close()

    @property
    def contacts(self) -> list[Contact]:
        """What its client knows of the brokers; nothing before `start`."""
        return [] if self._admin is None else contacts_of(self._admin)

    async def unassigned(self) -> frozenset[str] | None:
        """Return the topics that no member of the group reads; None where all are, or where it cannot be said now.

        Asks until the group is stable, for 10 seconds at most: during a rebalance nothing is certain.
        """
        for _ in range(_TRIES):
            members = await self._members()
            if members is not None:
                return (self._topics - frozenset().union(*members.values())) or None
            await asyncio.sleep(_PAUSE_SECONDS)
        return None

    async def alive(self) -> frozenset[str] | None:
        """Return the client ids of the members: the incarnations of the workers that live.

        A worker that was killed is one until its session ends. None while the group is not stable, or the cluster does
        not answer: then nothing is certain.
        """
        members = await self._members()
        return None if members is None else frozenset(members)

    async def members(self) -> tuple[Member, ...] | None:
        """Return the members with their URLs and partitions; None as `alive`, and before `start`."""
        return None if self._admin is None else await self._described(self._admin)

    async def _members(self) -> dict[str, frozenset[str]] | None:
        """Return the topics that each member reads, by client id; None while nothing is certain."""
        if self._admin is None:
            raise RuntimeError("Group.start was not called")
        members = await self._described(self._admin)
        if members is None:
            return None
        found: dict[str, frozenset[str]] = {}
        for member in members:
            assigned = {topic for topic, partitions in member.assigned.items() if partitions}
            found[member.client_id] = found.get(member.client_id, frozenset()) | assigned
        return found

    async def _described(self, admin: AIOKafkaAdminClient) -> tuple[Member, ...] | None:
        try:
            [answer] = await admin.describe_consumer_groups([self._group])
        except (KafkaError, OSError) as error:
            logger.info("the group cannot be described now: %s", error)
            return None
        [(failed, _group, state, _type, _protocol, members, *_rest)] = answer.groups
        if failed or state != "Stable":
            return None
        return tuple(_member(fields) for _id, *fields in members)


def _member(fields: list[object]) -> Member:
    # By the version of the answer, the instance's id may stand before the client's id and host.
    client_id = [part for part in fields if isinstance(part, str)][-2]
    metadata, assignment = [part for part in fields if isinstance(part, bytes)][-2:]
    return Member(client_id, _url(metadata), _assigned(assignment))


def _url(metadata: bytes) -> str:
    """Return the URL in what Faust's assignor has a member say: JSON with its `canonical_url`."""
    try:
        said = json.loads(ConsumerProtocolMemberMetadata.decode(metadata).user_data)
        return str(said["url"])
    except (ValueError, KeyError, TypeError):
        return ""


def _assigned(assignment: bytes) -> Mapping[str, frozenset[int]]:
    if not assignment:  # of a member that the group's leader left out
        return {}
    decoded = ConsumerProtocolMemberAssignment.decode(assignment)
    return {topic: frozenset(partitions) for topic, partitions in decoded.assignment}
