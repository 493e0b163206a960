"""What the agents of one worker share: the topics, the ledger, and the dispatch of its work."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Coroutine
from itertools import chain, repeat
from typing import Final, cast

from aiokafka.errors import ProducerClosed

from agents.callbacks import Callbacks, derived_key
from agents.cancelling import RunningCalls
from agents.contract import HandlerError
from agents.dispatch import Dispatch
from agents.holding import Holding
from agents.pausing import Pausing
from agents.registry import load_handlers
from agents.resources import OpenResources
from agents.telling import Telling
from agents.tracing import spans_of
from streams.app import app, settings
from streams.bridge import copied_from
from streams.exits import stop_process
from streams.fitting import Form, NothingFitsError, letter_forms, write_largest
from streams.metrics import DEAD_LETTERS, OTHER
from streams.offsets import Turn
from streams.records import DeadLetter, LetterKind, Source
from streams.topics import MAX_RECORD_BYTES
from tables.due import DueIndex
from tables.ledger import Ledger, NodeRuns
from tables.overview import Overview
from tables.recovery import recover_in_bulk
from tables.rows import LatestRows, producer_of
from tables.unreadable import UnreadableRows

logger = logging.getLogger(__name__)
_LETTERS: Final = "writing dead letters"
"""What is wrong with that, beside what is wrong with the configuration of their topic."""
_PAUSES: Final = (1.0, 5.0, 15.0, 60.0)
"""Seconds between two tries to keep a dead letter whose topic takes nothing."""


try:
    handlers = load_handlers(settings.handlers)
except HandlerError as wrong:
    sys.stderr.write(f"{wrong}\n")
    raise SystemExit(2) from None

specs: Final = app.topic_specs
runs = app.topic(specs.runs.name, schema=specs.runs.schema)
arrivals = app.topic(specs.arrivals.name, schema=specs.arrivals.schema)
outcomes = app.topic(specs.outcomes.name, schema=specs.outcomes.schema)

rows = LatestRows(app)
recover_in_bulk(app, rows.table)
unreadable = UnreadableRows()
ledger = Ledger(rows, grace=settings.report_grace, unreadable=unreadable)
"""The node runs as the last event left them: for the ledger agents alone."""
node_runs = NodeRuns(rows.stored, unreadable=unreadable)
"""The node runs as the changelog has acknowledged them: for everybody who acts on them, or shows them."""


def _type_name(event_type: str) -> str:
    found = handlers.find(event_type)
    return OTHER if found is None else found.event_type


overview = Overview(_type_name)
dispatch = Dispatch(node_runs, DueIndex(), overview, settings.report_grace)
pausing = Pausing()
holding = Holding(dispatch.due, settings.unknown_events_hold, settings.max_open)
resources = OpenResources()
callbacks = Callbacks(
    settings.signing_keys or tuple(derived_key(secret, settings.port_org_id) for secret in settings.client_secrets),
    settings.port_org_id,
    settings.public_url,
)
telling = Telling(resources.values, callbacks)
calls = RunningCalls()
spans: Final = spans_of(app.incarnation, os.environ)
"""None where nobody wants them."""

_tasks: set[asyncio.Task[None]] = set()


def spawn(work: Coroutine[object, object, None]) -> None:
    """Run a coroutine on its own; it is kept alive until it ends. An exception of it ends the process."""
    task = asyncio.get_running_loop().create_task(work)
    _tasks.add(task)
    task.add_done_callback(_ended)


dispatch.spawn = spawn


def _ended(task: asyncio.Task[None]) -> None:
    _tasks.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        stop_process(f"an event could not be sent: {type(error).__name__}: {error}")


def source_of(turn: Turn[object]) -> Source:
    """Return where a message stands; one that the bridge copied, where it stood at the source."""
    # Without a bridge the header is somebody else's word.
    copied = copied_from(turn.headers) if settings.source is not None else None
    return copied or turn.source(settings.source_name)


async def keep_dead_letter(key: bytes | None, raw: bytes | None, reason: str, source: Source) -> None:
    """Keep a record as a dead letter, as much of it as the topic takes; returns when the broker has it.

    While the topic takes nothing at all it is tried again and again: what it is of is not acknowledged meanwhile.
    """
    await _keep(DeadLetter(reason=reason, source=source), key, raw, source.topic)


async def _keep(letter: DeadLetter, key: bytes | None, raw: bytes | None, topic: str) -> None:
    DEAD_LETTERS.labels(topic).inc()
    pauses = chain(_PAUSES, repeat(_PAUSES[-1]))
    while True:
        try:
            await write_largest(_send_letter, letter_forms(letter, key, raw, MAX_RECORD_BYTES))
        except NothingFitsError as nothing:
            _topic_takes_nothing(str(nothing))
        else:
            app.topic_problems.pop(_LETTERS, None)
            return
        await asyncio.sleep(next(pauses))


def _topic_takes_nothing(why: str) -> None:
    name = specs.dead_letters.name
    problem = f"{name} takes no record ({why}): compare its configuration with docs/operations.md"
    if app.topic_problems.get(_LETTERS) != problem:
        logger.error("dead letters: %s", problem)
    app.topic_problems[_LETTERS] = problem


async def _send_letter(form: Form) -> object:
    # Past Faust, which ends the process where a record is refused.
    await app.maybe_start_producer()
    try:
        return await producer_of(app).send_and_wait(
            specs.dead_letters.name, form.value, key=form.key, headers=list(form.headers)
        )
    except ProducerClosed:
        # The worker has stopped; what is not acknowledged comes again.
        raise asyncio.CancelledError from None


async def send_dead_letter(
    turn: Turn[object], reason: str, kind: LetterKind = LetterKind.UNREADABLE
) -> asyncio.Future[object]:
    """Keep a record that cannot be read, with its raw bytes; returns what is done when the broker has it."""
    logger.warning("dead letter: %s[%d] offset %d: %s", turn.topic, turn.partition, turn.offset, reason)
    letter = DeadLetter(reason=reason, source=source_of(turn), kind=kind)
    kept = asyncio.get_running_loop().create_task(_keep(letter, turn.key, turn.raw, turn.topic))
    _tasks.add(kept)
    kept.add_done_callback(_ended)
    return cast("asyncio.Future[object]", kept)
