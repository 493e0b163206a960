"""Dry runs: a handler is called in a place of its own, and nobody is told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager

import pytest
from pydantic import BaseModel, JsonValue, SecretStr

from agents import trying
from agents.context import Alone, Context
from agents.contract import Deferred, Fail, Handler, Output, RetryLater
from agents.execution import Threads
from agents.feeding import Feeder
from agents.trying import MOST_LINES, TrialError, Trials, Tried
from agents.work import ItemWork
from port.models import Result
from port.secrets import Secret, encrypt
from tests.agents.examples import declared, until

SECRET = SecretStr("s" * 32)
PAYLOAD: Mapping[str, JsonValue] = {"eventType": "greet", "name": "Ada"}


class Named(BaseModel):
    name: str


class WithKey(BaseModel):
    key: Secret


class Places:
    """What an agent does with a feeder, as `agents.running` has it."""

    def __init__(self, handler: Handler) -> None:
        self.feeder: Feeder[ItemWork] = Feeder()
        self.trials = Trials(handler, self.feeder, Alone(), (SECRET,))
        self.threads = Threads(handler.concurrency)
        self.remains: list[asyncio.Future[object]] = []

    async def actor(self) -> None:
        while True:
            work = await self.feeder.take()
            try:
                taken = await self.trials.take(work, self.threads)
                if taken is not None and taken[1] is not None:
                    self.remains.append(taken[1])
                    await asyncio.wait({taken[1]})
            finally:
                self.feeder.done(work)


@asynccontextmanager
async def places(handler: Handler) -> AsyncIterator[Places]:
    some = Places(handler)
    actors = [asyncio.create_task(some.actor()) for _ in range(handler.concurrency)]
    yield some
    for one in actors:
        one.cancel()
    await asyncio.gather(*actors, return_exceptions=True)


async def tried(handler: Handler, fields: Mapping[str, JsonValue] = PAYLOAD) -> Tried:
    async with places(handler) as some:
        return await some.trials.run(fields)


async def test_output_and_lines() -> None:
    async def greet(event: dict[str, JsonValue], ctx: Context) -> Output:
        ctx.log("hello %s", event["name"], level="WARN")
        return {"attempt": ctx.attempt, "run": ctx.workflow_run_id, "id": ctx.node_run_id}

    said = await tried(declared(greet))
    assert said.outcome.result is Result.SUCCESS
    assert said.outcome.output is not None
    assert str(said.outcome.output["id"]).startswith("wfnr_dry-run-")
    assert (said.outcome.output["attempt"], said.outcome.output["run"]) == (1, None)
    assert [(line.level, line.message) for line in said.lines] == [("WARN", "hello Ada")]
    assert 0 <= said.seconds < 5


async def test_each_end_is_told_as_it_is() -> None:
    async def fails(event: dict[str, JsonValue]) -> Output:
        raise Fail("no such service")

    async def later(event: dict[str, JsonValue]) -> Output:
        raise RetryLater("30s", "busy")

    async def breaks(event: dict[str, JsonValue]) -> Output:
        raise KeyError("x")

    async def deferred(event: dict[str, JsonValue], ctx: Context) -> Output:
        assert ctx.callback_url.startswith("https://port-runs.invalid/")
        return Deferred("10m")

    assert (await tried(declared(fails))).outcome.error == "no such service"
    assert (await tried(declared(later))).outcome.retry_in == 30
    broken = await tried(declared(breaks))
    assert (broken.outcome.result, broken.outcome.error) == (Result.FAILED, "KeyError: 'x'")
    assert "in breaks" in (broken.trace or "")
    assert (await tried(declared(deferred))).outcome.deferred == 600


async def test_what_cannot_be_made_sense_of_ends_the_dry_run_alone() -> None:
    class Odd(Mapping[str, JsonValue]):
        def __getitem__(self, key: str) -> JsonValue:
            raise KeyError(key)

        def __iter__(self) -> Iterator[str]:
            raise KeyError("odd")

        def __len__(self) -> int:
            return 1

    async def odd(event: dict[str, JsonValue]) -> Output:
        raise Fail("no", output=Odd())

    async def deep(event: dict[str, JsonValue]) -> Output:
        nested: JsonValue = 1
        for _ in range(230):
            nested = [nested]
        return {"a": nested}

    for handler in (declared(odd), declared(deep)):
        async with places(handler) as some:
            for _ in range(2):
                with pytest.raises(TrialError, match="internal error"):
                    await some.trials.run(PAYLOAD)


async def test_a_payload_that_does_not_fit_or_is_anothers() -> None:
    async def greet(event: Named) -> Output:
        return {}

    said = await tried(declared(greet), {"eventType": "greet"})
    assert said.outcome.error == "the item does not fit its model: name: Field required"
    with pytest.raises(TrialError, match="'part'"):
        await tried(declared(greet), {"eventType": "part"})


async def test_secret_inputs_in_clear_and_encrypted() -> None:
    async def greet(event: WithKey, ctx: Context) -> Output:
        ctx.log("with %s", event.key.get_secret_value())
        return {"length": len(event.key.get_secret_value()), "said": event.key.get_secret_value()}

    for given in ("hunter2!", encrypt("hunter2!", SECRET)):
        said = await tried(declared(greet), {"key": given})
        assert said.outcome.output == {"length": 8, "said": "***"}
        assert said.lines[0].message == "with ***"


async def test_the_deadline_holds_and_a_thread_that_goes_on_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trying, "MOST_SECONDS", 0.05)
    monkeypatch.setattr(trying, "PLACE_SECONDS", 0.05)
    goes_on = threading.Event()

    def greet(event: dict[str, JsonValue]) -> Output:
        goes_on.wait()
        return {}

    async with places(declared(greet, concurrency=1, deadline="1h")) as some:
        try:
            said = await some.trials.run(PAYLOAD)
            assert said.outcome.error == "the deadline of 0.05 s passed"
            await until(lambda: bool(some.remains))
            with pytest.raises(TrialError, match=r"nothing was called: 1 calls run, 0 items wait"):
                await some.trials.run(PAYLOAD)
            assert some.feeder.waiting == 0
        finally:
            goes_on.set()
        await until(lambda: some.feeder.taken == 0)


async def test_lines_are_bounded() -> None:
    async def greet(event: dict[str, JsonValue], ctx: Context) -> Output:
        for number in range(MOST_LINES + 7):
            ctx.log("\ud800%d%s", number, "x" * 5000)
        return {}

    said = await tried(declared(greet))
    assert (len(said.lines), said.left_out) == (MOST_LINES, 7)
    assert said.lines[0].message.encode()[:2] == b"?0"
    assert len(said.lines[0].message) == 2000


async def test_nobody_waits_longer_than_the_worker_lives() -> None:
    began, ends = asyncio.Event(), asyncio.Event()

    async def greet(event: dict[str, JsonValue]) -> Output:
        began.set()
        await ends.wait()
        return {}

    async with places(declared(greet)) as some:
        waiting = asyncio.create_task(some.trials.run(PAYLOAD))
        await began.wait()
        some.trials.stop()
        with pytest.raises(TrialError, match="not known"):
            await waiting
        ends.set()
        await until(lambda: some.feeder.taken == 0)


async def test_who_is_gone_leaves_nothing_to_be_called() -> None:
    async def greet(event: dict[str, JsonValue]) -> Output:
        raise AssertionError("called")

    some = Places(declared(greet))
    waiting = asyncio.create_task(some.trials.run(PAYLOAD))
    await until(lambda: some.feeder.waiting == 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert some.feeder.waiting == 0
    # What is no dry run is nobody's here.
    assert await some.trials.take(ItemWork(3, "wfnr_a", 0, 0, "greet", 1), some.threads) is None
