"""What people ask for by hand: it goes to the outcomes topic, and so to the owner of the partition, and stands there.

The owner enters it, writes to the audit topic what became of it, and tells whoever waits for that in this process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from contextlib import suppress
from typing import Final

from agents.asked import AskedEvent, Became
from agents.shared import outcomes, spawn, specs
from streams.app import app, settings
from streams.fitting import Form, NothingFitsError, write_largest
from streams.records import (
    Action,
    Audited,
    ItemAgain,
    ItemCompleted,
    ReportAgain,
    ReportStopped,
    RunCancelled,
    TypePaused,
)
from streams.topics import partition_of
from tables.ledger import Applied
from tables.rows import producer_of
from tables.state import Note

logger = logging.getLogger(__name__)
_AUDIT: Final = "writing the audit"
"""What is wrong with that, beside what is wrong with the configuration of its topic."""
_WHAT: Final[dict[type, str]] = {
    ItemAgain: "retry item",
    ItemCompleted: "complete item",
    ReportAgain: "retry report",
    ReportStopped: "give up report",
    RunCancelled: "cancel node run",
}


_waiting: Final[dict[tuple[str, int], asyncio.Future[Became]]] = {}


async def ask(event: AskedEvent, action: Action, seconds: float) -> Became | None:
    """Have the ledger take on what somebody asks for of a node run.

    Args:
        event: the request; its `action` is this one.
        action: who asks.
        seconds: how long to wait for the broker, and then for what becomes of it.

    Returns:
        What became of it; None where that is not known in time, or another worker will know it. It stands in the topic.

    Raises:
        TimeoutError: the broker did not take it in that time; whether it did afterwards is not known.
    """
    key = event.node_run_id.encode()
    partition = partition_of(key, settings.partitions)
    return await _await(partition, action, outcomes.send(key=key, value=event, partition=partition), seconds)


async def ask_to_pause(event: TypePaused, seconds: float) -> int:
    """Have every partition take on that a handler pauses, or goes on; returns how many have told so in time.

    Raises TimeoutError as of `ask`.
    """
    each = (
        _await(partition, event.action, outcomes.send(partition=partition, value=event), seconds)
        for partition in range(settings.partitions)
    )
    return sum(became is not None for became in await asyncio.gather(*each))


async def _await(
    partition: int, action: Action, sending: Awaitable[Awaitable[object]], seconds: float
) -> Became | None:
    known: asyncio.Future[Became] = asyncio.get_running_loop().create_future()
    _waiting[action.id, partition] = known
    try:
        async with asyncio.timeout(seconds):
            await (await sending)
        if partition in app.owned:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    return await known
        return None
    finally:
        del _waiting[action.id, partition]


def told(event: AskedEvent, applied: Applied) -> None:
    """Tell what became of a request. Called by the owner when it is acknowledged."""
    if event.action is None or (isinstance(event, RunCancelled) and event.over):
        # The command that completed a node run at Port has written that itself.
        return
    partition = partition_of(event.node_run_id.encode(), settings.partitions)
    why = _why(event, applied)
    _tell(event.action, partition, Became(applied.note, why))
    record = Audited(
        id=event.action.id,
        at=event.at,
        who=event.action.who,
        what=_WHAT[type(event)],
        outcome=applied.note.value,
        why=why,
        node_run_id=event.node_run_id,
        index=event.index if isinstance(event, ItemAgain | ItemCompleted) else None,
    )
    spawn(write(record))


def _why(event: AskedEvent, applied: Applied) -> str:
    if applied.run is None:
        return "the node run is not known"
    if applied.note is Note.LATE and isinstance(event, ItemAgain | ItemCompleted):
        return f"there is no item {event.index}: the node run has {applied.run.items}, counted from 0"
    ended = None if applied.item is None else applied.item.result
    if applied.note is Note.REFUSED and not applied.why and ended is not None:
        return f"the item has ended already, with {ended}"
    return "" if applied.note is Note.APPLIED else applied.why


def told_of_pause(partition: int, event: TypePaused, note: Note) -> None:
    """Tell what a partition made of it that a handler is to pause or go on. One partition writes it to the audit."""
    _tell(event.action, partition, Became(note))
    if partition == 0:
        what = "pause handler" if event.paused else "resume handler"
        spawn(
            write(
                Audited(
                    id=event.action.id,
                    at=event.at,
                    who=event.action.who,
                    what=what,
                    outcome=note.value,
                    event_type=event.event_type,
                )
            )
        )


def _tell(action: Action, partition: int, became: Became) -> None:
    waiting = _waiting.get((action.id, partition))
    if waiting is not None and not waiting.done():
        waiting.set_result(became)


async def write(record: Audited) -> None:
    """Write to the audit topic; returns when the broker has it.

    Where the topic does not take it the log has it alone: that ends no worker.
    """

    async def send(form: Form) -> object:
        # Past Faust, which ends the process where a record is refused.
        await app.maybe_start_producer()
        return await producer_of(app).send_and_wait(specs.audit.name, form.value, key=form.key)

    key, name = record.id.encode(), specs.audit.name
    forms = [Form(key, record.encode(), ()), Form(key, record.model_copy(update={"why": ""}).encode(), ())]
    try:
        await write_largest(send, forms)
    except NothingFitsError as nothing:
        app.topic_problems[_AUDIT] = (
            f"{name} takes no record ({nothing}): compare its configuration with docs/operations.md"
        )
        logger.error(
            "audit: %s; not written: %s by %s (%s)", app.topic_problems[_AUDIT], record.what, record.who, record.id
        )
    else:
        app.topic_problems.pop(_AUDIT, None)
