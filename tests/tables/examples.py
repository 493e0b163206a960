"""Short ways to write the records that the tests speak of."""

from __future__ import annotations

from port.models import Result
from streams.records import (
    Arrival,
    Body,
    By,
    ItemCompleted,
    ItemDeferred,
    ItemFinished,
    ItemRetry,
    ReportAnswered,
    Settled,
    Source,
)
from tables.state import Item, NodeRun, apply, apply_arrival

ID = "wfnr_a"


def arrival(number: int = 0, *, count: int = 1, array: bool = False, problem: str | None = None) -> Arrival:
    source = Source(cluster="c", topic="t", partition=0, offset=number, timestamp=100.0 + number)
    return Arrival(
        node_run_id=ID,
        workflow_run_id="wfr_a",
        source=source,
        digest=f"digest {number}",
        text=f"text {number}",
        count=count,
        array=array,
        event_types=(f"type {number}",),
        problem=problem,
    )


def finished(
    index: int = 0, *, error: str | None = None, output: str = '{"done":true}', at: float = 200.0
) -> ItemFinished:
    return ItemFinished(
        node_run_id=ID,
        index=index,
        message=0,
        event_type="type 0",
        attempt=1,
        result=Result.SUCCESS if error is None else Result.FAILED,
        output=output if error is None else None,
        error=error,
        worker="w",
        started_at=at - 1,
        ended_at=at,
    )


def retry(index: int = 0, *, attempt: int = 1, due_at: float = 300.0) -> ItemRetry:
    return ItemRetry(
        node_run_id=ID, index=index, message=0, attempt=attempt, due_at=due_at, error="not yet", worker="w"
    )


def deferred(index: int = 0, *, attempt: int = 1, until: float = 900.0) -> ItemDeferred:
    return ItemDeferred(
        node_run_id=ID, index=index, message=0, attempt=attempt, until=until, worker="w", started_at=199.0, at=200.0
    )


def completed(index: int = 0, *, result: Result = Result.SUCCESS) -> ItemCompleted:
    return ItemCompleted(node_run_id=ID, index=index, result=result, digest="said", by=By.CALLBACK, at=250.0)


def answered(settled: Settled = Settled.REPORTED, *, body: Body = Body.FULL) -> ReportAnswered:
    return ReportAnswered(node_run_id=ID, body=body, settled=settled, status=200, at=400.0)


def ended(index: int, *, error: str | None = None, output: str = '{"done":true}') -> Item:
    return Item(
        index=index,
        message=0,
        event_type="type 0",
        attempt=1,
        result=Result.SUCCESS if error is None else Result.FAILED,
        output=output if error is None else None,
        error=error,
    )


def received(*, count: int = 1, array: bool = False) -> NodeRun:
    """A node run whose first message has come."""
    run = apply_arrival(None, None, arrival(count=count, array=array)).run
    assert run is not None
    return run


def reporting(*, count: int = 1, failing: int = 0) -> NodeRun:
    """A node run whose items have ended, the first `failing` of them in failure: its report is frozen."""
    run = received(count=count, array=count > 1)
    for index in range(count):
        changed = apply(run, None, finished(index, error="broken" if index < failing else None)).run
        assert changed is not None
        run = changed
    return run
