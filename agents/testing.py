"""Calls one handler for one payload object and says how that ended, as a worker would: no Kafka, no Port, no settings.

from agents.testing import run_handler

outcome = run_handler(deployment_requested, {"service": "checkout", "version": "1.4.0"})
assert outcome.output == {"deployed": "checkout 1.4.0"}
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import JsonValue, SecretStr
from pydantic_core import from_json, to_json

from agents.cancelling import Cancellation
from agents.context import Alone
from agents.contract import Context, Handler, HandlerError, Resource, declared_in
from agents.execution import Call, Threads, execute
from agents.patterns import takes
from port.models import Result
from port.secrets import Decryption, Secret, encrypt
from streams.messages import event_type
from streams.records import ItemDeferred, ItemFinished, ItemRetry

_CLIENT_SECRET: Final = SecretStr("the-client-secret-of-a-test-runs")
_NOW: Final = 0.0
_NOBODY: Final = "test"


@dataclass(frozen=True)
class Outcome:
    """How a call ended. Secret inputs are masked in it, as in what Port is told."""

    result: Result | None
    """`SUCCESS`, `FAILED` or `CANCELLED`; None where the handler is to be called again, or has returned `Deferred`."""
    output: dict[str, JsonValue] | None = None
    """What Port would get, read back from JSON; None where the item has not succeeded, unless `Fail` has one."""
    error: str | None = None
    """Why the item has FAILED, was cancelled, or is called again; None where it succeeded."""
    retry_in: float | None = None
    """Seconds until the next call; None where there is none."""
    deferred: float | None = None
    """Seconds in which another system has to say how the item ended; None where the handler has not deferred it."""


def run_handler(
    function: Callable[..., object],
    payload: Mapping[str, object],
    *,
    attempt: int = 1,
    deadline: float | None = None,
    context: Context | None = None,
    resources: Mapping[Resource[Any], object] | None = None,
    cancel_after: float | None = None,
    cancelling_after: float | None = None,
) -> Outcome:
    """Call a handler once, and return how that ended. Where an event loop runs already, await `call_handler`.

    The payload is read, validated and handed over as a worker does it, the result judged likewise: by the handler's
    model, deadline and retries. Nothing waits for a retry; call again with the next `attempt`.

    Args:
        function: the function below `@handles(...)`.
        payload: one payload object, of anything that can be written as JSON. A `Secret` in it reaches the handler as a
            secret input would. Without `eventType` and its like it is of the handler's event type.
        attempt: which call of the item this is, from 1.
        deadline: seconds, in place of the handler's own.
        context: ids, index and workflow that the handler is to see, where they matter. Its event type, attempt,
            payload and decryption are replaced.
        resources: what `ctx.resource` returns for each.
        cancel_after: seconds after which the call is cut off, where it has not ended by then: its workflow run was
            cancelled, and is over.
        cancelling_after: seconds after which Port begins to cancel the workflow run: `ctx.cancelled` turns true, and
            the call goes on, unless the handler says `cancel="at once"`.

    Raises:
        HandlerError: the function is no handler, or none of this payload's event type.
        ValueError: the payload cannot be written as JSON.
    """
    return asyncio.run(
        call_handler(
            function,
            payload,
            attempt=attempt,
            deadline=deadline,
            context=context,
            resources=resources,
            cancel_after=cancel_after,
            cancelling_after=cancelling_after,
        )
    )


async def call_handler(
    function: Callable[..., object],
    payload: Mapping[str, object],
    *,
    attempt: int = 1,
    deadline: float | None = None,
    context: Context | None = None,
    resources: Mapping[Resource[Any], object] | None = None,
    cancel_after: float | None = None,
    cancelling_after: float | None = None,
) -> Outcome:
    """Do the same as `run_handler`, in the event loop that runs."""
    fields: dict[str, JsonValue] = from_json(to_json(_encrypted(dict(payload))))
    handler = _handler_of(function, event_type(fields))
    given = context or _context()
    seen = dataclasses.replace(
        given,
        event_type=event_type(fields) or handler.event_type,
        attempt=attempt,
        fields=fields,
        decryption=Decryption(_CLIENT_SECRET),
        host=given.host if resources is None else Alone(resources),
    )
    if deadline is not None:
        handler = dataclasses.replace(handler, deadline=deadline)
    if cancel_after is None and cancelling_after is None:
        return await outcome_of(handler, seen)
    cancellation, later = Cancellation(), asyncio.get_running_loop().call_later
    soft = cancellation.set if handler.cut_at_once else cancellation.announce
    cuts = ((cancel_after, cancellation.set), (cancelling_after, soft))
    timers = [later(seconds, cut, "cancelled by the test") for seconds, cut in cuts if seconds is not None]
    try:
        outcome = await outcome_of(handler, dataclasses.replace(seen, cancellation=cancellation))
    finally:
        for timer in timers:
            timer.cancel()
    if cancellation.is_set and outcome.retry_in is not None:
        # It is not called again.
        return Outcome(Result.CANCELLED, error=cancellation.reason)
    return outcome


async def outcome_of(handler: Handler, context: Context) -> Outcome:
    """Call a handler with a whole context, and return how that ended."""
    # With a clock that stands still a retry is due exactly as long after the call as it is to be waited.
    return outcome_in(
        (await execute(Call(handler, context, context.index, _NOBODY), Threads(), clock=lambda: _NOW)).event
    )


def outcome_in(event: ItemFinished | ItemRetry | ItemDeferred) -> Outcome:
    """Return how a call ended, of its event; its clock stood at 0."""
    if isinstance(event, ItemDeferred):
        return Outcome(None, deferred=event.until - _NOW)
    if not isinstance(event, ItemFinished):
        return Outcome(None, error=event.error, retry_in=event.due_at - _NOW)
    output = None if event.output is None else from_json(event.output)
    return Outcome(event.result, output, event.error)


def _context() -> Context:
    return Context("wfnr_test", "wfr_test", "a-workflow", "a-node", "", index=0, attempt=1, received_at=_NOW)


def _handler_of(function: Callable[..., object], wanted: str | None) -> Handler:
    found = [handler for handler in declared_in((function.__module__,)) if handler.function is function]
    name = f"{function.__module__}.{function.__qualname__}"
    if not found:
        raise HandlerError(f"{name} is no handler: it has no @handles(...)")
    right = [handler for handler in found if wanted is None or takes(handler.event_type, wanted)]
    if not right:
        types = ", ".join(repr(handler.event_type) for handler in found)
        raise HandlerError(f"{name} handles {types}; the payload says {wanted!r}")
    return right[0]


def _encrypted(value: object) -> object:
    """Return the value with its secrets encrypted, as Port puts secret inputs into a payload."""
    if isinstance(value, Secret):
        return encrypt(value.get_secret_value(), _CLIENT_SECRET)
    if isinstance(value, Mapping):
        return {name: _encrypted(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_encrypted(element) for element in value]
    return value
