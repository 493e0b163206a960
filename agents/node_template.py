"""Makes the Kafka action node for a handler of the JSON schema of its model. Pure functions."""

from __future__ import annotations

import json
import re
from typing import Final

from pydantic import JsonValue

from agents.schemas import Schema, resolved
from streams.messages import EVENT_TYPE_FIELDS

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_NOT_IN_IDENTIFIERS: Final = re.compile(r"[^A-Za-z0-9_-]+")
_NOW: Final = "{{ now | todateiso8601 }}"


def node_of(event_type: str, schema: Schema | None) -> dict[str, JsonValue]:
    """Return the node whose payload fits the schema, with one field of the trigger for each of the model's.

    A field that may be left out stands there with its default, where that is no object or array; else it is left out.
    Without a schema the payload has its event type alone.
    """
    fields = {} if schema is None else _payload(schema)
    own = next((name for name in EVENT_TYPE_FIELDS if name in fields), "eventType")
    # Another value of the model's own stays; `eventType` is read before it.
    name = own if fields.get(own) in (event_type, _template(_place(own))) else "eventType"
    payload = {name: event_type} | fields | {name: event_type}
    return {
        "identifier": _NOT_IN_IDENTIFIERS.sub("-", event_type).strip("-") or "publish",
        "title": event_type,
        "config": {"type": "KAFKA", "payload": payload},
    }


def _payload(schema: Schema) -> dict[str, JsonValue]:
    definitions = schema.get("$defs")
    return _Template(definitions if isinstance(definitions, dict) else {}).object_of(schema, ())


class _Template:
    """The templates of one schema, with the definitions that it refers to."""

    def __init__(self, definitions: Schema) -> None:
        self._definitions = definitions

    def object_of(self, schema: Schema, within: tuple[str, ...]) -> dict[str, JsonValue]:
        """`within` are the definitions that this one is part of: a model may hold itself."""
        plain, within = resolved(schema, self._definitions, within)
        properties, required = plain.get("properties"), plain.get("required")
        if not isinstance(properties, dict):
            return {}
        needed = required if isinstance(required, list) else []
        found: dict[str, JsonValue] = {}
        for name, field in properties.items():
            if not isinstance(field, dict):
                continue
            value = self._needed(name, field, within) if name in needed else _optional(name, field)
            if value is not None:
                found[name] = value
        return found

    def _needed(self, name: str, schema: Schema, within: tuple[str, ...]) -> JsonValue:
        plain, inside = resolved(schema, self._definitions, within)
        if "const" in plain:
            return plain["const"]
        if plain.get("properties") and inside is not within:
            return self.object_of(schema, within)
        return _NOW if plain.get("format") == "date-time" else _template(_place(name))


def _optional(name: str, schema: Schema) -> JsonValue:
    """Return the template of a field that may be left out, None where it is better left out."""
    default = schema.get("default")
    if "default" not in schema or isinstance(default, dict | list):
        return None
    place, text = _place(name), json.dumps(default)
    if default is None:
        return _template(place)
    if "}}" in text or "{{" in text:
        return None
    # `//` would take false for missing.
    if isinstance(default, bool):
        return _template(f"if {place} == null then {text} else {place} end")
    return _template(f"{place} // {text}")


def _place(name: str) -> str:
    return f".outputs.trigger.{name}" if _NAME.fullmatch(name) else f".outputs.trigger[{json.dumps(name)}]"


def _template(expression: str) -> str:
    return f"{{{{ {expression} }}}}"
