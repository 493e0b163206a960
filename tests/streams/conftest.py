"""Settings that depend on nothing of the developer's machine, and topics on the real Kafka."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from local.kafka import EmbeddedKafka
from streams.settings import Settings

# A loaded machine is slow, and no bug.
unhurried = hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

NewTopicOnKafka = Callable[..., Awaitable[str]]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Nothing of the settings in the environment, and an empty working directory: there is no `.env`."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return monkeypatch


@pytest.fixture
async def admin(kafka: EmbeddedKafka) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await client.start()
    yield client
    await client.close()


@pytest.fixture
async def producer(kafka: EmbeddedKafka) -> AsyncIterator[AIOKafkaProducer]:
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as client:
        yield client


@pytest.fixture
async def new_topic(admin: AIOKafkaAdminClient, unique: str) -> NewTopicOnKafka:
    """Creates a topic of this test alone and returns its full name."""

    async def create(name: str, partitions: int = 1, config: Mapping[str, str] | None = None) -> str:
        full = f"{unique}.{name}"
        answer = await admin.create_topics([NewTopic(full, partitions, 1, topic_configs=dict(config or {}))])
        assert [code for _, code, *_ in answer.topic_errors] == [0]
        while full not in await admin.list_topics():
            pass  # the broker learns of it a moment after the controller
        return full

    return create
