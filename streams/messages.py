"""What a message on `<orgId>.runs` is: decided here, once, for the whole application.

The topic is shared with other consumers of the organization, and how Port wraps a Kafka node's message is not
documented. So a message is recognised broadly: it is *ours* when a node-run id stands in one of the places that are
known (`streams.message_ids`), and no mark of another consumer's is there. What only looks like ours is `Unsure`: kept,
and shown to people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, TypeAlias

from pydantic import JsonValue
from pydantic_core import from_json

from port.ids import is_node_run_id
from streams.message_ids import Fields, Ids, has_whole_id, ids_in, ids_of, mentioned, without_ports
from streams.message_text import NOT_FINITE, Broken, Digest, Parsed, bytes_digest, digest_of, json_bytes, parse

EVENT_TYPE_FIELDS: Final = ("eventType", "event", "action", "type")
MAX_KEPT_BYTES: Final = 1_900_000
"""A message above this is not kept: as JSON text inside a record it can double, and own topics take 4 MiB."""
MAX_ITEMS: Final = 10_000
"""The default of the setting of that name: the most items of a message that are handled."""
_TOO_LARGE: Final = f"the message is larger than can be kept ({MAX_KEPT_BYTES:,} bytes)"
_NO_PAYLOAD: Final = "the message has no payload"
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
    WORKFLOW = "another workflow than those of WORKFLOWS"
    NODE = "another node than those of NODES"

    @property
    def is_certain(self) -> bool:
        """Whether it shows for whom the message is; else nothing in it says that it is ours."""
        return self not in (Foreign.NO_NODE_RUN_ID, Foreign.RESOURCE_TYPE)


@dataclass(frozen=True)
class NotOurs:
    """A decodable message for somebody else."""

    why: Foreign


@dataclass(frozen=True)
class Unsure:
    """A message that looks like a Kafka node's, in a form that is not known: people have to look at it."""

    reason: str


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
    items: tuple[Fields, ...]
    problem: str | None
    digest: str
    """By which the message is known when it comes again: of its content, see `streams.message_text.digest_of`."""
    names: tuple[str, ...] = ()
    """The different event types of the items, of those too that are too large to be kept."""
    guessed: bool = False
    """Whether the payload was taken for what stands at the root, where there is no `payload`."""
    note: str | None = None
    """What of the message is not as it came."""

    @property
    def is_kept(self) -> bool:
        """Whether its text goes with it. What is too large for that, or no text, is kept as a dead letter."""
        return bool(self.text)

    @property
    def event_types(self) -> tuple[str, ...]:
        """The first few different event types of the items, for the views."""
        return () if self.problem else tuple(name[:_SHOWN_CHARACTERS] for name in self.names[:_SHOWN_EVENT_TYPES])


Message: TypeAlias = NodeRunMessage | NotOurs | Unsure | Bad


@dataclass(frozen=True)
class _Read:
    """A message as it was read: an object."""

    fields: dict[str, JsonValue]
    parsed: Parsed
    raw: bytes
    max_items: int


def sort_out(raw: bytes | None, named: str | None = None, max_items: int = MAX_ITEMS) -> Message:
    """Decide what a message on `<orgId>.runs` is. Never raises.

    Args:
        raw: the record's value.
        named: the id of the node run, where a person has said which it is: then the message is ours.
        max_items: with more items the message has a problem.
    """
    if raw is None:
        return Bad(None, "the record has no value (a tombstone)")
    parsed = parse(raw)
    if isinstance(parsed, Broken):
        return _broken(parsed, raw) if named is None else Bad(raw, parsed.problem)
    if not isinstance(parsed.fields, dict):
        unknown = _unknown(parsed, raw, NotOurs(Foreign.NO_NODE_RUN_ID))
        return unknown if named is None else Bad(raw, f"the message is no object, but {_kind(parsed.fields)}")
    read = _Read(parsed.fields, parsed, raw, max_items)
    if named is not None:
        return _as_named(read, named)
    foreign = _mark(read.fields)
    return _recognised(ids_of(read.fields), read) if foreign is None else NotOurs(foreign)


def _recognised(ids: Ids, read: _Read) -> Message:
    if len(ids.node_runs) > 1:
        return Unsure(f"it names different node runs: {', '.join(ids.node_runs[:3])}")
    claimed = [value for value in ids.malformed if isinstance(value, str) and value.startswith("wfnr_")]
    if ids.node_runs and claimed:
        return Unsure(f"it names {ids.node_runs[0]} and {claimed[0][:80]!r}")
    if ids.node_runs:
        return _looked_at(_ours(ids, read))
    if ids.malformed:
        return _malformed(ids.malformed, read)
    why = Foreign.RESOURCE_TYPE if "resourceType" in read.fields else Foreign.NO_NODE_RUN_ID
    return _unknown(read.parsed, read.raw, NotOurs(why))


def _looked_at(message: NodeRunMessage) -> NodeRunMessage | Unsure:
    """Return a message of ours, unless it would be FAILED on a guess that Port cannot be asked about."""
    if message.guessed and message.problem is not None and message.workflow_run_id is None:
        return Unsure(
            f"{message.problem}; without the id of its workflow run {message.node_run_id} cannot be looked at"
        )
    return message


def _mark(fields: Fields) -> Foreign | None:
    """Return the mark of another consumer's message."""
    payload = fields.get("payload", fields)
    action = payload.get("action") if isinstance(payload, dict) else None
    method = action.get("invocationMethod") if isinstance(action, dict) else None
    if isinstance(method, dict) and _is_of_another_kind(method):
        return Foreign.WEBHOOK_INVOCATION
    context = fields.get("context")
    run_id = context.get("runId") if isinstance(context, dict) else None
    is_action_run = isinstance(run_id, str) and run_id.startswith("r_")
    if "diff" not in fields and not is_action_run:
        return None
    if "resourceType" in fields:
        return Foreign.CHANGE_LOG if "diff" in fields else Foreign.RESOURCE_TYPE
    return Foreign.ACTION_RUN if is_action_run else Foreign.CHANGE_LOG


