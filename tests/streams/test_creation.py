"""The topics, made and checked on the real Kafka before anything reads them."""

import asyncio
import ssl
import time
from pathlib import Path

import pytest
import trustme
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from local.kafka import EmbeddedKafka, free_port
from streams.creation import ClusterAwayError, TopicsError, ensure_topics
from streams.settings import Settings
from streams.topics import Topics, topics_of
from tests.streams.conftest import NewTopicOnKafka

PARTITIONS = 3


def settings_on(bootstrap: str, org_id: str, **further: object) -> Settings:
    return Settings(
        port_org_id=org_id,
        port_client_id="x",
        port_client_secret="x",
        handlers=("my_handlers",),
        kafka_brokers=(bootstrap,),
        **({"partitions": PARTITIONS} | further),  # type: ignore[arg-type]
    )


@pytest.fixture
def settings(kafka: EmbeddedKafka, unique: str) -> Settings:
    return settings_on(kafka.bootstrap, unique)


@pytest.fixture
def topics(settings: Settings) -> Topics:
    return topics_of(settings)


async def partitions(admin: AIOKafkaAdminClient, topics: Topics) -> dict[str, int]:
    described = await admin.describe_topics([spec.name for spec in topics.all])
    return {topic["topic"]: len(topic["partitions"]) for topic in described if not topic["error_code"]}


async def config(admin: AIOKafkaAdminClient, topic: str) -> dict[str, str]:
    [answer] = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    [(_code, _text, _type, _name, entries)] = answer.resources
    return {name: value for name, value, *_ in entries}


def shape(topics: Topics, runs: int = PARTITIONS) -> dict[str, int]:
    return {spec.name: PARTITIONS for spec in topics.all} | {topics.runs.name: runs}


async def test_all_are_made_on_a_fresh_cluster(
    settings: Settings, topics: Topics, admin: AIOKafkaAdminClient, unique: str
) -> None:
    await ensure_topics(settings, topics)
    assert await partitions(admin, topics) == shape(topics)
    assert [spec.name for spec in topics.all] == [
        f"{unique}.runs",
        f"{unique}.port-runs.arrivals",
        f"{unique}.port-runs.outcomes",
        f"{unique}.port-runs.dead-letters",
        f"{unique}.port-runs.audit",
        f"{unique}.port-runs-ledger-changelog",
    ]
    for spec in topics.all:
        found = await config(admin, spec.name)
        assert found["max.message.bytes"] == str(4 * 1024 * 1024)
        assert found["cleanup.policy"] == ("compact" if spec is topics.changelog else "delete")


async def test_a_second_time_nothing_is_made(
    settings: Settings, topics: Topics, admin: AIOKafkaAdminClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="streams.creation")
    await ensure_topics(settings, topics)
    assert len(caplog.messages) == len(topics.all)
    caplog.clear()
    await ensure_topics(settings, topics)
    assert caplog.messages == []
    assert await partitions(admin, topics) == shape(topics)


async def test_two_workers_at_the_same_time(settings: Settings, topics: Topics, admin: AIOKafkaAdminClient) -> None:
    await asyncio.gather(*(ensure_topics(settings, topics) for _ in range(4)))
    assert await partitions(admin, topics) == shape(topics)


@pytest.mark.parametrize("count", [1, 5])
async def test_a_runs_topic_of_any_size_is_taken_as_it_is(
    settings: Settings, topics: Topics, admin: AIOKafkaAdminClient, new_topic: NewTopicOnKafka, count: int
) -> None:
    assert await new_topic("runs", partitions=count) == topics.runs.name
    await ensure_topics(settings, topics)
    assert await partitions(admin, topics) == shape(topics, runs=count)


@pytest.mark.parametrize("name", ["port-runs.arrivals", "port-runs.outcomes", "port-runs-ledger-changelog"])
async def test_another_number_of_partitions_is_refused_with_both_numbers(
    settings: Settings, topics: Topics, admin: AIOKafkaAdminClient, new_topic: NewTopicOnKafka, name: str
) -> None:
    topic = await new_topic(name, partitions=5)
    with pytest.raises(TopicsError) as raised:
        await ensure_topics(settings, topics)
    assert str(raised.value) == (
        f"topic {topic} has 5 partitions, PARTITIONS is 3; the number is fixed once topics exist: set PARTITIONS=5, "
        "or change it as docs/operations.md says"
    )
    assert await partitions(admin, topics) == {topic: 5}


