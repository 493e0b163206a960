"""Publishes what a Kafka action node would, on the own cluster: for trying handlers out."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Annotated, Final

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import ClusterAuthorizationFailedError, KafkaError
from pydantic import BaseModel, ConfigDict, Field, JsonValue, SecretStr, TypeAdapter, ValidationError

from port.errors import NodeError
from port.nodes import ActionNode, Form, NodeExecution
from port.render import render
from port.signature import SIGNATURE_HEADER, TIMESTAMP_HEADER, signature_of
from streams.cluster import Cluster
from streams.probe import ProbeError, probe
from streams.producers import IDEMPOTENCE_REMEDY, IDEMPOTENT, running
from streams.records import Audited, ItemCompleted, read
from streams.topics import MAX_RECORD_BYTES

_CONNECT_SECONDS: Final = 5.0
_KAFKA_MILLISECONDS: Final = 5_000
_WRITE_SECONDS: Final = 15.0


class SendingError(Exception):
    """It cannot be published; the text is one line that says why."""


class NodeFile(BaseModel):
    """What is to be run: a node, and what its templates read. The bodies in local/examples are such files."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    node: ActionNode
    trigger: dict[str, JsonValue] = {}
    """What the trigger put out."""
    outputs: dict[str, JsonValue] = {}
    """What earlier nodes put out, by their identifiers."""
    secrets: dict[str, str] = {}
    workflow_identifier: Annotated[str, Field(alias="workflowIdentifier", min_length=1)] = "workflow"


@dataclass(frozen=True)
class Sent:
    """Where a message stands."""

    topic: str
    partition: int
    offset: int | None
    """None where Kafka, asked a second time, only said that it has it."""

    @property
    def place(self) -> str:
        """Where it is, in words."""
        where = f"{self.topic}, partition {self.partition}"
        return where if self.offset is None else f"{where}, offset {self.offset}"


def read_node_file(raw: bytes) -> NodeFile:
    """Read a node, or a node with its input. Raises SendingError."""
    try:
        fields = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise SendingError(f"it is no JSON: {error}") from None
    if isinstance(fields, dict) and "config" in fields:
        fields = {"node": fields}
    try:
        return NodeFile.model_validate(fields)
    except ValidationError as wrong:
        first = wrong.errors(include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise SendingError(f"it is no Kafka action node: {place}: {first['msg']}") from None


def new_execution(file: NodeFile, ids: tuple[str, str] | None) -> NodeExecution:
    """Return a run of the node; `ids` are the node run's and the workflow run's, new ones without them."""
    node_run_id, run_id = ids or (f"wfnr_{secrets.token_hex(12)}", f"wfr_{secrets.token_hex(12)}")
    return NodeExecution(node_run_id, run_id, file.workflow_identifier, file.node.identifier, time.time())


async def message_of(file: NodeFile, execution: NodeExecution, form: Form = Form.CONTEXT) -> dict[str, JsonValue]:
    """Return the message with the payload rendered. Raises RenderError; SendingError where the form cannot hold it."""
    inputs = execution.template_input(file.trigger, file.outputs, file.secrets)
    payload = await render(file.node.config.payload, inputs)
    try:
        return execution.message(payload, form)
    except NodeError as error:
        raise SendingError(str(error)) from None


def signed(message: dict[str, JsonValue], secret: SecretStr) -> dict[str, JsonValue]:
    """Return the message with Port's signature, as of now."""
    message, timestamp = {"headers": {}, **message}, str(int(time.time()))
    # Of the text that is written on Kafka.
    signature = signature_of(orjson.dumps(message), timestamp, secret)
    return {**message, "headers": {SIGNATURE_HEADER: signature, TIMESTAMP_HEADER: timestamp}}


async def publish(cluster: Cluster, topic: str, key: str, message: dict[str, JsonValue]) -> Sent:
    """Publish a message; returns when all replicas have it. Raises SendingError."""
    return await append(cluster, topic, key, orjson.dumps(message))


async def append(cluster: Cluster, topic: str, key: str, value: bytes) -> Sent:
    """Write a record, likewise."""
    [sent] = await append_all(cluster, [(topic, key, value)])
    return sent


async def ask(cluster: Cluster, topic: str, audit: str, event: ItemCompleted, seconds: float) -> Audited | None:
    """Write what somebody asks for, and return what the workers' audit says came of it.

    Args:
        cluster: the own cluster.
        topic: that of the outcomes.
        audit: the audit's topic.
        event: the request; it has its action.
        seconds: how long to wait for a worker's word.

    Returns:
        None where no worker has said it in that time.

    Raises:
        SendingError: Kafka did not take it.
    """
    action = event.action.id if event.action is not None else ""
    async with AsyncExitStack() as left:
        try:
            await probe(cluster, timeout=_CONNECT_SECONDS)
            await _require(cluster, audit)
            consumer = AIOKafkaConsumer(
                audit, **cluster.client(), group_id=None, request_timeout_ms=_KAFKA_MILLISECONDS
            )
            left.push_async_callback(consumer.stop)
            await consumer.start()
            # Only what comes from now on is looked at.
            for place, end in (await consumer.end_offsets(consumer.assignment())).items():
                consumer.seek(place, end)
        except ProbeError as error:
            raise SendingError(str(error)) from None
        except (KafkaError, OSError) as error:
            raise SendingError(f"Kafka does not answer: {type(error).__name__}: {error}") from error
        await append(cluster, topic, event.node_run_id, event.encode())
        with suppress(TimeoutError, KafkaError):
            async with asyncio.timeout(seconds):
                while True:
                    record = await consumer.getone()
                    if record.key == action.encode():
                        return read(_AUDITED, record.value)
    return None


_AUDITED: Final = TypeAdapter(Audited)


async def append_all(cluster: Cluster, records: Sequence[tuple[str, str, bytes]]) -> list[Sent]:
    """Write records one after another, each with its topic, key and value; likewise."""
    try:
        await probe(cluster, timeout=_CONNECT_SECONDS)
        for topic in {topic for topic, _, _ in records}:
            await _require(cluster, topic)
        options = {**cluster.client(), **IDEMPOTENT, "max_request_size": MAX_RECORD_BYTES}
        async with (
            asyncio.timeout(_WRITE_SECONDS),
            running(AIOKafkaProducer(**options, request_timeout_ms=_KAFKA_MILLISECONDS)) as producer,
        ):
            written = [await producer.send_and_wait(topic, value, key=key.encode()) for topic, key, value in records]
    except ProbeError as error:
        raise SendingError(str(error)) from None
    except TimeoutError:
        unknown = "it may have it all the same: look before you send it again"
        raise SendingError(f"Kafka did not say within {_WRITE_SECONDS:g} s that it has it; {unknown}") from None
    except ClusterAuthorizationFailedError:
        raise SendingError(f"Kafka does not let this user write idempotently: {IDEMPOTENCE_REMEDY}") from None
    except (KafkaError, OSError) as error:
        raise SendingError(f"Kafka did not take it: {type(error).__name__}: {error}") from error
    return [Sent(one.topic, one.partition, one.offset if one.offset >= 0 else None) for one in written]


async def _require(cluster: Cluster, topic: str) -> None:
    """A topic that is asked for by name would be created by brokers that do so, in a shape that nobody chose."""
    admin = AIOKafkaAdminClient(**cluster.client(), request_timeout_ms=_KAFKA_MILLISECONDS)
    await admin.start()
    try:
        if topic not in await admin.list_topics():
            raise SendingError(f"topic {topic} is not on the own cluster: start a worker, which creates it")
    finally:
        await admin.close()
