"""Strict models take what JSON can say: an ISO text for a time, a list for a tuple, a number's text for a Decimal."""

from __future__ import annotations

import ipaddress
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import AnyUrl, BaseModel, ConfigDict, Field, JsonValue
from pydantic.dataclasses import dataclass
from typing_extensions import TypedDict

from agents.contract import Handler
from agents.testing import run_handler
from port.models import Result
from port.secrets import Secret
from tests.agents import test_trying
from tests.agents.examples import declared


class Stage(Enum):
    PROD = "prod"


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class Inner(Strict):
    at: datetime


class Typed(TypedDict):
    __pydantic_config__ = ConfigDict(strict=True)  # type: ignore[misc]
    day: date


@dataclass(config=ConfigDict(strict=True))
class Plain:
    stage: Stage


VALUES: dict[str, tuple[Any, JsonValue, object]] = {
    "datetime": (datetime, "2026-01-31T08:00:00Z", datetime(2026, 1, 31, 8, tzinfo=UTC)),
    "date": (date, "2026-01-31", date(2026, 1, 31)),
    "time": (time, "08:00:00", time(8)),
    "timedelta": (timedelta, "PT5M", timedelta(minutes=5)),
    "uuid": (UUID, "2c1f8a52-2f25-4b9d-9d0a-6d3b7f8e9a10", UUID("2c1f8a52-2f25-4b9d-9d0a-6d3b7f8e9a10")),
    "enum": (Stage, "prod", Stage.PROD),
    "tuple": (tuple[int, int], [1, 2], (1, 2)),
    "set": (set[int], [1, 2], {1, 2}),
    "frozenset": (frozenset[str], ["a"], frozenset("a")),
    "decimal": (Decimal, "1.10", Decimal("1.10")),
    "a decimal as a number": (Decimal, 1.1, Decimal("1.1")),
    "bytes": (bytes, "a", b"a"),
    "url": (AnyUrl, "https://example.com/", AnyUrl("https://example.com/")),
    "address": (ipaddress.IPv4Address, "10.0.0.1", ipaddress.IPv4Address("10.0.0.1")),
    "path": (PurePosixPath, "/a", PurePosixPath("/a")),
    "literal": (Literal["a"], "a", "a"),
    "pattern": (Annotated[str, Field(pattern="^v[0-9]+$")], "v1", "v1"),
    "keys that are numbers": (dict[int, Stage], {"1": "prod"}, {1: Stage.PROD}),
    "a large number": (int, 2**70, 2**70),
    "a model in it": (Inner, {"at": "2026-01-31T08:00:00Z"}, Inner(at=datetime(2026, 1, 31, 8, tzinfo=UTC))),
    "models in lists": (
        list[Inner],
        [{"at": "2026-01-31T08:00:00Z"}],
        [Inner(at=datetime(2026, 1, 31, 8, tzinfo=UTC))],
    ),
    "a union": (Inner | Stage, "prod", Stage.PROD),
    "a dataclass": (Plain, {"stage": "prod"}, Plain(Stage.PROD)),
    "a typed dict": (Typed, {"day": "2026-01-31"}, {"day": date(2026, 1, 31)}),
}


def handler_of(model: Any, seen: list[object]) -> Handler:
    def handle(event: Any) -> None:
        seen.append(event)

    handle.__annotations__["event"] = model
    return declared(handle)


def with_field(annotation: Any) -> type[BaseModel]:
    """A strict model with one field of this type."""
    return type("Event", (Strict,), {"__annotations__": {"value": annotation}, "__module__": __name__})


@pytest.mark.parametrize("name", VALUES)
def test_a_strict_field_takes_its_json(name: str) -> None:
    annotation, plain, value = VALUES[name]
    seen: list[Any] = []
    handler = handler_of(with_field(annotation), seen)
    outcome = run_handler(handler.function, {"eventType": handler.event_type, "value": plain})
    assert (outcome.result, outcome.error) == (Result.SUCCESS, None)
    assert seen[0].value == value


def test_a_strict_field_of_a_lax_model() -> None:
    class Lax(BaseModel):
        at: Annotated[datetime, Field(strict=True)]
        count: int

    seen: list[Any] = []
    handler = handler_of(Lax, seen)
    event = {"eventType": handler.event_type, "at": "2026-01-31T08:00:00Z", "count": "3"}
    assert run_handler(handler.function, event).result is Result.SUCCESS
    assert (seen[0].at, seen[0].count) == (datetime(2026, 1, 31, 8, tzinfo=UTC), 3)


def test_strict_models_of_a_union_are_told_apart() -> None:
    class Started(Strict):
        kind: Literal["started"]
        at: datetime

    class Ended(Strict):
        kind: Literal["ended"]
        took: timedelta

    seen: list[Any] = []
    handler = handler_of(Started | Ended, seen)
    of = {"eventType": handler.event_type}
    assert run_handler(handler.function, of | {"kind": "ended", "took": "PT1S"}).result is Result.SUCCESS
    assert (
        run_handler(handler.function, of | {"kind": "started", "at": "2026-01-31T08:00:00Z"}).result is Result.SUCCESS
    )
    assert [type(event) for event in seen] == [Ended, Started]


def test_what_is_not_of_the_type_is_still_refused() -> None:
    handler = handler_of(with_field(int), [])
    outcome = run_handler(handler.function, {"eventType": handler.event_type, "value": "3"})
    assert outcome.error == "the item does not fit its model: value: Input should be a valid integer"


def test_a_strict_model_with_a_secret_input() -> None:
    seen: list[Any] = []
    handler = handler_of(with_field(Secret), seen)
    outcome = run_handler(handler.function, {"eventType": handler.event_type, "value": Secret("pa55")})
    assert outcome.result is Result.SUCCESS
    assert seen[0].value.get_secret_value() == "pa55"


async def test_a_dry_run_takes_it_too() -> None:
    seen: list[Any] = []
    handler = handler_of(Inner, seen)
    fields: dict[str, JsonValue] = {"eventType": handler.event_type, "at": "2026-01-31T08:00:00Z"}
    tried = await test_trying.tried(handler, fields)
    assert tried.outcome.error is None
    assert seen == [Inner(at=datetime(2026, 1, 31, 8, tzinfo=UTC))]
