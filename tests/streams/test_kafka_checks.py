"""What `check` looks at on Kafka: the own cluster, and a source that is secured like Port's; both are real."""

import asyncio
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from pydantic import SecretStr

from local.kafka import EmbeddedKafka, free_port
from local.kafka.access import Operation, Resource, Right, allow
from port.models import KafkaCredentials
from streams.creation import ensure_topics
from streams.findings import Status
from streams.kafka_checks import of_replication
from streams.settings import Settings
from streams.source_checks import check_kafka
from streams.topics import topics_of
from tests.source_kafka import SourceKafka
from tests.streams.test_checks import Told


class Place:
    """One organization on the own cluster, and on a source if given."""

    def __init__(self, kafka: EmbeddedKafka, org: str, source: SourceKafka | None = None) -> None:
        self.given: dict[str, object] = {
            "port_org_id": org,
            "port_client_id": "x",
            "port_client_secret": "canary-secret",
            "handlers": "my_handlers",
            "kafka_brokers": kafka.bootstrap,
            "partitions": 2,
        }
        if source is not None:
            self.given |= {name.lower(): value for name, value in source.settings().items()}

    def settings(self, **more: object) -> Settings:
        return Settings.model_validate(self.given | more)

    async def check(self, credentials: KafkaCredentials | None = None, /, **more: object) -> Told:
        told, settings = Told(), self.settings(**more)
        await check_kafka(settings, topics_of(settings), credentials, told.append)
        assert "canary" not in repr(told)
        assert "pa55word" not in repr(told)
        assert all(finding.remedy for finding in told if finding.status in (Status.WARNING, Status.WRONG))
        return told


@pytest.fixture
def place(kafka: EmbeddedKafka, unique: str) -> Place:
    return Place(kafka, unique)


@pytest.fixture
def bridged(kafka: EmbeddedKafka, unique: str, source: SourceKafka) -> Place:
    """With a source whose customer has all rights, and no topic yet."""
    source.allow(unique)
    return Place(kafka, unique, source)


def unwell(told: Told) -> dict[str, Status]:
    """The findings that are not ok, but for that of a single broker."""
    return {f.name: f.status for f in told if f.status is not Status.OK and f.name != "kafka replication"}