async def test_a_replication_factor_that_the_cluster_cannot_give(kafka: EmbeddedKafka, unique: str) -> None:
    settings = settings_on(kafka.bootstrap, unique, replication_factor=3)
    with pytest.raises(
        TopicsError, match=rf"^topic {unique}\.\S+ could not be created: .*replication factor"
    ) as raised:
        await ensure_topics(settings, topics_of(settings))
    assert "\n" not in str(raised.value)


async def test_a_cluster_that_is_not_there() -> None:
    broker = f"127.0.0.1:{free_port()}"
    settings = settings_on(broker, "org")
    start = time.monotonic()
    with pytest.raises(TopicsError) as raised:
        await ensure_topics(settings, topics_of(settings), wait=1.5)
    assert 1.0 < time.monotonic() - start < 5.0
    assert str(raised.value) == (
        f"Kafka at {broker}: the topics were not ready within 1.5 seconds; "
        f"KAFKA_BROKERS: nothing listens at {broker} (Connection refused); check address and broker"
    )


async def test_a_cluster_that_accepts_and_says_nothing() -> None:
    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gone.wait()
        writer.close()

    gone = asyncio.Event()
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()
        settings = settings_on(f"{host}:{port}", "org")
        with pytest.raises(TopicsError, match=r"not ready within 1 seconds; KAFKA_BROKERS: \S+ did not answer in time"):
            await ensure_topics(settings, topics_of(settings), wait=1.0)
    finally:
        gone.set()
        server.close()
        await server.wait_closed()


async def test_a_cluster_that_comes_late_is_waited_for(
    kafka: EmbeddedKafka, settings: Settings, topics: Topics, admin: AIOKafkaAdminClient
) -> None:
    kafka.pause()
    try:
        making = asyncio.create_task(ensure_topics(settings, topics))
        done, _ = await asyncio.wait({making}, timeout=1.0)
        assert not done
    finally:
        kafka.resume()
    await making
    assert await partitions(admin, topics) == shape(topics)


class TestOnBrokersWithOtherDefaults:
    async def test_a_broker_that_makes_topics_by_itself_is_given_no_occasion(self, tmp_path: Path, unique: str) -> None:
        defaults = {"auto.create.topics.enable": "true", "num.partitions": "7"}
        with EmbeddedKafka(tmp_path, overrides=defaults) as kafka:
            settings = settings_on(kafka.bootstrap, unique)
            await ensure_topics(settings, topics_of(settings))
            admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
            await admin.start()
            try:
                assert await partitions(admin, topics_of(settings)) == shape(topics_of(settings))
            finally:
                await admin.close()

    async def test_the_replication_factor_is_the_brokers_default(self, tmp_path: Path, unique: str) -> None:
        # One broker can hold one replica: that it refuses shows what it was asked for.
        with EmbeddedKafka(tmp_path, overrides={"default.replication.factor": "2"}) as kafka:
            settings = settings_on(kafka.bootstrap, unique)
            with pytest.raises(TopicsError, match=r"could not be created: .*replication factor"):
                await ensure_topics(settings, topics_of(settings))
            one = settings_on(kafka.bootstrap, unique, replication_factor=1)
            await ensure_topics(one, topics_of(one))


async def test_what_no_waiting_mends_is_said_at_once(tmp_path: Path) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("elsewhere.example").configure_cert(context)
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0, ssl=context)
    try:
        host, port = server.sockets[0].getsockname()
        security = {"kafka_security_protocol": "SSL", "kafka_ca_file": tmp_path / "ca.pem"}
        settings = settings_on(f"{host}:{port}", "org", **security)
        with pytest.raises(TopicsError, match=r"KAFKA_BROKERS: the certificate of .* is for another host") as raised:
            # Long before it would give up.
            await asyncio.wait_for(ensure_topics(settings, topics_of(settings), wait=600.0), 60.0)
        assert not isinstance(raised.value, ClusterAwayError)
    finally:
        server.close()
