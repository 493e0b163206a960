"""The ledger agents: the only writers of the tables.

Both apply one event at a time, synchronously, and go on without waiting. What a state asks for is started when the
changelog has acknowledged it, and only then is the event acknowledged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import NoReturn

from faust.types import StreamT

from agents.acknowledging import InOrder, unacknowledged
from agents.shared import arrivals, dispatch, ledger, outcomes, overview, rows, send_dead_letter, specs
from streams.app import app
from streams.exits import stop_process
from streams.messages import Bad
from streams.metrics import EVENTS
from streams.offsets import Turn
from streams.records import Arrival, ItemFinished, ItemRetry, OutcomeEvent, Tick
from tables.ledger import Applied
from tables.rows import NotOwnedError

logger = logging.getLogger(__name__)
_done = InOrder()


@app.agent(arrivals, name="ledger-arrivals")
async def ledger_arrivals(stream: StreamT[Arrival]) -> None:
    """Enter node runs, and further items of them, into the ledger."""
    async for turn in app.offsets.turns(unacknowledged(stream), specs.arrivals):
        await _enter(turn)


@app.agent(outcomes, name="ledger-outcomes")
async def ledger_outcomes(stream: StreamT[OutcomeEvent]) -> None:
    """Enter how items ended and how Port answered."""
    async for turn in app.offsets.turns(unacknowledged(stream), specs.outcomes):
        if isinstance(turn.value, Tick):
            async for missed in app.offsets.catch_up(specs.arrivals, turn.partition):
                await _enter(missed)
        await _enter(turn)


async def _enter(turn: Turn[Arrival] | Turn[OutcomeEvent]) -> None:
    value = turn.value
    if turn.repeated or isinstance(value, Tick):
        await _finish(turn)
        return
    if isinstance(value, Bad):
        await _finish(turn, [await send_dead_letter(turn, value.reason)])
        return
    try:
        if isinstance(value, Arrival):
            applied = ledger.arrival(turn.partition, value)
        else:
            applied = ledger.outcome(turn.partition, value)
    except NotOwnedError:
        # Acknowledged without being committed: the commit of a partition that is gone is discarded.
        await _finish(turn)
        return
    except Exception as error:
        _stop(turn, error)
    await _settle(turn, applied)


async def _settle(turn: Turn[object], applied: Applied) -> None:
    written = rows.take_sent()
    EVENTS.labels(applied.note.value).inc()
    await _finish(turn, written, lambda: _act(turn, applied))


def _act(turn: Turn[object], applied: Applied) -> None:
    try:
        _acknowledged(turn.partition, turn.value, applied)
    except Exception as error:
        # Called by a future, where asyncio would only log it: the event would hold up every later one.
        _stop(turn, error)


def _acknowledged(partition: int, event: object, applied: Applied) -> None:
    if applied.run is None or partition not in dispatch.active:
        return
    overview.changed(partition, applied.before, applied.run)
    if isinstance(event, ItemFinished | ItemRetry) and event.worker == app.incarnation:
        dispatch.call_ended(partition, event.node_run_id, event.index, event.attempt)
    dispatch.act(partition, applied.run.node_run_id, applied.touched, applied.message)


async def _finish(
    turn: Turn[object], written: Iterable[asyncio.Future[object]] = (), then: Callable[[], None] | None = None
) -> None:
    # One queue for both agents: an arrival may have its turn in either, and is acknowledged behind its first.
    await _done.add((turn.topic, turn.partition), turn.event, written, then)


def _stop(turn: Turn[object], error: Exception) -> NoReturn:
    # Going on would acknowledge an event that changed nothing: its node run would hang for ever.
    logger.exception("the ledger failed at offset %d of %s[%d]", turn.offset, turn.topic, turn.partition)
    stop_process(f"the ledger failed at offset {turn.offset} of {turn.topic}: {type(error).__name__}: {error}")
