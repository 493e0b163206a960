"""Which configurations of the own topics fit."""

from __future__ import annotations

import pytest

from streams.settings import Settings
from streams.topic_configs import sorted_out
from streams.topics import MAX_RECORD_BYTES, topics_of


def settings(**more: object) -> Settings:
    given = {"port_org_id": "org", "port_client_id": "client", "port_client_secret": "secret", "handlers": "some"}
    return Settings.model_validate(given | more)


BRIDGED = settings(source_brokers="port:9196", source_security_protocol="PLAINTEXT")
FITS = {"max.message.bytes": str(MAX_RECORD_BYTES), "cleanup.policy": "delete"}
COMPACT = FITS | {"cleanup.policy": "compact", "delete.retention.ms": "86400000"}


@pytest.mark.parametrize(
    ("topic", "change", "fatal"),
    [
        ("org.runs", {"max.message.bytes": "1048588"}, False),
        ("org.runs", {"cleanup.policy": "compact"}, False),
        ("org.port-runs.dead-letters", {"max.message.bytes": "1048588"}, False),
        ("org.port-runs.audit", {"cleanup.policy": "compact"}, False),
        ("org.port-runs.arrivals", {"max.message.bytes": "1048588"}, True),
        ("org.port-runs.outcomes", {"cleanup.policy": "compact,delete"}, True),
        ("org.port-runs-ledger-changelog", {"cleanup.policy": "delete"}, True),
        ("org.port-runs-ledger-changelog", {"delete.retention.ms": "1000"}, True),
    ],
)
def test_what_does_not_fit_is_fatal_where_state_or_the_worker_would_be_lost(
    topic: str, change: dict[str, str], fatal: bool
) -> None:
    topics = topics_of(BRIDGED)
    fitting = {spec.name: COMPACT if spec is topics.changelog else FITS for spec in topics.all}
    assert sorted_out(topics, fitting, BRIDGED) == sorted_out(topics, {}, BRIDGED)
    found = sorted_out(topics, fitting | {topic: fitting[topic] | change}, BRIDGED)
    assert (list(found.fatal), list(found.others)) == (([topic], []) if fatal else ([], [topic]))
    [wrong] = [*found.fatal.values(), *found.others.values()]
    assert next(iter(change)) in wrong.found
    assert "kafka-configs" in wrong.remedy


def test_the_runs_topic_may_have_any_limit_where_nothing_is_written_to_it() -> None:
    small = {"org.runs": FITS | {"max.message.bytes": "1000"}}
    alone = settings()
    assert sorted_out(topics_of(alone), small, alone).others == {}