class TestOwnCluster:
    async def test_an_empty_one_is_left_as_it_was(self, place: Place, admin: AIOKafkaAdminClient, unique: str) -> None:
        before = await admin.list_topics(), await admin.list_consumer_groups()
        told = await place.check()
        assert (await admin.list_topics(), await admin.list_consumer_groups()) == before
        runs = f"kafka topic {unique}.runs"
        assert unwell(told) == {runs: Status.WARNING, "kafka runs": Status.SKIPPED}
        assert "SOURCE_BROKERS=port" in told[runs].remedy
        created = told[f"kafka topic {unique}.port-runs.arrivals"]
        assert created.found == "is not there yet; the worker may create it, with 2 partitions"

    async def test_a_cluster_that_is_closed(self, place: Place) -> None:
        port = free_port()
        told = await place.check(kafka_brokers=f"127.0.0.1:{port}")
        assert told.status("kafka") is Status.WRONG
        assert told["kafka"].found == f"KAFKA_BROKERS: nothing listens at 127.0.0.1:{port} (Connection refused)"
        assert {finding.status for finding in told if finding.name != "kafka"} == {Status.SKIPPED}

    async def test_topics_that_the_worker_made(self, place: Place) -> None:
        settings = place.settings()
        await ensure_topics(settings, topics_of(settings))
        told = await place.check()
        assert unwell(told) == {}
        assert told["kafka replication"].found.startswith("1 broker, replication factor 1, min.insync.replicas 1")
        assert told.status("kafka replication") is Status.WARNING

    async def test_another_number_of_partitions(self, place: Place, unique: str) -> None:
        settings = place.settings()
        await ensure_topics(settings, topics_of(settings))
        told = await place.check(partitions=3)
        arrivals = told[f"kafka topic {unique}.port-runs.arrivals"]
        assert arrivals.status is Status.WRONG
        assert "has 2 partitions, PARTITIONS is 3" in arrivals.found
        assert "set PARTITIONS=2" in arrivals.remedy

    async def test_replication_that_the_cluster_has_not_the_brokers_for(self, place: Place, unique: str) -> None:
        told = await place.check(replication_factor=3)
        runs = told[f"kafka topic {unique}.runs"]
        assert runs.status is Status.WRONG
        assert "cannot be created" in runs.found
        assert "REPLICATION_FACTOR" in runs.remedy

    async def test_topics_that_would_lose_records(self, place: Place, admin: AIOKafkaAdminClient, unique: str) -> None:
        app = f"{unique}.port-runs"
        large = {"max.message.bytes": "4194304"}
        made = [
            NewTopic(f"{app}.arrivals", 2, 1, topic_configs=large | {"cleanup.policy": "compact"}),
            NewTopic(f"{app}.outcomes", 2, 1),
            NewTopic(f"{app}-ledger-changelog", 2, 1, topic_configs=large),
        ]
        await admin.create_topics(made)
        while not {topic.name for topic in made} <= set(await admin.list_topics()):
            pass  # the broker learns of it a moment after the controller
        told = await place.check()
        arrivals, outcomes = told[f"kafka topic {app}.arrivals"], told[f"kafka topic {app}.outcomes"]
        changelog = told[f"kafka topic {app}-ledger-changelog"]
        assert {arrivals.status, outcomes.status, changelog.status} == {Status.WRONG}
        assert arrivals.found == "cleanup.policy is compact: that loses messages"
        assert outcomes.found == "max.message.bytes is 1048588: larger records are refused"
        assert changelog.found == "cleanup.policy is delete: that loses state"

    async def test_a_changelog_that_forgets_deletions(
        self, place: Place, admin: AIOKafkaAdminClient, unique: str
    ) -> None:
        settings = place.settings()
        await ensure_topics(settings, topics_of(settings))
        changelog = topics_of(settings).changelog
        config = changelog.config | {"delete.retention.ms": "1000"}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, changelog.name, config)])
        found = (await place.check())[f"kafka topic {changelog.name}"]
        assert found.status is Status.WRONG
        assert found.found == "delete.retention.ms is 1000: deleted rows may come back"
        assert "86400000" in found.remedy

    async def test_another_consumer_in_the_group(self, place: Place, kafka: EmbeddedKafka, unique: str) -> None:
        settings = place.settings()
        await ensure_topics(settings, topics_of(settings))
        group = f"{unique}.port-runs"
        async with AIOKafkaConsumer(f"{unique}.runs", group_id=group, bootstrap_servers=kafka.bootstrap) as other:
            await other.getmany(timeout_ms=0)  # it has joined
            assert other.assignment()
            told = await place.check()
        assert told.status("kafka group") is Status.WRONG
        assert f"{group} is in use by another kind of consumer (roundrobin)" in told["kafka group"].found

    async def test_what_is_still_to_be_read(
        self,
        place: Place,
        kafka: EmbeddedKafka,
        admin: AIOKafkaAdminClient,
        producer: AIOKafkaProducer,
        unique: str,
    ) -> None:
        settings = place.settings()
        await ensure_topics(settings, topics_of(settings))
        topic, group = f"{unique}.runs", f"{unique}.port-runs"
        for value in range(5):
            await producer.send_and_wait(topic, str(value).encode(), partition=0)
        told = await place.check()
        assert "SOURCE_START=earliest takes 5 records, the oldest of " in told["kafka runs"].found
        async with AIOKafkaConsumer(
            group_id=group, enable_auto_commit=False, bootstrap_servers=kafka.bootstrap
        ) as done:
            here = TopicPartition(topic, 0)
            done.assign([here])
            await done.commit({here: 2})
        told = await place.check()
        assert f"still to be read: 3 of {topic}, 0 of {group}.arrivals" in told["kafka group"].found
        assert "; still to be read: 3 records, the oldest of " in told["kafka runs"].found
        await admin.delete_records({here: RecordsToDelete(4)})
        told = await place.check()
        assert told.status("kafka runs") is Status.WARNING
        assert told["kafka runs"].found.endswith("2 records were deleted before they were read")

    async def test_a_user_without_rights(self, source: SourceKafka, unique: str) -> None:
        names: dict[str, object] = {
            name.replace("SOURCE", "kafka").lower(): value for name, value in source.settings().items()
        }
        told = await Place(source.broker, unique).check(None, **names)
        arrivals = told[f"kafka topic {unique}.port-runs.arrivals"]
        assert arrivals.status is Status.WRONG
        assert arrivals.found.startswith("is not there, and cannot be created: ")
        assert "max.message.bytes=4194304" in arrivals.remedy
        assert told.status("kafka group") is Status.WRONG
        assert "GROUP_AUTHORIZATION_FAILED" in told["kafka group"].found
        assert told.status("kafka writes") is Status.WRONG
        assert "may not write idempotently" in told["kafka writes"].found
        assert "IdempotentWrite" in told["kafka writes"].remedy
        right = Right(Resource.TOPIC, unique, Operation.WRITE, prefix=True)
        allow(source.admin_bootstrap, source.username, [right])
        told = await Place(source.broker, unique).check(None, **names)
        assert told.status("kafka writes") is Status.OK


@pytest.mark.parametrize(
    ("brokers", "factor", "in_sync", "status", "remedy"),
    [
        (1, 1, 1, Status.WARNING, "three brokers"),
        (3, 1, 1, Status.WARNING, "set REPLICATION_FACTOR=3"),
        (3, 0, 0, Status.WARNING, "set REPLICATION_FACTOR=3"),
        (3, 3, 3, Status.WARNING, "set min.insync.replicas to 2"),
        (3, 3, 1, Status.WARNING, "set min.insync.replicas to 2"),
        (3, 3, 2, Status.OK, ""),
        (5, 5, 3, Status.OK, ""),
    ],
)
def test_how_safe_records_are(brokers: int, factor: int, in_sync: int, status: Status, remedy: str) -> None:
    finding = of_replication(brokers, factor, in_sync)
    assert finding.status is status
    assert remedy in finding.remedy


