"""Logs that go back, and records that are gone, on a log of real lists."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import pytest
from aiokafka import ConsumerRecord
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from streams.continuity import ALL_AFTER
from streams.incidents import KEPT_SECONDS, Incidents
from streams.landmarks import Commit
from streams.metrics import REGISTRY
from streams.offsets import EveryOffset
from tests.streams.test_offsets import SPEC, T0, RecordingLog, event, record, stream

Records = list[ConsumerRecord[bytes, bytes]]
"""Those of one partition's log."""


def written(offsets: Iterable[int], generation: int = 0) -> Records:
    """Records at these offsets, with the contents of one life of the log."""
    made = []
    for offset in offsets:
        one = record(T0, offset)
        one.value = b"%d of %d" % (offset, generation)
        made.append(one)
    return made


def events(records: Sequence[ConsumerRecord[bytes, bytes]]) -> Iterable[object]:
    for one in records:
        made = event(T0, one.offset)
        message = replace(made.message, value=one.value, timestamp=one.timestamp / 1000)  # type: ignore[type-var]
        yield replace(made, message=message, value=(one.value or b"").decode())  # type: ignore[type-var]


async def read(offsets: EveryOffset, records: Records, start: int = 0) -> list[tuple[int, str, bool]]:
    """Have a stream deliver the records from an offset on; returns what had its turn, and whether as a repeat."""
    delivered = [one for one in records if one.offset >= start]
    turns = offsets.turns(stream(events(delivered)), SPEC)  # type: ignore[arg-type]
    return [(turn.offset, str(turn.value), turn.repeated) async for turn in turns]


def handled(turns: Iterable[tuple[int, str, bool]]) -> set[str]:
    return {value for _, value, repeated in turns if not repeated}


class Followed:
    """A worker that follows one partition: what it has handled, and committed."""

    def __init__(self, log: RecordingLog) -> None:
        self.log = log
        self.incidents = Incidents()
        self.offsets = EveryOffset(log, self.incidents)
        self.handled: set[str] = set()

    @property
    def expected(self) -> int:
        return self.offsets.expected[T0]

    async def assigned(self) -> None:
        async def go_back(to: Mapping[TP, int]) -> None:
            for offset in to.values():
                self.commit(offset)

        await self.offsets.assigned([T0], go_back)

    async def read(self) -> None:
        """Read on to the end, as Faust's consumer does: from where it is, or from the beginning where that is gone."""
        held, position = self.log.records[T0], self.expected
        if position > self.log._end(T0) or position < self.log.beginning.get(T0, 0):
            position = self.log.beginning.get(T0, 0)
        self.handled |= handled(await read(self.offsets, [one for one in held if one.offset >= position]))

    def commit(self, offset: int | None = None) -> None:
        offset, metadata = self.offsets.continuity.commit(T0, self.expected if offset is None else offset)
        self.log.commits[T0], self.log.said[T0] = offset, Commit.decode(metadata)

    async def look(self) -> bool:
        """Look, and where the log went back commit that and begin anew."""
        if back := await self.offsets.look_back():
            self.commit()
            assert self.log.commits[T0] == back[T0]
            await self.assigned()
        return bool(back)


async def followed(records: Records) -> Followed:
    worker = Followed(RecordingLog(records={T0: records}))
    await worker.assigned()
    await worker.read()
    worker.commit()
    return worker


def count(name: str) -> float:
    registry: CollectorRegistry = REGISTRY
    return registry.get_sample_value(f"port_runs_{name}_total", {"topic": "t"}) or 0.0


