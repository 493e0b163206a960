"""What the handlers of a worker share, and where they find it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from agents import Resource, on_startup
from agents.context import Alone
from agents.places import HandlerError
from agents.resources import SESSION, OpenResources, resources_in
from tests.agents.examples import context

log: list[str] = []


@on_startup
async def first() -> AsyncIterator[str]:
    task = asyncio.current_task()
    log.append("first opens")
    yield "one"
    assert asyncio.current_task() is task
    log.append("first closes")


@on_startup
async def second() -> AsyncIterator[int]:
    log.append("second opens")
    yield 2
    log.append("second closes")


@on_startup
async def broken() -> AsyncIterator[int]:
    raise OSError("no such host")
    yield 3


@pytest.fixture(autouse=True)
def _fresh() -> None:
    log.clear()


async def test_resources_are_open_from_the_start_to_the_stop() -> None:
    resources = OpenResources()
    ctx = replace(context(), host=Alone(resources.values))
    await resources.open([SESSION, first, second])
    assert (ctx.resource(first), ctx.resource(second)) == ("one", 2)
    session = ctx.session
    assert not session.closed
    await resources.close()
    assert session.closed
    assert log == ["first opens", "second opens", "second closes", "first closes"]


async def test_one_that_cannot_be_opened_is_named_and_the_others_are_closed() -> None:
    resources = OpenResources()
    with pytest.raises(HandlerError) as wrong:
        await resources.open([first, broken])
    said = str(wrong.value)
    assert said.startswith("tests.agents.test_resources.broken (tests/agents/test_resources.py:")
    assert said.endswith(") cannot be opened: OSError: no such host")
    assert log == ["first opens", "first closes"]


async def test_one_that_fails_at_its_close_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    @on_startup
    async def fragile() -> AsyncIterator[None]:
        yield
        raise LookupError("gone already")

    resources = OpenResources()
    await resources.open([first, fragile])
    await resources.close()
    assert "a resource of the handlers failed at its close: LookupError: gone already" in caplog.text
    assert log == ["first opens", "first closes"]


async def test_what_was_never_opened_need_not_be_closed() -> None:
    await OpenResources().close()


def test_what_is_not_open_is_named() -> None:
    with pytest.raises(LookupError, match=r"first \(.*\) is not open: HANDLERS does not name its module"):
        context().resource(first)
    with pytest.raises(LookupError, match="the HTTP session is not open"):
        assert context().session
    fake = replace(context(), host=Alone({first: "fake"}))
    assert fake.resource(first) == "fake"


def test_the_resources_of_the_named_modules_are_opened() -> None:
    here: list[Resource[object]] = [first, second, broken]
    assert resources_in(("tests.agents",))[:3] == here
    assert resources_in(("tests.agents.test_contract",)) == []
