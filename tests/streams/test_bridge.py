"""The bridge from a broker that is secured like Port's to the own one; both are real."""

import asyncio
import gzip
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.structs import OffsetAndMetadata
from pydantic import SecretStr
from yarl import URL

from local.emulator import Emulator, EmulatorConfig
from local.kafka import EmbeddedKafka
from port.client import PortClient
from streams.bridge import SOURCE_HEADER, Bridge, copied_from
from streams.cluster import SecurityProtocol
from streams.creation import ensure_topics
from streams.incidents import Incidents
from streams.metrics import REGISTRY
from streams.settings import Settings
from streams.topics import topics_of
from tests.source_kafka import SourceKafka

WITHIN = 180.0
NOBODY = PortClient("http://127.0.0.1:1", "x", SecretStr("y"))
Record: TypeAlias = ConsumerRecord[bytes, bytes]
Make = Callable[..., Awaitable[Bridge]]


async def eventually(check: Callable[[], object], what: str) -> None:
    try:
        async with asyncio.timeout(WITHIN):
            while not check():  # noqa: ASYNC110 - nobody tells of it
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {WITHIN:g} s: {what}") from None


async def eventually_gone(admin: AIOKafkaAdminClient, topic: str) -> None:
    async with asyncio.timeout(WITHIN):
        while topic in await admin.list_topics():
            pass


class Place:
    """One organization: its source, its own cluster, and bridges between them."""

    def __init__(self, source: SourceKafka, kafka: EmbeddedKafka, org: str) -> None:
        self.source = source
        self.kafka = kafka
        self.org = org
        self.topic = f"{org}.runs"

    def settings(self, **more: str) -> Settings:
        given = self.source.settings() | {
            "PORT_ORG_ID": self.org,
            "PORT_CLIENT_ID": "client",
            "PORT_CLIENT_SECRET": "secret",
            "HANDLERS": "my_handlers",
            "KAFKA_BROKERS": self.kafka.bootstrap,
            "PARTITIONS": "2",
        }
        return Settings.model_validate({name.lower(): value for name, value in (given | more).items()})

    @asynccontextmanager
    async def bridge(self, port: PortClient = NOBODY, **more: str) -> AsyncIterator[Bridge]:
        settings = self.settings(**more)
        await ensure_topics(settings, topics_of(settings))
        made = Bridge(settings, self.topic, "a-worker", port, Incidents())
        await made.start()
        try:
            yield made
        finally:
            await made.stop()

    async def copies(self, number: int) -> list[Record]:
        """Return so many records of the own topic, in the order in which they stood at the source."""
        found: list[Record] = []
        async with AIOKafkaConsumer(
            self.topic,
            bootstrap_servers=self.kafka.bootstrap,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=64 * 1024 * 1024,
        ) as consumer:
            async with asyncio.timeout(WITHIN):
                while len(found) < number:
                    for records in (await consumer.getmany(timeout_ms=200)).values():
                        found += records
        return sorted(found, key=lambda record: source_of(record)["offset"])


def source_of(record: Record) -> dict[str, Any]:
    [value] = [value for name, value in record.headers if name == SOURCE_HEADER]
    found: dict[str, Any] = json.loads(value)
    return found


@pytest.fixture
def place(source: SourceKafka, kafka: EmbeddedKafka, unique: str) -> Place:
    return Place(source, kafka, unique)


@pytest.fixture
def port_s(place: Place) -> Place:
    """The same with its topic and the customer's rights."""
    place.source.add_topic(place.org)
    place.source.allow(place.org)
    return place


