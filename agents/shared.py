"""What the agents of one worker share: the topics, the ledger, and the dispatch of its work."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Coroutine
from typing import Final, cast

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
from streams.metrics import DEAD_LETTERS, OTHER
from streams.offsets import Turn
from streams.records import DeadLetter, LetterKind, Source
from streams.topics import MAX_RECORD_BYTES
from tables.due import DueIndex
from tables.ledger import Ledger, NodeRuns
from tables.overview import Overview
from tables.recovery import recover_in_bulk
from tables.rows import LatestRows
from tables.unreadable import UnreadableRows

logger = logging.getLogger(__name__)
_KEPT_KEY_BYTES: Final = 65_536
_LETTER_BYTES: Final = 16_384
"""Room for the headers of a dead letter, and what Kafka adds to a record."""


try:
    handlers = load_handlers(settings.handlers)
except HandlerError as wrong:
    sys.stderr.write(f"{wrong}\n")
    raise SystemExit(2) from None

specs: Final = app.topic_specs
runs = app.topic(specs.runs.name, schema=specs.runs.schema)
arrivals = app.topic(specs.arrivals.name, schema=specs.arrivals.schema)
outcomes = app.topic(specs.outcomes.name, schema=specs.outcomes.schema)
audit = app.topic(specs.audit.name, schema=specs.audit.schema)
dead_letters = app.topic(specs.dead_letters.name, schema=specs.dead_letters.schema)

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
    """Keep what no node run can take on as a dead letter; returns when the broker has it."""
    DEAD_LETTERS.labels(source.topic).inc()
    letter = DeadLetter(reason=reason[:2000], source=source)
    await (await dead_letters.send(key=key, value=raw, headers=letter.headers))


async def send_dead_letter(
    turn: Turn[object], reason: str, kind: LetterKind = LetterKind.UNREADABLE
) -> asyncio.Future[object]:
    """Keep a record that cannot be read, with its raw bytes; returns the future of the broker's acknowledgement.

    Where the record filled its topic's limit there is no room for the headers: then its end is cut off.
    """
    logger.warning("dead letter: %s[%d] offset %d: %s", turn.topic, turn.partition, turn.offset, reason)
    key, raw = turn.key, turn.raw
    if len(key or b"") > _KEPT_KEY_BYTES:
        reason, key = f"{reason[:1000]}; its key of {len(key or b''):,} bytes is left out", None
    room = MAX_RECORD_BYTES - _LETTER_BYTES - len(key or b"")
    if raw is not None and len(raw) > room:
        reason, raw = f"{reason[:1000]}; the first {room:,} of its {len(raw):,} bytes are kept", raw[:room]
    letter = DeadLetter(reason=reason[:2000], source=source_of(turn), kind=kind)
    DEAD_LETTERS.labels(turn.topic).inc()
    sent = await dead_letters.send(key=key, value=raw, headers=letter.headers)
    return cast("asyncio.Future[object]", sent)
