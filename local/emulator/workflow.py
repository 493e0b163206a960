"""The workflow side: an action node and its input become a message on `<orgId>.runs`, as a Port workflow makes it."""

import asyncio
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import orjson
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, TopicAlreadyExistsError, for_code
from pydantic import BaseModel, ConfigDict, Field, JsonValue, SecretStr

from local.emulator.state import NodeRunSpec, iso
from port.nodes import ActionNode
from port.render import render
from port.signature import sign

_RENDER_SECONDS: Final = 10.0
_KAFKA_MILLISECONDS: Final = 15_000
_LARGEST_MESSAGE: Final = 64 * 1024 * 1024

Message = dict[str, JsonValue]


class PublishError(Exception):
    """A message could not be published. `status` is the HTTP status that says so."""

    def __init__(self, message: str, status: int = 503) -> None:
        super().__init__(message)
        self.status = status


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
    form: Literal["context", "headers"] = "context"
    """Which of the two known forms of the message; `headers` is signed."""
    split: bool = False
    """One message per element of an array payload."""


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


async def render_messages(request: PublishRequest, spec: NodeRunSpec, secret: SecretStr) -> tuple[Message, ...]:
    """The messages of one node run, rendered and wrapped. Raises RenderError; PublishError (422) for a bad split."""
    payload = await render(request.node.config.payload, _inputs(request, spec), time_limit=_RENDER_SECONDS)
    payloads = [payload]
    if request.split:
        if not isinstance(payload, list) or not payload:
            raise PublishError("split needs a payload that is an array with at least one element", 422)
        payloads = payload
    return tuple(_wrapped(one, request.form, spec, secret) for one in payloads)


def _inputs(request: PublishRequest, spec: NodeRunSpec) -> dict[str, JsonValue]:
    """What jq sees as `.` (Port documentation: "Kafka action node", and the data that templates can read)."""
    now = iso(time.time())
    trigger: Message = {
        "identifier": "trigger",
        "by": {"email": "developer@example.com", "firstName": "Dana", "lastName": "Developer"},
    }
    return {
        "outputs": {**request.outputs, "trigger": request.trigger},
        "secrets": dict(request.secrets),
        "workflow": {"identifier": spec.workflow_identifier, "versionIdentifier": "1"},
        "workflowRun": {"identifier": spec.workflow_run_id, "createdAt": now, "trigger": trigger},
        "workflowNodeRun": {"identifier": spec.node_run_id, "createdAt": now},
    }


def _wrapped(payload: JsonValue, form: str, spec: NodeRunSpec, secret: SecretStr) -> Message:
    if form == "headers":
        message: Message = {"headers": {}, "context": {"runId": spec.node_run_id}, "payload": payload}
        return sign(message, str(int(time.time())), secret)
    context: Message = {
        "workflowRunId": spec.workflow_run_id,
        "nodeRunId": spec.node_run_id,
        "workflowIdentifier": spec.workflow_identifier,
        "nodeIdentifier": spec.node_identifier,
    }
    return {"context": context, "payload": payload}


class Publisher:
    """Publishes on one topic; connects at the first message, so that Kafka may start after the emulator.

    With `partitions` the topic is created where it is missing; Port's own topic is always there.
    """

    def __init__(self, brokers: str, topic: str, partitions: int | None = None) -> None:
        self._brokers = brokers
        self._topic = topic
        self._partitions = partitions
        self._producer: AIOKafkaProducer | None = None
        self._connecting = asyncio.Lock()

    async def publish(self, key: str, messages: Sequence[Message]) -> tuple[Place, ...]:
        """Publish the messages in order, acknowledged by all replicas. Raises PublishError."""
        try:
            producer = await self._connected()
            places = []
            for message in messages:
                sent = await producer.send_and_wait(self._topic, orjson.dumps(message), key=key.encode())
                places.append(Place(sent.partition, sent.offset))
        except MessageSizeTooLargeError as error:
            raise PublishError("the message is larger than the topic allows", 413) from error
        except (KafkaError, OSError) as error:
            raise PublishError(f"Kafka at {self._brokers}: {type(error).__name__}: {error}") from error
        return tuple(places)

    async def close(self) -> None:
        """Close the connection."""
        if self._producer is not None:
            await self._producer.stop()

    async def _connected(self) -> AIOKafkaProducer:
        async with self._connecting:
            if self._producer is None:
                self._producer = await self._connect()
            return self._producer

    async def _connect(self) -> AIOKafkaProducer:
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
