"""Secret inputs in a call of a handler: they are decrypted for it, and masked in whatever is told of it."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping

import pytest
from pydantic import BaseModel, JsonValue, SecretStr, field_validator

from agents import Context, Fail, RetryLater, Secret
from agents.contract import HandlerFunction
from agents.execution import MAX_ERROR_CHARACTERS, MAX_OUTPUT_BYTES, Call, Threads, execute
from port.models import Result
from port.secrets import Decryption, encrypt
from streams.records import ItemDeferred, ItemFinished, ItemRetry
from tests.agents.examples import call_of

CLIENT_SECRET = SecretStr("0123456789abcdef0123456789abcdef")
CANARY = 'the "canary"\tof this test'
FIELDS: Mapping[str, JsonValue] = {"user": "ada", "password": encrypt(CANARY, CLIENT_SECRET)}


class Login(BaseModel):
    user: str
    password: Secret


class Strict(Login):
    @field_validator("password")
    @classmethod
    def _long(cls, value: Secret) -> Secret:
        raise ValueError(f"too short: {value.get_secret_value()}")


def call(function: HandlerFunction, fields: Mapping[str, JsonValue] = FIELDS, retries: int = 0) -> Call:
    made = call_of(function, fields, retries=retries)
    return dataclasses.replace(made, context=dataclasses.replace(made.context, decryption=Decryption(CLIENT_SECRET)))


async def ended(one: Call) -> ItemFinished | ItemRetry:
    event = (await execute(one, Threads())).event
    assert not isinstance(event, ItemDeferred)
    return event


def is_masked(text: str | None) -> bool:
    assert text is not None
    return "***" in text and "canary" not in text


async def test_a_handler_gets_what_was_decrypted() -> None:
    got: list[str] = []

    async def handle(event: Login) -> dict[str, object]:
        got.append(event.password.get_secret_value())
        return {"user": event.user}

    event = await ended(call(handle))
    assert isinstance(event, ItemFinished)
    assert (event.result, event.output, got) == (Result.SUCCESS, '{"user":"ada"}', [CANARY])


async def test_what_it_returns_is_masked() -> None:
    def handle(event: Login) -> dict[str, object]:
        plain = event.password.get_secret_value()
        return {"model": event, "it": event.password, "plain": plain, plain: [f"<{plain}>", json.dumps(plain), 1.5]}

    event = await ended(call(handle))
    assert isinstance(event, ItemFinished)
    assert event.output is not None
    assert json.loads(event.output) == {
        "model": {"user": "ada", "password": "**********"},
        "it": "**********",
        "plain": "***",
        "***": ["<***>", '"***"', 1.5],
    }


async def test_output_that_masking_makes_too_large_is_left_out() -> None:
    def handle(event: Login) -> dict[str, object]:
        return {"text": event.password.get_secret_value() * (MAX_OUTPUT_BYTES // 2)}

    event = await ended(call(handle, {"user": "ada", "password": encrypt("x", CLIENT_SECRET)}))
    assert isinstance(event, ItemFinished)
    assert event.output is not None
    assert "larger than is kept" in event.output


def fails(event: Login) -> None:
    raise Fail(f"no login with {event.password.get_secret_value()}")


def asks_again(event: Login) -> None:
    raise RetryLater(1, f"not yet with {event.password.get_secret_value()}")


def raises(event: Login) -> None:
    known: dict[str, str] = {}
    try:
        known[event.password.get_secret_value()]
    except KeyError as error:
        raise ConnectionError(f"refused: {json.dumps(event.password.get_secret_value())}") from error


async def exits(event: Login) -> None:
    raise SystemExit(event.password.get_secret_value())


@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize("function", [fails, asks_again, raises, exits])
async def test_errors_tracebacks_and_reasons_are_masked(
    function: HandlerFunction, retries: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    event = await ended(call(function, retries=retries))
    assert is_masked(event.error)
    assert "canary" not in event.model_dump_json()
    assert "canary" not in caplog.text
    if function in (raises, exits):
        assert f"in {function.__name__}" in caplog.text, "the team sees where"
        assert is_masked(event.trace)
        assert is_masked(caplog.text)


async def test_a_secret_that_is_cut_off_is_masked_first() -> None:
    def handle(event: Login) -> None:
        raise Fail("x" * (MAX_ERROR_CHARACTERS - 12) + event.password.get_secret_value())

    event = await ended(call(handle))
    assert event.error == "x" * (MAX_ERROR_CHARACTERS - 12) + "***"


async def test_a_validator_that_quotes_is_masked() -> None:
    def handle(event: Strict) -> None:
        raise AssertionError("never called")

    event = await ended(call(handle))
    assert is_masked(event.error)
    assert str(event.error).startswith("the item does not fit its model: password: ")


async def test_an_item_that_cannot_be_decrypted_has_failed_with_a_reason() -> None:
    def handle(event: Login) -> None:
        raise AssertionError("never called")

    another = encrypt(CANARY, SecretStr("another secret of 32 bytes or more"))
    for password in (another, "canary", None):
        event = await ended(call(handle, {"user": "ada", "password": password}, retries=3))
        assert isinstance(event, ItemFinished)
        assert event.result is Result.FAILED
        assert event.error is not None
        assert event.error.startswith("the item does not fit its model: password: ")
        assert "canary" not in event.error
        assert another not in event.error


def test_the_log_of_a_handler_is_masked(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="handlers")
    context: Context = call(fails).context
    context.log("100 %% %s", "before")
    assert context.decryption is not None
    context.decryption.decrypt(encrypt(CANARY, CLIENT_SECRET))
    context.log("with %s, %r and 100 %%", CANARY, [CANARY])
    context.log("%(a)s", {"a": CANARY})
    context.log(f"{CANARY} %d", CANARY)
    assert [line.removeprefix("[wfnr_a-0] ") for line in caplog.messages] == [
        "100 % before",
        "with ***, ['***'] and 100 %",
        "***",
        "*** %d",
    ]


def test_a_context_shows_no_secret() -> None:
    context = call(fails).context
    assert "decryption" not in repr(context)
    assert context == dataclasses.replace(context, decryption=None)


async def test_what_it_logs_is_masked_where_it_stays_with_the_item() -> None:
    def handle(event: Login, ctx: Context) -> None:
        plain = event.password.get_secret_value()
        # Masked before it is cut: half of a secret would not be found.
        ctx.log("x" * 490 + plain)
        ctx.log("logging in with %s", plain, level="WARN")
        raise RetryLater("1s", "not yet")

    event = await ended(call(handle))
    assert event.logs is not None
    first, second = event.logs.latest
    assert first.text == "x" * 490 + "***"
    assert (second.level.value, second.text) == ("WARN", "logging in with ***")
    assert "canary" not in event.model_dump_json()
