"""Feeders: nothing is lost or handled twice, and what has not begun goes with its partition."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from agents.feeding import Feeder
from streams.worker import Worker
from tests.agents.examples import turns_of_the_loop
from tests.tables.histories import profile


@dataclass(eq=False)
class Piece:
    partition: int = 0
    name: str = ""


def added(feeder: Feeder[Piece], count: int, partition: int = 0) -> list[Piece]:
    pieces = [Piece(partition, str(number)) for number in range(count)]
    for piece in pieces:
        feeder.add(piece)
    return pieces


async def test_a_free_actor_takes_what_comes_first() -> None:
    feeder: Feeder[Piece] = Feeder()
    actors = [asyncio.create_task(feeder.take()) for _ in range(2)]
    await turns_of_the_loop()
    one, two, three = added(feeder, 3)
    assert await asyncio.gather(*actors) == [one, two]
    assert (feeder.waiting, feeder.pending, feeder.running) == (1, [three], [one, two])
    feeder.done(one)
    assert await feeder.take() is three
    assert feeder.running == [two, three]


async def test_an_actor_that_was_cancelled_takes_nothing_from_the_others() -> None:
    feeder: Feeder[Piece] = Feeder()
    cancelled, other = (asyncio.create_task(feeder.take()) for _ in range(2))
    await turns_of_the_loop()
    cancelled.cancel()
    [piece] = added(feeder, 1)
    assert await other is piece


async def test_the_work_of_a_lost_partition_is_dropped_where_it_has_not_begun() -> None:
    feeder: Feeder[Piece] = Feeder()
    running, _ = added(feeder, 2, partition=1)
    [kept] = added(feeder, 1, partition=2)
    assert await feeder.take() is running
    feeder.drop(1)
    assert feeder.pending == [kept]
    assert feeder.running == [running], "what runs, runs on"
    assert await feeder.take() is kept


def test_what_waits_can_be_taken_back() -> None:
    feeder: Feeder[Piece] = Feeder()
    running, one, two = added(feeder, 3)
    assert feeder.begin() is running
    assert feeder.withdraw([running, two]) == [two]
    assert feeder.pending == [one]


async def test_nothing_begins_after_the_stop() -> None:
    feeder: Feeder[Piece] = Feeder()
    [running] = added(feeder, 1)
    assert await feeder.take() is running
    free = asyncio.create_task(feeder.take())
    await turns_of_the_loop()
    feeder.stop()
    waiting = added(feeder, 2)
    feeder.done(running)
    await turns_of_the_loop()
    assert not free.done()
    assert feeder.pending == waiting
    free.cancel()


async def test_a_feeder_is_idle_when_no_actor_works() -> None:
    feeder: Feeder[Piece] = Feeder()
    one, two = added(feeder, 2)
    await feeder.idle()
    assert [await feeder.take(), await feeder.take()] == [one, two]
    idle = asyncio.create_task(feeder.idle())
    feeder.done(one)
    await turns_of_the_loop()
    assert not idle.done()
    feeder.done(two)
    await idle


def test_a_feeder_follows_the_app() -> None:
    lost: list[Callable[[int], None]] = []
    feeder: Feeder[Piece] = Feeder()
    feeder.attach(cast("Worker", SimpleNamespace(on_lost=lost)))
    added(feeder, 1, partition=1)
    [kept] = added(feeder, 1, partition=2)
    lost[0](1)
    assert feeder.pending == [kept]


@profile(200)
@given(steps=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 20)), max_size=60), actors=st.integers(1, 4))
def test_every_piece_begins_once_or_is_dropped(steps: list[tuple[int, int]], actors: int) -> None:
    asyncio.run(_history(steps, actors))


async def _history(steps: list[tuple[int, int]], actors: int) -> None:
    feeder: Feeder[Piece] = Feeder()
    every: list[Piece] = []
    gone: set[Piece] = set()
    begun: list[Piece] = []
    ends: dict[Piece, asyncio.Event] = {}

    async def actor() -> None:
        while True:
            piece = await feeder.take()
            begun.append(piece)
            ends[piece] = asyncio.Event()
            await ends[piece].wait()
            feeder.done(piece)

    tasks = [asyncio.create_task(actor()) for _ in range(actors)]
    for what, which in steps:
        if what <= 2:
            every += added(feeder, 1, partition=which % 3)
        elif what == 3 and feeder.running:
            ends[feeder.running[which % len(feeder.running)]].set()
        elif what == 4:
            gone |= {piece for piece in feeder.pending if piece.partition == which % 3}
            feeder.drop(which % 3)
        elif what == 5 and feeder.pending:
            gone |= set(feeder.withdraw([feeder.pending[which % feeder.waiting]]))
        await turns_of_the_loop()
        assert len(feeder.running) <= actors
        assert not feeder.pending or len(feeder.running) == actors, "no actor is free while something waits"
    await _ended(feeder, ends)
    for task in tasks:
        task.cancel()
    assert len(begun) == len(set(begun)), "nothing begins twice"
    assert set(begun) | gone == set(every)
    assert not set(begun) & gone


async def _ended(feeder: Feeder[Piece], ends: dict[Piece, asyncio.Event]) -> None:
    while feeder.running:
        for piece in feeder.running:
            ends[piece].set()
        await turns_of_the_loop()


class TestProgress:
    """What `/healthz` asks a feeder. No piece takes longer than the `longest` given here, none but -1 is past it."""

    LONG = 3600.0
    PAST = -1.0

    def test_nothing_is_to_do_where_nothing_waits(self) -> None:
        feeder: Feeder[Piece] = Feeder()
        assert not feeder.ought_to_move(2, self.LONG, 0)
        assert feeder.oldest() == 0.0
        assert feeder.first is None

    def test_what_waits_for_a_free_actor_ought_to_begin(self) -> None:
        feeder: Feeder[Piece] = Feeder()
        added(feeder, 2)
        feeder.begin()
        assert feeder.ought_to_move(2, self.LONG, 0)
        assert 0.0 < feeder.oldest() < 60.0
        assert feeder.first is feeder.pending[0]

    def test_with_all_actors_taken_it_waits_on_purpose(self) -> None:
        feeder: Feeder[Piece] = Feeder()
        added(feeder, 2)
        feeder.begin()
        assert not feeder.ought_to_move(1, self.LONG, 0)

    def test_not_where_all_actors_are_kept_past_their_time(self) -> None:
        feeder: Feeder[Piece] = Feeder()
        added(feeder, 2)
        feeder.begin()
        assert feeder.ought_to_move(1, self.PAST, 1)

    def test_nor_once_it_is_stopped(self) -> None:
        feeder: Feeder[Piece] = Feeder()
        added(feeder, 1)
        feeder.stop()
        assert not feeder.ought_to_move(1, self.LONG, 0)

    def test_what_runs_past_its_time_ought_to_end_unless_it_has_and_keeps_its_actor(self) -> None:
        feeder: Feeder[Piece] = Feeder()
        added(feeder, 1)
        feeder.begin()
        assert feeder.ought_to_move(2, self.PAST, 0)
        assert not feeder.ought_to_move(2, self.PAST, 1)

    def test_every_move_shows(self) -> None:
        feeder: Feeder[Piece] = Feeder()
        one, other = added(feeder, 2)
        seen = [feeder.moves]
        feeder.begin()
        seen.append(feeder.moves)
        feeder.done(one)
        seen.append(feeder.moves)
        feeder.withdraw([other])
        seen.append(feeder.moves)
        assert seen == sorted(set(seen))