class TestWhileItIsRead:
    async def test_a_log_that_ends_sooner_is_noticed_without_a_new_record(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        worker, before = await followed(written(range(50))), count("log_rewinds")
        worker.log.records[T0] = []
        worker.log.end[T0] = 0
        # A leader that steps down may say so once.
        assert not await worker.look()
        assert await worker.look()
        assert worker.expected == 0
        [found] = worker.incidents.recent()
        assert found.text.startswith("The log of t[0] went back: it was read up to offset 50; now it ends at 0, or")
        assert [one.levelno for one in caplog.records if "went back" in one.getMessage()] == [logging.ERROR]
        assert count("log_rewinds") == before + 1
        for _ in range(30):
            assert not await worker.look()

    async def test_what_comes_then_is_handled(self) -> None:
        worker = await followed(written(range(50)))
        worker.log.records[T0] = written(range(5), 1)
        # Delivered before anybody has noticed.
        await worker.read()
        for _ in range(3):
            await worker.look()
        await worker.read()
        assert {f"{offset} of 1" for offset in range(5)} <= worker.handled
        assert worker.expected == 5

    @pytest.mark.parametrize("cut", [0, 1, 30, 45, 49])
    @pytest.mark.parametrize("end", [50, 51, 60, 400])
    async def test_a_log_that_was_filled_again_past_what_was_read(self, cut: int, end: int) -> None:
        worker = await followed(written(range(50)))
        await worker.look()
        worker.log.records[T0] = written(range(cut)) + written(range(cut, end), 1)
        await worker.read()
        for _ in range(ALL_AFTER + 1):
            if await worker.look():
                await worker.read()
                break
        assert {f"{offset} of 1" for offset in range(cut, end)} <= worker.handled
        assert len(worker.incidents.recent()) == 1

    async def test_another_record_below_the_expected_offset_is_no_repeat(self) -> None:
        worker = await followed(written(range(10)))
        assert handled(await read(worker.offsets, written([4, 5]))) == set()
        assert handled(await read(worker.offsets, written([6], 1))) == {"6 of 1"}

    async def test_one_that_is_not_remembered_is_handled_again(self) -> None:
        log = RecordingLog(commits={T0: 1000}, records={T0: written(range(30), 1)}, end={T0: 1000})
        worker = Followed(log)
        await worker.assigned()
        turns = await read(worker.offsets, log.records[T0])
        assert len(handled(turns)) == 30

    async def test_a_commit_does_not_pass_what_is_to_be_read_again(self) -> None:
        worker = await followed(written(range(50)))
        await worker.look()
        worker.log.records[T0] = written(range(60), 1)
        await worker.read()
        assert await worker.offsets.look_back() == {T0: 0}
        assert worker.offsets.continuity.commit(T0, 60) == (0, "")
        await worker.assigned()
        assert worker.offsets.continuity.commit(T0, 1)[0] == 1

    async def test_a_log_that_only_grows_is_never_suspected(self) -> None:
        worker = await followed(written(range(10)))
        for end in range(10, 3000, 37):
            worker.log.records[T0] = written(range(end))
            await worker.read()
            worker.commit()
            assert not await worker.look()
            if end % 5 == 0:
                await worker.assigned()
        assert worker.incidents.recent() == []

    async def test_what_retention_deletes_behind_us_is_no_loss(self) -> None:
        worker = await followed(written(range(50)))
        worker.log.records[T0] = written(range(40, 70))
        worker.log.beginning[T0] = 40
        await worker.read()
        for _ in range(ALL_AFTER + 1):
            assert not await worker.look()
        await worker.assigned()
        assert worker.incidents.recent() == []


class TestAtAStart:
    @pytest.mark.parametrize(
        ("cut", "end"), [(0, 0), (0, 5), (0, 60), (30, 30), (30, 50), (45, 55), (49, 50), (49, 500)]
    )
    async def test_it_is_known_by_what_the_commit_says(self, cut: int, end: int) -> None:
        first = await followed(written(range(50)))
        first.log.records[T0] = written(range(cut)) + written(range(cut, end), 1)
        first.log.end[T0] = end
        worker = Followed(first.log)
        await worker.assigned()
        assert worker.expected <= cut
        await worker.read()
        assert {f"{offset} of 1" for offset in range(cut, end)} <= worker.handled
        assert len(worker.incidents.recent()) == 1
        # It is said once: what was committed then is right.
        again = Followed(first.log)
        worker.commit()
        await again.assigned()
        assert (again.incidents.recent(), again.expected) == ([], end)

    async def test_a_commit_without_landmarks_above_the_end(self) -> None:
        worker = Followed(RecordingLog(commits={T0: 1000}, records={T0: written(range(30))}, end={T0: 30}))
        await worker.assigned()
        await worker.read()
        assert len(worker.handled) == 30
        assert worker.log.commits[T0] == 0

    async def test_the_same_log_is_read_on(self) -> None:
        first = await followed(written(range(50)))
        first.log.records[T0] = written(range(55))
        worker = Followed(first.log)
        await worker.assigned()
        await worker.read()
        assert worker.handled == {f"{offset} of 0" for offset in range(50, 55)}
        assert worker.incidents.recent() == []

    async def test_a_worker_that_died_before_it_had_noticed(self) -> None:
        first = await followed(written(range(50)))
        await first.look()
        first.log.records[T0] = written(range(200), 1)
        await first.read()
        first.commit()
        worker = Followed(first.log)
        await worker.assigned()
        assert worker.expected == 0


class TestDeleted:
    async def test_committed_offsets_before_the_beginning(self, caplog: pytest.LogCaptureFixture) -> None:
        before = count("deleted_records")
        worker = Followed(RecordingLog(commits={T0: 20}, beginning={T0: 100}, records={T0: written(range(100, 120))}))
        await worker.assigned()
        assert worker.expected == 100
        [found] = worker.incidents.recent()
        assert found.text.startswith("Up to 80 records of t[0] from offset 20 on were deleted before they were read")
        assert [one.levelno for one in caplog.records] == [logging.ERROR]
        assert count("deleted_records") == before + 80

    async def test_while_they_wait_for_their_turn(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        worker = await followed(written(range(10)))
        worker.log.records[T0], worker.log.beginning[T0] = written([*range(40, 45), *range(50, 60)]), 40
        await read(worker.offsets, written(range(50, 60)))
        [found] = worker.incidents.recent()
        assert found.text.startswith("Up to 30 records of t[0] from offset 10 on were deleted")
        assert "hold no records" not in caplog.text

    async def test_where_nothing_is_left_the_end_tells(self) -> None:
        worker = await followed(written(range(10)))
        worker.log.records[T0], worker.log.beginning[T0], worker.log.end[T0] = [], 30, 30
        assert [turn.offset async for turn in worker.offsets.catch_up(SPEC, 0)] == []
        [found] = worker.incidents.recent()
        assert found.text.startswith("Up to 20 records of t[0] from offset 10 on were deleted")

    async def test_a_gap_of_the_topic_s_own_is_none(self) -> None:
        worker = await followed(written(range(10)))
        worker.log.records[T0] = written([*range(10), 15])
        await worker.read()
        assert worker.incidents.recent() == []


def test_incidents_are_shown_for_a_day() -> None:
    now = 1000.0
    incidents = Incidents(lambda: now)
    incidents.deleted(TP("t", 0), 3, 4)
    assert len(incidents.recent()) == 1
    now += KEPT_SECONDS + 1
    assert incidents.recent() == []


class Story:
    """A log, the workers that read it one after the other, and all that may happen to either."""

    def __init__(self) -> None:
        self.log = RecordingLog(commits={T0: 0}, records={T0: []}, end={T0: 0})
        self.workers = [Followed(self.log)]
        self.life = 0

    @property
    def handled(self) -> set[str]:
        return set().union(*(worker.handled for worker in self.workers))

    def _hold(self, records: Records) -> None:
        self.log.records[T0], self.log.end[T0] = records, len(records)

    async def write(self, number: int) -> None:
        held = self.log.records[T0]
        self._hold(held + written(range(len(held), len(held) + number), self.life))

    async def lose(self, number: int) -> None:
        # A log goes back more rarely than it is looked at.
        await self.look(number)
        self.life += 1
        kept = self.log.records[T0][:number]
        self._hold(kept + written(range(len(kept), number // 2), self.life))

    async def read(self, _: int) -> None:
        await self.workers[-1].read()

    async def commit(self, _: int) -> None:
        self.workers[-1].commit()

    async def look(self, _: int) -> None:
        await self.workers[-1].look()
        await self.workers[-1].look()

    async def restart(self, _: int) -> None:
        self.workers.append(Followed(self.log))
        await self.workers[-1].assigned()


_STEPS = (Story.write, Story.read, Story.commit, Story.look, Story.lose, Story.restart)


@given(st.lists(st.tuples(st.sampled_from(_STEPS), st.integers(0, 60)), max_size=30))
def test_whatever_happens_to_the_log_all_that_it_holds_in_the_end_was_handled(
    steps: list[tuple[Callable[[Story, int], Awaitable[None]], int]],
) -> None:
    async def run() -> None:
        story = Story()
        await story.workers[-1].assigned()
        for step, number in steps:
            await step(story, number)
        for _ in range(2 * ALL_AFTER):
            await story.read(0)
            await story.look(0)
        await story.read(0)
        assert {(one.value or b"").decode() for one in story.log.records[T0]} <= story.handled

    asyncio.run(run())
