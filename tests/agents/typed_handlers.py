"""The types that handlers are written against: checked by mypy, never run.

A line that must not pass says so in its `type: ignore`; mypy complains where it passes after all, and
`test_types.py` sees it refuse each of them.
"""

from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Annotated, Any, TypedDict, assert_type

import aiohttp
from pydantic import BaseModel, Field

from agents import (
    Array,
    CallNext,
    Context,
    Fail,
    Output,
    Resource,
    Retry,
    RetryLater,
    Secret,
    handles,
    middleware,
    on_startup,
)


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


class Pool:
    async def fetch(self, key: int) -> str:
        return str(key)


@on_startup
async def pool() -> AsyncIterator[Pool]:
    yield Pool()


@on_startup  # type: ignore[arg-type]
def no_generator() -> Pool:
    return Pool()


@handles("deployment.*", retries=Retry(attempts=4, first="2s", longest=60, never=(LookupError,)))
async def takes_a_union(event: Event | Login, ctx: Context) -> dict[str, object]:
    if isinstance(event, Event):
        assert_type(event.name, str)
    else:
        assert_type(event.password, Secret)
    assert_type(pool, Resource[Pool])
    assert_type(ctx.resource(pool), Pool)
    assert_type(await ctx.resource(pool).fetch(1), str)
    ctx.resource(pool).fetch("1")  # type: ignore[arg-type, unused-coroutine]
    ctx.resource(Pool)  # type: ignore[arg-type]
    assert_type(ctx.session, aiohttp.ClientSession)
    assert_type(ctx.seconds_left, float)
    ctx.log("for %s", event, level="WARN")
    ctx.log("for %s", event, level="TRACE")  # type: ignore[arg-type]
    ctx.progress(1, 2.5)
    ctx.progress("1")  # type: ignore[arg-type]
    return {}


@handles("either")
def takes_an_annotated_union(event: Annotated[Event | Login, Field(union_mode="left_to_right")]) -> None: ...


@handles("may be called without")
def may_take_a_context(event: Event, ctx: Context | None = None) -> None: ...


@middleware
async def is_timed(ctx: Context, call_next: CallNext) -> Output:
    assert_type(ctx.seconds_left, float)
    return await call_next()


@middleware  # type: ignore[type-var]
def is_no_coroutine(ctx: Context, call_next: CallNext) -> Output:
    return {}


@middleware  # type: ignore[type-var]
async def takes_no_context(call_next: CallNext) -> Output:
    return await call_next()


@handles("no model")  # type: ignore[type-var]
def takes_text(event: str) -> None: ...


@handles("no context")  # type: ignore[arg-type]
def takes_what_is_no_context(event: Event, ctx: Event) -> None: ...


@handles("three")  # type: ignore[arg-type]
def takes_too_much(event: Event, ctx: Context, more: int) -> None: ...


@handles("nothing")  # type: ignore[arg-type]
def takes_nothing() -> None: ...


@handles("unknown", concurency=3)  # type: ignore[call-arg]
def has_an_unknown_option(event: Event) -> None: ...


@handles("texts", retries=Retry("4", never=("LookupError",)))  # type: ignore[arg-type]
def retries_by_texts(event: Event) -> None: ...


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


def keeps_what_it_returns(event: Event) -> Coroutine[Any, Any, Said]:
    return assert_type(returns_a_typed_dict(event), Coroutine[Any, Any, Said])


def is_frozen(ctx: Context) -> None:
    ctx.attempt = 2  # type: ignore[misc]
    ctx.fields["a"] = 1  # type: ignore[index]


@handles("any", array="any")
@handles("half", array=0.5)
@handles("strict", array=Array("all", cancel_rest=True))
async def takes_an_array(event: Event, ctx: Context) -> None:
    assert_type(ctx.cancelled, bool)


@handles("some", array="some")  # type: ignore[arg-type]
async def takes_some_of_an_array(event: Event) -> None: ...
