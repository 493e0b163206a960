"""Calls one handler for one item and says in an event how that went. Knows nothing of Faust."""

from __future__ import annotations

import asyncio
import copy
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from threading import Thread
from typing import Final, ParamSpec, TypeVar, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from agents.contract import Context, Fail, Handler, RetryLater
from port.models import Result
from streams.records import ItemFinished, ItemRetry

logger = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

MAX_OUTPUT_BYTES: Final = 1_000_000
"""A larger output of an item is replaced by a note: Port takes 1 MiB for the whole node run."""
MAX_ERROR_CHARACTERS: Final = 2_000
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 300.0
_MOST_DOUBLINGS: Final = 10
_LETTING_GO: Final = 0.5
"""Seconds that a coroutine has, after its deadline, to close what it had open."""


@dataclass(frozen=True)
class Call:
    """One call of a handler."""

    handler: Handler
    context: Context
    message: int
    """The index of the first item of the message that the item came in."""
    worker: str


@dataclass(frozen=True)
class Ended:
    """How a call ended, and what of it still runs: a thread cannot be stopped at its deadline, nor can a coroutine
    that swallows its cancellation. Its slot stays taken until then; its late result is ignored.
    """

    event: ItemFinished | ItemRetry
    remains: asyncio.Future[object] | None = None


