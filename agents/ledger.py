"""The ledger agents: the only writers of the tables.

Both apply one event at a time, synchronously, and go on without waiting. What a state asks for is started when the
changelog has acknowledged it, and only then is the event acknowledged.
"""

from __future__ import annotations

import logging
from typing import NoReturn, TypeVar

import faust

from agents.acknowledging import InOrder
from agents.shared import app, arrivals, dispatch, ledger, outcomes, overview, rows, send_dead_letter, specs
from streams.exits import stop_process
from streams.messages import Bad
from streams.metrics import EVENTS
from streams.offsets import Turn
from streams.records import Arrival, OutcomeEvent, Tick
from tables.ledger import Applied
from tables.rows import NotOwnedError

logger = logging.getLogger(__name__)
V = TypeVar("V")
_arrivals_done = InOrder()
_outcomes_done = InOrder()


@app.agent(arrivals, name="ledger-arrivals")
async def ledger_arrivals(stream: faust.Stream[Arrival]) -> None:
    """Enter node runs, and further items of them, into the ledger."""
    async for turn in app.offsets.turns(stream.noack().events(), specs.arrivals):
        await _arrival(turn, _arrivals_done)


@app.agent(outcomes, name="ledger-outcomes")
async def ledger_outcomes(stream: faust.Stream[OutcomeEvent]) -> None:
    """Enter how items ended and how Port answered."""
    async for turn in app.offsets.turns(stream.noack().events(), specs.outcomes):
        if isinstance(turn.value, Tick):
            async for missed in app.offsets.catch_up(specs.arrivals, turn.partition):
                await _arrival(missed, _outcomes_done)
        await _outcome(turn)


async def _arrival(turn: Turn[Arrival], done: InOrder) -> None:
    value = turn.value
    if isinstance(value, Bad):
        await done.add(turn.partition, turn.event, [await send_dead_letter(turn, value.reason)])
        return
    try:
        applied = ledger.arrival(turn.partition, value)
    except NotOwnedError:
        return
    except Exception as error:
        _stop(turn, error)
    await _settle(turn, applied, done)


async def _outcome(turn: Turn[OutcomeEvent]) -> None:
    value = turn.value
    if isinstance(value, Bad):
        await _outcomes_done.add(turn.partition, turn.event, [await send_dead_letter(turn, value.reason)])
        return
    if isinstance(value, Tick):
        await _outcomes_done.add(turn.partition, turn.event, [])
        return
    try:
        applied = ledger.outcome(turn.partition, value)
    except NotOwnedError:
        return
    except Exception as error:
        _stop(turn, error)
    await _settle(turn, applied, _outcomes_done)


async def _settle(turn: Turn[V], applied: Applied, done: InOrder) -> None:
    written = rows.table.take_sent()
    run, partition = applied.run, turn.partition
    EVENTS.labels(applied.note.value).inc()
    if run is None:
        await done.add(partition, turn.event, written)
        return
    if partition in dispatch.active:
        overview.changed(partition, applied.before, run)
    node_run_id = run.node_run_id
    await done.add(
        partition,
        turn.event,
        written,
        lambda: dispatch.act(partition, node_run_id, applied.touched, applied.message),
    )


def _stop(turn: Turn[V], error: Exception) -> NoReturn:
    # Going on would acknowledge an event that changed nothing: its node run would hang for ever.
    logger.exception("the ledger failed at offset %d of %s[%d]", turn.offset, turn.topic, turn.partition)
    stop_process(f"the ledger failed at offset {turn.offset} of {turn.topic}: {type(error).__name__}: {error}")
