"""The ledger agents: enter what comes to this worker's partitions from others.

Both apply one event at a time, synchronously, and go on without waiting for the broker.
"""

from __future__ import annotations

import logging

from faust.types import StreamT

from agents.acknowledging import unacknowledged
from agents.asking import told_of_pause
from agents.entering import enter
from agents.owning import enter_pause, enter_word
from agents.shared import arrivals, outcomes, rows, send_dead_letter, specs
from streams.app import app
from streams.messages import Bad
from streams.offsets import Turn
from streams.records import Arrival, Died, OutcomeEvent, Released, Tick, TypePaused
from tables.rows import NotOwnedError

logger = logging.getLogger(__name__)


@app.agent(arrivals, name="ledger-arrivals")
async def ledger_arrivals(stream: StreamT[Arrival]) -> None:
    """Enter node runs, and further items of them, into the ledger."""
    async for turn in app.offsets.turns(unacknowledged(stream), specs.arrivals):
        await _enter(turn)


@app.agent(outcomes, name="ledger-outcomes")
async def ledger_outcomes(stream: StreamT[OutcomeEvent]) -> None:
    """Enter how items ended whose calls other workers had begun, and what those still run."""
    async for turn in app.offsets.turns(unacknowledged(stream), specs.outcomes):
        if isinstance(turn.value, Tick):
            async for missed in app.offsets.catch_up(specs.arrivals, turn.partition):
                await _enter(missed)
        await _enter(turn)


async def _enter(turn: Turn[Arrival] | Turn[OutcomeEvent]) -> None:
    try:
        await _entered(turn)
    except NotOwnedError:
        # Never acknowledged: its new owner reads it, or this worker, which is about to stop, at its next start.
        logger.debug("%s[%d] offset %d is left to others", turn.topic, turn.partition, turn.offset)
    await rows.room()


async def _entered(turn: Turn[Arrival] | Turn[OutcomeEvent]) -> None:
    value = turn.value
    if not turn.repeated:
        if isinstance(value, Bad):
            await (await send_dead_letter(turn, value.reason))
        elif isinstance(value, Released | Died):
            enter_word(turn.partition, value)
        elif isinstance(value, TypePaused):
            note = enter_pause(turn.partition, value)
            rows.then(turn.partition, lambda: told_of_pause(turn.partition, value, note))
        elif not isinstance(value, Tick):
            enter(turn.partition, value, lambda: _acknowledge(turn))
            return
    # In its turn: when everything before it is acknowledged.
    rows.then(turn.partition, lambda: _acknowledge(turn))


def _acknowledge(turn: Turn[object]) -> None:
    if turn.event is not None:
        turn.event.ack()
