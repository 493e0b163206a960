"""One list made of those of several workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from port.trouble import TroubleKind
from tables.state import State
from web.data import SCOPE_ALL, Foreign, NodeRunInList, NodeRunList, PortShown, TroubleShown
from web.others import Missing

_MOST_SAMPLES: Final = 20


def merged(lists: Sequence[NodeRunList], limit: int, missing: Missing) -> NodeRunList:
    """Return the lists of several workers as one: the latest `limit` node runs of all of them, and what is missing."""
    counts: Counter[State] = Counter()
    for one in lists:
        counts.update(one.counts)
    # While a partition moves two workers may show the same node run.
    runs = {run.node_run_id: run for one in reversed(lists) for run in one.node_runs}
    return NodeRunList(
        scope=SCOPE_ALL,
        counts={state: counts[state] for state in State},
        node_runs=sorted(runs.values(), key=_received, reverse=True)[:limit],
        examined=sum(one.examined for one in lists),
        workers=sorted((worker for one in lists for worker in one.workers), key=lambda worker: worker.worker),
        missing=missing.partitions,
        missing_workers=missing.workers,
        foreign=_foreign([one.foreign for one in lists]),
        port=_port([one.port for one in lists]),
    )


def _severity(trouble: TroubleShown) -> tuple[bool, float]:
    """What waits for a person comes first, then what has lasted the longest."""
    waits = trouble.kind in (TroubleKind.CREDENTIALS, TroubleKind.CERTIFICATE)
    return not waits, 0.0 if trouble.since is None else trouble.since.timestamp()


def _received(run: NodeRunInList) -> float:
    return run.received_at.timestamp() if run.received_at is not None else float("-inf")


def _foreign(all_of_them: Sequence[Foreign]) -> Foreign:
    counts: Counter[str] = Counter()
    for one in all_of_them:
        counts.update(one.counts)
    return Foreign(
        counts=dict(counts), samples=[sample for one in all_of_them for sample in one.samples][:_MOST_SAMPLES]
    )


def _port(all_of_them: Sequence[PortShown]) -> PortShown:
    """Return the worst that any worker finds."""
    told = [one for one in all_of_them if one.rate_limit_remaining is not None]
    least = min(told, key=lambda one: one.rate_limit_remaining or 0, default=None)
    return PortShown(
        unreachable_since=min((one.unreachable_since for one in all_of_them if one.unreachable_since), default=None),
        trouble=min((one.trouble for one in all_of_them if one.trouble is not None), key=_severity, default=None),
        reports_waiting=sum(one.reports_waiting for one in all_of_them),
        parked=sum(one.parked for one in all_of_them),
        oldest_received_at=min((one.oldest_received_at for one in all_of_them if one.oldest_received_at), default=None),
        oldest_waits_since=min((one.oldest_waits_since for one in all_of_them if one.oldest_waits_since), default=None),
        rate_limit_remaining=None if least is None else least.rate_limit_remaining,
        rate_limit=None if least is None else least.rate_limit,
    )
