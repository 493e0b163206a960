"""What the broker says of the application's own consumer group."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import KafkaError

logger = logging.getLogger(__name__)
_TRIES: Final = 20
_PAUSE_SECONDS: Final = 0.5


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

    async def unassigned(self) -> frozenset[str] | None:
        """Return the topics that no member of the group reads; None where all are, or where it cannot be said now.

        Asks until the group is stable, for 10 seconds at most: during a rebalance nothing is certain.
        """
        for _ in range(_TRIES):
            try:
                assigned = await self._assigned()
            except (KafkaError, OSError) as error:
                logger.info("the group cannot be described now: %s", error)
                return None
            if assigned is not None:
                return (self._topics - assigned) or None
            await asyncio.sleep(_PAUSE_SECONDS)
        return None

    async def _assigned(self) -> frozenset[str] | None:
        if self._admin is None:
            raise RuntimeError("Group.start was not called")
        [answer] = await self._admin.describe_consumer_groups([self._group])
        [(error, _group, state, _type, _protocol, members, *_rest)] = answer.groups
        if error or state != "Stable":
            return None
        found: set[str] = set()
        for _member, *fields in members:
            assignment = next(part for part in reversed(fields) if isinstance(part, bytes))
            if assignment:  # empty for a member that the group's leader left out
                decoded = ConsumerProtocolMemberAssignment.decode(assignment)
                found.update(topic for topic, partitions in decoded.assignment if partitions)
        return frozenset(found)
