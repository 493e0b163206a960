"""One call of a handler, and the event that says how it ended."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import pytest
from pydantic import BaseModel, Field, JsonValue, RootModel, field_validator

from agents.contract import CallNext, Context, Deferred, Fail, HandlerFunction, Output, Retry, RetryLater
from agents.execution import MAX_ERROR_CHARACTERS, MAX_OUTPUT_BYTES, MAX_TRACE_CHARACTERS, Call, Ended, Threads, execute
from port.models import Result
from streams.records import ItemFinished, ItemRetry
from tests.agents.examples import EVENT_TYPE, ID, call_of, turns_of_the_loop

NOW = 1000.0


async def run(call: Call) -> Ended:
    return await execute(call, Threads(), clock=lambda: NOW)


async def finished(call: Call) -> ItemFinished:
    ended = await run(call)
    assert ended.remains is None
    assert isinstance(ended.event, ItemFinished)
    return ended.event


async def failed(call: Call) -> str:
    event = await finished(call)
    assert (event.result, event.output) == (Result.FAILED, None)
    assert event.error is not None
    return event.error


async def output(function: HandlerFunction, fields: Mapping[str, JsonValue] | None = None) -> str:
    event = await finished(call_of(function, fields))
    assert (event.result, event.error) == (Result.SUCCESS, None)
    assert event.output is not None
    return event.output


async def retried(call: Call) -> ItemRetry:
    event = (await run(call)).event
    assert isinstance(event, ItemRetry)
    return event


class Person(BaseModel):
    name: str


def model(event: Person) -> dict[str, object]:
    return {"got": event.name}


def fields_alone(event: dict[str, object]) -> dict[str, object]:
    return {"got": event["name"]}


def model_and_context(event: Person, ctx: Context) -> dict[str, object]:
    return {"got": f"{event.name} {ctx.idempotency_key}"}


def fields_and_context(event: dict[str, object], ctx: Context) -> dict[str, object]:
    return {"got": f"{event['name']} {ctx.idempotency_key}"}


async def async_model(event: Person) -> dict[str, object]:
    return model(event)


async def async_fields_and_context(event: dict[str, object], ctx: Context) -> dict[str, object]:
    return fields_and_context(event, ctx)


@pytest.mark.parametrize(
    ("function", "got"),
    [
        (model, "Ada"),
        (fields_alone, "Ada"),
        (model_and_context, "Ada wfnr_a-0"),
        (fields_and_context, "Ada wfnr_a-0"),
        (async_model, "Ada"),
        (async_fields_and_context, "Ada wfnr_a-0"),
    ],
)
async def test_a_handler_gets_what_its_signature_asks_for(function: HandlerFunction, got: str) -> None:
    assert await output(function) == f'{{"got":"{got}"}}'


async def test_the_event_names_the_item_the_call_and_the_worker() -> None:
    clock = iter((10.0, 12.5))
    ended = await execute(call_of(model, attempt=3), Threads(), clock=lambda: next(clock))
    assert ended.event == ItemFinished(
        node_run_id=ID,
        index=0,
        message=0,
        event_type=EVENT_TYPE,
        attempt=3,
        result=Result.SUCCESS,
        output='{"got":"Ada"}',
        worker="worker",
        started_at=10.0,
        ended_at=12.5,
    )


async def test_plain_functions_run_in_a_thread_and_coroutines_in_the_loop() -> None:
    def plain(event: dict[str, object]) -> dict[str, object]:
        current = threading.current_thread()
        return {"main": current is threading.main_thread(), "daemon": current.daemon}

    async def coroutine(event: dict[str, object]) -> dict[str, object]:
        return {"main": threading.current_thread() is threading.main_thread()}

    assert await output(plain) == '{"main":false,"daemon":true}'
    assert await output(coroutine) == '{"main":true}'


class Order(BaseModel):
    number: int
    at: Person
    tags: list[str] = Field(max_length=1)


async def test_an_item_that_does_not_fit_its_model_says_where_and_not_what() -> None:
    async def handle(event: Order) -> None:
        raise AssertionError("never called")

    fields: dict[str, JsonValue] = {"number": "secret-1", "at": {"name": {"secret": 2}}, "tags": ["secret-3", "x"]}
    error = await failed(call_of(handle, fields, retries=3))
    assert error == (
        "the item does not fit its model: "
        "number: Input should be a valid integer, unable to parse string as an integer; "
        "at.name: Input should be a valid string; "
        "tags: List should have at most 1 item after validation, not 2"
    )


class Broken(BaseModel):
    name: str

    @field_validator("name")
    @classmethod
    def known(cls, value: str) -> str:
        return {"Grace": value}[value]


async def test_a_model_whose_validator_breaks_fails_the_item() -> None:
    async def handle(event: Broken) -> None: ...

    assert await failed(call_of(handle)) == "KeyError: 'Ada'"
    assert (await retried(call_of(handle, retries=1))).error == "KeyError: 'Ada'"


async def test_what_a_handler_changes_in_its_event_is_not_there_at_the_next_attempt() -> None:
    async def handle(event: dict[str, dict[str, object]]) -> dict[str, object]:
        return {"left": event["data"].pop("count"), "also": event.pop("data")}

    fields: dict[str, JsonValue] = {"data": {"count": 1}}
    for _ in range(2):
        assert await output(handle, fields) == '{"left":1,"also":{}}'


@pytest.mark.parametrize(
    ("raised", "says"), [(Fail("no such host"), "no such host"), (Fail(), "the handler raised Fail")]
)
async def test_fail_is_final(raised: Fail, says: str) -> None:
    def handle(event: Person) -> None:
        raise raised

    assert await failed(call_of(handle, retries=5)) == says


async def test_fail_may_have_an_output() -> None:
    def handle(event: Person) -> None:
        raise Fail("the plan is invalid", {"step": 3})

    event = await finished(call_of(handle, retries=5))
    assert (event.result, event.error, event.output) == (Result.FAILED, "the plan is invalid", '{"step":3}')


async def test_an_output_of_fail_that_cannot_be_written_is_named() -> None:
    def handle(event: Person) -> None:
        raise Fail("the plan is invalid", {"step": object()})

    said = await failed(call_of(handle, retries=5))
    assert said.startswith("the plan is invalid (the handler's output cannot be written as JSON: ")


async def test_retry_later_is_heeded_as_often_as_it_is_asked() -> None:
    async def handle(event: Person) -> None:
        raise RetryLater("2m", "the cluster is busy")

    event = await retried(call_of(handle, attempt=50))
    assert (event.due_at, event.error, event.attempt) == (NOW + 120, "the cluster is busy", 50)


async def broken(event: Person) -> None:
    raise LookupError("no host")


async def test_an_exception_is_retried_with_growing_pauses_and_then_final(caplog: pytest.LogCaptureFixture) -> None:
    events = [await retried(call_of(broken, attempt=attempt, retries=12)) for attempt in range(1, 13)]
    assert [event.due_at - NOW for event in events] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    assert {event.error for event in events} == {"LookupError: no host"}
    assert await failed(call_of(broken, attempt=13, retries=12)) == "LookupError: no host"
    assert "handler tests.agents.test_execution.broken failed for wfnr_a-0" in caplog.text
    assert 'raise LookupError("no host")' in caplog.text, "the team sees where"


async def test_the_pause_of_a_very_late_attempt_is_the_longest() -> None:
    assert (await retried(call_of(broken, attempt=5000, retries=10_000))).due_at == NOW + 300


async def test_an_error_is_cut_and_can_always_be_written() -> None:
    async def handle(event: Person) -> None:
        raise ValueError("\ud800" + "x" * 10_000)

    error = await failed(call_of(handle))
    assert len(error) == MAX_ERROR_CHARACTERS
    assert error.startswith("ValueError: ?xxx")


async def test_an_exception_leaves_its_stack_trace_and_nothing_else_does() -> None:
    async def gives_up(event: Person) -> None:
        raise Fail("no")

    async def asks_again(event: Person) -> None:
        raise RetryLater(1)

    for event in (await finished(call_of(broken)), await retried(call_of(broken, retries=1))):
        assert event.trace is not None
        assert event.trace.startswith("Traceback (most recent call last):")
        assert 'in broken\n    raise LookupError("no host")' in event.trace
    for event in (await finished(call_of(gives_up)), await retried(call_of(asks_again))):
        assert event.trace is None


async def test_a_long_stack_trace_keeps_its_ends_and_can_always_be_written() -> None:
    async def handle(event: Person) -> None:
        raise ValueError("\ud800" + "x" * 100_000 + " the end")

    trace = (await finished(call_of(handle))).trace
    assert trace is not None
    assert len(trace) < MAX_TRACE_CHARACTERS + 100
    assert trace.startswith("Traceback")
    assert "ValueError: ?xxx" in trace
    assert "characters are left out)" in trace
    assert trace.endswith(" the end")


async def test_an_exception_that_cannot_be_shown_is_told_by_its_name() -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    async def handle(event: Person) -> None:
        raise Odd

    assert await failed(call_of(handle)) == "Odd: (its text cannot be read)"


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt(), BaseException("3")])
async def test_a_handler_that_would_end_the_worker_ends_its_item_alone(raised: BaseException) -> None:
    def plain(event: Person) -> None:
        raise raised

    async def coroutine(event: Person) -> None:
        raise raised

    says = f"RuntimeError: the handler raised {type(raised).__name__}: {raised}"
    assert await failed(call_of(plain)) == says
    assert await failed(call_of(coroutine)) == says


async def test_a_stop_iteration_fails_the_item_at_once() -> None:
    def plain(event: Person) -> None:
        next(iter(()))

    async def coroutine(event: Person) -> None:
        next(iter(()))

    assert await failed(call_of(plain)) == "RuntimeError: the handler raised StopIteration: "
    assert await failed(call_of(coroutine)) == "RuntimeError: coroutine raised StopIteration"


async def test_a_handler_that_is_cancelled_from_within_has_failed() -> None:
    async def handle(event: Person) -> None:
        raise asyncio.CancelledError

    assert await failed(call_of(handle)) == "the handler was cancelled"


class Answer(BaseModel):
    at: datetime
    said: str = Field(serialization_alias="saidWhat")


AT = datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        (None, "{}"),
        ({}, "{}"),
        ({"at": AT, "path": Path("/a"), "set": {1}}, '{"at":"2027-01-02T03:04:05Z","path":"/a","set":[1]}'),
        ({"nan": math.nan, "inf": math.inf, "half": 0.5}, '{"nan":null,"inf":null,"half":0.5}'),
        (MappingProxyType({"a": 1}), '{"a":1}'),
        (Answer(at=AT, said="héllo"), '{"at":"2027-01-02T03:04:05Z","saidWhat":"héllo"}'),
    ],
)
async def test_outputs_are_written_as_json(returned: Mapping[str, object] | BaseModel | None, text: str) -> None:
    async def handle(event: Person) -> Mapping[str, object] | BaseModel | None:
        return returned

    assert await output(handle) == text


def _circular() -> dict[str, object]:
    circle: dict[str, object] = {}
    circle["again"] = circle
    return circle


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ("done", "the handler returned str; it must return a dict, a pydantic model, None or Deferred"),
        ([1], "the handler returned list; it must return a dict, a pydantic model, None or Deferred"),
        (False, "the handler returned bool; it must return a dict, a pydantic model, None or Deferred"),
        (RootModel[list[int]]([1]), "the handler's output is no JSON object"),
        ({"a": object()}, "the handler's output cannot be written as JSON: Unable to serialize unknown type"),
        ({"a": "\ud800"}, "the handler's output cannot be written as JSON: "),
        (_circular(), "the handler's output cannot be written as JSON: "),
    ],
)
async def test_an_output_that_port_could_not_take_fails_the_item_for_good(returned: object, says: str) -> None:
    calls = 0

    async def handle(event: Person):  # type: ignore[no-untyped-def]
        nonlocal calls
        calls += 1
        return returned

    assert (await failed(call_of(handle, retries=3))).startswith(says)
    assert calls == 1


async def test_an_output_that_is_too_large_is_replaced_by_a_note() -> None:
    frame = len('{"a":""}')

    async def handle(event: dict[str, int]) -> dict[str, object]:
        return {"a": "x" * event["size"]}

    assert len(await output(handle, {"size": MAX_OUTPUT_BYTES - frame})) == MAX_OUTPUT_BYTES
    note = '{"note":"The output is larger than is kept (1,000,001 bytes) and is left out."}'
    assert await output(handle, {"size": MAX_OUTPUT_BYTES - frame + 1}) == note


DEADLINE = 0.02
PASSED = "the deadline of 0.02 s passed"


async def test_a_coroutine_is_cancelled_at_its_deadline() -> None:
    cancelled = False

    async def handle(event: Person) -> None:
        nonlocal cancelled
        try:
            await asyncio.Event().wait()
        finally:
            await turns_of_the_loop(20)  # a client that closes its connection
            cancelled = True

    assert await failed(call_of(handle, deadline=DEADLINE, retries=3)) == PASSED
    assert cancelled


@pytest.fixture
def no_stray_exceptions(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """asyncio has nothing to say of exceptions that nobody looked at."""
    with caplog.at_level(logging.ERROR, logger="asyncio"):
        yield
        gc.collect()
    assert caplog.text == ""


@pytest.mark.usefixtures("no_stray_exceptions")
async def test_a_coroutine_that_swallows_its_cancellation_remains() -> None:
    release = asyncio.Event()

    async def handle(event: Person) -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        raise LookupError("too late")

    ended = await run(call_of(handle, deadline=DEADLINE))
    assert isinstance(ended.event, ItemFinished)
    assert ended.event.error == PASSED
    assert ended.remains is not None
    assert not ended.remains.done()
    release.set()
    await asyncio.wait({ended.remains})


@pytest.mark.usefixtures("no_stray_exceptions")
async def test_a_thread_remains_past_its_deadline() -> None:
    release = threading.Event()

    def handle(event: Person) -> None:
        release.wait(10)
        raise LookupError("too late")

    ended = await run(call_of(handle, deadline=DEADLINE))
    assert isinstance(ended.event, ItemFinished)
    assert ended.event.error == PASSED
    assert ended.remains is not None
    await turns_of_the_loop()
    assert not ended.remains.done()
    release.set()
    await asyncio.wait({ended.remains})


async def test_cancelling_the_caller_cancels_the_handler() -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def handle(event: Person) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    task = asyncio.create_task(run(call_of(handle)))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(10):
        await cancelled.wait()


async def test_calls_in_threads_run_side_by_side() -> None:
    together = threading.Barrier(8, timeout=10)

    def handle(event: Person) -> dict[str, object]:
        return {"place": together.wait() >= 0}

    events = await asyncio.gather(*(finished(call_of(handle)) for _ in range(8)))
    assert {event.output for event in events} == {'{"place":true}'}


def test_threads_are_no_more_than_the_size_and_used_again() -> None:
    threads, together = Threads(2), threading.Barrier(2, timeout=10)

    def meet() -> int:
        together.wait()
        return threading.get_ident()

    futures = [threads.submit(meet) for _ in range(8)]
    assert len({future.result(10) for future in futures}) == 2


async def test_a_union_picks_its_model_by_the_content() -> None:
    async def handle(event: Person | Order) -> dict[str, object]:
        return {"got": type(event).__name__}

    assert await output(handle) == '{"got":"Person"}'
    assert await output(handle, {"number": 1, "at": {"name": "Ada"}, "tags": []}) == '{"got":"Order"}'
    error = await failed(call_of(handle, {"at": 1}, retries=3))
    assert "Person.name: Field required" in error
    assert "Order.number: Field required" in error


async def test_an_exception_that_is_never_worth_a_retry_is_final() -> None:
    policy = Retry(attempts=3, first="2s", longest="3s", never=(KeyError, OSError))

    async def handle(event: dict[str, str]) -> None:
        raise {"key": KeyError, "file": FileNotFoundError, "lookup": LookupError}[event["raise"]]("x")

    assert await failed(call_of(handle, {"raise": "key"}, retries=policy)) == "KeyError: 'x'"
    assert await failed(call_of(handle, {"raise": "file"}, retries=policy)) == "FileNotFoundError: x"
    for attempt, pause in ((1, 2), (2, 3)):
        event = await retried(call_of(handle, {"raise": "lookup"}, attempt=attempt, retries=policy))
        assert event.due_at == NOW + pause
    assert await failed(call_of(handle, {"raise": "lookup"}, attempt=3, retries=policy)) == "LookupError: x"


async def _outer(ctx: Context, call_next: CallNext) -> Output:
    output = await call_next()
    assert isinstance(output, Mapping)
    return {**output, "outer": [*output.get("inner", []), ctx.index]}  # type: ignore[misc]


async def _inner(ctx: Context, call_next: CallNext) -> Output:
    output = await call_next()
    assert isinstance(output, Mapping)
    return {**output, "inner": ["inner was here before"]}


@pytest.mark.parametrize("function", [model, async_model])
async def test_middleware_runs_around_the_handler_the_first_outermost(function: HandlerFunction) -> None:
    event = await finished(call_of(function, middleware=(_outer, _inner)))
    expected = '{"got":"Ada","inner":["inner was here before"],"outer":["inner was here before",0]}'
    assert (event.output, event.error) == (expected, None)


async def test_what_middleware_raises_counts_as_the_handlers() -> None:
    async def refuses(ctx: Context, call_next: CallNext) -> Output:
        raise Fail("not on a Friday")

    async def breaks(ctx: Context, call_next: CallNext) -> Output:
        await call_next()
        raise LookupError("after it")

    async def mends(ctx: Context, call_next: CallNext) -> Output:
        try:
            return await call_next()
        except LookupError:
            return {"mended": True}

    assert await failed(call_of(model, retries=3, middleware=(refuses,))) == "not on a Friday"
    assert (await retried(call_of(model, retries=3, middleware=(breaks,)))).error == "LookupError: after it"
    assert (await finished(call_of(broken, middleware=(mends,)))).output == '{"mended":true}'


@pytest.mark.usefixtures("no_stray_exceptions")
async def test_a_thread_with_middleware_remains_past_its_deadline() -> None:
    release, let_go = threading.Event(), []

    def handle(event: Person) -> None:
        release.wait(10)
        raise LookupError("too late")

    async def waits(ctx: Context, call_next: CallNext) -> Output:
        try:
            return await call_next()
        finally:
            let_go.append(ctx)

    ended = await run(call_of(handle, deadline=DEADLINE, middleware=(waits,)))
    assert isinstance(ended.event, ItemFinished)
    assert ended.event.error == PASSED
    assert len(let_go) == 1
    assert ended.remains is not None
    assert not ended.remains.done()
    release.set()
    await asyncio.wait({ended.remains})


def test_a_thread_is_named_after_its_function() -> None:
    def named() -> str:
        return threading.current_thread().name

    assert Threads().submit(named).result(10).endswith("named")


async def test_an_event_has_what_its_call_has_logged_and_no_field_where_that_is_nothing() -> None:
    async def quiet(event: dict[str, object], ctx: Context) -> None: ...

    async def fails(event: dict[str, object], ctx: Context) -> None:
        ctx.log("trying %d", ctx.attempt, level="DEBUG")
        raise Fail("no")

    async def retries(event: dict[str, object], ctx: Context) -> None:
        ctx.log("busy")
        raise RetryLater("5s")

    async def defers(event: dict[str, object], ctx: Context) -> Deferred:
        ctx.log("begun elsewhere")
        return Deferred("1h")

    async def hangs(event: dict[str, object], ctx: Context) -> None:
        ctx.log("the last word")
        await asyncio.Event().wait()

    assert b"logs" not in (await execute(call_of(quiet), Threads())).event.encode()
    for function, text in (
        (fails, "trying 1"),
        (retries, "busy"),
        (defers, "begun elsewhere"),
        (hangs, "the last word"),
    ):
        event = (await execute(call_of(function, deadline=0.05 if function is hangs else 10.0), Threads())).event
        assert event.logs is not None
        assert [line.text for line in event.logs.latest] == [text]
        assert abs(event.logs.latest[0].at - time.time()) < 60


@pytest.mark.parametrize("asked", [True, False])
async def test_a_retry_says_when_the_call_was_and_whether_it_asked_for_it(asked: bool) -> None:
    async def again(event: dict[str, object]) -> None:
        raise RetryLater("5s") if asked else KeyError("x")

    clock = iter((10.0, 12.5))
    event = (await execute(call_of(again, retries=2), Threads(), clock=lambda: next(clock))).event
    assert isinstance(event, ItemRetry)
    assert (event.started_at, event.ended_at, event.asked) == (10.0, 12.5, asked)
