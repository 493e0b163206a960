import asyncio

import pytest

from streams.outbox import Outbox


class Sending:
    """An event on its way, until the broker has it, or refuses it."""

    def __init__(self) -> None:
        self.on_broker = asyncio.Event()
        self.arrived = False
        self.refused = False

    async def send(self) -> None:
        await self.on_broker.wait()
        if self.refused:
            raise ValueError("too large")
        self.arrived = True


async def test_it_is_empty_when_the_broker_has_everything() -> None:
    outbox, sending = Outbox(pytest.fail), Sending()
    sent = asyncio.create_task(outbox.send(sending.send()))
    empty = asyncio.create_task(outbox.empty())
    await asyncio.sleep(0.01)
    assert not sent.done()
    assert not empty.done()
    sending.on_broker.set()
    await asyncio.gather(sent, empty)
    assert sending.arrived
    await outbox.empty()


@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_what_a_cancelled_caller_was_about_to_send_is_sent(turns: int) -> None:
    outbox, sending = Outbox(pytest.fail), Sending()

    async def call() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await outbox.send(sending.send())

    caller = asyncio.create_task(call())
    await asyncio.sleep(0)
    for _ in range(1 + turns):
        caller.cancel()
        await asyncio.sleep(0)
    sending.on_broker.set()
    await outbox.empty()
    await asyncio.wait({caller})
    assert caller.cancelled()
    assert sending.arrived


async def test_it_waits_for_what_comes_while_it_waits() -> None:
    outbox, first, second = Outbox(pytest.fail), Sending(), Sending()
    one = asyncio.create_task(outbox.send(first.send()))
    empty = asyncio.create_task(outbox.empty())
    await asyncio.sleep(0)
    two = asyncio.create_task(outbox.send(second.send()))
    await asyncio.sleep(0)
    first.on_broker.set()
    await one
    await asyncio.sleep(0.01)
    assert not empty.done()
    second.on_broker.set()
    await asyncio.gather(empty, two)


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_refusal_is_told_whether_or_not_anybody_waits(cancelled: bool) -> None:
    told: list[str] = []
    outbox, sending = Outbox(told.append), Sending()
    sending.refused = True
    sent = asyncio.create_task(outbox.send(sending.send()))
    await asyncio.sleep(0)
    if cancelled:
        sent.cancel()
        await asyncio.sleep(0)
    sending.on_broker.set()
    await outbox.empty()
    await asyncio.wait({sent})
    assert told == ["an event could not be sent: ValueError: too large"]
    assert sent.cancelled() == cancelled
    if not cancelled:
        assert isinstance(sent.exception(), ValueError)