def _is_of_another_kind(method: Fields) -> bool:
    kind = method.get("type")
    return method.get("agent") is True or (isinstance(kind, str) and kind.upper() not in ("", "KAFKA"))


def _unknown(parsed: Parsed, raw: bytes, otherwise: NotOurs) -> Message:
    """Return what a message without a node-run id in a known place is: ours in an unknown form, or nothing of ours."""
    if ids := mentioned(parsed.fields, raw):
        return Unsure(f"it speaks of {', '.join(ids)}, but not where a node-run id is known to stand")
    if parsed.problem is None and raw.endswith(json_bytes(raw)):
        return otherwise
    return Bad(raw, parsed.problem or "not JSON in UTF-8, but in another encoding")


def _malformed(values: Sequence[JsonValue], read: _Read) -> Unsure | Bad:
    first = next((value for value in values if isinstance(value, str)), values[0])
    shown = f" {first[:80]!r}" if isinstance(first, str) else f": {_kind(first)}"
    reason = f"malformed node-run id{shown}"
    return Unsure(reason) if has_whole_id(read.fields) else Bad(read.raw, reason)


def _broken(broken: Broken, raw: bytes) -> Message:
    ids = ids_in(broken.text)
    if not ids.node_runs:
        return Unsure(broken.problem) if b"wfnr_" in raw or "wfnr_" in broken.text else Bad(raw, broken.problem)
    return NodeRunMessage(
        node_run_id=ids.node_runs[0],
        workflow_run_id=ids.workflow_run,
        workflow=None,
        node=None,
        text=_kept(broken.text, raw),
        array=False,
        items=(),
        problem=broken.problem,
        digest=digest_of(raw).text,
    )


def _as_named(read: _Read, named: str) -> Message:
    if not is_node_run_id(named):
        return Bad(read.raw, f"malformed node-run id {named[:80]!r}")
    message = _ours(Ids((named,), ids_of(read.fields).workflow_run), read)
    # Who names it has looked at it: nothing is guessed.
    return replace(message, guessed=False) if message.problem is None else Bad(read.raw, message.problem)


def _ours(ids: Ids, read: _Read) -> NodeRunMessage:
    payload, guessed = _payload(read.fields)
    too_large = _TOO_LARGE if len(read.raw) > MAX_KEPT_BYTES else _too_many(payload, read.max_items)
    first = payload[: read.max_items] if isinstance(payload, list) else payload
    wrong = _problem(first, has_payload="payload" in read.fields or payload is not None)
    digest = Digest(bytes_digest(read.raw)) if too_large else digest_of(read.raw)
    problem = too_large or read.parsed.problem or wrong or (None if digest.finite else NOT_FINITE)
    items = () if wrong else _items(first)
    context = read.fields.get("context")
    named = context if isinstance(context, dict) else {}
    return NodeRunMessage(
        node_run_id=ids.node_runs[0],
        workflow_run_id=ids.workflow_run,
        workflow=_shown(named.get("workflowIdentifier")),
        node=_shown(named.get("nodeIdentifier")),
        text="" if too_large else _kept(read.parsed.text, read.raw) if problem else read.parsed.text,
        array=isinstance(payload, list),
        items=() if problem else items,
        problem=problem,
        digest=digest.text,
        names=tuple(dict.fromkeys(name for name in map(event_type, items) if name is not None)),
        guessed=guessed,
        note=read.parsed.note,
    )


def _kept(text: str, raw: bytes) -> str:
    """Return the text of a message that cannot be handled; empty where it does not say all of its bytes."""
    return text if len(raw) <= MAX_KEPT_BYTES and text.encode(errors="replace") == raw else ""


def _payload(fields: dict[str, JsonValue]) -> tuple[JsonValue, bool]:
    """Return the payload, and whether it is a guess: without `payload` it may be spread at the root."""
    if "payload" in fields:
        return fields["payload"], False
    spread = without_ports(fields)
    return (spread if event_type(spread) is not None else None), bool(spread)


def _shown(value: JsonValue) -> str | None:
    return value[:_SHOWN_CHARACTERS] if isinstance(value, str) and value else None


def _too_many(payload: JsonValue, most: int) -> str | None:
    if not isinstance(payload, list) or len(payload) <= most:
        return None
    return f"the payload has {len(payload):,} items, and MAX_ITEMS allows {most:,} in one message"


def _problem(payload: JsonValue, *, has_payload: bool) -> str | None:
    if not has_payload:
        return _NO_PAYLOAD
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


def _items(payload: JsonValue) -> tuple[Fields, ...]:
    items: Sequence[JsonValue] = payload if isinstance(payload, list) else [payload]
    return tuple(item for item in items if isinstance(item, dict))


def items_of(text: str) -> tuple[Fields, ...]:
    """Return the items of a kept message; of one that `sort_out` found a problem with, maybe none."""
    try:
        fields = from_json(text)
    except ValueError:
        return ()
    return _items(_payload(fields)[0]) if isinstance(fields, dict) else ()


def event_type(item: Fields) -> str | None:
    """Return what the item is about: the first of `EVENT_TYPE_FIELDS` that holds a non-empty text."""
    # Called for each item of a large array: as a generator it takes three times as long.
    for name in EVENT_TYPE_FIELDS:
        value = item.get(name)
        if isinstance(value, str) and value:
            return value
    return None
