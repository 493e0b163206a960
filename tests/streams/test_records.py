"""The records on the own topics: each comes back as it was written, and what cannot be read is told apart."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from port.models import LogLevel, LogLine, Result
from streams.records import (
    FORMAT,
    Action,
    Arrival,
    Audited,
    Body,
    By,
    DeadLetter,
    DeferralExpired,
    Died,
    FailureTold,
    GraceOver,
    ItemAgain,
    ItemCompleted,
    ItemDeferred,
    ItemFinished,
    ItemRetry,
    Line,
    Lines,
    NewerFormatError,
    OutcomeEvent,
    Record,
    Released,
    ReportAgain,
    ReportAnswered,
    ReportStopped,
    RunCancelled,
    RunningItem,
    Settled,
    Source,
    Tick,
    Tries,
    Try,
    TypePaused,
    UnreadableError,
    read,
)
from tests.streams.conftest import unhurried

AUDITED: TypeAdapter[Audited] = TypeAdapter(Audited)
WHO = Action(id="1", who="cli: anna")
ARRIVALS: TypeAdapter[Arrival] = TypeAdapter(Arrival)
OUTCOMES: TypeAdapter[OutcomeEvent] = TypeAdapter(OutcomeEvent)
SOURCE = Source(cluster="a:1", topic="org.runs", partition=3, offset=2**40, timestamp=1_700_000_000.123)

NEW_IN_FORMAT_2 = {
    ItemDeferred,
    ItemCompleted,
    DeferralExpired,
    RunCancelled,
    ItemAgain,
    ReportAgain,
    ReportStopped,
    TypePaused,
    Audited,
}

ARRIVAL_RECORDS = [
    Arrival(node_run_id="wfnr_1", source=SOURCE, digest="d"),
    Arrival(
        node_run_id="wfnr_1",
        workflow_run_id="wfr_1",
        workflow="deploy",
        node="publish",
        source=SOURCE,
        digest="d",
        text='{"a":"\\u0000\\"ä🚀"}',
        array=True,
        count=10_000,
        event_types=("a", "b"),
        problem="the payload is empty",
    ),
]
OUTCOME_RECORDS: list[OutcomeEvent] = [
    ItemFinished(
        node_run_id="wfnr_1",
        index=7,
        message=5,
        event_type="deployment.started",
        attempt=2,
        result=Result.FAILED,
        output='{"a":1}',
        error="why\nnot",
        worker="w-1",
        started_at=1.5,
        ended_at=2.25,
    ),
    ItemRetry(node_run_id="wfnr_1", index=0, message=0, attempt=1, due_at=9.75, error="later", worker="w-1"),
    ItemRetry(
        node_run_id="wfnr_1",
        index=0,
        message=0,
        attempt=1,
        due_at=9.75,
        error="later",
        worker="w-1",
        started_at=1.5,
        ended_at=2.25,
        asked=True,
        logs=Lines(latest=(Line(at=1.75, level=LogLevel.DEBUG, text="\x00ä🚀"),), left_out=3),
    ),
    GraceOver(node_run_id="wfnr_1", items=3, since=1.5),
    ReportAnswered(node_run_id="wfnr_1", body=Body.SMALL, settled=Settled.REFUSED, status=409, reason="x", at=3.5),
    ReportAnswered(node_run_id="wfnr_1", body=Body.FULL, settled=Settled.REPORTED, at=3.5),
    ReportAnswered(
        node_run_id="wfnr_1",
        body=Body.FULL,
        settled=Settled.REPORTED,
        at=3.5,
        tries=Tries(count=9, latest=(Try(at=2.5, status=503), Try(at=3.25))),
    ),
    FailureTold(node_run_id="wfnr_1", index=1),
    ItemDeferred(
        node_run_id="wfnr_1",
        index=1,
        message=0,
        attempt=2,
        until=9.75,
        link="https://a",
        worker="w-1",
        started_at=1,
        at=2,
    ),
    ItemCompleted(
        node_run_id="wfnr_1",
        index=1,
        event_type="t",
        result=Result.FAILED,
        output="{}",
        error="no",
        digest="d",
        logs=(LogLine(level=LogLevel.WARN, message="m"),),
        by=By.CALLBACK,
        at=2,
    ),
    DeferralExpired(node_run_id="wfnr_1", index=1, until=9.75),
    RunCancelled(node_run_id="wfnr_1", over=True, at=9.5),
    RunCancelled(node_run_id="wfnr_1", over=False, action=WHO, at=9.5),
    ItemAgain(node_run_id="wfnr_1", index=3, attempt=2, ended_at=2.125, action=WHO, at=9.5),
    ReportAgain(node_run_id="wfnr_1", report=1, action=WHO, at=9.5),
    ReportStopped(
        node_run_id="wfnr_1",
        report=1,
        status=500,
        reason="HTTP 500",
        tries=Tries(count=9, latest=(Try(at=1.5, status=500, reason="HTTP 500"),)),
        action=WHO,
        at=9.5,
    ),
    TypePaused(event_type="deploy.*", paused=True, action=WHO, at=9.5),
    Released(worker="w-1", generation=3, running=(RunningItem(worker="w-1", node_run_id="a", index=1, attempt=2),)),
    Died(worker="w-1", generation=3),
    Tick(),
]
AUDITED_RECORDS = [
    Audited(id="1", at=9.5, who="web", what="retry item", outcome="applied", node_run_id="wfnr_1", index=3),
    Audited(id="2", at=9.5, who="cli: a", what="redrive dead letter", outcome="applied", why="edited", letter="0/7"),
]
EVERY: list[tuple[TypeAdapter[Record], Record]] = [
    *((ARRIVALS, record) for record in ARRIVAL_RECORDS),  # type: ignore[list-item]
    *((AUDITED, record) for record in AUDITED_RECORDS),  # type: ignore[list-item]
    *((OUTCOMES, record) for record in OUTCOME_RECORDS),  # type: ignore[list-item]
]
each = pytest.mark.parametrize(
    ("adapter", "record"), EVERY, ids=[f"{number} {type(record).__name__}" for number, (_, record) in enumerate(EVERY)]
)


def subclasses(kind: type[Record]) -> set[type[Record]]:
    return {kind} | {deeper for direct in kind.__subclasses__() for deeper in subclasses(direct)}


def test_every_record_of_the_topics_is_tested_here() -> None:
    of_topics = {kind for kind in subclasses(Record) - {Record} if kind.__module__ == Record.__module__}
    assert {type(record) for _, record in EVERY} == of_topics


@each
class TestEach:
    def test_it_comes_back_as_it_was_written(self, adapter: TypeAdapter[Record], record: Record) -> None:
        back = read(adapter, record.encode())
        assert back == record
        assert type(back) is type(record)

    def test_it_carries_its_format_version(self, adapter: TypeAdapter[Record], record: Record) -> None:
        written = json.loads(record.encode())["v"]
        assert written == (FORMAT if type(record) in NEW_IN_FORMAT_2 else 1)

    def test_equal_records_are_the_same_bytes(self, adapter: TypeAdapter[Record], record: Record) -> None:
        assert read(adapter, record.encode()).encode() == record.encode()

    def test_fields_that_a_later_version_adds_are_ignored(self, adapter: TypeAdapter[Record], record: Record) -> None:
        fields = json.loads(record.encode()) | {"later": {"deep": [1]}, "model_config": 1}
        assert read(adapter, json.dumps(fields).encode()) == record

    @pytest.mark.parametrize("version", [3, 4, 999, 2**70])
    def test_a_newer_format_is_told_apart(self, adapter: TypeAdapter[Record], record: Record, version: int) -> None:
        fields = json.loads(record.encode()) | {"v": version}
        with pytest.raises(NewerFormatError, match=f"format version {version}; this application knows up to 2"):
            read(adapter, json.dumps(fields).encode())

    @pytest.mark.parametrize("version", [0, -1, "1.x", None, [], 1.5])
    def test_a_version_that_never_was(self, adapter: TypeAdapter[Record], record: Record, version: object) -> None:
        fields = json.loads(record.encode()) | {"v": version}
        with pytest.raises(UnreadableError):
            read(adapter, json.dumps(fields).encode())

    def test_it_cannot_be_changed(self, adapter: TypeAdapter[Record], record: Record) -> None:
        with pytest.raises(ValidationError, match="frozen"):
            record.v = 1  # type: ignore[misc]


@pytest.mark.parametrize("adapter", [ARRIVALS, OUTCOMES], ids=["arrivals", "outcomes"])
class TestUnreadable:
    @pytest.mark.parametrize(
        "raw",
        [
            None,
            b"",
            b"{",
            b"null",
            b"[]",
            b"7",
            b"{}",
            b'{"v":1}',
            b'{"v":1,"kind":"unheard_of"}',
            b'{"v":1,"kind":"item_finished"}',
            b'{"kind":["tick"]}',
            b"\xff\xfe",
            b'{"v":1,"node_run_id":"\\ud800"}',
            b"x" * 900_000,
            b"[" * 50_000,
            b'{"v":' + b"9" * 100_000 + b"}",
        ],
        ids=lambda raw: f"{raw[:20]!r}" if raw is not None else "nothing",
    )
    def test_garbage(self, adapter: TypeAdapter[Record], raw: bytes | None) -> None:
        with pytest.raises(UnreadableError) as raised:
            read(adapter, raw)
        assert 0 < len(str(raised.value)) <= 500

    @unhurried
    @given(st.binary(max_size=100))
    def test_any_bytes(self, adapter: TypeAdapter[Record], raw: bytes) -> None:
        with pytest.raises(UnreadableError):
            read(adapter, raw)

    def test_a_newer_format_of_another_shape_is_told_apart(self, adapter: TypeAdapter[Record]) -> None:
        with pytest.raises(NewerFormatError):
            read(adapter, b'{"v":3}')


@unhurried
@given(
    st.builds(
        ItemRetry,
        node_run_id=st.text(st.characters(codec="utf-8")),
        error=st.text(st.characters(codec="utf-8")),
        due_at=st.floats(allow_nan=False, allow_infinity=False),
        worker=st.text(st.characters(codec="utf-8")),
        index=st.integers(0, 2**62),
        attempt=st.integers(0, 2**62),
        message=st.integers(0, 2**62),
    )
)
def test_any_text_and_number_comes_back(record: ItemRetry) -> None:
    assert read(OUTCOMES, record.encode()) == record


def test_an_arrival_has_at_least_one_item() -> None:
    with pytest.raises(ValidationError, match="count"):
        Arrival(node_run_id="wfnr_1", source=SOURCE, digest="d", count=0)


def test_the_headers_of_a_dead_letter() -> None:
    letter = DeadLetter(reason="not JSON: ä", source=SOURCE)
    assert letter.headers["reason"] == "not JSON: ä".encode()
    assert Source.model_validate_json(letter.headers["source"]) == SOURCE
    with pytest.raises(ValidationError, match="frozen"):
        letter.reason = "x"  # type: ignore[misc]
