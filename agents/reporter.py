"""The sink: the reporter completes node runs at Port, the teller tells late failures in their logs.

Both wait outages and rate limits out, and drop nothing. They are two, so that no report waits behind a log. Besides,
the teller sends what handlers log; that is best effort.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from typing import Final, TypeAlias, TypeVar

from faust.types import StreamT

from agents.entering import record
from agents.feeding import Feeder, InMemoryChannel
from agents.running import drain
from agents.settling import LONGEST_PAUSE, Settler
from agents.shared import dispatch, node_runs, spans, telling
from agents.telling import Told
from agents.work import LinesWork, ReportWork, TellWork
from port.budget import Urgency
from port.client import Answer, AnswerKind, Before
from port.models import LogLine
from streams.app import app, settings
from streams.metrics import REPORT_SECONDS
from streams.progress import Stage
from streams.records import FailureTold, ReportAnswered, Settled
from streams.samples import REPORT_SAMPLES
from streams.topics import partition_of
from tables.rows import NotOwnedError, RowError
from tables.state import NodeRun

logger = logging.getLogger(__name__)
TELL_CONCURRENCY: Final = 10
"""Lines for logs on their way to Port at a time."""
ANSWER_SECONDS: Final = 2.0
"""At a stop. A report whose answer is not in the ledger is sent again by the next owner, with the same body."""
LINES_PAUSES: Final = (1.0, 10.0, 30.0)
"""Between the tries to send lines that handlers have logged; then they are dropped."""
ToTell: TypeAlias = TellWork | LinesWork
W = TypeVar("W", ReportWork, ToTell)
_AWAY: Final = frozenset({AnswerKind.UNAVAILABLE, AnswerKind.UNAUTHORIZED, AnswerKind.RATE_LIMITED})


def _is_here(partition: int) -> bool:
    app.standstill.check()
    return partition in dispatch.active


settler = Settler(app.port, _is_here)
reports: Feeder[ReportWork] = Feeder()
tells: Feeder[ToTell] = Feeder()
reports.attach(app)
tells.attach(app)


@app.agent(InMemoryChannel[ReportWork](app), name="reporter", concurrency=settings.report_concurrency)
async def reporter(_: StreamT[ReportWork]) -> None:
    """Complete node runs at Port."""
    await _each(reports, _report)


@app.agent(InMemoryChannel[ToTell](app), name="teller", concurrency=TELL_CONCURRENCY)
async def teller(_: StreamT[ToTell]) -> None:
    """Tell failures that came after the report, and what handlers log, in the node runs' logs."""
    await _each(tells, _tell)


async def _each(feeder: Feeder[W], settle: Callable[[W], Awaitable[None]]) -> None:
    while True:
        work = await feeder.take()
        try:
            await settle(work)
        except RowError as elsewhere:
            logger.info("%s is not reported here: %s", work.node_run_id, elsewhere)
        except Exception:
            logger.exception("reporting %s failed; it is tried again", work.node_run_id)
            asyncio.get_running_loop().call_later(LONGEST_PAUSE, feeder.add, work)
        finally:
            feeder.done(work)


async def _report(work: ReportWork) -> None:
    run = node_runs.run(work.partition, work.node_run_id)
    if run is None or run.covered is None or run.settled is not None or run.body is not work.body:
        return
    await telling.quiet(work.node_run_id)
    answered = await settler.report(work, run, node_runs.items(work.partition, run))
    if answered.settled is Settled.REFUSED:
        logger.warning("Port refused the report of %s: %s %s", run.node_run_id, answered.status, answered.reason)
    _measure(run, answered)
    await record(work.partition, answered)


# Looking a metric up by its labels costs more than counting.
_reports = lru_cache(REPORT_SECONDS.labels)


def _measure(run: NodeRun, answered: ReportAnswered) -> None:
    seconds = max(0.0, answered.at - (run.last_ended_at or run.received_at))
    _reports("" if run.result is None else run.result.value, answered.settled.value).observe(seconds)
    REPORT_SAMPLES.add(seconds)
    if spans is not None:
        spans.report(run, answered)


async def _tell(work: ToTell) -> None:
    if isinstance(work, LinesWork):
        await _tell_lines(work)
        return
    run = node_runs.run(work.partition, work.node_run_id)
    item = node_runs.item(work.partition, run, work.index) if run is not None else None
    if run is None or item is None or item.told:
        return
    answer = await settler.tell(work, run, item)
    if answer.kind is not AnswerKind.ACCEPTED:
        logger.warning("Port took no log for %s: %s %s", run.node_run_id, answer.status, answer.reason)
    await record(work.partition, FailureTold(node_run_id=run.node_run_id, index=work.index, attempt=item.attempt))


async def _tell_lines(work: LinesWork) -> None:
    while lines := telling.take(work.node_run_id):
        answer = await _append(work, lines)
        for pause in LINES_PAUSES:
            if answer.kind not in _AWAY:
                break
            await asyncio.sleep(pause)
            answer = await _append(work, lines)
        if answer.kind is not AnswerKind.ACCEPTED:
            logger.warning("Port took no log for %s: %s %s", work.node_run_id, answer.status, answer.reason)


async def _append(work: LinesWork, lines: Sequence[LogLine]) -> Answer:
    answer = await app.port.append_logs(work.node_run_id, lines, app.standstill.check)
    settler.answers += 1
    return answer


async def _update(told: Told, body: bytes, before: Before) -> Answer:
    """Tell how far a node run is, while it is open and nobody can be reporting it."""
    partition = partition_of(told.node_run_id.encode(), settings.partitions)

    def check() -> None:
        run = node_runs.run(partition, told.node_run_id) if _is_here(partition) else None
        if run is None or run.covered is not None:
            raise NotOwnedError(f"{told.node_run_id} is reported, or elsewhere")
        before()

    return await app.port.report(told.node_run_id, told.workflow_run_id, body, check, Urgency.LAST)


async def finish() -> None:
    """Send no more reports, and wait a moment for the answers to those that are on their way."""
    reports.stop()
    tells.stop()
    last = [work for work in tells.withdraw(tells.pending) if isinstance(work, LinesWork)]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ANSWER_SECONDS):
            await reports.idle()
            await tells.idle()
            await asyncio.gather(*map(_tell_lines, last))


def _stage(name: str, feeder: Feeder[ReportWork] | Feeder[ToTell]) -> Stage:
    def has_work() -> bool:
        # A pause is one on purpose where Port is away, asks for it, or has a limit.
        port = app.port
        paused = port.unreachable_since is not None or port.budget.pausing or settler.pausing
        return not paused and (feeder.ready or feeder.taken > 0)

    return Stage(name, name, lambda: feeder.moves + settler.answers, has_work)


stages: Final = [_stage("reporter", reports), _stage("teller", tells)]
dispatch.report = reports.add
dispatch.tell = tells.add
telling.add = tells.add
telling.update = _update
# In this order, whichever module is imported first: what ends while the worker drains is reported yet. Faust imports
# the agents' modules in any order.
app.before_stop += [drain, finish]
