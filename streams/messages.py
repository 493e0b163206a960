"""What a message on `<orgId>.runs` is: decided here, once, for the whole application.

The topic is shared with other consumers of the organization. A message is *ours* when it carries a valid node-run id
and shows none of the marks of another consumer's message.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue
from pydantic_core import from_json

from port.ids import is_node_run_id, is_workflow_run_id

EVENT_TYPE_FIELDS: Final = ("eventType", "event", "action", "type")
MAX_KEPT_BYTES: Final = 1_900_000
"""A message above this is not kept: as JSON text inside a record it can double, and own topics take 4 MiB."""
MAX_ITEMS: Final = 10_000
"""The default of the setting of that name: the most items of a message that are handled."""
_TOO_LARGE: Final = f"the message is larger than can be kept ({MAX_KEPT_BYTES:,} bytes)"
_SHOWN_EVENT_TYPES: Final = 8
_SHOWN_CHARACTERS: Final = 200


class Foreign(StrEnum):
    """Why a message is left to other consumers."""

    NO_NODE_RUN_ID = "no node-run id"
    WEBHOOK_INVOCATION = "payload.action.invocationMethod"
    RESOURCE_TYPE = "resourceType"
    ACTION_RUN = "context.runId of an action run"
    CHANGE_LOG = "change-log event"
    NO_HANDLER = "no handler, and UNKNOWN_EVENTS=ignore"


@dataclass(frozen=True)
class NotOurs:
    """A decodable message for somebody else."""

    why: Foreign


@dataclass(frozen=True)
class Bad:
    """A message or record that cannot be read; `raw` are its bytes as they came."""

    raw: bytes | None
    reason: str


@dataclass(frozen=True)
class NodeRunMessage:
    """A Kafka-node message."""

    node_run_id: str
    workflow_run_id: str | None
    workflow: str | None
    node: str | None
    text: str
    array: bool
    items: tuple[Mapping[str, JsonValue], ...]
    problem: str | None
    names: tuple[str, ...] = ()
    """The different event types of the items, of those too that are too large to be kept."""

    @property
    def is_kept(self) -> bool:
        """Whether its text goes with it. What is too large for that is kept as a dead letter."""
        return bool(self.text)

    @property
    def event_types(self) -> tuple[str, ...]:
        """The first few different event types of the items, for the views."""
        return () if self.problem else tuple(name[:_SHOWN_CHARACTERS] for name in self.names[:_SHOWN_EVENT_TYPES])


Message: TypeAlias = NodeRunMessage | NotOurs | Bad


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _object_or_empty(value: object) -> object:
    return value if isinstance(value, dict) else {}


_Text = Annotated[str | None, BeforeValidator(_text_or_none)]


class _Context(BaseModel):
    run_id: _Text = Field(None, alias="runId")
    workflow_run_id: _Text = Field(None, alias="workflowRunId")
    node_run_id: JsonValue = Field(None, alias="nodeRunId")
    workflow_node_run_id: JsonValue = Field(None, alias="workflowNodeRunId")
    workflow: _Text = Field(None, alias="workflowIdentifier")
    node: _Text = Field(None, alias="nodeIdentifier")


class _Reference(BaseModel):
    identifier: JsonValue = None


class RunsMessage(BaseModel):
    """The wrapping of a message on `<orgId>.runs`, in every form that is known of it.

    A part of another shape than expected counts as absent: the message is then another consumer's. But where a node-run
    id belongs, something that is no text is a malformed one. Further fields are kept.
    """

    model_config = ConfigDict(extra="allow")
    context: Annotated[_Context, BeforeValidator(_object_or_empty)] = _Context()
    workflow_run: Annotated[_Reference, BeforeValidator(_object_or_empty)] = Field(_Reference(), alias="workflowRun")
    workflow_node_run: Annotated[_Reference, BeforeValidator(_object_or_empty)] = Field(
        _Reference(), alias="workflowNodeRun"
    )

    @property
    def payload(self) -> JsonValue:
        """The payload, not validated; None where there is none."""
        return (self.model_extra or {}).get("payload")

    @property
    def node_run_id(self) -> JsonValue:
        """The node-run id as it stands in the message, unchecked: the first text in its places, else whatever is there.

        None where there is nothing, or an empty text.
        """
        context = self.context
        from_run_id = context.run_id if (context.run_id or "").startswith("wfnr_") else None
        places = (context.node_run_id, context.workflow_node_run_id, from_run_id, self.workflow_node_run.identifier)
        found = [value for value in places if value is not None and value != ""]
        return next((value for value in found if isinstance(value, str)), found[0] if found else None)

    @property
    def workflow_run_id(self) -> str | None:
        """The workflow-run id; None where there is none that is well formed."""
        candidates = (self.context.workflow_run_id, self.context.run_id, self.workflow_run.identifier)
        return next((value for value in candidates if isinstance(value, str) and is_workflow_run_id(value)), None)

    @property
    def foreign(self) -> Foreign | None:
        """Why the message is another consumer's; None where it is a Kafka-node message."""
        extra = self.model_extra or {}
        action = self.payload.get("action") if isinstance(self.payload, dict) else None
        if isinstance(action, dict) and "invocationMethod" in action:
            return Foreign.WEBHOOK_INVOCATION
        if "resourceType" in extra:
            return Foreign.CHANGE_LOG if "diff" in extra else Foreign.RESOURCE_TYPE
        if (self.context.run_id or "").startswith("r_"):
            return Foreign.ACTION_RUN
        if "diff" in extra:
            return Foreign.CHANGE_LOG
        return None if self.node_run_id is not None else Foreign.NO_NODE_RUN_ID


