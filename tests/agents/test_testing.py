"""The test kit judges a call as a worker does."""

import asyncio
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest
from pydantic import BaseModel, JsonValue

from agents import Context, Fail, RetryLater, Secret, handles
from agents.contract import HandlerError
from agents.testing import Outcome, call_handler, run_handler
from port.models import Result


class Order(BaseModel):
    number: int
    at: datetime | None = None
    password: Secret | None = None


@handles("kit.order", retries=2)
async def order(event: Order, ctx: Context) -> dict[str, object]:
    if event.number == 0:
        raise Fail("there is no order 0")
    if event.number == 1:
        raise RetryLater("5m", "not yet")
    if event.number == 2:
        raise OSError("the line is dead")
    ctx.log("order %d", event.number)
    return {"number": event.number, "at": event.at, "key": ctx.idempotency_key, "password": event.password}


@handles("kit.leak")
def leak(event: Order) -> dict[str, object]:
    assert event.password is not None
    return {"password": event.password.get_secret_value()}


@handles("kit.hang")
async def hang(event: dict[str, object]) -> None:
    await asyncio.sleep(3600)


@handles("kit.slow-thread")
def slow_thread(event: dict[str, object]) -> None:
    time.sleep(0.5)


@handles("kit.one")
@handles("kit.two")
async def both(event: dict[str, object], ctx: Context) -> dict[str, object]:
    return {"type": ctx.event_type, "fields": ctx.fields}


@pytest.mark.parametrize(
    ("number", "attempt", "ended"),
    [
        (0, 1, Outcome(Result.FAILED, error="there is no order 0")),
        (1, 9, Outcome(None, error="not yet", retry_in=300.0)),
        (2, 1, Outcome(None, error="OSError: the line is dead", retry_in=1.0)),
        (2, 2, Outcome(None, error="OSError: the line is dead", retry_in=2.0)),
        (2, 3, Outcome(Result.FAILED, error="OSError: the line is dead")),
    ],
)
def test_what_the_handler_raises(number: int, attempt: int, ended: Outcome) -> None:
    assert run_handler(order, {"number": number}, attempt=attempt) == ended


def test_the_payload_goes_through_json_and_the_model_and_so_does_the_output() -> None:
    outcome = run_handler(order, {"number": "7", "at": datetime(2026, 1, 2, tzinfo=UTC)})
    wanted: dict[str, JsonValue] = {"number": 7, "at": "2026-01-02T00:00:00Z", "key": "wfnr_test-0", "password": None}
    assert outcome == Outcome(Result.SUCCESS, wanted)


def test_a_payload_that_does_not_fit_is_told_as_a_worker_tells_it() -> None:
    outcome = run_handler(order, {})
    assert outcome == Outcome(Result.FAILED, error="the item does not fit its model: number: Field required")


def test_a_secret_arrives_decrypted_and_leaves_masked() -> None:
    assert run_handler(leak, {"number": 3, "password": Secret("hunter2-hunter2")}).output == {"password": "***"}
    in_plain = run_handler(leak, {"number": 3, "password": "plain"})
    assert in_plain.result is Result.FAILED
    assert "cannot be decrypted" in str(in_plain.error)


def test_ids_are_those_of_the_given_context() -> None:
    mine = Context("wfnr_mine", None, "w", "n", "other", index=4, attempt=9, received_at=0.0)
    outcome = run_handler(order, {"number": 7}, context=mine)
    assert outcome.output is not None
    assert outcome.output["key"] == "wfnr_mine-4"


@pytest.mark.parametrize("function", [hang, slow_thread])
def test_a_deadline_cuts_it_off(function: object) -> None:
    assert callable(function)
    assert run_handler(function, {}, deadline=0.05).error == "the deadline of 0.05 s passed"


async def test_it_can_be_awaited() -> None:
    assert (await call_handler(order, {"number": 0})).result is Result.FAILED


def test_of_several_event_types_the_payloads_is_the_one() -> None:
    assert run_handler(both, {"event": "kit.two"}).output == {"type": "kit.two", "fields": {"event": "kit.two"}}
    with pytest.raises(HandlerError, match=r"handles 'kit\.two', 'kit\.one'; the payload says 'kit\.three'"):
        run_handler(both, {"eventType": "kit.three"})


def test_a_function_that_is_no_handler() -> None:
    async def plain(event: dict[str, object]) -> None: ...

    with pytest.raises(HandlerError, match="plain is no handler"):
        run_handler(plain, {})


def test_the_callers_payload_stays_as_it_is() -> None:
    payload = {"number": 7, "nested": {"a": [1]}}
    run_handler(order, payload)
    assert payload == {"number": 7, "nested": {"a": [1]}}


def test_it_needs_no_settings_and_builds_no_app() -> None:
    script = "import sys, agents.testing; print(*{'faust', 'streams.app', 'streams.settings'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], env={}, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_a_call_that_is_cancelled() -> None:
    @handles("cancelled")
    async def waits(event: dict[str, object], ctx: Context) -> None:
        await asyncio.sleep(3600)

    @handles("cancelled")
    def asks(event: dict[str, object], ctx: Context) -> None:
        ctx.wait(3600)

    for handler in (waits, asks):
        outcome = run_handler(handler, {}, cancel_after=0.01)
        assert (outcome.result, outcome.output, outcome.error) == ("CANCELLED", None, "cancelled by the test")

    @handles("quick")
    def ends(event: dict[str, object]) -> None: ...

    assert run_handler(ends, {}, cancel_after=60).result == "SUCCESS"


def test_a_call_whose_workflow_run_port_begins_to_cancel() -> None:
    @handles("softly")
    async def goes_on(event: dict[str, object], ctx: Context) -> dict[str, object]:
        while not ctx.cancelled:  # noqa: ASYNC110 - as a handler may
            await asyncio.sleep(0.001)
        if "later" in event:
            raise RetryLater("1m")
        return {"whole": True}

    @handles("urgent", cancel="at once")
    async def waits(event: dict[str, object]) -> None:
        await asyncio.sleep(3600)

    assert run_handler(goes_on, {}, cancelling_after=0.01) == Outcome(Result.SUCCESS, {"whole": True})
    gone = Outcome(Result.CANCELLED, error="cancelled by the test")
    assert run_handler(goes_on, {"later": 1}, cancelling_after=0.01) == gone, "it is not called again"
    assert run_handler(waits, {}, cancelling_after=0.01) == gone
