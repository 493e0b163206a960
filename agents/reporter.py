"""The reporter: the sink. Completes node runs at Port, waits outages and rate limits out, and never drops one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from itertools import takewhile
from typing import Final, TypeAlias

import stamina
from faust.types import StreamT

from agents.feeding import Feeder, InMemoryChannel, put_on
from agents.shared import dispatch, node_runs, send_outcome
from agents.work import ReportWork, TellWork
from port.client import Answer, AnswerKind, PortClient
from port.models import LogLevel, LogLine, WorkflowRun
from streams.app import app, settings
from streams.metrics import API_CALLS, API_SECONDS
from streams.records import Body, FailureTold, ReportAnswered, Settled
from tables.report import report_body
from tables.rows import NotOwnedError
from tables.state import NodeRun

logger = logging.getLogger(__name__)

LONGEST_PAUSE: Final = 30.0
_WAIT: Final = frozenset({AnswerKind.UNAVAILABLE, AnswerKind.RATE_LIMITED, AnswerKind.UNAUTHORIZED})
_DISPUTED: Final = frozenset({AnswerKind.CONFLICT, AnswerKind.INVALID})

ToPort: TypeAlias = ReportWork | TellWork


class _NotNowError(Exception):
    """Port cannot be reached, or asks to wait."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"Port: {answer.kind.value}: {answer.reason}")
        self.answer = answer


class Found(Enum):
    """What a look at the workflow run says of a node run whose report was answered with 409 or 422."""

    SAME = auto()
    OTHER = auto()
    OPEN = auto()
    UNKNOWN = auto()


def _count(call: str, status: int | None, took: float) -> None:
    API_CALLS.labels(call, "none" if status is None else str(status)).inc()
    API_SECONDS.labels(call).observe(took)


port = PortClient(
    settings.port_api_base_url,
    settings.port_client_id,
    settings.port_client_secret,
    connections=settings.report_concurrency,
    on_call=_count,
)
to_port: InMemoryChannel[ToPort] = InMemoryChannel(app)
feeder: Feeder[ToPort] = Feeder(settings.report_concurrency, put_on(to_port))
feeder.attach(app)
app.before_stop.append(port.close)


@app.agent(to_port, name="reporter", concurrency=settings.report_concurrency)
async def reporter(stream: StreamT[ToPort]) -> None:
    """Complete node runs at Port, and tell failures that came after the report in their logs."""
    async for work in stream:
        if feeder.take(work):
            try:
                await (_report(work) if isinstance(work, ReportWork) else _tell(work))
            except NotOwnedError:
                logger.info("%s went to another worker before it was reported", work.node_run_id)
            except Exception:
                logger.exception("reporting %s failed; it is tried again", work.node_run_id)
                asyncio.get_running_loop().call_later(LONGEST_PAUSE, feeder.add, work)
            finally:
                feeder.done(work)


async def _report(work: ReportWork) -> None:
    run = node_runs.run(work.partition, work.node_run_id)
    if run is None or run.covered is None or run.settled is not None or run.body is not work.body:
        return
    covered = run.covered
    items = takewhile(lambda item: item.index < covered, node_runs.items(work.partition, run))
    body = report_body(run, items)
    answer = await _until_answered(work, lambda: port.report(run.node_run_id, run.workflow_run_id, body))
    settled = await _settled(work, run, answer)
    if settled is Settled.REFUSED:
        logger.warning("Port refused the report of %s: %s %s", run.node_run_id, answer.status, answer.reason)
    await send_outcome(
        ReportAnswered(
            node_run_id=run.node_run_id,
            body=work.body,
            settled=settled,
            status=answer.status,
            reason="" if settled is Settled.REPORTED else answer.reason,
            at=time.time(),
        )
    )


async def _until_answered(work: ToPort, call: Callable[[], Awaitable[Answer]]) -> Answer:
    """Call until Port answers for good, as long as it takes and as long as the partition is here."""
    async for attempt in stamina.retry_context(
        on=_pause, attempts=None, timeout=None, wait_initial=0.5, wait_max=LONGEST_PAUSE, wait_jitter=1.0
    ):
        with attempt:
            if work.partition not in dispatch.active:
                raise NotOwnedError(f"partition {work.partition} is gone")
            answer = await call()
            if answer.kind in _WAIT:
                raise _NotNowError(answer)
            return answer
    raise AssertionError("unreachable: attempts are not limited")  # pragma: no cover


def _pause(error: Exception) -> bool | float:
    if not isinstance(error, _NotNowError):
        return False
    return error.answer.retry_after if error.answer.retry_after is not None else True


async def _settled(work: ReportWork, run: NodeRun, answer: Answer) -> Settled:
    if answer.kind is AnswerKind.ACCEPTED:
        return Settled.REPORTED
    if answer.kind is AnswerKind.TOO_LARGE:
        return _output_refused(work)
    if answer.kind not in _DISPUTED:
        return Settled.REFUSED
    found = await _look(work, run)
    if found is Found.SAME:
        return Settled.REPORTED
    # Still open: it is the body that Port does not take.
    return _output_refused(work) if found is Found.OPEN and answer.kind is AnswerKind.INVALID else Settled.REFUSED


def _output_refused(work: ReportWork) -> Settled:
    return Settled.OUTPUT_REFUSED if work.body is Body.FULL else Settled.REFUSED


async def _look(work: ReportWork, run: NodeRun) -> Found:
    """Look the node run up at Port: a lost answer to an earlier report shows as the same result there."""
    workflow_run_id = run.workflow_run_id
    if workflow_run_id is None:
        return Found.UNKNOWN
    found: list[WorkflowRun] = []

    async def look() -> Answer:
        answer = await port.get_run(workflow_run_id)
        if isinstance(answer, Answer):
            return answer
        found.append(answer)
        return Answer(AnswerKind.ACCEPTED, 200, "")

    await _until_answered(work, look)
    node = next((node for one in found if (node := one.node_run(run.node_run_id)) is not None), None)
    if node is None:
        return Found.UNKNOWN
    if node.result is None:
        return Found.OPEN
    return Found.SAME if node.result == run.result else Found.OTHER


async def _tell(work: TellWork) -> None:
    run = node_runs.run(work.partition, work.node_run_id)
    item = node_runs.item(work.partition, run, work.index) if run is not None else None
    if run is None or item is None or item.told:
        return
    text = f"item {item.index} ({item.event_type or 'no event type'}) failed after the report: {item.error}"
    line = LogLine(level=LogLevel.ERROR, message=text)
    answer = await _until_answered(work, lambda: port.append_logs(run.node_run_id, [line]))
    if answer.kind is not AnswerKind.ACCEPTED:
        logger.warning("Port took no log for %s: %s %s", run.node_run_id, answer.status, answer.reason)
    await send_outcome(FailureTold(node_run_id=run.node_run_id, index=work.index))


dispatch.report = feeder.add
dispatch.tell = feeder.add
