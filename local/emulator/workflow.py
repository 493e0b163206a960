"""The workflow side: an action node and its input become a message on `<orgId>.runs`, as a Port workflow makes it."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import orjson
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)
from pydantic import BaseModel, ConfigDict, Field, JsonValue, SecretStr

from local.emulator.state import NodeRunSpec
from port.errors import NodeError
from port.nodes import ActionNode, Form, NodeExecution
from port.render import render
from port.signature import SIGNATURE_HEADER, TIMESTAMP_HEADER, signature_of

_RENDER_SECONDS: Final = 10.0
_CONNECT_SECONDS: Final = 5.0
_SEND_SECONDS: Final = 5.0
_KAFKA_MILLISECONDS: Final = 3_000
_STOP_SECONDS: Final = 0.5
_LARGEST_MESSAGE: Final = 64 * 1024 * 1024
# With these the broker says that it has not written the message.
_REFUSALS: Final = (
    InvalidTopicError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
)

logger = logging.getLogger(__name__)

Message = dict[str, JsonValue]


class PublishError(Exception):
    """A message could not be published. `status` is the HTTP status that says so.

    `kept` tells that a message of the node run stands on Kafka, or may stand there: the node run is kept then.
    """

    def __init__(self, message: str, status: int = 503, *, kept: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.kept = kept


class PublishRequest(BaseModel):
    """The body of `POST /emulator/node-runs`."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    node: ActionNode
    trigger: dict[str, JsonValue] = {}
    """What the trigger put out: `.outputs.trigger` of the templates."""
    outputs: dict[str, JsonValue] = {}
    """What earlier nodes put out, by node identifier."""
    secrets: dict[str, str] = {}
    workflow_identifier: Annotated[str, Field(alias="workflowIdentifier", min_length=1)] = "workflow"
    form: Form | None = None
    """Which of the known forms of the message; `headers` is signed. The emulator's own without it."""
    split: bool = False
    """One message per element of an array payload; where it stands at the root an array is split in any case."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a message stands on Kafka."""

    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Published:
    """A node run and its messages; `places` is empty where the emulator runs without Kafka."""

    workflow_run_id: str
    node_run_id: str
    messages: tuple[Message, ...]
    places: tuple[Place, ...]

    def to_json(self) -> dict[str, JsonValue]:
        """The answer to `POST /emulator/node-runs`; the fields of the first message stand at the top too."""
        messages: list[JsonValue] = []
        for index, message in enumerate(self.messages):
            place = self.places[index] if self.places else None
            messages.append(
                {
                    "message": message,
                    "partition": None if place is None else place.partition,
                    "offset": None if place is None else place.offset,
                }
            )
        first = messages[0]
        top = first if isinstance(first, dict) else {}
        return {"workflowRunId": self.workflow_run_id, "nodeRunId": self.node_run_id, **top, "messages": messages}


def new_spec(request: PublishRequest) -> NodeRunSpec:
    """A node run of its own in a workflow run of its own, for one request."""
    return NodeRunSpec(
        node_run_id=f"wfnr_{secrets.token_hex(12)}",
        workflow_run_id=f"wfr_{secrets.token_hex(12)}",
        node_identifier=request.node.identifier,
        workflow_identifier=request.workflow_identifier,
        on_failure=request.node.config.on_failure.value,
    )


async def render_messages(
    request: PublishRequest, spec: NodeRunSpec, secret: SecretStr, usual: Form = Form.CONTEXT
) -> tuple[Message, ...]:
    """The messages of one node run, rendered and wrapped. Raises RenderError; PublishError (422) for a bad split.

    `usual` is the form where the request names none.
    """
    form = request.form or usual
    execution = _execution(spec)
    inputs = execution.template_input(request.trigger, request.outputs, request.secrets)
    payload = await render(request.node.config.payload, inputs, time_limit=_RENDER_SECONDS)
    payloads = [payload]
    if request.split or (form.is_spread and isinstance(payload, list)):
        if not isinstance(payload, list) or not payload:
            raise PublishError("split needs a payload that is an array with at least one element", 422)
        payloads = payload
    try:
        return tuple(_wrapped(one, form, execution, secret) for one in payloads)
    except NodeError as error:
        raise PublishError(str(error), 422) from None


def _execution(spec: NodeRunSpec) -> NodeExecution:
    return NodeExecution(
        spec.node_run_id, spec.workflow_run_id, spec.workflow_identifier, spec.node_identifier, time.time()
    )


def _wrapped(payload: JsonValue, form: Form, execution: NodeExecution, secret: SecretStr) -> Message:
    message = execution.message(payload, form)
    if form is not Form.HEADERS:
        return message
    timestamp = str(int(time.time()))
    # Of the text that is written on Kafka.
    signature = signature_of(orjson.dumps(message), timestamp, secret)
    return {**message, "headers": {SIGNATURE_HEADER: signature, TIMESTAMP_HEADER: timestamp}}


