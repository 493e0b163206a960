"""Feeders: what they offer, and that nothing is lost or handled twice, whatever a rebalance does to the channel."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

import faust
from hypothesis import given
from hypothesis import strategies as st

from agents.feeding import Feeder, InMemoryChannel, put_on
from streams.worker import Worker
from tests.tables.histories import profile


@dataclass(eq=False)
class Piece:
    partition: int = 0
    name: str = ""


class Channel:
    """A channel that a rebalance clears."""

    def __init__(self) -> None:
        self.queue: deque[Piece] = deque()

    def put(self, piece: Piece) -> None:
        self.queue.append(piece)


def fed(concurrency: int = 2) -> tuple[Feeder[Piece], Channel]:
    channel = Channel()
    return Feeder(concurrency, channel.put), channel


def added(feeder: Feeder[Piece], count: int, partition: int = 0) -> list[Piece]:
    pieces = [Piece(partition, str(number)) for number in range(count)]
    for piece in pieces:
        feeder.add(piece)
    return pieces


def test_no_more_is_offered_than_actors_are_free() -> None:
    feeder, channel = fed(2)
    one, two, three, four = added(feeder, 4)
    assert list(channel.queue) == [one, two]
    assert (feeder.waiting, feeder.pending, feeder.running) == (4, [one, two, three, four], [])
    assert feeder.take(one)
    assert list(channel.queue) == [one, two], "who runs is not free"
    assert (feeder.waiting, feeder.running) == (3, [one])
    feeder.done(one)
    assert list(channel.queue) == [one, two, three]


def test_a_piece_is_taken_once() -> None:
    feeder, _ = fed()
    [piece] = added(feeder, 1)
    assert feeder.take(piece)
    assert not feeder.take(piece)
    feeder.done(piece)
    assert not feeder.take(piece)
    assert not feeder.take(Piece()), "never added"


async def test_what_nobody_took_is_offered_again_after_the_channel_was_cleared() -> None:
    feeder, channel = fed(2)
    one, two, three = added(feeder, 3)
    assert feeder.take(one)
    channel.queue.clear()
    await feeder.offer_again()
    assert list(channel.queue) == [two]
    feeder.done(one)
    assert list(channel.queue) == [two, three]


async def test_a_channel_that_was_not_cleared_gives_each_piece_once_all_the_same() -> None:
    feeder, channel = fed(2)
    one, _ = added(feeder, 2)
    await feeder.offer_again()
    assert channel.queue.count(one) == 2
    taken = [piece for piece in channel.queue if feeder.take(piece)]
    assert len(taken) == 2


def test_the_work_of_a_lost_partition_is_dropped_where_it_has_not_begun() -> None:
    feeder, channel = fed(2)
    running, offered, waiting = added(feeder, 3, partition=1)
    [kept] = added(feeder, 1, partition=2)
    assert feeder.take(running)
    feeder.drop(1)
    assert not feeder.take(offered)
    assert feeder.pending == [kept]
    assert feeder.running == [running], "what runs, runs on"
    feeder.done(running)
    assert channel.queue[-1] is kept
    assert feeder.take(kept)
    assert waiting not in channel.queue


def test_what_waits_can_be_taken_back() -> None:
    feeder, channel = fed(1)
    running, one, two = added(feeder, 3)
    assert feeder.take(running)
    assert feeder.withdraw([running, two]) == [two]
    feeder.done(running)
    assert channel.queue[-1] is one
    assert feeder.withdraw([one]) == [one]
    assert not feeder.take(one)


async def test_nothing_is_offered_after_the_stop() -> None:
    feeder, channel = fed(1)
    one, _ = added(feeder, 2)
    assert feeder.take(one)
    feeder.stop()
    feeder.done(one)
    added(feeder, 1)
    await feeder.offer_again()
    assert list(channel.queue) == [one]
    assert len(feeder.pending) == 2


async def test_a_feeder_follows_the_app() -> None:
    lost: list[Callable[[int], None]] = []
    rebalanced: list[Callable[[], Awaitable[None]]] = []
    stopping: list[Callable[[], Awaitable[None]]] = []
    feeder, channel = fed(1)
    app = SimpleNamespace(on_lost=lost, after_rebalance=rebalanced, )
    feeder.attach(cast("Worker", app))
    added(feeder, 1, partition=1)
    [kept] = added(feeder, 1, partition=2)
    lost[0](1)
    await rebalanced[0]()
    assert channel.queue[-1] is kept
    await stopping[0]()
    assert feeder.stopped


async def test_a_channel_of_faust_takes_as_many_pieces_as_there_are_actors_and_waits_for_nothing() -> None:
    app = faust.App("tests", stream_buffer_maxsize=16)
    channel: InMemoryChannel[Piece] = InMemoryChannel(app, maxsize=0)
    actors = channel.clone(is_iterator=True)
    app.flow_control.suspend()
    feeder = Feeder(100, put_on(channel))
    pieces = added(feeder, 100)
    app.flow_control.resume()  # a rebalance: the channel is cleared
    assert actors.queue.empty()
    await feeder.offer_again()
    assert [actors.queue.get_nowait() for _ in pieces] == pieces


class History:
    """Random things happen to a feeder; what is offered, taken and done is told apart here."""

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self.feeder, self.channel = fed(concurrency)
        self.added: list[Piece] = []
        self.running: list[Piece] = []
        self.begun: list[Piece] = []
        self.gone: set[Piece] = set()

    async def step(self, what: int, which: int) -> None:
        match what:
            case 0 | 1 | 2:
                self.add(which % 3)
            case 3 | 4:
                self.take()
            case 5:
                self.end(which)
            case 6:
                self.channel.queue.clear()
                await self.feeder.offer_again()
            case 7:
                self.drop(which % 3)
            case 8:
                await self.feeder.offer_again()
            case 9:
                self.withdraw(which)
        offered = [piece for piece in self.added if piece not in self.begun and piece in self.channel.queue]
        takeable = len([piece for piece in offered if piece not in self.gone])
        assert takeable + len(self.running) <= self.concurrency
        assert set(self.feeder.running) == set(self.running)
        assert set(self.feeder.pending) == set(self.added) - set(self.begun) - self.gone

    def add(self, partition: int) -> None:
        piece = Piece(partition)
        self.added.append(piece)
        self.feeder.add(piece)

    def take(self) -> None:
        # An actor that is free takes from the channel until it gets something to do.
        while self.channel.queue and len(self.running) < self.concurrency:
            piece = self.channel.queue.popleft()
            if self.feeder.take(piece):
                assert piece not in self.begun, "begun twice"
                assert piece not in self.gone, "begun after it was dropped"
                self.begun.append(piece)
                self.running.append(piece)
                return

    def end(self, which: int) -> None:
        if self.running:
            self.feeder.done(self.running.pop(which % len(self.running)))

    def drop(self, partition: int) -> None:
        self.gone |= {piece for piece in self.added if piece.partition == partition and piece not in self.begun}
        self.feeder.drop(partition)

    def withdraw(self, which: int) -> None:
        asked = self.added[which % 5 :: 5]
        withdrawn = self.feeder.withdraw(asked)
        assert set(withdrawn) == set(asked) - set(self.begun) - self.gone
        self.gone |= set(withdrawn)

    async def settle(self) -> None:
        await self.feeder.offer_again()
        while self.running or self.channel.queue:
            self.take()
            self.end(0)
        assert self.feeder.pending == []
        lost = set(self.added) - set(self.begun) - self.gone
        assert not lost, f"lost: {lost}"


@profile(200)
@given(concurrency=st.integers(1, 4), steps=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 30)), max_size=60))
def test_nothing_is_lost_and_nothing_begins_twice(concurrency: int, steps: list[tuple[int, int]]) -> None:
    async def play() -> None:
        history = History(concurrency)
        for what, which in steps:
            await history.step(what, which)
        await history.settle()

    asyncio.run(play())
