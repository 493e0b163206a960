"""A source whose log goes back, or lacks records, while the bridge copies it; on a log of real lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.errors import OffsetOutOfRangeError
from pydantic import SecretStr

from port.client import PortClient
from streams import bridge
from streams.bridge import Bridge
from streams.continuity import Continuity
from streams.incidents import Incidents
from streams.landmarks import Commit
from tests.streams.test_continuity import written
from tests.streams.test_fitting import SETTINGS, Topics
from tests.streams.test_offsets import T0, RecordingLog

HERE = TopicPartition(*T0)


class ToldEnough(Exception):
    """All that was to happen has happened."""


@dataclass
class Source:
    """A consumer of one partition that begins where nobody told it to."""

    log: RecordingLog
    happens: list[Callable[[], object]] = field(default_factory=list)
    """What happens each time that all was read."""
    position_: int = 0

    async def getmany(self, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[ConsumerRecord]]:
        if not self.log.beginning.get(T0, 0) <= self.position_ <= self.log._end(T0):
            raise OffsetOutOfRangeError({HERE: self.position_})
        if found := [one for one in self.log.records[T0] if one.offset >= self.position_][:max_records]:
            self.position_ = found[-1].offset + 1
            return {HERE: found}
        if not self.happens:
            raise ToldEnough
        self.happens.pop(0)()
        return {}

    def assignment(self) -> set[TopicPartition]:
        return {HERE}

    def seek(self, where: TopicPartition, offset: int) -> None:
        self.position_ = offset

    async def commit(self, offsets: Mapping[TopicPartition, tuple[int, str]]) -> None:
        self.log.commits[T0], said = offsets[HERE]
        self.log.said[T0] = Commit.decode(said)

    async def topics(self) -> set[str]:
        return {T0.topic}

    async def end_offsets(self, partitions: object) -> dict[TopicPartition, int]:
        return {HERE: self.log._end(T0)}

    async def position(self, where: TopicPartition) -> int:
        return self.position_


@pytest.fixture(autouse=True)
def _looks_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "LOOK_SECONDS", -1.0)


def nothing() -> None:
    """Only time passes."""


async def copy(log: RecordingLog, *happens: Callable[[], object]) -> tuple[set[bytes | None], list[str]]:
    """Copy until all has happened; returns the values of the copies, and what was found to be wrong."""
    incidents, topics = Incidents(), Topics()
    made = Bridge(SETTINGS, T0.topic, "a-worker", PortClient("http://127.0.0.1:1", "x", SecretStr("y")), incidents)
    consumer: AIOKafkaConsumer = Source(log, list(happens))
    producer: AIOKafkaProducer = topics
    joined = bridge._Joined()
    joined.on_partitions_assigned(())
    with pytest.raises(ToldEnough):
        await made._copy(consumer, producer, joined, Continuity(log, incidents, " at the source"))
    return {form.value for form in topics.written.get(T0.topic, ())}, [one.text for one in incidents.recent()]


def log_of(count: int) -> RecordingLog:
    return RecordingLog(records={T0: written(range(count))}, commits={T0: 0})


@pytest.mark.parametrize(("kept", "new"), [(0, 60), (0, 50), (0, 20), (30, 60), (49, 51)])
async def test_a_log_that_goes_back_is_copied_from_where_it_is_new(kept: int, new: int) -> None:
    log = log_of(50)

    def restore() -> None:
        log.records[T0] = [*written(range(kept)), *written(range(kept, new), generation=1)]

    # Twelve looks, because nothing more may be written.
    copies, [told] = await copy(log, nothing, restore, *[nothing] * 13)
    assert copies >= {b"%d of 1" % offset for offset in range(kept, new)}
    assert told.startswith("The log of t at the source[0] went back: it was read up to offset")
    assert log.commits[T0] == new


async def test_what_stood_where_is_known_to_the_next_session() -> None:
    log = log_of(50)
    await copy(log)
    log.records[T0] = written(range(60), generation=1)
    copies, told = await copy(log)
    assert copies == {b"%d of 1" % offset for offset in range(60)}
    assert len(told) == 1


async def test_a_log_that_only_grows_is_copied_once_and_nothing_is_told() -> None:
    log = log_of(5)
    await copy(log)
    log.records[T0] = written(range(8))
    assert await copy(log, *[nothing] * 30) == ({b"5 of 0", b"6 of 0", b"7 of 0"}, [])


async def test_records_deleted_meanwhile_are_told() -> None:
    log = log_of(5)

    def delete() -> None:
        log.records[T0], log.beginning[T0] = written(range(9, 12)), 9

    copies, [told] = await copy(log, delete)
    assert copies == {b"%d of 0" % offset for offset in (0, 1, 2, 3, 4, 9, 10, 11)}
    assert told.startswith("Up to 4 records of t at the source[0] from offset 5 on were deleted before they were read")


async def test_a_first_start_begins_with_what_is_kept() -> None:
    log = RecordingLog(records={T0: written(range(9, 12))}, beginning={T0: 9}, commits={T0: -1})
    assert await copy(log) == ({b"9 of 0", b"10 of 0", b"11 of 0"}, [])
