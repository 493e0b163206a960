"""Our clients of Kafka: they know since when nobody answers, and find brokers whose addresses have changed."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError, NodeNotReadyError

from streams import clients
from streams.clients import Client, Contact, install
from tests.relayed_kafka import RelayedKafka, relayed_kafka

TOPIC = "t"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_broker_that_does_not_answer_is_known_from_when_it_was_asked() -> None:
    contact = Contact(clock := Clock())
    assert contact.silent_seconds() == 0
    with contact.asking(1):
        clock.now += 3
        assert contact.silent_seconds() == 3
    assert contact.silent_seconds() == 0
    with pytest.raises(NodeNotReadyError), contact.asking(1):
        clock.now += 2
        raise NodeNotReadyError
    clock.now += 1
    assert contact.silent_seconds() == 3
    with pytest.raises(OSError, match="again"), contact.asking(1):
        raise OSError("again")
    assert contact.silent_seconds() == 3
    with contact.asking(1):
        pass
    assert contact.silent_seconds() == 0


def test_one_broker_of_several_is_enough() -> None:
    contact = Contact(clock := Clock())
    contact.failed(1)
    clock.now += 5
    with contact.asking(2):
        pass
    assert contact.silent_seconds() == 5
    contact.answered(1)
    assert contact.silent_seconds() == 0


def test_a_broker_that_nobody_needs_any_more_is_not_missed() -> None:
    contact = Contact(clock := Clock())
    contact.failed(1)
    clock.now += 15
    contact.failed(1)
    clock.now += 15
    assert contact.silent_seconds() == 30
    clock.now += 10
    assert contact.silent_seconds() == 0


def test_who_waits_for_other_members_of_the_group_waits_for_no_broker() -> None:
    contact = Contact(clock := Clock())
    with contact.asking(1, waits=True):
        clock.now += 60
        assert contact.silent_seconds() == 0
        with pytest.raises(KafkaConnectionError), contact.asking(2):
            raise KafkaConnectionError
        assert contact.silent_seconds() == 0
        clock.now += 1
        assert contact.silent_seconds() == 1


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayedKafka]:
    with relayed_kafka(tmp_path_factory.mktemp("relayed")) as kafka:
        yield kafka


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    install()
    monkeypatch.setattr(clients, "REBOOTSTRAP_SECONDS", 1.0)
    monkeypatch.setattr(clients, "CONNECT_SECONDS", 2.0)
    monkeypatch.setattr(clients, "ANSWER_SECONDS", 2.0)
    monkeypatch.setattr(clients, "_LIMITS", dict.fromkeys(clients._LIMITS, 2.0))


async def test_they_find_a_broker_whose_address_has_changed(kafka: RelayedKafka) -> None:
    """Consumer, producer and admin client; the old address is dead, and by that of the bootstrap server it answers."""
    bootstrap = {"bootstrap_servers": kafka.bootstrap}
    admin = AIOKafkaAdminClient(**bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(TOPIC, 1, 1)])
    async with (
        AIOKafkaProducer(**bootstrap, enable_idempotence=True, request_timeout_ms=2_000_000_000) as producer,
        AIOKafkaConsumer(TOPIC, **bootstrap, group_id="g", auto_offset_reset="earliest") as consumer,
    ):
        await producer.send_and_wait(TOPIC, b"0", partition=0)
        assert (await consumer.getone()).value == b"0"
        await asyncio.to_thread(kafka.move)
        async with asyncio.timeout(60):
            await producer.send_and_wait(TOPIC, b"1", partition=0)
            assert (await consumer.getone()).value == b"1"
            await consumer.commit()
            await until(lambda: described(admin))
        assert producer.client.contact.silent_seconds() < 2
    await admin.close()


async def test_a_network_that_swallows_everything_is_noticed_and_outlived(kafka: RelayedKafka) -> None:
    options = {"bootstrap_servers": kafka.bootstrap, "request_timeout_ms": 2_000_000_000}
    async with AIOKafkaProducer(**options, enable_idempotence=True) as producer:
        await producer.send_and_wait(TOPIC, b"before", partition=0)
        kafka.relay.hold()
        sent = await producer.send(TOPIC, b"during", partition=0)
        client: Client = producer.client

        async def silent() -> bool:
            return client.contact.silent_seconds() > 3

        async with asyncio.timeout(60):
            await until(silent)
        assert not sent.done()
        kafka.relay.release()
        async with asyncio.timeout(60):
            first, second = (await sent).offset, (await producer.send_and_wait(TOPIC, b"after", partition=0)).offset
        assert second == first + 1, "nothing was written twice"
        assert client.contact.silent_seconds() < 3


async def described(admin: AIOKafkaAdminClient) -> bool:
    try:
        return bool(await admin.describe_topics([TOPIC]))
    except (NodeNotReadyError, KafkaConnectionError):
        return False


async def until(check: Callable[[], Awaitable[bool]]) -> None:
    found = False
    while not found:
        await asyncio.sleep(0.1)
        found = await check()
