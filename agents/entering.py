"""Enters events into the ledger: applies them, and acts on what they lead to when the changelog has acknowledged it.

The worker that owns a node run's partition enters its own events directly. Those of others come to it through the
topics: arrivals from the router of another worker, outcomes of a call that another worker had begun.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from agents.asked import AskedEvent
from agents.asking import told
from agents.backlog import backlog
from agents.shared import dispatch, keep_dead_letter, ledger, outcomes, overview, rows, spawn, specs, telling
from streams.app import app, settings
from streams.exits import stop_process
from streams.metrics import EVENTS, REPEATED
from streams.records import (
    Arrival,
    ItemCompleted,
    ItemDeferred,
    ItemFinished,
    ItemRetry,
    NodeRunEvent,
    ReportAgain,
    Source,
)
from tables.ledger import Applied
from tables.rows import NotOwnedError, RowError, resolve
from tables.state import NodeRun, Note
from tables.unreadable import UnreadableRowError, UnwritableRowError

logger = logging.getLogger(__name__)
_set_asides: Final = EVENTS.labels("set aside")
_counters: Final = {note: EVENTS.labels(note.value) for note in Note}
_repeated: Final = {True: REPEATED.labels("same place"), False: REPEATED.labels("another")}


def enter(partition: int, event: Arrival | NodeRunEvent, then: Callable[[], None]) -> None:
    """Apply an event now, and call `then` when it is acknowledged and what it leads to has been started.

    Raises:
        NotOwnedError: the partition is not here; nothing was done.
    """
    try:
        applied = ledger.arrival(partition, event) if isinstance(event, Arrival) else ledger.outcome(partition, event)
    except NotOwnedError:
        raise
    except (UnreadableRowError, UnwritableRowError) as wrong:
        spawn(_set_aside(event, wrong, then))
        return
    except Exception as error:
        # Going on would acknowledge an event that changed nothing: its node run would hang for ever.
        logger.exception("the ledger failed")
        stop_process(f"the ledger failed at {type(event).__name__} of {event.node_run_id}: {_named(error)}")
    _counters[applied.note].inc()
    if isinstance(event, Arrival) and applied.known_at is not None:
        _repeated[applied.known_at == event.source].inc()
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


async def _set_aside(event: Arrival | NodeRunEvent, wrong: RowError, then: Callable[[], None]) -> None:
    """Keep an event as a dead letter that its node run cannot take on: all others go on."""
    _set_asides.inc()
    logger.error("%s of %s is set aside: %s", type(event).__name__, event.node_run_id, wrong)
    if isinstance(event, AskedEvent):
        told(event, Applied(Note.REFUSED, None, None, why=str(wrong)))
    raw, source = _as_letter(event)
    reason = f"{type(event).__name__} of {event.node_run_id} cannot be entered: {wrong}"
    await keep_dead_letter(event.node_run_id.encode(), raw, reason, source)
    then()


def _as_letter(event: Arrival | NodeRunEvent) -> tuple[bytes, Source]:
    if isinstance(event, Arrival):
        return event.text.encode(), event.source
    # It may have been entered without ever having stood in a topic.
    source = Source(
        cluster=settings.kafka_brokers[0], topic=specs.outcomes.name, partition=0, offset=-1, timestamp=time.time()
    )
    return event.encode(), source


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
    """Have an event of this worker's own entered, here or by the partition's owner; returns when that is certain.

    It waits for no rebalance: while one goes on, or the worker leaves, nobody may enter anything, and the event goes by
    the topic. Whoever owns the partition next finds it there. It is recorded also where the caller is cancelled.
    """
    if app.settled.is_set() and partition in dispatch.active:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            enter(partition, event, partial(resolve, done))
        except NotOwnedError:
            logger.debug("partition %d went just now", partition)
        else:
            await done
            return
    await app.outbox.send(_send(partition, event))


async def _send(partition: int, event: NodeRunEvent) -> None:
    await (await outcomes.send(key=event.node_run_id.encode(), value=event, partition=partition))


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