class TestCopies:
    async def test_records_come_as_they_are_and_say_where_they_stood(self, port_s: Place) -> None:
        values = [b'{"a": 1}', b"\xff\x00 no text", None, b"", "Grüße".encode()]
        port_s.source.publish(
            port_s.org, values, key=b"a-key", headers=[("trace", b"1"), ("none", None)], timestamp_ms=1_700_000_000_123
        )
        async with port_s.bridge():
            copies = await port_s.copies(len(values))
        assert [copy.value for copy in copies] == values
        for offset, copy in enumerate(copies):
            assert copy.key == b"a-key"
            assert list(copy.headers)[:2] == [("trace", b"1"), ("none", None)]
            assert source_of(copy) == {
                "cluster": port_s.source.bootstrap,
                "topic": port_s.topic,
                "partition": 0,
                "offset": offset,
                "timestamp": 1_700_000_000.123,
                "appended": False,
            }
            stood = copied_from(copy.headers)
            assert stood is not None
            assert stood.offset == offset
            # Of now: retention counts from it.
            assert copy.timestamp > 1_700_000_000_123

    async def test_what_is_copied_is_committed_and_nothing_comes_twice(self, port_s: Place) -> None:
        port_s.source.publish(port_s.org, [b"1", b"2", b"3"])
        group = f"{port_s.org}.port-runs"
        async with port_s.bridge():
            await port_s.copies(3)
            await eventually(lambda: port_s.source.committed(group) == {(port_s.topic, 0): 3}, "it is committed")
        port_s.source.publish(port_s.org, [b"4"])
        async with port_s.bridge() as bridge:
            assert [copy.value for copy in await port_s.copies(4)] == [b"1", b"2", b"3", b"4"]
            await eventually(lambda: bridge.status.lag == {0: 0}, "nothing is left")

    async def test_a_large_record_and_one_that_was_packed_small(self, port_s: Place) -> None:
        large = os.urandom(1_000_000)
        packed = b"x" * 12_000_000
        port_s.source.publish(port_s.org, [large])
        async with AIOKafkaProducer(
            bootstrap_servers=port_s.source.admin_bootstrap, compression_type="gzip", max_request_size=20_000_000
        ) as producer:
            await producer.send_and_wait(port_s.topic, packed)
        async with port_s.bridge():
            copies = await port_s.copies(2)
        assert copies[0].value == large
        assert copies[1].value == packed
        assert len(gzip.compress(packed)) < 1_000_000

    async def test_a_record_that_is_too_large_for_the_own_topic_holds_nothing_up(self, place: Place) -> None:
        place.source.add_topic(place.org, config={"max.message.bytes": "16000000"})
        place.source.allow(place.org)
        large = os.urandom(6_000_000)
        async with AIOKafkaProducer(
            bootstrap_servers=place.source.admin_bootstrap, max_request_size=16_000_000
        ) as producer:
            for value in (b"before", large, b"after"):
                await producer.send_and_wait(place.topic, value)
        async with place.bridge():
            copies = await place.copies(3)
        assert [copy.value for copy in copies] == [b"before", large[: len(copies[1].value)], b"after"]
        assert len(copies[1].value) > 2_000_000

    async def test_a_first_start_at_the_end_leaves_out_what_is_there(self, port_s: Place) -> None:
        port_s.source.publish(port_s.org, [b"old"])
        async with port_s.bridge(SOURCE_START="latest") as bridge:
            await eventually(lambda: bridge.status.connected, "it is connected")
            port_s.source.publish(port_s.org, [b"new"])
            assert [copy.value for copy in await port_s.copies(1)] == [b"new"]

    async def test_by_tls(self, port_s: Place) -> None:
        port_s.source.publish(port_s.org, [b"secret"])
        async with port_s.bridge(NOBODY, **port_s.source.settings(SecurityProtocol.SASL_SSL)):
            assert [copy.value for copy in await port_s.copies(1)] == [b"secret"]


