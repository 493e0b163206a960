"""All topics of the application in one place: names, what their keys and values are, partitions, configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Generic, TypeVar

from aiokafka.partitioner import murmur2
from pydantic import TypeAdapter

from streams.messages import Message, sort_out
from streams.records import Arrival, Audited, OutcomeEvent, read
from streams.schema import TypedSchema
from streams.settings import Settings

MAX_RECORD_BYTES: Final = 4 * 1024 * 1024
"""`max.message.bytes` of the own topics, and the producer's and consumers' limits."""

DELETES_KEPT_MS: Final = "86400000"
"""`delete.retention.ms` of the changelog, Kafka's default: how long it keeps the mark of a deleted row, at least."""

AUDIT_KEPT_MS: Final = str(90 * 24 * 3600 * 1000)
"""`retention.ms` of the audit topic: 90 days."""

V = TypeVar("V")

_arrivals: Final[TypeAdapter[Arrival]] = TypeAdapter(Arrival)
_audited: Final[TypeAdapter[Audited]] = TypeAdapter(Audited)
_outcomes: Final[TypeAdapter[OutcomeEvent]] = TypeAdapter(OutcomeEvent)


@dataclass(frozen=True)
class TopicSpec(Generic[V]):
    """A topic that the application reads or writes."""

    name: str
    decode: Callable[[bytes | None], V]
    partitions: int | None
    """How many it is created with and must have; None: any number (it is created with `PARTITIONS`)."""
    config: dict[str, str] = field(default_factory=dict)

    @property
    def schema(self) -> TypedSchema[V]:
        """The Faust schema of the topic: keys are bytes, values what `decode` returns, or `Bad`."""
        return TypedSchema(self.decode)


@dataclass(frozen=True)
class Topics:
    """The topics of one organization and app id.

    | topic | key | value |
    |---|---|---|
    | runs | any | `Message`: what Port publishes, sorted out |
    | arrivals | node-run id | `Arrival` |
    | outcomes | node-run id | `OutcomeEvent` |
    | dead letters | the message's key | the message's raw bytes; headers as `DeadLetter` |
    | audit | id of the request | `Audited` |
    | changelog | row key of the ledger table | row as JSON |
    """

    runs: TopicSpec[Message]
    arrivals: TopicSpec[Arrival]
    outcomes: TopicSpec[OutcomeEvent]
    dead_letters: TopicSpec[bytes | None]
    audit: TopicSpec[Audited]
    changelog: TopicSpec[bytes | None]

    @property
    def all(self) -> tuple[TopicSpec[object], ...]:
        """Every topic, in the order of a message's way."""
        return (self.runs, self.arrivals, self.outcomes, self.dead_letters, self.audit, self.changelog)  # type: ignore[return-value]

    @property
    def consumed(self) -> frozenset[str]:
        """The names of those that the workers of a group share among them."""
        return frozenset({self.runs.name, self.arrivals.name, self.outcomes.name, self.changelog.name})


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition in which Kafka's default partitioner puts a key: murmur2, as the Java client has it.

    Whoever sends to the arrivals or outcomes names it: left to the partitioner, events would go elsewhere as soon as
    partitions were added to the topic.
    """
    return int(murmur2(key) & 0x7FFFFFFF) % partitions


LEDGER_TABLE: Final = "ledger"


def _raw(value: bytes | None) -> bytes | None:
    return value


def topics_of(settings: Settings) -> Topics:
    """Return the topics that these settings ask for."""
    app_id, partitions = settings.app_id, settings.partitions
    large = {"max.message.bytes": str(MAX_RECORD_BYTES)}
    return Topics(
        runs=TopicSpec(f"{settings.port_org_id}.runs", partial(sort_out, max_items=settings.max_items), None, large),
        arrivals=TopicSpec(f"{app_id}.arrivals", lambda raw: read(_arrivals, raw), partitions, large),
        outcomes=TopicSpec(f"{app_id}.outcomes", lambda raw: read(_outcomes, raw), partitions, large),
        dead_letters=TopicSpec(f"{app_id}.dead-letters", _raw, None, large),
        audit=TopicSpec(
            f"{app_id}.audit", lambda raw: read(_audited, raw), None, large | {"retention.ms": AUDIT_KEPT_MS}
        ),
        changelog=TopicSpec(
            f"{app_id}-{LEDGER_TABLE}-changelog",
            _raw,
            partitions,
            large | {"cleanup.policy": "compact", "delete.retention.ms": DELETES_KEPT_MS},
        ),
    )
