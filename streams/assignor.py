"""Faust's assignor, for topics that have more partitions than are used.

Faust shares topics with the same number of partitions out together. Where partitions were added to one of the own
topics, each worker would be given arrivals of one partition and the ledger of another. Here every own topic counts with
the partitions that are used, so that nothing moves, and nobody is given one in which nothing is.

Kept apart, because it leans on how faust-streaming 0.15.3 behaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

from faust.assignor.partition_assignor import PartitionAssignor


class Metadata(Protocol):
    """What a cluster says of its topics."""

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        """Return the numbers of a topic's partitions, None where it is not there."""


class Used:
    """The same, without partitions that are not used."""

    def __init__(self, cluster: Metadata, used: Mapping[str, int]) -> None:
        self._cluster = cluster
        self._used = used

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        """Return the numbers of the partitions that are used, None where the topic is not there."""
        found = self._cluster.partitions_for_topic(topic)
        limit = self._used.get(topic)
        return found if found is None or limit is None else {number for number in found if number < limit}


class Assignor(PartitionAssignor):
    """Shares out what is used."""

    def _assign(self, cluster: Any, member_metadata: Any) -> Any:
        specs = cast("Any", self.app).topic_specs.all
        used = {spec.name: spec.partitions for spec in specs if spec.partitions is not None}
        return super()._assign(cast("Any", Used(cluster, used)), member_metadata)
