"""The plain consumers beside Faust's. Every one reads what is committed, and no more.

A record of a transaction that is open may yet be aborted, and one of an aborted transaction never was. Where such a
consumer tells the end of a partition it is the last stable offset: whoever waits for what is before it waits for
records that can be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiokafka import AIOKafkaConsumer

from streams.topics import MAX_RECORD_BYTES

ISOLATION: Final = "read_committed"
"""Kafka's `isolation.level` of every reader, Faust's too."""


def new_consumer(client: Mapping[str, object], *topics: str, **options: object) -> AIOKafkaConsumer:
    """Return a consumer that commits nothing by itself, not started.

    Args:
        client: how to connect; see `streams.cluster.Cluster.client`.
        topics: what it subscribes to.
        options: more of aiokafka's, or others than these.
    """
    defaults: dict[str, object] = {
        "group_id": None,
        "enable_auto_commit": False,
        "auto_offset_reset": "earliest",
        "max_partition_fetch_bytes": MAX_RECORD_BYTES,
    }
    return AIOKafkaConsumer(*topics, **{**defaults, **client, **options, "isolation_level": ISOLATION})
