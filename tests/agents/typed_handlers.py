"""The types that handlers are written against: checked by mypy, never run.

A line that must not pass says so in its `type: ignore`; mypy complains where it passes after all.
"""

from collections.abc import Mapping
from typing import TypedDict, assert_type

from pydantic import BaseModel

from agents import Context, Fail, RetryLater, Secret, handles


class Event(BaseModel):
    name: str


class Login(BaseModel):
    password: Secret
    token: Secret | None = None


class Answer(BaseModel):
    said: str


class Said(TypedDict):
    said: str


@handles("model", concurrency=20, deadline="5m", retries=3)
async def takes_a_model(event: Event, ctx: Context) -> dict[str, object]:
    ctx.log("for %s, attempt %d", event.name, ctx.attempt)
    assert_type(ctx.idempotency_key, str)
    assert_type(ctx.workflow_run_id, str | None)
    return {"name": event.name}


@handles("secret")
async def takes_a_secret(event: Login) -> None:
    assert_type(event.password, Secret)
    assert_type(event.password.get_secret_value(), str)
    event.token.get_secret_value()  # type: ignore[union-attr]
    Login(password=Secret("plain"))


@handles("dict", deadline=2.5)
def takes_a_dict(event: dict[str, object]) -> Answer:
    raise Fail(f"no {event}")


@handles("mapping")
def takes_a_mapping(event: Mapping[str, object]) -> None:
    raise RetryLater("30s", "not yet")


@handles("typed dict")
async def returns_a_typed_dict(event: Event) -> Said:
    raise RetryLater(1.5)


@handles("text")  # type: ignore[type-var]
def returns_text(event: Event) -> str:
    return event.name


@handles("list")  # type: ignore[type-var]
async def returns_a_list(event: Event) -> list[str]:
    return [event.name]


@handles("words", deadline=None)  # type: ignore[arg-type]
def takes_no_deadline(event: Event) -> None: ...


def keeps_its_type(event: Event) -> None:
    assert_type(takes_a_dict({"a": 1}), Answer)
    takes_a_mapping(event)  # type: ignore[arg-type]


def is_frozen(ctx: Context) -> None:
    ctx.attempt = 2  # type: ignore[misc]
    ctx.fields["a"] = 1  # type: ignore[index]
