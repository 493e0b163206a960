"""What the broker says of a group, asked about plain consumers on the real Kafka."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from aiokafka import AIOKafkaConsumer

from local.kafka import EmbeddedKafka
from streams.membership import Group
from tests.streams.conftest import NewTopicOnKafka

Join = Callable[..., Awaitable[AIOKafkaConsumer]]
Ask = Callable[..., Awaitable[frozenset[str] | None]]


@pytest.fixture
async def join(kafka: EmbeddedKafka, unique: str) -> AsyncIterator[Join]:
    """Lets a consumer of these topics join the group."""
    async with AsyncExitStack() as members:

        async def one(*topics: str) -> AIOKafkaConsumer:
            consumer = AIOKafkaConsumer(
                *topics, bootstrap_servers=kafka.bootstrap, group_id=unique, heartbeat_interval_ms=200
            )
            return await members.enter_async_context(consumer)

        yield one


@pytest.fixture
async def ask(kafka: EmbeddedKafka, unique: str) -> AsyncIterator[Ask]:
    """Asks which of these topics no member of the group reads."""
    async with AsyncExitStack() as groups:

        async def unassigned(*topics: str) -> frozenset[str] | None:
            group = Group(unique, {"bootstrap_servers": kafka.bootstrap}, frozenset(topics))
            await group.start()
            groups.push_async_callback(group.stop)
            return await group.unassigned()

        yield unassigned


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asks only a few times."""
    monkeypatch.setattr("streams.membership._TRIES", 3)
    monkeypatch.setattr("streams.membership._PAUSE_SECONDS", 0.05)


async def test_all_topics_are_read(new_topic: NewTopicOnKafka, join: Join, ask: Ask) -> None:
    one, two = await new_topic("one", partitions=3), await new_topic("two")
    await join(one, two)
    assert await ask(one, two) is None


async def test_the_topics_that_nobody_reads_are_named(new_topic: NewTopicOnKafka, join: Join, ask: Ask) -> None:
    one, two, three = await new_topic("one"), await new_topic("two"), await new_topic("three")
    await join(one)
    assert await ask(one, two, three) == frozenset({two, three})


async def test_it_is_enough_that_some_member_reads_a_topic(new_topic: NewTopicOnKafka, join: Join, ask: Ask) -> None:
    one, two = await new_topic("one", partitions=2), await new_topic("two")
    await asyncio.gather(join(one), join(two), join(one))
    assert await ask(one, two) is None
    assert await ask(one, two, "another") == frozenset({"another"})


async def test_a_topic_that_came_after_the_subscription(new_topic: NewTopicOnKafka, join: Join, ask: Ask) -> None:
    one = await new_topic("one")
    await join(one)
    two = await new_topic("two")
    assert await ask(one, two) == frozenset({two})


async def test_a_rebalance_is_waited_out(new_topic: NewTopicOnKafka, join: Join, ask: Ask) -> None:
    one, two = await new_topic("one", partitions=4), await new_topic("two", partitions=4)
    await join(one, two)
    joining = asyncio.gather(*(join(one, two) for _ in range(3)))
    assert await ask(one, two) is None
    await joining


@pytest.mark.usefixtures("impatient")
async def test_of_a_group_that_is_unknown_nothing_is_said(ask: Ask) -> None:
    assert await ask("topic") is None


@pytest.mark.usefixtures("impatient")
async def test_of_a_group_that_all_have_left_nothing_is_said(new_topic: NewTopicOnKafka, join: Join, ask: Ask) -> None:
    one = await new_topic("one")
    await (await join(one)).stop()
    assert await ask(one, "another") is None


async def test_the_living_are_named_by_their_client_ids(
    kafka: EmbeddedKafka, unique: str, new_topic: NewTopicOnKafka
) -> None:
    topic = await new_topic("one")
    group = Group(unique, {"bootstrap_servers": kafka.bootstrap}, frozenset({topic}))
    await group.start()
    options = {"bootstrap_servers": kafka.bootstrap, "group_id": unique, "heartbeat_interval_ms": 200}
    try:
        assert not await group.alive(), "nobody has joined"
        async with AIOKafkaConsumer(topic, client_id="first", **options):
            assert await _stable(group) == {"first"}
            # It has no partition, and lives all the same.
            async with AIOKafkaConsumer(topic, client_id="second", **options):
                assert await _stable(group) == {"first", "second"}
            assert await _stable(group) == {"first"}
    finally:
        await group.stop()


async def _stable(group: Group) -> frozenset[str]:
    async with asyncio.timeout(30):
        while True:
            alive = await group.alive()
            if alive is not None:
                return alive


async def test_it_is_built_without_a_running_loop_and_connects_at_its_start(kafka: EmbeddedKafka, unique: str) -> None:
    group = await asyncio.to_thread(Group, unique, {"bootstrap_servers": kafka.bootstrap}, frozenset({"topic"}))
    with pytest.raises(RuntimeError, match=r"Group\.start was not called"):
        await group.unassigned()
    await group.stop()
    await group.start()
    await group.stop()


async def test_a_cluster_that_is_away_says_nothing(
    kafka: EmbeddedKafka, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="streams.membership")
    options = {"bootstrap_servers": kafka.bootstrap, "request_timeout_ms": 500}
    group = Group(unique, options, frozenset({"topic"}))
    await group.start()
    kafka.pause()
    try:
        assert await group.unassigned() is None
        assert await group.alive() is None
    finally:
        kafka.resume()
        await group.stop()
    assert any(message.startswith("the group cannot be described now") for message in caplog.messages)
