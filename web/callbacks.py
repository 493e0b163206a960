"""The callbacks: another system says how an item ended that its handler has deferred.

The signed token in the path is the login. Any worker takes a callback; the owner of the node run applies it, and the
first word on an item decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Final, Literal

import pydantic_core
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator
from pydantic_core import from_json

import agents.callbacks
from agents.callbacks import Ticket, word
from agents.execution import MAX_ERROR_CHARACTERS, MAX_OUTPUT_BYTES
from port.models import LogLevel, LogLine, Result
from streams.records import By, ItemCompleted
from tables.rows import RowError
from tables.state import Item
from web.answers import RefusedError, refused
from web.connections import body_in_time
from web.here import Here

MAX_LOGS: Final = 200
SECONDS: Final = 30.0
"""How long a callback waits for the broker, and for a rebalance to end."""
_SHOWN_CHARACTERS: Final = 300

Record = Callable[[int, ItemCompleted], Awaitable[None]]
_Strict = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class Line(BaseModel):
    """A line for the node run's log."""

    model_config = _Strict
    level: Literal["DEBUG", "INFO", "WARN", "ERROR"] = "INFO"
    message: str


class Word(BaseModel):
    """The body of a callback."""

    model_config = _Strict
    result: Literal["SUCCESS", "FAILED"]
    output: dict[str, JsonValue] | None = None
    error: Annotated[str, Field(min_length=1)] | None = None
    """Why it FAILED; required then, and not allowed else."""
    logs: Annotated[list[Line], Field(max_length=MAX_LOGS)] = []

    @model_validator(mode="after")
    def _error_exactly_when_failed(self) -> Word:
        if (self.result == "FAILED") != (self.error is not None):
            raise ValueError("error is required with FAILED, and not allowed with SUCCESS")
        return self

    def of(self, ticket: Ticket) -> ItemCompleted:
        """Return the event that says so of an item."""
        return word(
            ticket.node_run_id,
            ticket.index,
            Result(self.result),
            By.CALLBACK,
            output=self.output,
            error=None if self.error is None else self.error[:MAX_ERROR_CHARACTERS],
            logs=[LogLine(level=LogLevel(line.level), message=line.message) for line in self.logs],
            event_type=ticket.event_type or None,
        )


class Taken(BaseModel):
    """The answer to a callback that was taken."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)
    node_run_id: Annotated[str, Field(serialization_alias="nodeRunId")]
    index: int
    decided: bool
    """Whether it is certain that this word stands; else the owner of the node run decides."""


@dataclass(frozen=True)
class Callbacks:
    """Takes callbacks.

    Args:
        urls: reads the tokens.
        here: the node runs of this worker.
        record: has an event entered, here or by the partition's owner; returns when the broker has acknowledged it.
    """

    urls: agents.callbacks.Callbacks
    here: Here
    record: Record

    async def explain(self, _request: web.Request) -> web.Response:
        """Answer a GET, whatever its token: who follows a link must not complete anything by that."""
        text = "This address takes a POST from the system that was given it.\n"
        return web.Response(status=HTTPStatus.METHOD_NOT_ALLOWED, text=text, headers={"Allow": "POST"})

    async def complete(self, request: web.Request) -> web.Response:
        """Take the word of another system.

        202: the broker has it. 200: the same word has decided the item before. 409: the item has ended otherwise. Where
        another worker owns the node run it is 202 in any case, and that one decides.
        """
        ticket = self.urls.read(request.match_info["token"])
        if ticket is None:
            raise refused(HTTPStatus.NOT_FOUND, "not-found", "no such callback")
        event = _event(await _body(request), ticket)
        if self._decided(event):
            return _answer(HTTPStatus.OK, event, decided=True)
        try:
            async with asyncio.timeout(SECONDS):
                await self.record(self.here.partition_of(event.node_run_id), event)
        except TimeoutError:
            message = "it could not be taken now; the same again changes nothing"
            raise refused(HTTPStatus.SERVICE_UNAVAILABLE, "not-now", message, {"Retry-After": "5"}) from None
        return _answer(HTTPStatus.ACCEPTED, event, decided=self._decided(event))

    def _decided(self, event: ItemCompleted) -> bool:
        """Whether this word has decided the item, as far as it is known here. Raises RefusedError where another did."""
        item = self._item(event)
        if item is None or item.result is None:
            return False
        if item.decided == event.digest:
            return True
        raise refused(HTTPStatus.CONFLICT, "ended", "the item has ended otherwise; this changes nothing")

    def _item(self, event: ItemCompleted) -> Item | None:
        partition = self.here.partition_of(event.node_run_id)
        try:
            run = self.here.node_runs.run(partition, event.node_run_id)
            return None if run is None else self.here.node_runs.item(partition, run, event.index)
        except RowError:
            return None


def _event(said: Word, ticket: Ticket) -> ItemCompleted:
    try:
        event = said.of(ticket)
    except ValueError as wrong:
        # 1e999 is a number of JSON, and no float.
        raise refused(HTTPStatus.UNPROCESSABLE_ENTITY, "wrong-body", f"output: {wrong}") from None
    if len((event.output or "").encode()) > MAX_OUTPUT_BYTES:
        raise _too_large("the output, written out,")
    return event


def _too_large(what: str) -> RefusedError:
    message = f"{what} is larger than {MAX_OUTPUT_BYTES:,} bytes"
    return refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large", message)


async def _body(request: web.Request) -> Word:
    if request.content_type != "application/json":
        message = "the body must be JSON, with Content-Type: application/json"
        raise refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "no-json", message)
    raw = b""
    async with body_in_time():
        async for chunk in request.content.iter_any():
            raw += chunk
            if len(raw) > MAX_OUTPUT_BYTES:
                raise _too_large("the body")
    try:
        # Read by itself first: a model takes NaN and infinity, which are no JSON, for numbers.
        return Word.model_validate(from_json(raw, allow_inf_nan=False))
    except ValidationError as wrong:
        raise _wrong(wrong.errors(include_input=False, include_url=False)) from None
    except ValueError as wrong:
        raise refused(HTTPStatus.UNPROCESSABLE_ENTITY, "wrong-body", f"no JSON: {wrong}") from None


def _wrong(errors: list[pydantic_core.ErrorDetails]) -> RefusedError:
    first = errors[0]
    field = ".".join(map(str, first["loc"]))
    message = f"{field}: {first['msg']}" if field else first["msg"].removeprefix("Value error, ")
    return refused(HTTPStatus.UNPROCESSABLE_ENTITY, "wrong-body", message[:_SHOWN_CHARACTERS])


def _answer(status: HTTPStatus, event: ItemCompleted, *, decided: bool) -> web.Response:
    taken = Taken(node_run_id=event.node_run_id, index=event.index, decided=decided)
    return web.Response(status=status, text=taken.model_dump_json(by_alias=True), content_type="application/json")