def sort_out(raw: bytes | None, max_items: int = MAX_ITEMS) -> Message:
    """Decide what a message on `<orgId>.runs` is; one with more than `max_items` items has a problem. Never raises."""
    if raw is None:
        return Bad(None, "the record has no value (a tombstone)")
    try:
        fields = from_json(raw, allow_inf_nan=False)
        text = raw.decode()
    except (ValueError, RecursionError) as wrong:
        return Bad(raw, f"not JSON in UTF-8: {wrong}"[:_SHOWN_CHARACTERS])
    if not isinstance(fields, dict):
        return NotOurs(Foreign.NO_NODE_RUN_ID)
    message = RunsMessage.model_validate(fields)
    if (foreign := message.foreign) is not None:
        return NotOurs(foreign)
    return _ours(message, raw, text, max_items, has_payload="payload" in fields)


def _ours(message: RunsMessage, raw: bytes, text: str, max_items: int, *, has_payload: bool) -> NodeRunMessage | Bad:
    node_run_id = message.node_run_id
    if not isinstance(node_run_id, str):
        return Bad(raw, f"malformed node-run id: {_kind(node_run_id)}")
    if not is_node_run_id(node_run_id):
        return Bad(raw, f"malformed node-run id {node_run_id[:80]!r}")
    too_large = _TOO_LARGE if len(raw) > MAX_KEPT_BYTES else _too_many(message.payload, max_items)
    payload = message.payload[:max_items] if isinstance(message.payload, list) else message.payload
    wrong = _problem(payload, has_payload=has_payload)
    problem = too_large or wrong
    items = () if wrong else _items(payload)
    return NodeRunMessage(
        node_run_id=node_run_id,
        workflow_run_id=message.workflow_run_id,
        workflow=_shown(message.context.workflow),
        node=_shown(message.context.node),
        text="" if too_large else text,
        array=isinstance(payload, list),
        items=() if problem else items,
        problem=problem,
        names=tuple(dict.fromkeys(name for name in map(event_type, items) if name is not None)),
    )


def _shown(value: str | None) -> str | None:
    return value[:_SHOWN_CHARACTERS] if value else None


def _too_many(payload: JsonValue, most: int) -> str | None:
    if not isinstance(payload, list) or len(payload) <= most:
        return None
    return f"the payload has {len(payload):,} items, and MAX_ITEMS allows {most:,} in one message"


def _problem(payload: JsonValue, *, has_payload: bool) -> str | None:
    if not has_payload:
        return "the message has no payload"
    if not isinstance(payload, dict | list):
        return f"the payload is no object or array, but {_kind(payload)}"
    if not payload:
        return "the payload is empty"
    if isinstance(payload, dict):
        return None
    wrong = next((index for index, item in enumerate(payload) if not isinstance(item, dict)), None)
    return None if wrong is None else f"item {wrong} of the payload is no object, but {_kind(payload[wrong])}"


_KINDS: Final[Mapping[type, str]] = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "an array",
}


def _kind(value: JsonValue) -> str:
    return _KINDS.get(type(value), "an object")


def _items(payload: JsonValue) -> tuple[Mapping[str, JsonValue], ...]:
    items: Sequence[JsonValue] = payload if isinstance(payload, list) else [payload]
    return tuple(item for item in items if isinstance(item, dict))


def items_of(text: str) -> tuple[Mapping[str, JsonValue], ...]:
    """Return the items of a kept message that `sort_out` found well formed."""
    return _items(from_json(text).get("payload"))


def event_type(item: Mapping[str, JsonValue]) -> str | None:
    """Return what the item is about: the first of `EVENT_TYPE_FIELDS` that holds a non-empty text."""
    return next((value for name in EVENT_TYPE_FIELDS if isinstance(value := item.get(name), str) and value), None)


def digest(raw: bytes) -> str:
    """Return the digest by which a repeated message is known: the first 32 hex digits of its SHA-256."""
    return hashlib.sha256(raw).hexdigest()[:32]
