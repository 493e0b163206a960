"""Events are acknowledged in their order, each when all that it caused to be written is on the broker."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from random import Random
from typing import cast

import pytest
from faust.types import EventT
from hypothesis import given
from hypothesis import strategies as st

from agents.acknowledging import MOST_UNACKNOWLEDGED, InOrder
from tests.agents.examples import turns_of_the_loop
from tests.tables.histories import profile


@dataclass
class Record:
    """What happened to the turns, in order."""

    log: list[str] = field(default_factory=list)

    def event(self, name: str) -> EventT[object]:
        return cast("EventT[object]", _Event(self.log, name))

    async def add(
        self, turns: InOrder, name: str, written: list[asyncio.Future[object]], partition: object = 0
    ) -> None:
        await turns.add(partition, self.event(name), written, lambda: self.log.append(f"then {name}"))


@dataclass
class _Event:
    log: list[str]
    name: str

    def ack(self) -> bool:
        self.log.append(f"ack {self.name}")
        return True


def futures(count: int) -> list[asyncio.Future[object]]:
    return [asyncio.get_running_loop().create_future() for _ in range(count)]


async def test_an_event_that_wrote_nothing_is_acknowledged_at_once() -> None:
    record = Record()
    await record.add(InOrder(), "a", [])
    assert record.log == ["then a", "ack a"]


async def test_an_event_waits_for_all_that_it_wrote() -> None:
    record, turns, [one, two, done] = Record(), InOrder(), futures(3)
    done.set_result(None)
    await record.add(turns, "a", [one, two, done])
    two.set_result(None)
    await turns_of_the_loop()
    assert record.log == []
    one.set_result(None)
    await turns_of_the_loop()
    assert record.log == ["then a", "ack a"]


async def test_an_event_waits_for_the_earlier_ones_of_its_partition() -> None:
    record, turns, [one, two] = Record(), InOrder(), futures(2)
    await record.add(turns, "a", [one])
    await record.add(turns, "b", [two])
    await record.add(turns, "c", [])
    two.set_result(None)
    await turns_of_the_loop()
    assert record.log == []
    one.set_result(None)
    await turns_of_the_loop()
    assert record.log == ["then a", "ack a", "then b", "ack b", "then c", "ack c"]


async def test_partitions_do_not_wait_for_each_other() -> None:
    record, turns, [one] = Record(), InOrder(), futures(1)
    await record.add(turns, "a", [one], partition="p")
    await record.add(turns, "b", [], partition="q")
    assert record.log == ["then b", "ack b"]


async def test_a_turn_without_an_event_counts_like_any_other() -> None:
    record, turns, [one] = Record(), InOrder(), futures(1)
    await turns.add(0, None, [one], lambda: record.log.append("then"))
    await record.add(turns, "b", [])
    one.set_result(None)
    await turns_of_the_loop()
    assert record.log == ["then", "then b", "ack b"]


@pytest.mark.parametrize("given_up", [False, True])
@pytest.mark.parametrize("before", [False, True])
async def test_what_never_reached_the_broker_is_never_acknowledged(before: bool, given_up: bool) -> None:
    record, turns, [one, two] = Record(), InOrder(), futures(2)

    def fail() -> None:
        if given_up:
            one.cancel()
        else:
            one.set_exception(OSError("refused"))

    if before:
        fail()
    await record.add(turns, "a", [one, two])
    await record.add(turns, "b", [])
    await record.add(turns, "elsewhere", [], partition=1)
    if not before:
        fail()
    two.set_result(None)
    await turns_of_the_loop()
    assert record.log == ["then elsewhere", "ack elsewhere"]


async def _filled(record: Record, turns: InOrder) -> tuple[list[asyncio.Future[object]], asyncio.Task[None]]:
    pending = futures(MOST_UNACKNOWLEDGED)
    for number, future in enumerate(pending[:-1]):
        await record.add(turns, str(number), [future])
    last = asyncio.create_task(record.add(turns, "last", [pending[-1]]))
    await turns_of_the_loop()
    return pending, last


async def test_an_agent_waits_when_too_many_turns_are_pending_and_then_goes_on() -> None:
    record, turns = Record(), InOrder()
    pending, last = await _filled(record, turns)
    other = asyncio.create_task(record.add(turns, "other", [], partition=1))
    await turns_of_the_loop()
    assert not last.done()
    assert record.log == ["then other", "ack other"]
    for future in pending:
        future.set_result(None)
    async with asyncio.timeout(10):
        await last
        await other
        await record.add(turns, "next", [])
    assert record.log[-2:] == ["then next", "ack next"]
    assert len(record.log) == 2 * (MOST_UNACKNOWLEDGED + 2)


async def test_the_turn_of_an_agent_that_is_cancelled_while_it_waits_is_kept() -> None:
    record, turns = Record(), InOrder()
    pending, last = await _filled(record, turns)
    last.cancel()
    await asyncio.wait({last})
    assert last.cancelled()
    for future in pending:
        future.set_result(None)
    await turns_of_the_loop()
    assert record.log[-2:] == ["then last", "ack last"]
    assert len(record.log) == 2 * MOST_UNACKNOWLEDGED
    async with asyncio.timeout(10):
        await record.add(turns, "next", [])


@profile(100)
@given(
    turns=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=20),
    order=st.randoms(use_true_random=False),
)
def test_the_order_is_kept_whatever_order_the_futures_end_in(turns: list[tuple[int, int]], order: Random) -> None:
    async def play() -> None:
        record, in_order = Record(), InOrder()
        written: dict[str, list[asyncio.Future[object]]] = {}
        for number, (partition, count) in enumerate(turns):
            name = f"{partition}.{number}"
            written[name] = futures(count)
            await record.add(in_order, name, written[name], partition=partition)
        pending = [future for some in written.values() for future in some]
        order.shuffle(pending)
        for future in pending:
            future.set_result(None)
            await turns_of_the_loop(2)
            acked = [line.removeprefix("ack ") for line in record.log if line.startswith("ack ")]
            assert all(future.done() for name in acked for future in written[name])
        assert record.log[1::2] == [line.replace("then", "ack") for line in record.log[::2]]
        for partition in range(3):
            names = [name for name in written if name.startswith(f"{partition}.")]
            assert [line for line in record.log[1::2] if line.startswith(f"ack {partition}.")] == [
                f"ack {name}" for name in names
            ]

    asyncio.run(play())
