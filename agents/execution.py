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
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread, current_thread
from typing import Final, ParamSpec, TypedDict, TypeVar, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from agents.callback_masking import masked_callbacks
from agents.contract import CallNext, Context, Deferred, Fail, Handler, Middleware, Output, RetryLater
from port.models import Result
from streams.records import ItemDeferred, ItemFinished, ItemRetry, Lines

logger = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

MAX_OUTPUT_BYTES: Final = 1_000_000
"""A larger output of an item is replaced by a note: Port takes 1 MiB for the whole node run."""
MAX_ERROR_CHARACTERS: Final = 2_000
MAX_TRACE_CHARACTERS: Final = 8_000
"""What is kept of a stack trace: its beginning and its end, which say where it began and what was raised."""
_EVENT_TYPE_CHARACTERS: Final = 200
"""What is kept of an event type: a pattern may match one of any length."""
_LETTING_GO: Final = 0.5
"""Seconds that a call has, after its deadline or its cancellation, to close what it had open."""


@dataclass(frozen=True)
class Call:
    """One call of a handler."""

    handler: Handler
    context: Context
    message: int
    """The index of the first item of the message that the item came in."""
    worker: str
    middleware: tuple[Middleware, ...] = ()
    """What runs around the handler, the outermost first."""


@dataclass(frozen=True)
class Ended:
    """How a call ended, and what of it still runs: a thread cannot be stopped from outside, nor can a coroutine that
    swallows its cancellation. Its slot stays taken until then; its late result is ignored.
    """

    event: ItemFinished | ItemRetry | ItemDeferred
    remains: asyncio.Future[object] | None = None
    missed: bool = False
    """Whether it was ended by its deadline."""


