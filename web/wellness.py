"""Whether it is well now, in sentences, for the overview. Each leads to the page where one acts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from tables.state import State
from web.health import NotReady
from web.overview import OverviewShown, Problem, Pulse, Severity
from web.pages import duration

LATE: Final = timedelta(minutes=5)
"""A report, or an item for a place of its handler, that waits for longer is late: a user looks at a workflow that
stands still by then. All pauses between attempts to report are shorter."""
OLD_LAG_SECONDS: Final = 60.0
"""Records have their turn within a second; a rebalance with recovery takes some ten. Looked at every five."""
FEW_CALLS: Final = 0.05
"""The share of the organization's rate limit that is left: below it all its tools are near to being refused."""
FEW_CALLS_UNTOLD: Final = 100
"""The same in calls, where Port does not say what the limit is."""
NEAR_SHARE: Final = 0.8
"""Calls that have run for this share of their deadline are near to FAILED."""
LATE_LOOP_SECONDS: Final = 1.0
"""An event loop that is late by so much keeps everything waiting: a handler blocks it, or the machine is too small."""
MANY_FAILED: Final = 0.1
ENOUGH_FAILED: Final = 10
"""Single failures are the handlers' affair. This share of what was completed, and so many at least, are everybody's."""
_ROWS_TOLD: Final = 5
"""Unreadable rows that are told one by one."""
_READY: Final = frozenset({"ready", "source-away"})
_SAID: Final = frozenset({NotReady.NO_PARTITIONS, NotReady.KAFKA, NotReady.PARTITIONS})
"""More workers than partitions is nothing bad: who has none stands by. The others have sentences of their own."""


def problems(shown: OverviewShown, completed: int) -> list[Problem]:
    """Return what is worth a look, the worst first; nothing where all is well.

    Args:
        shown: what all workers tell.
        completed: node runs that were completed in the last hour.
    """
    bad = [Problem(severity=Severity.BAD, text=text, to=to) for text, to in _bad(shown)]
    return bad + [Problem(severity=Severity.WARNING, text=text, to=to) for text, to in _warnings(shown, completed)]


_Reasons = Iterator[tuple[str, str]]


def _bad(shown: OverviewShown) -> _Reasons:
    for gone in shown.missing_workers:
        yield f"Worker {gone.worker} gives no answer: {gone.why}.", "/workers"
    if shown.missing:
        yield f"No worker shows partitions {', '.join(map(str, shown.missing))}.", "/workers"
    yield from _bad_workers(shown.workers)
    yield from _bad_records(shown)
    yield from _bad_reports(shown)
    yield from _bad_topics(shown)


def _bad_topics(shown: OverviewShown) -> _Reasons:
    for lag in shown.lags:
        if lag.oldest_seconds > OLD_LAG_SECONDS:
            text = f"{_plural(lag.records, 'record')} of {lag.topic} {_verb(lag.records)}, the oldest for "
            yield f"{text}{duration(lag.oldest_seconds)}.", "/workers"
    for problem in shown.topic_problems:
        yield f"Topic {problem}.", "/dead-letters"
    if shown.unsure:
        # Each may be a node run that waits for ever.
        text = (
            f"{_plural(shown.unsure, 'message')} may be of Kafka action nodes, in a form that is not known: redrive or "
        )
        yield f"{text}discard {'it' if shown.unsure == 1 else 'them'}.", "/dead-letters?reason=unsure"
    yield from _unreadable(shown)
    if shown.dead_letters:
        yield f"{_plural(shown.dead_letters, 'dead letter')} came in the last hour.", "/dead-letters"


def _bad_records(shown: OverviewShown) -> _Reasons:
    for text in shown.incidents:
        yield text, "/workers"
    for source in shown.sources:
        if source.problem is not None:
            yield f"Worker {source.worker} cannot copy from the source: {source.problem}.", "/workers"


