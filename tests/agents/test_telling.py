"""What handlers have to say to Port while they run."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from pydantic import SecretStr

from agents import telling as module
from agents.callbacks import Callbacks
from agents.context import Context
from agents.telling import MAX_LINE_CHARACTERS, MAX_LINES, MAX_WAITING, Progress, Telling, Told
from agents.work import LinesWork
from port.client import Answer, AnswerKind
from tests.agents.examples import ID, context, turns_of_the_loop, until

ACCEPTED = Answer(AnswerKind.ACCEPTED, 200, "")
SOON = 0.01


class Desk:
    """Port, as far as it is told anything here."""

    def __init__(self) -> None:
        self.works: list[str] = []
        self.bodies: list[dict[str, object]] = []
        self.answer = ACCEPTED
        self.let_go = asyncio.Event()
        self.let_go.set()
        self.telling = Telling({}, Callbacks((SecretStr("k" * 32),), "org", "https://runs.example"))
        self.telling.add = self._add
        self.telling.update = self._update
        self.telling.begin()

    def _add(self, work: LinesWork) -> None:
        self.works.append(work.node_run_id)

    async def _update(self, told: Told, body: bytes, before: Callable[[], None]) -> Answer:
        before()
        self.bodies.append(json.loads(body))
        await self.let_go.wait()
        return self.answer

    def context(self, index: int = 0) -> Context:
        return replace(context(index=index), host=self.telling)

    def lines(self) -> list[tuple[str, str]]:
        """What one call would send now."""
        return [(line.level.value, line.message) for line in self.telling.take(ID)]


@pytest.fixture
async def desk() -> Desk:
    return Desk()


async def test_the_lines_of_an_item_are_told_when_it_has_ended(desk: Desk) -> None:
    ctx = desk.context()
    assert not desk.telling.said
    ctx.log("one %d", 1)
    ctx.log("two", level="ERROR")
    assert desk.telling.said
    assert desk.works == []
    await desk.telling.ended(ctx)
    assert desk.works == [ID]
    assert desk.lines() == [("INFO", "one 1"), ("ERROR", "two")]
    assert desk.lines() == []
    assert not desk.telling.said


async def test_the_items_of_a_node_run_share_a_call(desk: Desk) -> None:
    for index in range(3):
        desk.context(index).log("item %d", index)
        await desk.telling.ended(desk.context(index))
    assert desk.works == [ID]
    assert [text for _, text in desk.lines()] == ["item 0", "item 1", "item 2"]
    desk.context().log("later")
    await desk.telling.ended(desk.context())
    assert desk.works == [ID, ID], "what is said after the call is another call"


async def test_long_work_is_told_while_it_runs(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINES_SECONDS", SOON)
    desk.context().log("begun")
    await until(lambda: desk.works == [ID])
    assert desk.lines() == [("INFO", "begun")]


async def test_lines_of_threads_are_told(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINES_SECONDS", SOON)
    thread = threading.Thread(target=lambda: desk.context().log("from a thread"))
    thread.start()
    await until(lambda: desk.works == [ID])
    thread.join()
    assert desk.lines() == [("INFO", "from a thread")]


async def test_what_is_too_much_is_cut_and_said(desk: Desk) -> None:
    ctx = desk.context(2)
    ctx.log("\ud800" + "x" * 10_000)
    for number in range(MAX_LINES + 4):
        ctx.log("%d", number)
    await desk.telling.ended(ctx)
    first, *others, last = [line for count in range(3) for line in desk.lines()]
    assert len(first[1]) == MAX_LINE_CHARACTERS
    assert (first[1][0], first[1][-7:]) == ("?", "… (cut)")
    assert [text for _, text in others] == [str(number) for number in range(MAX_LINES - 1)]
    assert last == ("WARN", "5 further lines of item 2 are left out: only the worker's log has them")


async def test_one_call_is_no_larger_than_port_takes(desk: Desk) -> None:
    ctx = desk.context()
    for _ in range(MAX_LINES):
        ctx.log("ü" * MAX_LINE_CHARACTERS)
    await desk.telling.ended(ctx)
    sizes = []
    while lines := desk.lines():
        sizes.append(len(json.dumps(lines)))
    assert len(sizes) == 3
    assert max(sizes) < 1_048_576


async def test_a_port_that_is_away_does_not_fill_the_memory(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 10)
    assert MAX_WAITING > MAX_LINES
    for index in range(10 * MAX_LINES):
        ctx = desk.context(index)
        ctx.log("line")
        await desk.telling.ended(ctx)
    waiting = 0
    while lines := desk.lines():
        waiting += len(lines)
    assert waiting == 10 + MAX_LINES, "the lines that fit, and as many that say what was left out"
    desk.context().log("again")
    await desk.telling.ended(desk.context())
    assert desk.lines() == [("INFO", "again")]


async def test_progress_is_kept_and_told_where_work_runs_long(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROGRESS_SECONDS", SOON)
    ctx = desk.context(4)
    ctx.progress(1, 10)
    ctx.progress(2, 10)
    assert desk.telling.progress_of(ID, 4) == Progress(2, 10)
    assert desk.bodies == []
    await until(lambda: len(desk.bodies) == 1)
    assert desk.bodies == [{"status": "IN_PROGRESS", "output": {"progress": {"item": 4, "done": 2.0, "total": 10.0}}}]
    await asyncio.sleep(5 * SOON)
    assert len(desk.bodies) == 1, "what has not changed is not told again"
    ctx.progress(3)
    await until(lambda: len(desk.bodies) == 2)
    await desk.telling.ended(ctx)
    assert desk.telling.progress_of(ID, 4) is None


async def test_short_work_tells_no_progress(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROGRESS_SECONDS", SOON)
    desk.context().progress(1)
    await turns_of_the_loop()
    await desk.telling.ended(desk.context())
    await asyncio.sleep(5 * SOON)
    assert desk.bodies == []


async def test_the_outcome_waits_for_a_word_on_its_way(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROGRESS_SECONDS", SOON)
    desk.let_go.clear()
    desk.context().progress(1)
    await until(lambda: len(desk.bodies) == 1)
    ended = asyncio.create_task(desk.telling.ended(desk.context()))
    await asyncio.sleep(3 * SOON)
    assert not ended.done()
    desk.let_go.set()
    await ended


async def test_the_outcome_does_not_wait_for_a_word_that_waits_for_its_turn(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROGRESS_SECONDS", SOON)
    waits = asyncio.Event()

    async def update(told: Told, body: bytes, before: Callable[[], None]) -> Answer:
        waits.set()
        await asyncio.Event().wait()
        raise AssertionError("never its turn")

    desk.telling.update = update
    desk.context().progress(1)
    await waits.wait()
    async with asyncio.timeout(5):
        await desk.telling.ended(desk.context())


async def test_a_refused_word_is_the_last(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROGRESS_SECONDS", SOON)
    desk.answer = Answer(AnswerKind.INVALID, 422, "completed")
    ctx = desk.context()
    ctx.progress(1)
    await until(lambda: len(desk.bodies) == 1)
    ctx.progress(2)
    await asyncio.sleep(5 * SOON)
    assert len(desk.bodies) == 1


async def test_a_thread_that_goes_on_tells_no_progress_and_its_last_lines(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROGRESS_SECONDS", SOON)
    ctx = desk.context()
    ctx.progress(1)
    await desk.telling.ended(ctx, goes_on=True)
    ctx.progress(2)
    ctx.log("too late")
    assert desk.telling.progress_of(ID, 0) is None
    await asyncio.sleep(5 * SOON)
    assert desk.bodies == []
    desk.telling.forget(ctx)
    assert desk.lines() == [("INFO", "too late")]
    ctx.progress(1)
    assert desk.telling.progress_of(ID, 0) == Progress(1, None), "the next call of the item is listened to"
    await desk.telling.ended(ctx)


async def test_the_lines_of_a_call_are_seen_while_it_is_made(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINES_SECONDS", SOON)
    ctx = desk.context(3)
    assert desk.telling.lines_of(ID, 3) is None
    ctx.log("begun")
    await until(lambda: desk.works == [ID])
    assert desk.lines() == [("INFO", "begun")]
    ctx.log("goes on", level="WARN")
    seen = desk.telling.lines_of(ID, 3)
    assert seen is not None
    assert [(line.level.value, line.text) for line in seen.latest] == [("INFO", "begun"), ("WARN", "goes on")]
    await desk.telling.ended(ctx)
    assert desk.telling.lines_of(ID, 3) is None


async def test_what_a_call_logs_after_its_end_is_not_taken_for_the_next_ones(desk: Desk) -> None:
    late = desk.context()
    late.log("in time")
    await desk.telling.ended(late, goes_on=True)
    late.log("too late")
    assert desk.telling.lines_of(ID, 0) is None
    desk.telling.forget(late)


async def test_the_lines_of_a_call_that_is_over_take_no_memory(desk: Desk) -> None:
    for index in range(100):
        desk.context(index).log("quick")
    gc.collect()
    assert [desk.telling.lines_of(ID, index) for index in range(100)] == [None] * 100