class Threads(Executor):
    """Runs each call in a thread of its own, that does not keep the process from ending as a pool's threads do."""

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start a call; the future has its result or exception."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()

        def run() -> None:
            try:
                result = function(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001, RUF100 - the future is where it goes
                future.set_exception(_carried(error))
            else:
                future.set_result(result)

        Thread(target=run, name=getattr(function, "__qualname__", None), daemon=True).start()
        return future


async def execute(call: Call, threads: Executor, clock: Callable[[], float] = time.time) -> Ended:
    """Call the handler, within its deadline. Never raises but for the cancellation of this very task."""
    started_at = clock()
    try:
        running = _start(call, _argument(call), threads)
    except ValidationError as wrong:
        return Ended(_failed(call, _readable(wrong), started_at, clock()))
    except Exception as error:  # a validator of the model may raise anything
        return Ended(_raised(call, error, started_at, clock()))
    running.add_done_callback(_look_at)
    try:
        done, _ = await asyncio.wait({running}, timeout=call.handler.deadline)
    except asyncio.CancelledError:
        running.cancel()
        raise
    if done:
        return Ended(_result(call, running, started_at, clock()))
    text = f"the deadline of {call.handler.deadline:g} s passed"
    event = _failed(call, text, started_at, clock())
    if call.handler.is_async:
        running.cancel()
        await asyncio.wait({running}, timeout=_LETTING_GO)
    # The future of a thread is not cancelled: it would be done at once, and the thread goes on.
    return Ended(event, None if running.done() else running)


def _look_at(ended: asyncio.Future[object]) -> None:
    # asyncio logs an exception that nobody looked at, with a traceback, when what raised it late is ignored.
    if not ended.cancelled():
        ended.exception()


def _argument(call: Call) -> object:
    if call.handler.model is not None:
        return call.handler.model.model_validate(dict(call.context.fields), context=call.context.decryption)
    # A copy to the ground: what a handler changes in it, the next attempt must not find changed.
    return copy.deepcopy(dict(call.context.fields))


def _start(call: Call, argument: object, threads: Executor) -> asyncio.Future[object]:
    handler = call.handler
    arguments = (argument, call.context) if handler.takes_context else (argument,)
    if handler.is_async:
        return asyncio.ensure_future(_awaited(handler.function, *arguments))
    return asyncio.get_running_loop().run_in_executor(threads, handler.function, *arguments)


async def _awaited(function: Callable[..., object], *arguments: object) -> object:
    try:
        return await cast("Awaitable[object]", function(*arguments))
    except (asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as error:
        raise _carried(error)  # noqa: B904 - it has its cause


def _carried(error: BaseException) -> BaseException:
    """Return what a future can carry. What a handler raises is the end of its item, never of the worker."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    # `sys.exit()` would end the worker, and a future that is to carry StopIteration is never done.
    named = RuntimeError(f"the handler raised {type(error).__name__}: {_said(error)}")
    named.__cause__ = error
    return named


def _result(
    call: Call, running: asyncio.Future[object], started_at: float, ended_at: float
) -> ItemFinished | ItemRetry:
    try:
        output = _output(call, running.result())
    except Fail as failure:
        return _failed(call, _said(failure) or "the handler raised Fail", started_at, ended_at)
    except RetryLater as later:
        return _retry(call, _said(later), ended_at + later.seconds)
    except asyncio.CancelledError:
        return _again(call, "the handler was cancelled", started_at, ended_at)
    except Exception as error:
        return _raised(call, error, started_at, ended_at)
    return _finished(call, Result.SUCCESS, started_at, ended_at, output=output)


def _raised(call: Call, error: Exception, started_at: float, ended_at: float) -> ItemFinished | ItemRetry:
    trace = _masked(call, "".join(traceback.format_exception(error))).rstrip()
    logger.warning("handler %s failed for %s\n%s", call.handler.name, call.context.idempotency_key, trace)
    return _again(call, f"{type(error).__name__}: {_said(error)}", started_at, ended_at)


def _said(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "(its text cannot be read)"


def _output(call: Call, returned: object) -> str:
    if returned is not None and not isinstance(returned, Mapping | BaseModel):
        raise Fail(f"the handler returned {type(returned).__name__}; it must return a dict, a pydantic model or None")
    try:
        plain = dict(returned) if isinstance(returned, Mapping) else returned
        text = _masked_json(call, to_json({} if plain is None else plain, inf_nan_mode="null", by_alias=True))
    except (PydanticSerializationError, ValueError) as error:
        raise Fail(f"the handler's output cannot be written as JSON: {error}") from None
    if not text.startswith(b"{"):
        raise Fail("the handler's output is no JSON object")
    if len(text) > MAX_OUTPUT_BYTES:
        return to_json({"note": f"The output is larger than is kept ({len(text):,} bytes) and is left out."}).decode()
    return text.decode()


def _again(call: Call, error: str, started_at: float, ended_at: float) -> ItemFinished | ItemRetry:
    attempt = call.context.attempt
    if attempt > call.handler.retries:
        return _failed(call, error, started_at, ended_at)
    return _retry(call, error, ended_at + min(_FIRST_PAUSE * 2 ** min(attempt - 1, _MOST_DOUBLINGS), _LONGEST_PAUSE))


def _retry(call: Call, error: str, due_at: float) -> ItemRetry:
    context = call.context
    return ItemRetry(
        node_run_id=context.node_run_id,
        index=context.index,
        message=call.message,
        event_type=context.event_type,
        attempt=context.attempt,
        due_at=due_at,
        error=_clean(call, error),
        worker=call.worker,
    )


def _failed(call: Call, error: str, started_at: float, ended_at: float) -> ItemFinished:
    return _finished(call, Result.FAILED, started_at, ended_at, error=_clean(call, error))


def _finished(
    call: Call,
    result: Result,
    started_at: float,
    ended_at: float,
    *,
    output: str | None = None,
    error: str | None = None,
) -> ItemFinished:
    context = call.context
    return ItemFinished(
        node_run_id=context.node_run_id,
        index=context.index,
        message=call.message,
        event_type=context.event_type,
        attempt=context.attempt,
        result=result,
        output=output,
        error=error,
        worker=call.worker,
        started_at=started_at,
        ended_at=ended_at,
    )


def _clean(call: Call, text: str) -> str:
    # Masked before it is cut: the first half of a secret would not be found. A lone surrogate in an exception's text
    # could not be written as UTF-8.
    return _masked(call, text)[:MAX_ERROR_CHARACTERS].encode(errors="replace").decode()


def _masked(call: Call, text: str) -> str:
    """Return a text with the secret inputs masked that were decrypted for this call."""
    decryption = call.context.decryption
    return text if decryption is None else decryption.masked(text)


def _masked_json(call: Call, output: bytes) -> bytes:
    decryption = call.context.decryption
    return output if decryption is None else decryption.masked_json(output)


def _readable(wrong: ValidationError) -> str:
    lines = [
        f"{'.'.join(map(str, error['loc'])) or 'event'}: {error['msg']}" for error in wrong.errors(include_input=False)
    ]
    return "the item does not fit its model: " + "; ".join(lines)
