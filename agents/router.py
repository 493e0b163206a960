"""The router: reads `<orgId>.runs` and passes the node runs on to the worker that owns the partition of their id.

That may be this one; to the others they go by the arrivals topic, keyed by their id, so that a source of one partition
still spreads over all workers. What is for other consumers is left alone; what cannot be read, or has a signature that
is not right, goes to the dead letters with its raw bytes.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final, cast

from aiokafka.errors import IllegalStateError
from faust.types import TP, StreamT

from agents.acknowledging import InOrder, unacknowledged
from agents.backlog import backlog
from agents.entering import enter
from agents.selection import Selection
from agents.shared import arrivals, dispatch, handlers, outcomes, runs, send_dead_letter, source_of, specs
from port.signature import refusal
from streams.app import app, settings
from streams.bridge import left_out_of
from streams.encodings import form_of
from streams.exits import stop_process
from streams.message_text import json_bytes
from streams.messages import Bad, Foreign, Message, NodeRunMessage, NotOurs, Unsure, event_type
from streams.metrics import MESSAGES, UNSURE
from streams.offsets import Turn
from streams.records import ArrayPolicy, Arrival, LeftOut, LetterKind, Source, Tick
from streams.settings import Signature, UnknownEvents
from streams.topics import partition_of
from tables.rows import NotOwnedError, resolve

logger = logging.getLogger(__name__)
# Looking a metric up by its labels costs more than counting.
_messages = lru_cache(MESSAGES.labels)

SAMPLES: Final = 20
_SAMPLE_BYTES: Final = 500
_NODE_RUN: Final = b"wfnr_"


@dataclass(frozen=True)
class Sample:
    """One message that was left to other consumers, for the web view."""

    why: Foreign
    offset: int
    start: str


foreign_samples: Final[deque[Sample]] = deque(maxlen=SAMPLES)
_done = InOrder()
_selection: Final = Selection(
    handlers, settings.workflows, settings.nodes, with_handler=settings.unknown_events is UnknownEvents.IGNORE
)


@app.agent(runs, name="router")
async def router(stream: StreamT[Message]) -> None:
    """Sort the messages of `<orgId>.runs` out: ours to the ledger, unreadable ones to the dead letters."""
    async for turn in app.offsets.turns(unacknowledged(stream), specs.runs):
        await _done.add(turn.partition, turn.event, [] if turn.repeated else await route(turn))


async def route(turn: Turn[Message]) -> list[asyncio.Future[object]]:
    """Send a message where it belongs; returns the futures of what was sent."""
    try:
        return await _route(turn)
    except Exception as error:
        logger.exception("the router failed at offset %d of %s[%d]", turn.offset, turn.topic, turn.partition)
        stop_process(f"the router failed at offset {turn.offset} of {turn.topic}: {type(error).__name__}: {error}")


async def _route(turn: Turn[Message]) -> list[asyncio.Future[object]]:
    message = turn.value
    if (left_out := _left_out(turn)) is not None:
        return await _route_part(turn, left_out)
    if isinstance(message, NodeRunMessage):
        message = _selection.of(message)
    message = _or_unsure(message, turn)
    match message:
        case Unsure(reason=reason):
            _messages("unsure").inc()
            UNSURE.inc()
            return [await send_dead_letter(turn, f"unsure: {reason}", LetterKind.UNSURE)]
        case NotOurs(why=why):
            _messages(why.value).inc()
            foreign_samples.append(Sample(why, turn.offset, (turn.raw or b"")[:_SAMPLE_BYTES].decode(errors="replace")))
            return []
        case Bad(reason=reason):
            _messages("dead letter").inc()
            return [await send_dead_letter(turn, _with_form(reason, turn))]
        case NodeRunMessage():
            if (refused := _refusal(turn)) is not None:
                _messages("signature refused").inc()
                return [await send_dead_letter(turn, refused, LetterKind.UNSIGNED)]
            _messages("arrival").inc()
            kept = (
                []
                if message.is_kept
                else [await send_dead_letter(turn, _with_form(message.problem or "it is not kept", turn))]
            )
            return [*kept, await _pass_on(arrival_of(message, source_of(turn)))]


def _with_form(reason: str, turn: Turn[Message]) -> str:
    """Return a reason with the form of the bytes, where that is not plain text in UTF-8."""
    return "; ".join(filter(None, (reason, form_of(turn.raw or b""))))


def _or_unsure(message: Message, turn: Turn[Message]) -> Message:
    """Return what a message is, with what else is known here: its key and headers may name a node run that waits."""
    if isinstance(message, NodeRunMessage):
        if message.guessed and message.workflow_run_id is None and _is_for_nobody(message):
            return Unsure(
                f"no handler for {message.names[0][:80]!r}, and no workflow run to look {message.node_run_id} up in"
            )
        return message
    if isinstance(message, Unsure) or (isinstance(message, NotOurs) and message.why.is_certain):
        return message
    if _NODE_RUN not in (turn.key or b"") and not any(
        _NODE_RUN in (value or b"") or "wfnr_" in name for name, value in turn.headers
    ):
        return message
    return Unsure("the record's key or headers speak of a node run, its value does not")


def _left_out(turn: Turn[Message]) -> LeftOut | None:
    # Without a bridge the header is somebody else's word.
    return left_out_of(turn.headers) if settings.source is not None else None


async def _route_part(turn: Turn[Message], left_out: LeftOut) -> list[asyncio.Future[object]]:
    """Keep what the own topic took of a message; the node run that waits for it has FAILED, where its id is known."""
    _messages("dead letter").inc()
    kept = await send_dead_letter(turn, left_out.reason)
    if left_out.node_run_id is None:
        return [kept]
    message = NodeRunMessage(
        node_run_id=left_out.node_run_id,
        workflow_run_id=left_out.workflow_run_id,
        workflow=left_out.workflow,
        node=left_out.node,
        text="",
        array=False,
        items=(),
        problem=left_out.reason,
        digest=left_out.digest,
        names=left_out.names,
        guessed=left_out.guessed,
    )
    if not isinstance(_selection.of(message), NodeRunMessage):
        return [kept]
    return [kept, await _pass_on(arrival_of(message, source_of(turn)))]


async def _pass_on(arrival: Arrival) -> asyncio.Future[object]:
    """Enter a node run here, where this worker owns its partition, or send it to its owner."""
    key = arrival.node_run_id.encode()
    partition = partition_of(key, settings.partitions)
    if partition in dispatch.active and app.settled.is_set() and not backlog.full:
        entered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            enter(partition, arrival, partial(resolve, entered))
        except NotOwnedError:
            logger.debug("partition %d went just now", partition)
        else:
            return cast("asyncio.Future[object]", entered)
    return cast("asyncio.Future[object]", await arrivals.send(key=key, value=arrival, partition=partition))


def _refusal(turn: Turn[Message]) -> str | None:
    """Say why a message of ours is not trusted; None where it may pass."""
    if settings.signature is Signature.OFF:
        return None
    required = settings.signature is Signature.REQUIRED
    return refusal(json_bytes(turn.raw or b""), _sent_at(turn), settings.client_secrets, required=required)


def _sent_at(turn: Turn[Message]) -> float | None:
    """Return when Port sent the message, as Kafka says, in epoch seconds; of a copy, when its original was sent.

    None where Kafka does not know: on a topic with `LogAppendTime` it says when the record came there, be it a backlog.
    """
    source = source_of(turn)
    return None if source.appended else source.timestamp


def _is_for_nobody(message: NodeRunMessage) -> bool:
    unknown_fails = settings.unknown_events is UnknownEvents.FAIL
    return unknown_fails and all(handlers.find(name) is None for name in message.names)


def arrival_of(message: NodeRunMessage, source: Source) -> Arrival:
    """Return the event that a message of ours is to the ledger; `source` says whence it came."""
    policy = _policy(message)
    return Arrival(
        v=1 if policy is None else 2,
        node_run_id=message.node_run_id,
        workflow_run_id=message.workflow_run_id,
        workflow=message.workflow,
        node=message.node,
        source=source,
        digest=message.digest,
        text=message.text,
        note=message.note,
        guessed=message.guessed,
        array=message.array and message.problem is None,
        count=max(1, len(message.items)),
        event_types=message.event_types,
        policy=policy,
        problem=message.problem,
    )


def _policy(message: NodeRunMessage) -> ArrayPolicy | None:
    name = event_type(message.items[0]) if message.items else None
    handler = handlers.find(name) if name is not None else None
    return None if handler is None else handler.policy


async def _position(tp: TP) -> int | None:
    try:
        return await app.consumer.position(tp)
    except IllegalStateError:
        # The partition has just gone.
        return None


@app.timer(interval=1.0)  # type: ignore[untyped-decorator]
async def read_on() -> None:
    """Read on where Faust dropped the last records of a partition, so that no later event shows the hole."""
    if app.rebalancing or app.should_stop:
        return
    for tp in await app.offsets.stalled(_position):
        if tp.topic == specs.runs.name:
            async for turn in app.offsets.catch_up(specs.runs, tp.partition):
                await _done.add(turn.partition, turn.event, await route(turn))
        else:
            # Tables are written in the turn of an event only: this one brings both readers of the partition on.
            await (await outcomes.send(partition=tp.partition, value=Tick()))