class TestSource:
    async def test_one_that_can_be_read(self, bridged: Place, source: SourceKafka, unique: str) -> None:
        source.add_topic(unique)
        told = await bridged.check()
        assert unwell(told) == {}
        assert told["source runs"].found.endswith("SOURCE_START=earliest takes 0 records")
        assert source.committed(f"{unique}.port-runs") == {}

    async def test_how_much_a_first_start_takes(self, bridged: Place, source: SourceKafka, unique: str) -> None:
        source.add_topic(unique)
        days_ago = time.time() - 3 * 86_400 - 60
        source.publish(unique, [b"1", b"2"], timestamp_ms=int(days_ago * 1000))
        source.publish(unique, [b"3"])
        told = await bridged.check()
        assert told.status("source runs") is Status.WARNING
        assert "takes 3 records, the oldest of " in told["source runs"].found
        assert told["source runs"].found.endswith("3 days ago")
        assert "SOURCE_START=latest" in told["source runs"].remedy
        told = await bridged.check(source_start="latest")
        assert told["source runs"].found.endswith("SOURCE_START=latest takes 0 records")

    async def test_wrong_credentials(self, bridged: Place) -> None:
        told = await bridged.check(source_password="canary")
        assert told.status("source") is Status.WRONG
        assert "refuses them with SCRAM-SHA-512" in told["source"].found
        assert told["source"].found.startswith("SOURCE_USERNAME, SOURCE_PASSWORD: ")
        assert "check both" in told["source"].remedy
        assert told.status("source runs") is Status.SKIPPED

    async def test_credentials_from_port(self, bridged: Place, source: SourceKafka, unique: str) -> None:
        source.add_topic(unique)
        given = KafkaCredentials(
            brokers=[source.bootstrap], username=source.username, password=SecretStr(source.password)
        )
        told = await bridged.check(given, source_brokers="port", source_username="", source_password="")
        assert unwell(told) == {}
        told = await bridged.check(None, source_brokers="port")
        assert unwell(told) == {"source": Status.SKIPPED, "source runs": Status.SKIPPED}

    async def test_a_group_that_port_refuses(self, bridged: Place, source: SourceKafka, unique: str) -> None:
        source.add_topic(unique)
        told = await bridged.check(consumer_group=f"mine-{unique}")
        assert unwell(told) == {"source group": Status.WRONG, "source runs": Status.SKIPPED}
        assert "GROUP_AUTHORIZATION_FAILED" in told["source group"].found
        for name in ("CONSUMER_GROUP", f"begin it with {unique}.", source.username):
            assert name in told["source group"].remedy

    async def test_a_topic_that_is_missing(self, bridged: Place, source: SourceKafka, unique: str) -> None:
        told = await bridged.check()
        assert unwell(told) == {"source runs": Status.WRONG}
        assert told["source runs"].found == f"topic {unique}.runs is not there, or {source.username} may not see it"
        assert "PORT_ORG_ID" in told["source runs"].remedy

    async def test_a_topic_that_may_be_seen_and_not_read(
        self, kafka: EmbeddedKafka, source: SourceKafka, unique: str
    ) -> None:
        topic = source.add_topic(unique)
        source.publish(unique, [b"1"])
        rights = [Right(Resource.TOPIC, topic, Operation.DESCRIBE), Right(Resource.GROUP, f"{unique}.", prefix=True)]
        allow(source.admin_bootstrap, source.username, rights)
        told = await Place(kafka, unique, source).check()
        assert unwell(told) == {"source runs": Status.WRONG}
        assert "TOPIC_AUTHORIZATION_FAILED" in told["source runs"].found
        assert "Read" in told["source runs"].remedy

    async def test_the_own_cluster_by_another_name(self, place: Place, kafka: EmbeddedKafka) -> None:
        other = kafka.bootstrap.replace("127.0.0.1", "localhost")
        told = await place.check(source_brokers=other, source_security_protocol="PLAINTEXT")
        assert told.status("source cluster") is Status.WRONG
        assert "one cluster" in told["source cluster"].found
        assert "leave SOURCE_BROKERS empty" in told["source cluster"].remedy


@asynccontextmanager
async def misnaming(kafka: EmbeddedKafka, named: int) -> AsyncIterator[int]:
    """A relay before a broker that has it say that it listens at the port `named`, as wrong advertised.listeners do."""
    host, _, port = kafka.bootstrap.rpartition(":")
    real, false = struct.pack(">i", int(port)), struct.pack(">i", named)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection(host, int(port))

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                target.write(data.replace(real, false))
            target.close()

        await asyncio.gather(copy(reader, to_writer), copy(to_reader, writer), return_exceptions=True)

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_brokers_that_name_addresses_which_nobody_reaches(place: Place, kafka: EmbeddedKafka) -> None:
    closed = free_port()
    async with misnaming(kafka, closed) as port:
        told = await place.check(kafka_brokers=f"127.0.0.1:{port}")
    assert told.status("kafka") is Status.WRONG
    assert f"nothing listens at 127.0.0.1:{closed}" in told["kafka"].found
    assert "advertised.listeners" in told["kafka"].remedy
