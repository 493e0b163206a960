"""Whether a worker is well now, in sentences, for the overview."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from port.models import Result
from tables.state import State
from web.data import NodeRunInList, NodeRunList
from web.health import NotReady

LATE: Final = timedelta(minutes=5)
"""A node run that is older than this and whose report waits is worth a look."""
FEW_CALLS: Final = 100
"""So few calls left of the organization's rate limit are worth a look."""
_SHOWN_FAILURES: Final = 5


def problems(shown: NodeRunList, obstacle: NotReady | None, now: datetime) -> list[str]:
    """Return what is not well, each as a sentence; none where all is."""
    port = shown.port
    found: list[str] = []
    if obstacle is not None:
        found.append(f"This worker is not ready: {obstacle.value}.")
    if port.unreachable_since is not None:
        found.append("Port's API does not answer.")
    if port.oldest_received_at is not None and now - port.oldest_received_at > LATE:
        found.append(f"The oldest waiting report is for a node run older than {LATE.seconds // 60} minutes.")
    if (left := port.rate_limit_remaining) is not None and left < FEW_CALLS:
        found.append(f"{left} calls are left of the organization's rate limit.")
    if refused := shown.counts.get(State.REFUSED, 0):
        found.append(
            f"Port has refused the reports of {refused} node runs." if refused > 1 else "Port has refused a report."
        )
    return found


def failed(runs: Sequence[NodeRunInList]) -> list[NodeRunInList]:
    """Return the first of the node runs that have failed, or whose report was refused."""
    bad = [run for run in runs if run.result is Result.FAILED or run.state is State.REFUSED]
    return bad[:_SHOWN_FAILURES]
