"""The HTTP calls of the demo: to the emulator's own interface, and to the worker's readiness."""

import http.client
from datetime import datetime
from typing import Annotated

import orjson
from pydantic import BaseModel, Field, JsonValue

from local.demo.errors import DemoError
from local.kafka.net import LOOPBACK
from streams.messages import event_type

_SECONDS = 30.0


class Message(BaseModel):
    """What was published on Kafka."""

    context: dict[str, JsonValue] = {}
    payload: JsonValue = None


class Place(BaseModel):
    """A message and where it stands."""

    message: Message


class Published(BaseModel):
    """A node run that was started, and its messages."""

    node_run_id: Annotated[str, Field(alias="nodeRunId")]
    messages: list[Place]

    @property
    def node(self) -> str:
        """The identifier of the action node."""
        return str(self.messages[0].message.context.get("nodeIdentifier", "-"))

    @property
    def event_types(self) -> list[str]:
        """What its items are about, each named once."""
        payloads = [place.message.payload for place in self.messages]
        items = [item for payload in payloads for item in (payload if isinstance(payload, list) else [payload])]
        return list(dict.fromkeys(event_type(item) or "-" for item in items if isinstance(item, dict)))


class NodeRun(BaseModel):
    """What Port knows of a node run."""

    status: str
    result: str | None
    created_at: Annotated[datetime, Field(alias="createdAt")]
    completed_at: Annotated[datetime | None, Field(alias="completedAt")]

    @property
    def milliseconds(self) -> int | None:
        """From the start of the node run to its completion."""
        if self.completed_at is None:
            return None
        return round((self.completed_at - self.created_at).total_seconds() * 1000)


class _Shown(BaseModel):
    node_run: Annotated[NodeRun, Field(alias="nodeRun")]


def is_ok(port: int, path: str) -> bool:
    """Return whether a GET is answered with 200 now."""
    try:
        return _call(port, "GET", path, timeout=2.0)[0] == http.client.OK
    except (OSError, http.client.HTTPException):
        return False


def publish(port: int, example: dict[str, JsonValue]) -> Published:
    """Start a node run in the emulator. Raises DemoError with the emulator's reason."""
    return Published.model_validate_json(_asked(port, "POST", "/emulator/node-runs", orjson.dumps(example)))


def node_run(port: int, node_run_id: str) -> NodeRun:
    """Ask the emulator for a node run."""
    return _Shown.model_validate_json(_asked(port, "GET", f"/emulator/node-runs/{node_run_id}")).node_run


def _asked(port: int, method: str, path: str, body: bytes | None = None) -> bytes:
    try:
        status, answer = _call(port, method, path, body, timeout=_SECONDS)
    except (OSError, http.client.HTTPException) as error:
        raise DemoError(
            f"The Port emulator did not answer to {method} {path}: {error or type(error).__name__}"
        ) from error
    if status != http.client.OK:
        raise DemoError(f"The Port emulator refused {method} {path} ({status}): {answer.decode('utf-8', 'replace')}")
    return answer


def _call(port: int, method: str, path: str, body: bytes | None = None, *, timeout: float) -> tuple[int, bytes]:
    # http.client and not urllib: a proxy named in the environment has no part in this.
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=timeout)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
