"""The sink: the reporter completes node runs at Port, the teller tells late failures in their logs.

Both wait outages and rate limits out, and drop nothing. They are two, so that no report waits behind a log. What Port
has not answered for good is tried again by a third, the retrier, so that nothing new waits behind it. Besides, the
teller sends what handlers log; that is best effort.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from typing import Final, TypeAlias, TypeVar

from faust.types import StreamT

from agents.entering import record
from agents.feeding import Feeder, InMemoryChannel
from agents.retries import Retries
from agents.running import drain
from agents.settling import Later, Settler
from agents.shared import dispatch, node_runs, spans, telling
from agents.telling import Told
from agents.tries import LONGEST_PAUSE
from agents.work import LinesWork, ReportWork, TellWork
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
AGAIN_CONCURRENCY: Final = max(10, settings.report_concurrency // 4)
"""Reports and lines on their way to Port at a time that Port has failed at before: beside the others."""
MEET_PAUSE: Final = 1.0
"""Before a second login at the start; then ever longer, up to LONGEST_PAUSE."""
ANSWER_SECONDS: Final = 2.0
"""At a stop. A report whose answer is not in the ledger is sent again by the next owner, with the same body."""
LINES_PAUSES: Final = (1.0, 10.0, 30.0)
"""Between the tries to send lines that handlers have logged; then they are dropped."""
ToTell: TypeAlias = TellWork | LinesWork
Again: TypeAlias = ReportWork | TellWork
W = TypeVar("W", ReportWork, ToTell, Again)
_AWAY: Final = frozenset({AnswerKind.UNAVAILABLE, AnswerKind.UNAUTHORIZED, AnswerKind.RATE_LIMITED})


def _is_here(partition: int) -> bool:
    app.standstill.check()
    return partition in dispatch.active


def _like_a_new_one(work: Again) -> None:
    if isinstance(work, ReportWork):
        reports.add(work)
    else:
        tells.add(work)


settler = Settler(app.port, _is_here)
reports: Feeder[ReportWork] = Feeder()
tells: Feeder[ToTell] = Feeder()
retries: Retries[Again] = Retries(settler.lane_of, settler.unknown_since, _like_a_new_one)
reports.attach(app)
tells.attach(app)
retries.attach(app)
app.on_lost.append(settler.drop)


@app.agent(InMemoryChannel[ReportWork](app), name="reporter", concurrency=settings.report_concurrency)
async def reporter(_: StreamT[ReportWork]) -> None:
    """Complete node runs at Port."""
    await _each(reports, _report)


@app.agent(InMemoryChannel[ToTell](app), name="teller", concurrency=TELL_CONCURRENCY)
async def teller(_: StreamT[ToTell]) -> None:
    """Tell failures that came after the report, and what handlers log, in the node runs' logs."""
    await _each(tells, _tell)


@app.agent(InMemoryChannel[Again](app), name="retrier", concurrency=AGAIN_CONCURRENCY)
async def retrier(_: StreamT[Again]) -> None:
    """Try again what Port has not answered for good."""
    await _each(retries, _again)


@app.task  # type: ignore[untyped-decorator]
async def meet_port() -> None:
    """Log in at Port at the start, so that wrong credentials show before the first report; until Port says yes or no.

    A refusal is looked at again, too: somebody may mend it at Port.
    """
    pause = MEET_PAUSE
    while not app.port.logged_in and not app.stopping:
        await app.port.log_in()
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


async def _again(work: Again) -> None:
    await (_report(work) if isinstance(work, ReportWork) else _tell(work))


async def _each(feeder: Feeder[W], settle: Callable[[W], Awaitable[None]]) -> None:
    while True:
        work = await feeder.take()
        try:
            await settle(work)
        except RowError as elsewhere:
            logger.info("%s is not reported here: %s", work.node_run_id, elsewhere)
            if not isinstance(work, LinesWork):
                settler.forget(work.key)
        except Exception:
            logger.exception("reporting %s failed; it is tried again", work.node_run_id)
            if isinstance(work, LinesWork):
                asyncio.get_running_loop().call_later(LONGEST_PAUSE, tells.add, work)
            else:
                retries.later(work, LONGEST_PAUSE)
        finally:
            feeder.done(work)


async def _report(work: ReportWork) -> None:
    run = node_runs.run(work.partition, work.node_run_id)
    if run is None or run.covered is None or run.settled is not None or run.body is not work.body:
        settler.forget(work.key)
        return
    await telling.quiet(work.node_run_id)
    answered = await settler.report(work, run, node_runs.items(work.partition, run))
    if isinstance(answered, Later):
        retries.later(work, answered.seconds)
        return
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
    if isinstance(answer, Later):
        retries.later(work, answer.seconds)
        return
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

    return await settler.update(told.workflow_run_id, told.node_run_id, body, check)


async def finish() -> None:
    """Send no more reports, and wait a moment for the answers to those that are on their way."""
    reports.stop()
    tells.stop()
    retries.stop()
    last = [work for work in tells.withdraw(tells.pending) if isinstance(work, LinesWork)]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ANSWER_SECONDS):
            await reports.idle()
            await tells.idle()
            await retries.idle()
            await asyncio.gather(*map(_tell_lines, last))


def _stage(name: str, feeder: Feeder[ReportWork] | Feeder[ToTell] | Feeder[Again]) -> Stage:
    def has_work() -> bool:
        # A pause is one on purpose where Port is away, asks for it, or has a limit.
        port = app.port
        paused = port.unreachable_since is not None or port.budget.pausing
        return not paused and (feeder.ready or feeder.taken > 0)

    return Stage(name, name, lambda: feeder.moves + settler.answers, has_work)


def _settled(node_run_id: str) -> None:
    """Drop a report that the state does not ask for any more."""
    key = node_run_id, -1
    retries.forget(key)
    settler.forget(key)


def next_try(node_run_id: str) -> float | None:
    """Return when the report of a node run is sent again, in epoch seconds; None where it does not wait for that."""
    seconds = retries.due_in((node_run_id, -1))
    return None if seconds is None else time.time() + seconds


def _send_now(node_run_id: str) -> None:
    retries.now((node_run_id, -1))


stages: Final = [_stage("reporter", reports), _stage("teller", tells), _stage("retrier", retries)]
dispatch.report_settled = _settled
dispatch.report_now = _send_now
dispatch.report = reports.add
dispatch.tell = tells.add
telling.add = tells.add
telling.update = _update
# In this order, whichever module is imported first: what ends while the worker drains is reported yet. Faust imports
# the agents' modules in any order.
app.before_stop += [drain, finish]