def _unreadable(shown: OverviewShown) -> _Reasons:
    for row in shown.unreadable[:_ROWS_TOLD]:
        place = f"Row {row.key} of partition {row.partition} of the ledger cannot be read"
        page = "#unreadable" if row.node_run_id is None else f"/node-runs/{row.node_run_id}"
        yield f"{place} ({row.why}): {row.effect}.", page
    if (more := shown.unreadable_rows - min(_ROWS_TOLD, len(shown.unreadable))) > 0:
        yield f"{_plural(more, 'further row')} of the ledger cannot be read.", "#unreadable"


def _bad_workers(workers: Sequence[Pulse]) -> _Reasons:
    for misfit in sorted({worker.misfit for worker in workers if worker.misfit is not None}):
        yield f"No worker can be started: {misfit}.", "/workers"
    for worker in workers:
        yield from _bad_worker(worker)


def _bad_worker(worker: Pulse) -> _Reasons:
    if worker.kafka is not None:
        waits = "Calls go on; what they end with is written when it is back."
        yield f"Worker {worker.worker}: {worker.kafka}. {waits}", "/workers"
    if worker.stuck is not None:
        yield f"Worker {worker.worker} makes no progress: {worker.stuck}.", "/workers"
    if worker.state not in _READY and worker.state not in _SAID:
        yield f"Worker {worker.worker} is not ready: {worker.state}.", "/workers"


def _bad_reports(shown: OverviewShown) -> _Reasons:
    port, reporting = shown.latest.port, "/node-runs?state=reporting"
    if port.trouble is not None:
        yield port.trouble.said, reporting
    if (waits := _age(shown.at, port.oldest_waits_since or port.oldest_received_at)) > LATE:
        yield f"The oldest report waits for {duration(waits.total_seconds())}.", reporting
    if port.parked:
        text = f"{_plural(port.parked, 'report')} parked: Port fails at {'it' if port.parked == 1 else 'them'}"
        yield f"{text}, and takes others. Send again what Port may take by now, or give it up.", "/stuck?why=parked"
    if refused := shown.latest.counts.get(State.REFUSED, 0):
        yield f"Port has refused {_plural(refused, 'report')}.", "/stuck"


def _warnings(shown: OverviewShown, completed: int) -> _Reasons:
    yield from _few_calls(shown)
    failed, work = shown.failed.number, shown.work
    if failed >= ENOUGH_FAILED and failed >= MANY_FAILED * completed:
        yield f"{_plural(failed, 'node run')} failed in the last hour.", "/failures?within=hour"
    if work.oldest is not None and work.oldest.seconds > LATE.total_seconds():
        text = f"An item of {work.oldest.event_type} waits for a free place for {duration(work.oldest.seconds)}."
        yield text, f"/node-runs/{work.oldest.node_run_id}"
    if work.near_deadline:
        yield f"{_plural(work.near_deadline, 'call')} near the deadline of the handler.", "/node-runs?state=running"
    for name, waiting in work.paused.items():
        yield f"Handler {name} is paused: {_plural(waiting, 'item')} {_verb(waiting)}.", "/handlers"
    if work.held:
        yield f"{_plural(work.held, 'item')} {_verb(work.held)} for a handler to be deployed.", "/stuck"
    for worker in shown.workers:
        if (late := worker.loop_lag_seconds) is not None and late > LATE_LOOP_SECONDS:
            yield f"The event loop of worker {worker.worker} was late by {duration(late)}.", "/workers"


def _few_calls(shown: OverviewShown) -> _Reasons:
    left, limit = shown.latest.port.rate_limit_remaining, shown.latest.port.rate_limit
    if left is not None and left < (FEW_CALLS_UNTOLD if limit is None else FEW_CALLS * limit):
        of = "" if limit is None else f" {limit:,} of"
        yield f"{_plural(left, 'call')} left of{of} the organization's rate limit.", "#port"


def _age(now: datetime | None, since: datetime | None) -> timedelta:
    return timedelta() if now is None or since is None else now - since


def _plural(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _verb(number: int) -> str:
    return "waits" if number == 1 else "wait"
