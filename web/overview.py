"""What the overview shows: of one worker, and of several added up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from functools import reduce
from typing import Final

from streams.lag import Behind, together
from web.data import SCOPE, SCOPE_ALL, MissingWorker, NodeRunInList, NodeRunList, Shown, WorkerStatus
from web.merging import merged
from web.others import Missing

SHOWN_FAILED: Final = 5
SHOWN_UNREADABLE: Final = 20


class Severity(StrEnum):
    """How soon somebody ought to look."""

    BAD = "bad"
    """Something does not work, or is lost without somebody."""
    WARNING = "warning"
    """It works, and may not for long."""


class Problem(Shown):
    """What is worth a look."""

    severity: Severity
    text: str
    """A sentence."""
    to: str
    """The page where one acts, or sees more."""


class TopicLag(Shown):
    """How far the workers are behind a topic."""

    topic: str
    records: int
    """Those that have not had their turn."""
    worst_partition: int
    worst_records: int
    oldest_seconds: float
    """For how long the oldest of them has waited at least."""


class SourceStatus(Shown):
    """The other cluster that the runs topic is copied from, as a worker finds it."""

    worker: str
    connected: bool
    problem: str | None
    since: datetime | None
    """From when on the problem lasts."""


class OldestShown(Shown):
    """The item that has waited the longest for a place of its handler."""

    node_run_id: str
    index: int
    event_type: str
    seconds: float


class WorkShown(Shown):
    """The items in hand."""

    running: int
    """Calls of handlers."""
    queued: int
    """Items that wait for a place of their handler."""
    oldest: OldestShown | None
    held: int
    """Items that wait for a handler to be deployed."""
    near_deadline: int
    """Calls that have run for most of the time that they may take."""
    paused: dict[str, int]
    """Items that wait for each paused handler, by event type."""


class FailedLine(Shown):
    """A node run that has FAILED lately, or whose report Port has refused."""

    run: NodeRunInList
    at: datetime | None
    message: str


class FailedShown(Shown):
    """Node runs that have FAILED in the last hour, or whose reports Port has refused."""

    number: int
    latest: list[FailedLine]


class Pulse(WorkerStatus):
    """A worker, and how it does."""

    stuck: str | None
    """What of it makes no progress, though it has work."""
    kafka: str | None = None
    """Since when the own Kafka does not do what it ought to, in words."""
    misfit: str | None = None
    """What is wrong with the numbers of partitions of the own topics, and what to do."""


class UnreadableShown(Shown):
    """A row of the ledger that is there and cannot be read."""

    partition: int
    key: str
    kind: str
    """What it is of: `open node run`, `finished node run`, `message`, `digest`, `item`, `owner`, `paused handler`."""
    node_run_id: str | None
    why: str
    effect: str
    """What is done instead of what it would have said."""


class OverviewShown(Shown):
    """Whether it is well."""

    scope: str = SCOPE
    at: datetime | None
    problems: list[Problem] = []
    """What is worth a look, the worst first; that is for all workers together to say."""
    workers: list[Pulse]
    lags: list[TopicLag]
    incidents: list[str]
    """What was found to be wrong with topics, in sentences: records that are gone, logs that went back, transactions
    that hang."""
    sources: list[SourceStatus]
    """Those of the workers that copy the runs topic from another cluster."""
    work: WorkShown
    failed: FailedShown
    dead_letters: int
    """Those of the last hour that nothing was done to; the unsure ones apart."""
    unsure: int = 0
    """Messages that look like ours in a form that is not known, and that nothing was done to, whenever they came."""
    topic_problems: list[str] = []
    """What is wrong with own topics and does not keep the workers from working."""
    unreadable: list[UnreadableShown] = []
    """Some of the rows of the ledger that cannot be read."""
    unreadable_rows: int = 0
    """How many there are."""
    latest: NodeRunList
    missing: list[int] = []
    missing_workers: list[MissingWorker] = []


def added_up(told: Sequence[OverviewShown], limit: int, missing: Missing) -> OverviewShown:
    """Return what several workers tell as one."""
    lines = {line.run.node_run_id: line for one in reversed(told) for line in one.failed.latest}
    latest = sorted(lines.values(), key=lambda line: 0.0 if line.at is None else line.at.timestamp(), reverse=True)
    return OverviewShown(
        scope=SCOPE_ALL,
        at=told[0].at,
        workers=sorted((worker for one in told for worker in one.workers), key=lambda worker: worker.worker),
        lags=_lags(lag for one in told for lag in one.lags),
        incidents=list(dict.fromkeys(text for one in told for text in one.incidents)),
        sources=[source for one in told for source in one.sources],
        work=reduce(_work, (one.work for one in told)),
        failed=FailedShown(number=sum(one.failed.number for one in told), latest=latest[:SHOWN_FAILED]),
        # Every worker follows all of them.
        dead_letters=max(one.dead_letters for one in told),
        topic_problems=sorted({problem for one in told for problem in one.topic_problems}),
        unsure=max(one.unsure for one in told),
        unreadable=[row for one in told for row in one.unreadable][:SHOWN_UNREADABLE],
        unreadable_rows=sum(one.unreadable_rows for one in told),
        latest=merged([one.latest for one in told], limit, missing),
        missing=missing.partitions,
        missing_workers=missing.workers,
    )


def _lags(lags: Iterable[TopicLag]) -> list[TopicLag]:
    by_topic: dict[str, Behind] = {}
    for one in lags:
        behind = Behind(one.records, one.worst_partition, one.worst_records, one.oldest_seconds)
        by_topic[one.topic] = together(by_topic.get(one.topic), behind)
    return [
        TopicLag(
            topic=topic,
            records=one.records,
            worst_partition=one.partition,
            worst_records=one.most,
            oldest_seconds=one.seconds,
        )
        for topic, one in sorted(by_topic.items())
    ]


def _work(one: WorkShown, other: WorkShown) -> WorkShown:
    oldest = [work.oldest for work in (one, other) if work.oldest is not None]
    return WorkShown(
        running=one.running + other.running,
        queued=one.queued + other.queued,
        oldest=max(oldest, key=lambda waits: waits.seconds, default=None),
        held=one.held + other.held,
        near_deadline=one.near_deadline + other.near_deadline,
        paused={name: one.paused.get(name, 0) + other.paused.get(name, 0) for name in {**one.paused, **other.paused}},
    )
