"""Short ways to have handlers and calls of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from pydantic import JsonValue

from agents.contract import Context, Handler, HandlerFunction, Middleware, Retry, declared_in, handles
from agents.execution import Call

ID = "wfnr_a"
EVENT_TYPE = "greet"


def declared(
    function: HandlerFunction, *, concurrency: int = 10, deadline: str | float = 10.0, retries: int | Retry = 0
) -> Handler:
    """Declare a handler and return the declaration."""
    handles(EVENT_TYPE, concurrency=concurrency, deadline=deadline, retries=retries)(function)
    return [handler for handler in declared_in((function.__module__,)) if handler.function is function][-1]


def context(fields: Mapping[str, JsonValue] | None = None, *, index: int = 0, attempt: int = 1) -> Context:
    return Context(
        node_run_id=ID,
        workflow_run_id="wfr_a",
        workflow="deploy",
        node="publish",
        event_type=EVENT_TYPE,
        index=index,
        attempt=attempt,
        received_at=100.0,
        fields={"name": "Ada"} if fields is None else fields,
    )


def call_of(
    function: HandlerFunction,
    fields: Mapping[str, JsonValue] | None = None,
    *,
    attempt: int = 1,
    deadline: str | float = 10.0,
    retries: int | Retry = 0,
    middleware: tuple[Middleware, ...] = (),
) -> Call:
    """A call of a handler that is declared here."""
    handler = declared(function, deadline=deadline, retries=retries)
    return Call(handler, context(fields, attempt=attempt), 0, "worker", middleware)


async def until(holds: Callable[[], bool]) -> None:
    """Wait for a condition; one that never comes true fails the test."""
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.001)


async def turns_of_the_loop(count: int = 5) -> None:
    """Let what is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)
