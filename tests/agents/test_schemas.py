"""Payload objects made of JSON schemas: they fit the models that the schemas are of."""

from __future__ import annotations

import json
from datetime import date, datetime
from typing import Annotated, Literal
from uuid import UUID

import pytest
from pydantic import AnyUrl, BaseModel, ConfigDict, Field, RootModel, SecretStr, TypeAdapter
from pydantic.alias_generators import to_camel

from agents.contract import declared_in, handles
from agents.registry import load_handlers
from agents.schemas import example_of, schema_of
from port.secrets import Decryption, Secret, encrypt
from tests.agents.examples import declared

SECRET = SecretStr("s" * 32)


class Node(BaseModel):
    name: str
    below: list[Node] = []
    beside: Node | None = None


class Holder(BaseModel):
    """Holds itself, and must not end in no end."""

    inner: Holder | None


class Deep(BaseModel):
    node: Node
    holder: Holder


class Types(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    text: str
    long_text: Annotated[str, Field(min_length=12)]
    short: Annotated[str, Field(max_length=2)]
    whole: int
    large: Annotated[int, Field(ge=100)]
    above: Annotated[float, Field(gt=7)]
    below: Annotated[int, Field(lt=-3)]
    share: Annotated[float, Field(gt=0, lt=1)]
    dozens: Annotated[int, Field(multiple_of=12, ge=13)]
    yes: bool
    nothing: None
    maybe: int | None
    several: list[str]
    two: Annotated[list[int], Field(min_length=2)]
    pair: tuple[int, str]
    free: dict[str, int]
    at: datetime
    day: date
    address: AnyUrl
    id: UUID
    kind: Literal["one", "two"]
    fixed: Literal["this"]
    either: Node | int


class Said(BaseModel):
    named: Annotated[str, Field(examples=["checkout"])]
    better: Annotated[str, Field(examples=["checkout"])] = "payments"
    given: int = 4
    left_out: Annotated[int | None, Field(default_factory=lambda: 3)]


class Typed(BaseModel):
    action: str
    type: Literal["deployment"]


class Other(BaseModel):
    event: str


class Odd(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    what: range


@pytest.mark.parametrize("model", [Node, Deep, Types, Said, Typed])
def test_an_example_fits_its_model(model: type[BaseModel]) -> None:
    example = example_of("greet", model.model_json_schema())
    model.model_validate_json(TypeAdapter(dict).dump_json(example))


def test_what_a_model_names_itself_comes_first() -> None:
    assert example_of("greet", Said.model_json_schema()) == {
        "eventType": "greet",
        "named": "checkout",
        "better": "checkout",
        "given": 4,
    }


def test_the_event_type_stands_where_the_model_has_it() -> None:
    assert example_of("deploy", Other.model_json_schema()) == {"event": "deploy"}
    assert example_of("deploy", Typed.model_json_schema())["type"] == "deployment"
    assert example_of("deploy.*", None) == {"eventType": "deploy.example"}


def test_a_union_and_a_root_model() -> None:
    schema = TypeAdapter(Other | Typed).json_schema()
    assert example_of("x", schema) == {"event": "x"}
    assert example_of("x", RootModel[list[int]].model_json_schema()) == {"eventType": "x"}


def test_a_secret_is_a_text() -> None:
    class WithSecret(BaseModel):
        key: Secret

    example = example_of("x", WithSecret.model_json_schema())
    encrypted = {"key": encrypt(str(example["key"]), SECRET)}
    assert WithSecret.model_validate(encrypted, context=Decryption(SECRET)).key.get_secret_value() == example["key"]


@pytest.mark.parametrize("name", sorted(load_handlers(("examples.handlers",))))
def test_examples_fit_the_example_handlers(name: str) -> None:
    handler = load_handlers(("examples.handlers",))[name]
    example = example_of(name, schema_of(handler))
    if handler.adapter is not None:
        handler.adapter.validate_json(json.dumps(example), context=Decryption(SECRET))


def test_what_has_no_schema() -> None:
    def odd(event: Odd) -> None: ...

    def anything(event: dict[str, object]) -> None: ...

    def union(event: Other | Typed) -> None: ...

    assert schema_of(declared(odd)) is None
    assert schema_of(declared(anything)) is None
    handles("union")(union)
    [handler] = [one for one in declared_in((__name__,)) if one.function is union]
    schema = schema_of(handler)
    assert schema is not None
    assert "anyOf" in schema
