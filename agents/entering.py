"""Enters events into the ledger: applies them, and acts on what they lead to when the changelog has acknowledged it.

The worker that owns a node run's partition enters its own events directly. Those of others come to it through the
topics: arrivals from the router of another worker, outcomes of a call that another worker had begun.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Final

from agents.asked import AskedEvent
from agents.asking import told
from agents.backlog import backlog
from agents.shared import dispatch, ledger, outcomes, overview, rows, spawn, telling
from streams.app import app
from streams.exits import stop_process
from streams.metrics import EVENTS
from streams.records import Arrival, ItemCompleted, ItemDeferred, ItemFinished, ItemRetry, NodeRunEvent, ReportAgain
from tables.ledger import Applied
from tables.rows import NotOwnedError, resolve
from tables.state import NodeRun, Note

logger = logging.getLogger(__name__)
_counters: Final = {note: EVENTS.labels(note.value) for note in Note}


def enter(partition: int, event: Arrival | NodeRunEvent, then: Callable[[], None]) -> None:
    """Apply an event now, and call `then` when it is acknowledged and what it leads to has been started.

    Raises:
        NotOwnedError: the partition is not here; nothing was done.
    """
    try:
        applied = ledger.arrival(partition, event) if isinstance(event, Arrival) else ledger.outcome(partition, event)
    except NotOwnedError:
        raise
    except Exception as error:
        # Going on would acknowledge an event that changed nothing: its node run would hang for ever.
        logger.exception("the ledger failed")
        stop_process(f"the ledger failed at {type(event).__name__} of {event.node_run_id}: {_named(error)}")
    _counters[applied.note].inc()
    opens = applied.run is not None and applied.before is None
    if opens:
        backlog.entering += 1
        backlog.look()

    def acknowledged() -> None:
        # It is called in any case: where the partition goes before, the process ends.
        if opens:
            backlog.entering -= 1
        _act(partition, event, applied)
        if isinstance(event, AskedEvent):
            told(event, applied)
        then()

    rows.then(partition, acknowledged)


def _act(partition: int, event: Arrival | NodeRunEvent, applied: Applied) -> None:
    if applied.run is None or partition not in dispatch.active:
        return
    overview.changed(partition, applied.before, applied.run, applied.item)
    if isinstance(event, ItemFinished | ItemRetry | ItemDeferred) and event.worker == app.incarnation:
        dispatch.call_ended(partition, event.node_run_id, event.index, event.attempt)
    dispatch.act(partition, applied)
    backlog.look()
    if applied.note is Note.APPLIED:
        _tell(applied.run, event)
        if isinstance(event, ReportAgain):
            dispatch.report_now(event.node_run_id)


def _tell(run: NodeRun, event: Arrival | NodeRunEvent) -> None:
    if isinstance(event, ItemDeferred):
        telling.deferred(run, event.link)
    elif isinstance(event, ItemCompleted):
        telling.say(event.node_run_id, event.logs)


async def record(partition: int, event: NodeRunEvent) -> None:
    """Have an event of this worker's own entered, here or by the partition's owner; returns when that is certain."""
    await app.settled.wait()
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    try:
        if partition in dispatch.active:
            enter(partition, event, partial(resolve, done))
            await done
            return
    except NotOwnedError:
        logger.debug("partition %d went just now", partition)
    # A refusal raises, and so ends the process.
    await (await outcomes.send(key=event.node_run_id.encode(), value=event))


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _mend(partition: int, node_run_id: str, then: Callable[[], None]) -> None:
    before = ledger.run(partition, node_run_id)
    changed = ledger.resume(partition, node_run_id)
    after = ledger.run(partition, node_run_id)

    def acknowledged() -> None:
        if changed:
            overview.changed(partition, before, after)
        then()

    rows.then(partition, acknowledged)


dispatch.record = lambda partition, event: spawn(record(partition, event))
dispatch.mend = _mend
