"""How handlers are declared, as it is shown."""

from __future__ import annotations

from enum import StrEnum

from pydantic import JsonValue

from agents.contract import Handler
from agents.schemas import Schema, schema_of
from streams.durations import seconds
from web.data import Shown
from web.masking import MASK, is_secret

_VALUES = ("default", "examples", "const", "enum")


class Kind(StrEnum):
    """What runs the calls of a handler."""

    COROUTINE = "coroutine"
    THREAD = "thread"


class RetryShown(Shown):
    """When a handler is called again after an exception other than `Fail` and `RetryLater`."""

    attempts: int
    """How many calls in all."""
    first_pause_seconds: float
    """Before the second call; each further one is twice as long."""
    longest_pause_seconds: float
    never: list[str]
    """Exceptions that are final."""


class ArrayShown(Shown):
    """How many items of an array must succeed."""

    share: float
    """1 for all of them; 0 for one."""
    cancel_rest: bool
    """Whether the rest is cancelled when that cannot be reached any more."""


class Declaration(Shown):
    """How the code of a worker declares a handler."""

    function: str
    place: str
    """Where it stands, as `file:line`."""
    kind: Kind
    concurrency: int
    """Calls at a time, of each worker."""
    deadline_seconds: float
    retry: RetryShown
    array: ArrayShown
    json_schema: JsonValue
    """Of what it takes; null where that is any object, or has no schema."""
    cancel: str = "when over"
    """When a call is cut off whose workflow run is cancelled at Port: `when over` or `at once`."""


def declaration_of(handler: Handler) -> Declaration:
    """Return how a handler is declared. Makes the schema, which takes its time: call it once."""
    retry, policy, schema = handler.retry, handler.policy, schema_of(handler)
    return Declaration(
        function=handler.name,
        place=handler.place,
        kind=Kind.COROUTINE if handler.is_async else Kind.THREAD,
        concurrency=handler.concurrency,
        deadline_seconds=handler.deadline,
        retry=RetryShown(
            attempts=retry.attempts,
            first_pause_seconds=seconds(retry.first),
            longest_pause_seconds=seconds(retry.longest),
            never=[one.__qualname__ for one in retry.never],
        ),
        array=ArrayShown(
            share=1.0 if policy is None else policy.share, cancel_rest=policy is not None and policy.cancel_rest
        ),
        cancel="at once" if handler.cut_at_once else "when over",
        json_schema=None if schema is None else without_secrets(dict(schema)),
    )


def without_secrets(schema: JsonValue) -> JsonValue:
    """Return a JSON schema without the values of fields whose names are those of secrets.

    `web.masking` would take the fields themselves for secrets.
    """
    if isinstance(schema, list):
        return [without_secrets(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    shown = {name: without_secrets(value) for name, value in schema.items()}
    properties = shown.get("properties")
    for name, field in properties.items() if isinstance(properties, dict) else ():
        if isinstance(field, dict) and is_secret(name):
            field.update({key: MASK for key in _VALUES if field.get(key) is not None})
    return shown


def example_schema(declaration: Declaration) -> Schema | None:
    """Return the schema to make an example of."""
    return declaration.json_schema if isinstance(declaration.json_schema, dict) else None


def differences(one: Declaration, other: Declaration) -> list[str]:
    """Return what the other declares differently, by the names in JSON."""
    mine, theirs = one.model_dump(by_alias=True), other.model_dump(by_alias=True)
    return [name for name in mine if mine[name] != theirs[name]]
