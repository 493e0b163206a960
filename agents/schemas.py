"""JSON schemas of handlers' models, and payload objects that fit them, to try a handler with. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias, cast

from pydantic import JsonValue
from pydantic.errors import PydanticInvalidForJsonSchema

from agents.contract import Handler
from agents.patterns import is_pattern
from streams.messages import EVENT_TYPE_FIELDS

Schema: TypeAlias = Mapping[str, JsonValue]

_MOST_ELEMENTS: Final = 10
_TEXTS: Final[Mapping[str, str]] = {
    "date-time": "2026-01-31T08:00:00Z",
    "date": "2026-01-31",
    "time": "08:00:00Z",
    "duration": "PT5M",
    "email": "dana@example.com",
    "uri": "https://example.com/",
    "uuid": "6f1c3f0e-8a55-4c39-9d0e-2f4b3a1c7d10",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "password": "a secret input",
}
_SCALARS: Final[Mapping[str, JsonValue]] = {"boolean": False, "null": None}


def schema_of(handler: Handler) -> Schema | None:
    """Return the JSON schema of what a handler takes; None where that is any object, or has no schema."""
    if handler.adapter is None:
        return None
    try:
        return cast("Schema", handler.adapter.json_schema())
    except PydanticInvalidForJsonSchema:
        return None


def example_of(event_type: str, schema: Schema | None) -> dict[str, JsonValue]:
    """Return a payload object for a handler: what it is declared for, and the schema of what it takes.

    A field has the first of its `examples`, else its `default`, else a value of its type. One that may be left out, and
    has neither, is. What a schema asks for beyond types, lengths and bounds, such as a `pattern`, may not be met.
    """
    name = event_type.replace("*", "example") if is_pattern(event_type) else event_type
    if schema is None:
        return {"eventType": name}
    definitions = _schema_in(schema.get("$defs"))
    fields = _schema_in(_Example(definitions).of(schema, ()))
    own = next((field for field in EVENT_TYPE_FIELDS if field in fields), None)
    if own is None:
        return {"eventType": name, **fields}
    properties = _schema_in(resolved(schema, definitions, ())[0].get("properties"))
    # A value that the model names itself stays.
    named = _said(_schema_in(properties.get(own))) is not None
    return dict(fields) if named else {**fields, own: name}


def _schema_in(value: JsonValue) -> Schema:
    return value if isinstance(value, dict) else {}


def resolved(schema: Schema, definitions: Schema, within: tuple[str, ...]) -> tuple[Schema, tuple[str, ...]]:
    """Follow references, and of alternatives the first that is not null, down to what says something itself.

    Args:
        schema: what is to be resolved.
        definitions: what it may refer to.
        within: the definitions that it is part of. A reference to one of these ends in an empty schema: a model may
            hold itself.

    Returns:
        The schema, and the definitions that it is part of then.
    """
    while True:
        reference, alternatives = schema.get("$ref"), schema.get("anyOf") or schema.get("oneOf")
        if isinstance(reference, str):
            name = reference.rpartition("/")[2]
            found = definitions.get(name)
            if name in within or not isinstance(found, dict):
                return {}, within
            schema, within = found, (*within, name)
        elif isinstance(alternatives, list) and alternatives:
            some = [one for one in alternatives if isinstance(one, dict)]
            schema = next((one for one in some if one.get("type") != "null"), {})
        else:
            return schema, within


class _Example:
    """Examples of one schema, with the definitions that it refers to."""

    def __init__(self, definitions: Schema) -> None:
        self._definitions = definitions

    def of(self, schema: Schema, within: tuple[str, ...]) -> JsonValue:
        """`within` are the definitions that this one is part of."""
        if (said := _said(schema)) is not None:
            return said
        plain, within = resolved(schema, self._definitions, within)
        if (said := _said(plain)) is not None:
            return said
        match plain.get("type"):
            case "object":
                return self._object(plain, within)
            case "array":
                return self._array(plain, within)
            case "string":
                return _text(plain)
            case "integer" | "number" as kind:
                return _number(plain, whole=kind == "integer")
            case kind:
                return _SCALARS.get(str(kind))

    def _object(self, schema: Schema, within: tuple[str, ...]) -> dict[str, JsonValue]:
        properties, required = _schema_in(schema.get("properties")), schema.get("required")
        needed = required if isinstance(required, list) else []
        return {
            name: self.of(field, within)
            for name, field in properties.items()
            if isinstance(field, dict) and (name in needed or _has_value(field))
        }

    def _array(self, schema: Schema, within: tuple[str, ...]) -> list[JsonValue]:
        parts = schema.get("prefixItems")
        if isinstance(parts, list):
            return [self.of(part, within) for part in parts if isinstance(part, dict)]
        least, element = _whole(schema.get("minItems")), _schema_in(schema.get("items"))
        return [self.of(element, within)] * min(least, _MOST_ELEMENTS)


def _has_value(field: Schema) -> bool:
    return bool(field.get("examples")) or "default" in field


def _said(schema: Schema) -> JsonValue:
    """Return the value that a schema names itself; None where it names none, or null."""
    for name in ("examples", "enum"):
        values = schema.get(name)
        if name == "enum" and "default" in schema:
            return schema["default"]
        if isinstance(values, list) and values:
            return values[0]
    return schema.get("default", schema.get("const"))


def _text(schema: Schema) -> str:
    text = _TEXTS.get(str(schema.get("format")), "text")
    least, most = _whole(schema.get("minLength")), schema.get("maxLength")
    text = text.ljust(least, "x")
    return text[:most] if isinstance(most, int) else text


def _number(schema: Schema, *, whole: bool) -> float:
    step = 1 if whole else 0.5
    value: float = 1
    for name, further in (("minimum", 0), ("exclusiveMinimum", step)):
        bound = schema.get(name)
        if isinstance(bound, int | float) and value < bound + further:
            value = bound + further
    for name, further in (("maximum", 0), ("exclusiveMaximum", step)):
        bound = schema.get(name)
        if isinstance(bound, int | float) and value > bound - further:
            value = bound - further
    factor = schema.get("multipleOf")
    if isinstance(factor, int | float) and factor > 0:
        value = -(-value // factor) * factor
    return int(value) if whole else value


def _whole(value: JsonValue) -> int:
    return value if isinstance(value, int) else 0