class TestWaits:
    async def recovers(self, place: Place, bridge: Bridge) -> None:
        await eventually(lambda: bridge.status.connected, "it is connected")
        assert bridge.status.problem is None
        place.source.publish(place.org, [b"after"])
        assert (await place.copies(1))[-1].value == b"after"

    async def test_for_a_topic_that_is_missing(self, place: Place) -> None:
        place.source.allow(place.org)
        async with place.bridge() as bridge:
            await eventually(lambda: bridge.status.problem, "it says what is wrong")
            assert f"topic {place.topic} is not there" in str(bridge.status.problem)
            place.source.add_topic(place.org)
            await self.recovers(place, bridge)

    async def test_for_the_rights_on_the_topic(self, place: Place) -> None:
        place.source.add_topic(place.org)
        async with place.bridge() as bridge:
            await eventually(lambda: bridge.status.problem, "it says what is wrong")
            assert place.topic in str(bridge.status.problem)
            place.source.allow(place.org)
            await self.recovers(place, bridge)

    @pytest.mark.parametrize("start", ["earliest", "latest"])
    async def test_and_names_a_group_that_is_refused(self, port_s: Place, start: str) -> None:
        async with port_s.bridge(CONSUMER_GROUP="mine", SOURCE_START=start) as bridge:
            await eventually(lambda: bridge.status.problem, "it says what is wrong")
            assert (
                f"consumer group mine is refused: Port's Kafka wants CONSUMER_GROUP to begin with {port_s.org}."
                in str(bridge.status.problem)
            )
            assert not bridge.status.was_connected

    async def test_for_the_password_and_shows_it_nowhere(self, port_s: Place, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("DEBUG")
        async with port_s.bridge(SOURCE_PASSWORD="ano7her-pa55word") as bridge:
            await eventually(lambda: bridge.status.problem, "it says what is wrong")
            assert "SOURCE_USERNAME, SOURCE_PASSWORD" in str(bridge.status.problem)
            port_s.source.rotate("ano7her-pa55word")
            await self.recovers(port_s, bridge)
        assert "ano7her-pa55word" not in caplog.text

    async def test_and_does_not_copy_a_cluster_to_itself_by_another_listener(self, port_s: Place) -> None:
        own = {"KAFKA_BROKERS": port_s.source.admin_bootstrap}
        port_s.source.publish(port_s.org, [b"once"])
        async with port_s.bridge(NOBODY, **own) as bridge:
            await eventually(lambda: bridge.status.problem, "it says what is wrong")
            # It has made one copy, and by that it knows.
            assert f"{port_s.topic}[0] offset 1 is a copy by a bridge" in str(bridge.status.problem)
            assert "this is the cluster of KAFKA_BROKERS by another address" in str(bridge.status.problem)

    async def test_for_the_broker(self, port_s: Place) -> None:
        async with port_s.bridge() as bridge:
            await eventually(lambda: bridge.status.connected, "it is connected")
            port_s.source.stop()
            # What it says first may be that a request broke off.
            await eventually(lambda: "SOURCE_BROKERS" in str(bridge.status.problem), "it says what is wrong")
            assert bridge.status.was_connected
            port_s.source.start()
            await self.recovers(port_s, bridge)


class TestLogThatIsNotWhatItWas:
    """The log of the source went back, or lacks what was not read yet."""

    @asynccontextmanager
    async def admin(self, place: Place) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(bootstrap_servers=place.source.admin_bootstrap)
        await admin.start()
        try:
            yield admin
        finally:
            await admin.close()

    async def commit(self, place: Place, committed: OffsetAndMetadata) -> None:
        async with AIOKafkaConsumer(
            bootstrap_servers=place.source.admin_bootstrap, group_id=f"{place.org}.port-runs", enable_auto_commit=False
        ) as consumer:
            consumer.assign([TopicPartition(place.topic, 0)])
            await consumer.commit({TopicPartition(place.topic, 0): committed})

    async def copy(self, place: Place, values: list[bytes]) -> None:
        """Copy these and no more."""
        place.source.publish(place.org, values)
        group, there = f"{place.org}.port-runs", {(place.topic, 0): len(values)}
        async with place.bridge():
            await eventually(lambda: place.source.committed(group) == there, "it is committed")

    def count(self, place: Place, name: str) -> float | None:
        return REGISTRY.get_sample_value(f"port_runs_{name}_total", {"topic": f"{place.topic} at the source"})

    async def test_an_offset_behind_the_end(self, port_s: Place, caplog: pytest.LogCaptureFixture) -> None:
        port_s.source.publish(port_s.org, [b"1", b"2", b"3"])
        await self.commit(port_s, OffsetAndMetadata(50, ""))
        async with port_s.bridge():
            assert [copy.value for copy in await port_s.copies(3)] == [b"1", b"2", b"3"]
        assert self.count(port_s, "log_rewinds") == 1
        assert f"The log of {port_s.topic} at the source[0] went back: it was read up to offset 50" in caplog.text

    async def test_a_topic_of_an_older_or_another_life(self, port_s: Place) -> None:
        await self.copy(port_s, [b"old %d" % n for n in range(10)])
        new = [b"new %d" % n for n in range(12)]
        async with self.admin(port_s) as admin:
            committed = await admin.list_consumer_group_offsets(f"{port_s.org}.port-runs")
            await admin.delete_topics([port_s.topic])
            await eventually_gone(admin, port_s.topic)
        port_s.source.add_topic(port_s.org)
        port_s.source.publish(port_s.org, new)
        await self.commit(port_s, committed[TopicPartition(port_s.topic, 0)])
        async with port_s.bridge():
            assert {copy.value for copy in await port_s.copies(22)} >= set(new)
        assert self.count(port_s, "log_rewinds") == 1

    async def test_while_it_is_copied(self, port_s: Place) -> None:
        port_s.source.publish(port_s.org, [b"old %d" % n for n in range(10)])
        new = [b"new %d" % n for n in range(12)]
        async with port_s.bridge(), self.admin(port_s) as admin:
            await port_s.copies(10)
            await admin.delete_topics([port_s.topic])
            await eventually_gone(admin, port_s.topic)
            port_s.source.add_topic(port_s.org)
            port_s.source.publish(port_s.org, new)
            assert {copy.value for copy in await port_s.copies(22)} >= set(new)

    async def test_records_deleted_before_they_were_read(self, port_s: Place, caplog: pytest.LogCaptureFixture) -> None:
        await self.copy(port_s, [b"0", b"1"])
        port_s.source.publish(port_s.org, [b"2", b"3", b"4", b"5", b"6"])
        async with self.admin(port_s) as admin:
            await admin.delete_records({TopicPartition(port_s.topic, 0): RecordsToDelete(5)})
        async with port_s.bridge():
            assert [copy.value for copy in await port_s.copies(4)] == [b"0", b"1", b"5", b"6"]
        assert self.count(port_s, "deleted_records") == 3
        assert f"Up to 3 records of {port_s.topic} at the source[0] from offset 2 on were deleted" in caplog.text
        assert self.count(port_s, "log_rewinds") is None


class TestCredentialsOfPort:
    @asynccontextmanager
    async def port(self, place: Place, password: str, at: int = 0) -> AsyncIterator[Emulator]:
        config = EmulatorConfig(
            port=at,
            client_id="client",
            client_secret=SecretStr("secret"),
            kafka=place.source.bootstrap,
            kafka_username=place.source.username,
            kafka_password=SecretStr(password),
        )
        async with Emulator(config) as emulator:
            yield emulator

    async def test_they_are_asked_for_again_when_they_no_longer_count(self, port_s: Place) -> None:
        from_port = {"SOURCE_BROKERS": "port", "SOURCE_USERNAME": "", "SOURCE_PASSWORD": ""}
        async with (
            self.port(port_s, port_s.source.password) as emulator,
            PortClient(emulator.base_url, "client", SecretStr("secret")) as client,
            port_s.bridge(client, **from_port) as bridge,
        ):
            await eventually(lambda: bridge.status.connected, "it is connected")
            port_s.source.publish(port_s.org, [b"before"])
            [copy] = await port_s.copies(1)
            assert source_of(copy)["cluster"] == "port"
            port_s.source.rotate("a-new-pa55word")
            # Connections that are open stay open, so they have to end first.
            port_s.source.stop()
            port_s.source.start()
            await eventually(lambda: bridge.status.problem, "the old credentials are refused")
            await emulator.stop()
            async with self.port(port_s, "a-new-pa55word", URL(emulator.base_url).port or 0):
                await eventually(lambda: bridge.status.connected, "it is connected again")
                port_s.source.publish(port_s.org, [b"after"])
                assert [copy.value for copy in await port_s.copies(2)] == [b"before", b"after"]

    async def test_port_refuses_to_give_them(self, port_s: Place) -> None:
        async with (
            self.port(port_s, "x") as emulator,
            PortClient(emulator.base_url, "client", SecretStr("wrong")) as client,
            port_s.bridge(client, SOURCE_BROKERS="port") as bridge,
        ):
            await eventually(lambda: bridge.status.problem, "it says what is wrong")
            assert "Port's API does not give the credentials of its Kafka" in str(bridge.status.problem)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"cluster": 1}', b"\xff"])
def test_a_header_that_no_bridge_wrote_says_nothing(raw: bytes) -> None:
    assert copied_from([("other", b"x"), (SOURCE_HEADER, raw)]) is None
    assert copied_from([]) is None