class Threads(Executor):
    """Runs calls in threads that do not keep the process from ending, as those of the standard library's pool do.

    Args:
        size: how many threads there are at most; they are started as they are needed, and kept.
    """

    def __init__(self, size: int = 1) -> None:
        self._size = size
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._lock = Lock()
        self._free = 0
        """Threads that wait for a call, less the calls that wait for a thread."""
        self._started = 0

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start a call, when a thread is free; the future has its result or exception."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()

        def run() -> None:
            current_thread().name = getattr(function, "__qualname__", "handler")
            try:
                result = function(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001, RUF100 - the future is where it goes
                future.set_exception(_carried(error))
            else:
                future.set_result(result)

        with self._lock:
            if self._free <= 0 and self._started < self._size:
                self._started += 1
                self._free += 1
                Thread(target=self._work, daemon=True).start()
            self._free -= 1
        self._calls.put(run)
        return future

    def _work(self) -> None:
        while True:
            self._calls.get()()
            with self._lock:
                self._free += 1


async def execute(call: Call, threads: Executor, clock: Callable[[], float] = time.time) -> Ended:
    """Call the handler, within its deadline, unless it is cancelled through its context before that.

    Never raises but for the cancellation of this very task.
    """
    started_at = clock()
    in_threads: list[asyncio.Future[object]] = []
    try:
        running = _start(call, _argument(call), threads, in_threads)
    except ValidationError as wrong:
        return Ended(_failed(call, _readable(wrong), started_at, clock()))
    except Exception as error:  # a validator of the model may raise anything
        return Ended(_raised(call, error, started_at, clock()))
    running.add_done_callback(_look_at)
    cancellation = call.context.cancellation
    cut = cancellation.cuts(running)
    try:
        await asyncio.wait({running, cut}, timeout=call.handler.deadline, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        running.cancel()
        raise
    # A thread that asks may end before this task is told of the cancellation.
    if running.done() and not cut.done():
        # Middleware may have left a thread behind.
        return Ended(_result(call, running, started_at, clock()), _remains(in_threads))
    missed = not cut.done()
    if not missed:
        event = _finished(call, Result.CANCELLED, started_at, clock(), error=cancellation.reason)
    else:
        event = _failed(call, f"the deadline of {call.handler.deadline:g} s passed", started_at, clock())
    # The future of a thread is not cancelled: it would be done at once, and the thread goes on.
    if running not in in_threads:
        running.cancel()
    if running not in in_threads or cut.done():
        await asyncio.wait({running}, timeout=_LETTING_GO)
    return Ended(event, _remains([running, *in_threads]), missed)


def _remains(futures: list[asyncio.Future[object]]) -> asyncio.Future[object] | None:
    left = {future for future in futures if not future.done()}
    if len(left) > 1:
        return asyncio.ensure_future(asyncio.wait(left))
    return left.pop() if left else None


def _look_at(ended: asyncio.Future[object]) -> None:
    # asyncio logs an exception that nobody looked at, with a traceback, when what raised it late is ignored.
    if not ended.cancelled():
        ended.exception()


def _argument(call: Call) -> object:
    if call.handler.adapter is not None:
        # As JSON, which it was: to a strict model a text is no time and a list no tuple, but those of JSON are.
        # It costs 6 µs more for a small item.
        plain = to_json(dict(call.context.fields))
        return call.handler.adapter.validate_json(plain, context=call.context.decryption)
    # A copy to the ground: what a handler changes in it, the next attempt must not find changed.
    return copy.deepcopy(dict(call.context.fields))


def _start(
    call: Call, argument: object, threads: Executor, in_threads: list[asyncio.Future[object]]
) -> asyncio.Future[object]:
    handler = call.handler
    arguments = (argument, call.context) if handler.takes_context else (argument,)
    if call.middleware:
        return asyncio.ensure_future(_awaited(_around, call, arguments, threads, in_threads))
    if handler.is_async:
        return asyncio.ensure_future(_awaited(handler.function, *arguments))
    return _in_thread(handler, arguments, threads, in_threads)


def _in_thread(
    handler: Handler, arguments: tuple[object, ...], threads: Executor, in_threads: list[asyncio.Future[object]]
) -> asyncio.Future[object]:
    running: asyncio.Future[object] = asyncio.get_running_loop().run_in_executor(threads, handler.function, *arguments)
    in_threads.append(running)
    return running


async def _around(
    call: Call, arguments: tuple[object, ...], threads: Executor, in_threads: list[asyncio.Future[object]]
) -> Output:
    """Call the handler with its middleware around it."""

    async def handler() -> Output:
        if call.handler.is_async:
            return await cast("Awaitable[Output]", call.handler.function(*arguments))
        running = _in_thread(call.handler, arguments, threads, in_threads)
        running.add_done_callback(_look_at)
        # Who stops waiting for a thread does not end it.
        return cast("Output", await asyncio.shield(running))

    following: CallNext = handler
    for function in reversed(call.middleware):
        following = partial(function, call.context, following)
    return await following()


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
) -> ItemFinished | ItemRetry | ItemDeferred:
    try:
        returned = running.result()
        if isinstance(returned, Deferred):
            return _deferred(call, returned, started_at, ended_at)
        output = _output(call, returned)
    except Fail as failure:
        return _final(call, failure, started_at, ended_at)
    except RetryLater as later:
        return _retry(call, _said(later), ended_at + later.seconds, started_at, ended_at, asked=True)
    except asyncio.CancelledError:
        if call.context.cancelled:
            # It was told so, and has come to an end by itself.
            return _finished(call, Result.CANCELLED, started_at, ended_at, error=call.context.cancellation.reason)
        return _again(call, "the handler was cancelled", None, started_at, ended_at)
    except Exception as error:
        return _raised(call, error, started_at, ended_at)
    return _finished(call, Result.SUCCESS, started_at, ended_at, output=output)


def _final(call: Call, failure: Fail, started_at: float, ended_at: float) -> ItemFinished:
    error = _said(failure) or "the handler raised Fail"
    if failure.output is None:
        return _failed(call, error, started_at, ended_at)
    try:
        output = _output(call, failure.output)
    except Fail as wrong:
        return _failed(call, f"{error} ({_said(wrong)})", started_at, ended_at)
    return _finished(call, Result.FAILED, started_at, ended_at, output=output, error=_clean(call, error))


def _raised(call: Call, error: Exception, started_at: float, ended_at: float) -> ItemFinished | ItemRetry:
    trace = _masked(call, "".join(traceback.format_exception(error))).rstrip()
    logger.warning("handler %s failed for %s\n%s", call.handler.name, call.context.idempotency_key, trace)
    said, kept = f"{type(error).__name__}: {_said(error)}", _kept_of(trace)
    if isinstance(error, call.handler.retry.never):
        return _failed(call, said, started_at, ended_at, kept)
    return _again(call, said, kept, started_at, ended_at)


def _kept_of(trace: str) -> str:
    """Return a stack trace as it is kept: cut in its middle, where it is long."""
    # A lone surrogate in an exception's text could not be written as UTF-8.
    trace = trace.encode(errors="replace").decode()
    half = MAX_TRACE_CHARACTERS // 2
    left_out = len(trace) - 2 * half
    return trace if left_out <= 0 else f"{trace[:half]}\n… ({left_out:,} characters are left out) …\n{trace[-half:]}"


def _said(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "(its text cannot be read)"


def _output(call: Call, returned: object) -> str:
    if returned is not None and not isinstance(returned, Mapping | BaseModel):
        raise Fail(
            f"the handler returned {type(returned).__name__}; it must return a dict, a pydantic model, None or Deferred"
        )
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


def _again(call: Call, error: str, trace: str | None, started_at: float, ended_at: float) -> ItemFinished | ItemRetry:
    attempt = call.context.attempt
    if attempt >= call.handler.retry.attempts:
        return _failed(call, error, started_at, ended_at, trace)
    return _retry(call, error, ended_at + call.handler.retry.pause(attempt), started_at, ended_at, trace=trace)


def _retry(
    call: Call,
    error: str,
    due_at: float,
    started_at: float,
    ended_at: float,
    *,
    trace: str | None = None,
    asked: bool = False,
) -> ItemRetry:
    context = call.context
    return ItemRetry(
        node_run_id=context.node_run_id,
        index=context.index,
        message=call.message,
        event_type=context.event_type[:_EVENT_TYPE_CHARACTERS],
        attempt=context.attempt,
        due_at=due_at,
        error=_clean(call, error),
        trace=trace,
        worker=call.worker,
        started_at=started_at,
        ended_at=ended_at,
        asked=asked,
        **_logged(call),
    )


def _deferred(call: Call, deferred: Deferred, started_at: float, ended_at: float) -> ItemDeferred:
    context = call.context
    return ItemDeferred(
        node_run_id=context.node_run_id,
        index=context.index,
        message=call.message,
        event_type=context.event_type[:_EVENT_TYPE_CHARACTERS],
        attempt=context.attempt,
        until=ended_at + deferred.seconds,
        link=None if deferred.link is None else _masked(call, deferred.link),
        worker=call.worker,
        started_at=started_at,
        at=ended_at,
        **_logged(call),
    )


def _failed(call: Call, error: str, started_at: float, ended_at: float, trace: str | None = None) -> ItemFinished:
    return _finished(call, Result.FAILED, started_at, ended_at, error=_clean(call, error), trace=trace)


def _finished(
    call: Call,
    result: Result,
    started_at: float,
    ended_at: float,
    *,
    output: str | None = None,
    error: str | None = None,
    trace: str | None = None,
) -> ItemFinished:
    context = call.context
    return ItemFinished(
        v=2 if result is Result.CANCELLED else 1,
        node_run_id=context.node_run_id,
        index=context.index,
        message=call.message,
        event_type=context.event_type[:_EVENT_TYPE_CHARACTERS],
        attempt=context.attempt,
        result=result,
        output=output,
        error=error,
        trace=trace,
        worker=call.worker,
        started_at=started_at,
        ended_at=ended_at,
        **_logged(call),
    )


class _Logged(TypedDict, total=False):
    logs: Lines


def _logged(call: Call) -> _Logged:
    # Most calls log nothing, and an event is validated faster without the field.
    return {"logs": call.context.lines.kept()} if call.context.has_logged else {}


def _clean(call: Call, text: str) -> str:
    # Masked before it is cut: the first half of a secret would not be found. A lone surrogate in an exception's text
    # could not be written as UTF-8.
    return _masked(call, text)[:MAX_ERROR_CHARACTERS].encode(errors="replace").decode()


def _masked(call: Call, text: str) -> str:
    """Return a text with the secret inputs masked that were decrypted for this call, and URLs of callbacks."""
    decryption = call.context.decryption
    return masked_callbacks(text if decryption is None else decryption.masked(text))


def _masked_json(call: Call, output: bytes) -> bytes:
    decryption = call.context.decryption
    masked = output if decryption is None else decryption.masked_json(output)
    # What is masked has no quotes: it is still JSON.
    return masked_callbacks(masked.decode()).encode() if b"callbacks" in masked else masked


def _readable(wrong: ValidationError) -> str:
    lines = [
        f"{'.'.join(map(str, error['loc'])) or 'event'}: {error['msg']}" for error in wrong.errors(include_input=False)
    ]
    return "the item does not fit its model: " + "; ".join(lines)