class Publisher:
    """Publishes on one topic; connects at the first message, so that Kafka may start after the emulator.

    With `partitions` the topic is created where it is missing; Port's own topic is always there. Where Kafka is gone
    the producer is given up, since it would try for ever and log each try; the next message makes a new one.
    """

    def __init__(self, brokers: str, topic: str, partitions: int | None = None) -> None:
        self._brokers = brokers
        self._topic = topic
        self._partitions = partitions
        self._producer: AIOKafkaProducer | None = None
        self._connecting = asyncio.Lock()
        self._ending: set[asyncio.Task[None]] = set()
        self._is_out = False

    async def connect(self) -> None:
        """Make sure that Kafka answers, within seconds. Raises PublishError where it does not; nothing is written."""
        producer = None
        try:
            async with asyncio.timeout(_CONNECT_SECONDS), self._connecting:
                producer = self._producer
                if producer is None:
                    self._producer = await self._new_producer()
                else:  # a connection that stood may have gone
                    await producer.client.fetch_all_metadata()
        except (KafkaError, OSError) as error:  # TimeoutError is an OSError
            self._give_up(producer, error)
            raise PublishError(self._reason(error)) from error

    async def publish(self, key: str, messages: Sequence[Message]) -> tuple[Place, ...]:
        """Publish the messages in order, acknowledged by all replicas, each within seconds. Raises PublishError."""
        places: list[Place] = []
        for message in messages:
            try:
                places.append(await self._publish_one(key.encode(), orjson.dumps(message)))
            except PublishError as error:
                if not places:
                    raise
                raise PublishError(
                    f"{error}, after {len(places)} of {len(messages)}", error.status, kept=True
                ) from error
        self._note_success()
        return tuple(places)

    async def close(self) -> None:
        """Close the connection: waits half a second for what is under way, which ends within seconds at the latest."""
        self._end_producer()
        if self._ending:
            await asyncio.wait(self._ending, timeout=_STOP_SECONDS)

    async def _publish_one(self, key: bytes, value: bytes) -> Place:
        producer, sent = self._producer, False
        try:
            async with asyncio.timeout(_SEND_SECONDS):
                if producer is None:
                    raise KafkaError("the connection was closed")
                result = await producer.send(self._topic, value, key=key)
                sent = True
                written = await result
        except MessageSizeTooLargeError as error:
            raise PublishError("the message is larger than the topic allows", 413) from error
        except _REFUSALS as error:
            raise PublishError(self._reason(error)) from error
        except (KafkaError, OSError) as error:
            self._give_up(producer, error)
            raise PublishError(self._reason(error), kept=sent) from error
        return Place(written.partition, written.offset)

    def _reason(self, error: Exception) -> str:
        name = type(error).__name__
        if isinstance(error, TimeoutError):
            return f"Kafka at {self._brokers} did not answer in time"
        return f"Kafka at {self._brokers}: {str(error) if str(error).startswith(name) else f'{name}: {error}'}"

    def _give_up(self, producer: AIOKafkaProducer | None, error: Exception) -> None:
        if producer is self._producer:  # others may have made a new one meanwhile
            self._end_producer()
        if not self._is_out:
            self._is_out = True
            logger.error("%s; nothing is published until it is back", self._reason(error))

    def _note_success(self) -> None:
        if self._is_out:
            self._is_out = False
            logger.info("Kafka at %s is back", self._brokers)

    def _end_producer(self) -> None:
        """Stop the producer without waiting: what others still send with it gets to its end, or to its timeout."""
        if self._producer is not None:
            ending = asyncio.create_task(_stopped(self._producer))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
            self._producer = None

    async def _new_producer(self) -> AIOKafkaProducer:
        await self._require_topic()
        producer = AIOKafkaProducer(
            bootstrap_servers=self._brokers,
            acks="all",
            max_request_size=_LARGEST_MESSAGE,
            request_timeout_ms=_KAFKA_MILLISECONDS,
        )
        try:
            await producer.start()
        except BaseException:
            await producer.stop()
            raise
        return producer

    async def _require_topic(self) -> None:
        """Asked for beforehand: a producer waits in silence for a topic that is not there."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self._brokers, request_timeout_ms=_KAFKA_MILLISECONDS)
        try:
            await admin.start()
            if self._topic in await admin.list_topics():
                return
            if self._partitions is None:
                raise PublishError(f"the topic {self._topic} does not exist on {self._brokers}")
            answer = await admin.create_topics([NewTopic(self._topic, self._partitions, 1)])
        finally:
            await admin.close()
        for _topic, code, *_rest in answer.topic_errors:
            if code not in (0, TopicAlreadyExistsError.errno):
                raise for_code(code)


async def _stopped(producer: AIOKafkaProducer) -> None:
    """Stop a producer; where that is cut short, what it holds is closed all the same."""
    try:
        with contextlib.suppress(KafkaError, OSError):
            await producer.stop()
    finally:
        await producer.client.close()
