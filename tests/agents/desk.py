"""A dispatch over a ledger in memory; what it starts is kept in lists."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator

from pydantic import JsonValue

from agents.dispatch import Dispatch
from agents.work import ItemWork, ReportWork, TellWork
from port.models import Result
from streams.records import (
    ArrayPolicy,
    Arrival,
    Body,
    FailureTold,
    ItemDeferred,
    ItemFinished,
    ItemRetry,
    NodeRunEvent,
    ReportAnswered,
    Settled,
    Source,
)
from tables.due import DueIndex
from tables.ledger import Applied, Ledger
from tables.overview import Overview
from tables.ownership import Ownership
from tables.rows import NotOwnedError
from tables.state import NodeRun, Note, Stop
from tests.agents.examples import ID
from tests.tables.rows import DictRows

WORKER = "this worker"


class PartitionedRows:
    """`tables.rows.Rows` of the partitions that are here; `read` counts what is read by key, by kind of row."""

    def __init__(self, *partitions: int) -> None:
        self.partitions = {partition: DictRows() for partition in partitions}
        self.read: dict[bytes, int] = {}

    def _of(self, partition: int) -> DictRows:
        if partition not in self.partitions:
            raise NotOwnedError(f"partition {partition}")
        return self.partitions[partition]

    def get(self, partition: int, key: bytes) -> bytes | None:
        self.read[key[:1]] = self.read.get(key[:1], 0) + 1
        return self._of(partition).get(partition, key)

    def scan(self, partition: int, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        return self._of(partition).scan(partition, prefix)

    def put(self, partition: int, key: bytes, value: bytes) -> None:
        self._of(partition).put(partition, key, value)

    def delete(self, partition: int, key: bytes) -> None:
        self._of(partition).delete(partition, key)


class Desk:
    """Applies events and acts on them as the ledger agents do when the changelog has acknowledged them."""

    def __init__(self, *, grace: float = 0.0, active: bool = True) -> None:
        self.now = 1000.0
        self.rows = PartitionedRows(0, 1)
        self.ledger = Ledger(self.rows, grace=grace)
        self.overview = Overview()
        self.dispatch = Dispatch(self.ledger, DueIndex(lambda: self.now), self.overview, grace)
        self.items: list[ItemWork] = []
        self.released: list[tuple[int, str, int]] = []
        self.reports: list[ReportWork] = []
        self.told: list[TellWork] = []
        self.sent: list[NodeRunEvent] = []
        self.dispatch.run_item = self.items.append
        self.dispatch.release = lambda *item: self.released.append(item)
        self.dispatch.report = self.reports.append
        self.dispatch.tell = self.told.append
        self.dispatch.record = lambda _, event: self.sent.append(event)
        self.dispatch.mend = self._mend
        self.dispatch.cancel_call = self._cancel_call
        self.dispatch.end_cancelled = lambda work, why: self.ended_cancelled.append((work, why))
        self.dispatch.spawn = self._spawn
        self.calls: set[int] = set()
        """The items of whose calls this worker has not recorded the end."""
        self.cancelled_calls: list[tuple[int, Stop]] = []
        self.ended_cancelled: list[tuple[ItemWork, str]] = []
        self.tasks: list[asyncio.Task[None]] = []
        if active:
            self.dispatch.active |= {0, 1}
        self._offset = 0

    @property
    def started(self) -> list[tuple[int, int, str | None]]:
        """The items that were started, in order: index, attempt and event type."""
        return [(work.index, work.attempt, work.event_type) for work in self.items]

    @property
    def reported(self) -> list[Body]:
        return [work.body for work in self.reports]

    def _cancel_call(self, run: NodeRun, index: int) -> bool:
        if index in self.calls:
            assert run.stopped is not None
            self.cancelled_calls.append((index, run.stopped))
        return index in self.calls

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work))

    async def take_over(self, partitions: list[int]) -> None:
        """Have the dispatch take partitions on, start what they ask for, and count them."""
        for partition in partitions:
            self.dispatch.begin(partition, Ownership(owner=WORKER))
        await self.dispatch.take_over()
        await self.dispatch.count()

    def _mend(self, partition: int, node_run_id: str, then: Callable[[], None]) -> None:
        self.ledger.resume(partition, node_run_id)
        then()

    def arrive(
        self,
        payload: JsonValue,
        *,
        node_run_id: str = ID,
        partition: int = 0,
        again: bool = False,
        policy: ArrayPolicy | None = None,
    ) -> None:
        """A message comes; `again` where it is the last one once more."""
        self._offset += not again
        arrival = Arrival(
            node_run_id=node_run_id,
            workflow_run_id="wfr_a",
            source=Source(cluster="c", topic="t", partition=0, offset=self._offset, timestamp=self.now),
            digest=f"digest {self._offset}",
            text=json.dumps({"payload": payload}),
            array=isinstance(payload, list),
            count=len(payload) if isinstance(payload, list) else 1,
            policy=policy,
        )
        self._act(partition, arrival, self.ledger.arrival(partition, arrival))

    def outcome(self, event: NodeRunEvent, *, partition: int = 0) -> None:
        self._act(partition, event, self.ledger.outcome(partition, event))

    def _act(self, partition: int, event: object, applied: Applied) -> None:
        if applied.run is None or partition not in self.dispatch.active:
            return
        self.overview.changed(partition, applied.before, applied.run)
        if isinstance(event, ItemFinished | ItemRetry | ItemDeferred) and event.worker == WORKER:
            self.dispatch.call_ended(partition, event.node_run_id, event.index, event.attempt)
        self.dispatch.act(partition, applied)

    def act_again(self, node_run_id: str = ID, *, partition: int = 0) -> None:
        """Have the dispatch act on item 0 of a node run, and on the node run, once more."""
        run = NodeRun(node_run_id=node_run_id, received_at=0.0, digest="")
        self.dispatch.act(partition, Applied(Note.APPLIED, None, run, (0,), 0))

    def finish(
        self, index: int = 0, *, message: int = 0, error: str | None = None, worker: str = WORKER, attempt: int = 1
    ) -> None:
        self.outcome(
            ItemFinished(
                node_run_id=ID,
                index=index,
                message=message,
                attempt=attempt,
                result=Result.SUCCESS if error is None else Result.FAILED,
                output="{}" if error is None else None,
                error=error,
                worker=worker,
                started_at=self.now,
                ended_at=self.now,
            )
        )

    def retry(self, *, attempt: int = 1, pause: float = 0.0, worker: str = WORKER) -> None:
        self.outcome(
            ItemRetry(
                node_run_id=ID,
                index=0,
                message=0,
                attempt=attempt,
                due_at=self.now + pause,
                error="not yet",
                worker=worker,
            )
        )

    def defer(self, *, attempt: int = 1, until: float = 2000.0) -> None:
        self.outcome(
            ItemDeferred(
                node_run_id=ID,
                index=0,
                message=0,
                attempt=attempt,
                until=until,
                worker=WORKER,
                started_at=self.now,
                at=self.now,
            )
        )

    def answer(self, settled: Settled = Settled.REPORTED, *, body: Body = Body.FULL) -> None:
        self.outcome(ReportAnswered(node_run_id=ID, body=body, settled=settled, at=self.now))

    def tell(self, index: int) -> None:
        self.outcome(FailureTold(node_run_id=ID, index=index))
