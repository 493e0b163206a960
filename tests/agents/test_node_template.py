"""The node for a handler: what it renders fits the handler's model."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from agents import Secret
from agents.node_template import node_of
from agents.registry import load_handlers
from port.nodes import parse_node
from port.render import render
from streams.messages import event_type


class Inner(BaseModel):
    a: int
    deeper: Deeper


class Deeper(BaseModel):
    b: str
    again: Deeper | None = None


class Everything(BaseModel):
    model_config = ConfigDict(extra="forbid")
    eventType: str  # noqa: N815, RUF100
    text: str
    number: float
    flags: list[bool]
    kind: Literal["one"]
    choice: Literal["x", "y"]
    inner: Inner
    either: int | str
    odd: Annotated[str, Field(alias="odd-name")]
    at: datetime
    password: Secret
    free: dict[str, object]
    on: bool = True
    count: int = 3
    quoted: str = 'say "hi"'
    braces: str = "{{ x }}"
    maybe: str | None = None
    tags: list[str] = []


TRIGGER: dict[str, Any] = {
    "text": "t", "number": 1.5, "flags": [True], "choice": "y", "a": 1, "b": "b", "either": "e", "odd-name": "odd",
    "free": {"k": 1}, "password": "encrypted",
}  # fmt: skip


def payload_of(name: str, model: type[BaseModel]) -> dict[str, Any]:
    node = parse_node(node_of(name, model.model_json_schema()))
    assert isinstance(node.config.payload, dict)
    return node.config.payload


async def rendered(payload: dict[str, Any], trigger: dict[str, Any]) -> Any:
    return await render(payload, {"outputs": {"trigger": trigger}})


async def test_each_field_takes_the_triggers() -> None:
    payload = payload_of("every.thing", Everything)
    assert payload["eventType"] == "every.thing"
    message = await rendered(payload, TRIGGER)
    message["password"] = Secret("decrypted by the worker")
    event = Everything.model_validate(message)
    assert event.inner.deeper.b == "b"
    assert (event.kind, event.odd, event.number, event.free) == ("one", "odd", 1.5, {"k": 1})
    assert (event.on, event.count, event.quoted, event.maybe, event.tags) == (True, 3, 'say "hi"', None, [])
    assert "braces" not in payload


async def test_a_default_gives_way_to_what_the_trigger_says() -> None:
    given = {"on": False, "count": 0, "quoted": "", "maybe": "m"}
    message = await rendered(payload_of("every.thing", Everything), TRIGGER | given)
    assert {name: message[name] for name in given} == given


@pytest.mark.parametrize(
    "handler", list(load_handlers(("examples.handlers",)).values()), ids=lambda handler: handler.event_type
)
async def test_the_example_handlers_accept_theirs(handler: Any) -> None:
    values = "service version environment serviceId cloudProvider region instanceType channel message"
    payload = payload_of(handler.event_type, handler.model)
    message = await rendered(payload, dict.fromkeys(values.split(), "x"))
    assert message["eventType"] == handler.event_type
    handler.model.model_validate(message)


class OfItsOwn(BaseModel):
    type: Literal["a.typed"]


class Plain(BaseModel):
    action: str


class SomethingElse(BaseModel):
    type: Literal["small"]
    event: Deeper


@pytest.mark.parametrize(
    ("model", "payload"),
    [
        (OfItsOwn, {"type": "a.typed"}),
        (Plain, {"action": "a.typed"}),
        (SomethingElse, {"eventType": "a.typed", "type": "small", "event": {"b": "{{ .outputs.trigger.b }}"}}),
    ],
)
def test_the_models_own_field_of_the_event_type_is_used(model: type[BaseModel], payload: dict[str, Any]) -> None:
    found = payload_of("a.typed", model)
    found.get("event", {}).pop("again", None)
    assert found == payload
    assert event_type(found) == "a.typed"


def test_a_handler_of_any_object() -> None:
    node = node_of("an event/type", None)
    assert node["identifier"] == "an-event-type"
    assert node["config"] == {"type": "KAFKA", "payload": {"eventType": "an event/type"}}
