"""What stands in for Port's Kafka: a secured broker on which a customer may read its own topics and nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

import trustme
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.conn import create_conn
from aiokafka.errors import SaslAuthenticationFailed
from cryptography.hazmat.primitives import serialization
from pydantic import SecretStr

from local.kafka import EmbeddedKafka, Security
from local.kafka.access import Resource, Right, allow, set_password
from streams.cluster import Cluster, Mechanism, SecurityProtocol

PLAIN_USER: Final = "plain-customer"
PLAIN_PASSWORD: Final = "plain-pa55word"
CA_FILE: Final = "ca.pem"
T = TypeVar("T")


def secured_kafka(folder: Path) -> EmbeddedKafka:
    """Return a broker, not yet started, whose certificate, for 127.0.0.1 alone, is signed by the CA in `ca.pem`."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(folder / CA_FILE)
    issued = ca.issue_cert("127.0.0.1")
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    certificate = folder / "broker.pem"
    certificate.write_bytes(
        # Kafka reads no other form of a key.
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + b"".join(part.bytes() for part in issued.cert_chain_pems)
    )
    return EmbeddedKafka(folder / "kafka", security=Security(certificate, {PLAIN_USER: PLAIN_PASSWORD}))


class SourceKafka:
    """Port's Kafka as one customer meets it.

    The customer has a user of its own, and no rights before `allow`; what the methods here do they do as Port, by the
    plain listener. They all block and can be called from a running event loop. The broker is shared with other tests:
    `restore` has it run again.
    """

    def __init__(self, broker: EmbeddedKafka, username: str) -> None:
        self.broker = broker
        self.username = username
        self.password = ""
        self.ca_file = broker.data_dir.parent / CA_FILE
        self.rotate(f"pa55word-of-{username}")

    @property
    def bootstrap(self) -> str:
        """The address for SASL_PLAINTEXT: SCRAM-SHA-512, SCRAM-SHA-256, and PLAIN for `PLAIN_USER`."""
        return self.broker.secured(SecurityProtocol.SASL_PLAINTEXT)

    @property
    def tls_bootstrap(self) -> str:
        """The address for SASL_SSL with SCRAM-SHA-512, as Port's Kafka has it."""
        return self.broker.secured(SecurityProtocol.SASL_SSL)

    @property
    def admin_bootstrap(self) -> str:
        """The plain address, whose clients may do everything."""
        return self.broker.bootstrap

    def cluster(
        self,
        protocol: SecurityProtocol = SecurityProtocol.SASL_PLAINTEXT,
        *,
        mechanism: Mechanism = "SCRAM-SHA-512",
        username: str | None = None,
        password: str | None = None,
    ) -> Cluster:
        """Return how the customer connects."""
        return Cluster(
            "SOURCE",
            (self.tls_bootstrap if protocol.tls else self.bootstrap,),
            protocol,
            mechanism,
            self.username if username is None else username,
            SecretStr(self.password if password is None else password),
            self.ca_file if protocol.tls else None,
        )

    def settings(self, protocol: SecurityProtocol = SecurityProtocol.SASL_PLAINTEXT) -> dict[str, str]:
        """Return the settings of a worker whose source this is."""
        cluster = self.cluster(protocol)
        settings = {
            "SOURCE_BROKERS": ",".join(cluster.brokers),
            "SOURCE_SECURITY_PROTOCOL": protocol.value,
            "SOURCE_SASL_MECHANISM": cluster.mechanism,
            "SOURCE_USERNAME": self.username,
            "SOURCE_PASSWORD": self.password,
        }
        return settings | ({"SOURCE_CA_FILE": str(cluster.ca_file)} if cluster.ca_file else {})

    def add_topic(self, org: str, partitions: int = 1, config: Mapping[str, str] | None = None) -> str:
        """Create `<org>.runs`, and return its name."""
        topic = f"{org}.runs"
        _apart(_create(self.admin_bootstrap, NewTopic(topic, partitions, 1, topic_configs=dict(config or {}))))
        return topic

    def allow(self, org: str) -> None:
        """Give the customer the rights of an organization, as Port does: read its topics, with groups of its names."""
        topics = [Right(Resource.TOPIC, f"{org}.runs"), Right(Resource.TOPIC, f"{org}.change.log")]
        groups = [Right(Resource.GROUP, f"{org}.", prefix=True), Right(Resource.GROUP, self.username)]
        allow(self.admin_bootstrap, self.username, topics + groups)

    def rotate(self, password: str) -> None:
        """Give the customer another password, and return when it is the one that counts.

        As with any Kafka, connections that are open stay open.
        """
        set_password(self.admin_bootstrap, self.username, password)
        self.password = password
        _apart(_log_in(self.cluster()))

    def publish(
        self,
        org: str,
        values: Iterable[bytes | None],
        *,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes | None]] = (),
        timestamp_ms: int | None = None,
        partition: int | None = None,
    ) -> None:
        """Publish these messages on `<org>.runs`, in order, and return when they are there."""
        _apart(_send(self.admin_bootstrap, f"{org}.runs", list(values), partition, timestamp_ms, key, list(headers)))

    def committed(self, group: str) -> dict[tuple[str, int], int]:
        """Return the group's committed offsets, by topic and partition."""
        return _apart(_committed(self.admin_bootstrap, group))

    def stop(self) -> None:
        """Shut the broker down."""
        self.broker.stop()

    def kill(self) -> None:
        """End the broker as a crash would."""
        self.broker.kill()

    def start(self) -> None:
        """Start the broker again, at the same addresses."""
        self.broker.start()

    def pause(self) -> None:
        """Have the broker hold its connections and answer nothing."""
        self.broker.pause()

    def resume(self) -> None:
        """Let a paused broker go on."""
        self.broker.resume()

    def restore(self) -> None:
        """Have the broker run, whatever was done to it."""
        if self.broker.running:
            self.broker.resume()
        else:
            self.broker.start()


def _apart(work: Coroutine[Any, Any, T]) -> T:
    """Run it to its end in another event loop; one may be running in this thread."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


async def _create(bootstrap: str, topic: NewTopic) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        answer = await admin.create_topics([topic])
        assert [code for _, code, *_ in answer.topic_errors] == [0]
        while topic.name not in await admin.list_topics():
            pass  # the broker learns of it a moment after the controller
    finally:
        await admin.close()


async def _send(
    bootstrap: str,
    topic: str,
    values: list[bytes | None],
    partition: int | None,
    timestamp_ms: int | None,
    key: bytes | None,
    headers: list[tuple[str, bytes | None]],
) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, max_request_size=4 * 1024 * 1024) as producer:
        sent = [await producer.send(topic, value, key, partition, timestamp_ms, headers) for value in values]
        await asyncio.gather(*sent)


async def _committed(bootstrap: str, group: str) -> dict[tuple[str, int], int]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        found = await admin.list_consumer_group_offsets(group)
        return {(where.topic, where.partition): offset.offset for where, offset in found.items()}
    finally:
        await admin.close()


async def _log_in(cluster: Cluster, within: float = 10.0) -> None:
    deadline = time.monotonic() + within
    host, _, port = cluster.brokers[0].rpartition(":")
    options = cluster.client()
    del options["bootstrap_servers"]
    while True:
        try:
            connection = await create_conn(host, int(port), **options)
        except SaslAuthenticationFailed:  # the broker learns of the password a moment after the controller
            if time.monotonic() > deadline:
                raise
        else:
            await connection.close()
            return
