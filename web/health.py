"""Whether the worker is ready: its partitions are taken over, and events flow."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from agents.dispatch import Dispatch
from port.trouble import TroubleKind
from streams.worker import Worker


class NotReady(StrEnum):
    """Why a worker is not ready; all that `/readyz` says of it."""

    STARTING = "starting"
    STOPPING = "stopping"
    REBALANCING = "rebalancing"
    RECOVERING = "recovering"
    """Partitions are its own and not yet taken over."""
    NO_PARTITIONS = "no-partitions"
    CREDENTIALS = "credentials"
    """Port refuses the credentials, and has not taken them since the start: most likely they are wrong."""
    PARTITIONS = "partitions"
    """An own topic has another number of partitions than the others."""
    KAFKA = "kafka"
    """The own Kafka is away: nothing can be taken on."""
    SOURCE = "source"
    """The source cluster has not been reached since the start: most likely its settings are wrong."""


@dataclass
class Readiness:
    """Follows a worker from its start on."""

    worker: Worker
    dispatch: Dispatch
    settled: bool = False
    """Whether it has had its first assignment."""

    async def note_assignment(self) -> None:
        """Called when the tables are recovered and the streams run."""
        self.settled = True

    def obstacle(self) -> NotReady | None:
        """Return why the worker is not ready, None where it is."""
        if self.worker.stopping:
            # From the signal on: while it drains it takes nothing on any more.
            return NotReady.STOPPING
        if not self.settled:
            return NotReady.STARTING
        if self.worker.kafka.away:
            return NotReady.KAFKA
        if self.worker.rebalancing:
            return NotReady.REBALANCING
        if not self.worker.owned:
            return NotReady.NO_PARTITIONS
        if self.worker.owned - self.dispatch.active:
            return NotReady.RECOVERING
        if self.worker.misfit() is not None:
            return NotReady.PARTITIONS
        if self._credentials_are_wrong():
            return NotReady.CREDENTIALS
        return NotReady.SOURCE if self.worker.bridge and not self.worker.bridge.status.was_connected else None

    def _credentials_are_wrong(self) -> bool:
        # One whose credentials were good goes on: it has calls to finish, and callbacks to take.
        trouble = self.worker.port.trouble
        wrong = trouble is not None and trouble.kind is TroubleKind.CREDENTIALS
        return wrong and not self.worker.port.logged_in

    def word(self) -> str:
        """Return the one word for a worker that is ready: `ready`, or `source-away` where the bridge has to wait.

        Nobody is helped by the end of a worker whose source is away: it has node runs to finish, and views to show.
        """
        bridge = self.worker.bridge
        return "source-away" if bridge and bridge.status.problem else "ready"
