"""Where a group begins: on a real Kafka."""

from datetime import UTC, datetime

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from local.kafka import EmbeddedKafka
from streams.beginning import begin, first_offsets, partitions_of
from streams.settings import Start

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def seconds_after_noon(seconds: float) -> int:
    """Kafka's timestamp, in milliseconds."""
    return int((NOON.timestamp() + seconds) * 1000)


class Topic:
    """A topic with two partitions and five records: two before noon, three in and after it."""

    def __init__(self, bootstrap: str, name: str) -> None:
        self.client: dict[str, object] = {"bootstrap_servers": bootstrap}
        self.name = name
        self.group = f"{name}.group"

    async def fill(self) -> None:
        admin = AIOKafkaAdminClient(**self.client)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(self.name, 2, 1)])
        finally:
            await admin.close()
        async with AIOKafkaProducer(**self.client) as producer:
            for partition, at in [(0, -2), (0, -1), (0, 0), (0, 1), (1, 2)]:
                await producer.send_and_wait(self.name, b"x", partition=partition, timestamp_ms=seconds_after_noon(at))

    async def add(self) -> None:
        async with AIOKafkaProducer(**self.client) as producer:
            await producer.send_and_wait(self.name, b"x", partition=0)

    async def committed(self) -> list[int | None]:
        async with AIOKafkaConsumer(group_id=self.group, enable_auto_commit=False, **self.client) as consumer:
            return [await consumer.committed(TopicPartition(self.name, number)) for number in (0, 1)]

    async def begin(self, start: Start) -> None:
        await begin(self.client, self.group, self.name, start)


@pytest.fixture
async def topic(kafka: EmbeddedKafka, unique: str) -> Topic:
    made = Topic(kafka.bootstrap, f"{unique}.runs")
    await made.fill()
    return made


class TestBegin:
    @pytest.mark.parametrize(
        ("start", "offsets"),
        [("earliest", [None, None]), ("latest", [4, 1]), (NOON, [2, 0]), (NOON.replace(year=2030), [4, 1])],
    )
    async def test_a_group_without_offsets_begins_where_it_is_told(
        self, topic: Topic, start: Start, offsets: list[int | None]
    ) -> None:
        await topic.begin(start)
        assert await topic.committed() == offsets

    async def test_a_group_begins_once(self, topic: Topic) -> None:
        await topic.begin("latest")
        await topic.add()
        await topic.begin("latest")
        assert await topic.committed() == [4, 1]

    async def test_a_group_with_one_offset_has_begun(self, topic: Topic) -> None:
        async with AIOKafkaConsumer(group_id=topic.group, enable_auto_commit=False, **topic.client) as consumer:
            consumer.assign([TopicPartition(topic.name, 1)])
            await consumer.commit({TopicPartition(topic.name, 1): 1})
        await topic.begin("latest")
        assert await topic.committed() == [None, 1]

    async def test_a_group_that_has_a_member_is_left_alone(self, topic: Topic) -> None:
        member = AIOKafkaConsumer(topic.name, group_id=topic.group, enable_auto_commit=False, **topic.client)
        async with member:
            await member.getmany(timeout_ms=100)
            await topic.begin("latest")
            assert await topic.committed() == [None, None]

    async def test_a_topic_that_is_not_there_is_not_made(self, topic: Topic) -> None:
        await begin(topic.client, topic.group, f"{topic.name}.missing", "latest")
        async with AIOKafkaConsumer(**topic.client) as consumer:
            assert await partitions_of(consumer, f"{topic.name}.missing") == []


async def test_the_first_offsets_of_an_earliest_start_are_those_of_the_records_that_are_there(topic: Topic) -> None:
    async with AIOKafkaConsumer(**topic.client) as consumer:
        partitions = await partitions_of(consumer, topic.name)
        assert await first_offsets(consumer, partitions, "earliest") == dict.fromkeys(partitions, 0)
        assert await first_offsets(consumer, [], "latest") == {}
