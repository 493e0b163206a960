"""The handler agents: one for each event type, with its own concurrency, fed from the ledger."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from faust.types import AgentT, StreamT

from agents.contract import Context, Handler
from agents.execution import Call, execute
from agents.feeding import Feeder, InMemoryChannel, put_on
from agents.shared import dispatch, handlers, node_runs, send_outcome, spawn
from agents.work import ItemWork
from port.models import Result
from streams.app import app
from streams.metrics import ITEM_SECONDS, ITEMS, OVERDUE
from streams.records import ItemFinished, ItemRetry
from tables.rows import NotOwnedError

logger = logging.getLogger(__name__)

_SHOWN_CHARACTERS = 200


@dataclass(frozen=True)
class HandlerAgent:
    """A handler, the Faust agent that calls it, and what feeds the agent."""

    handler: Handler
    agent: AgentT[ItemWork]
    feeder: Feeder[ItemWork]


def _handler_agent(handler: Handler) -> HandlerAgent:
    channel: InMemoryChannel[ItemWork] = InMemoryChannel(app)
    feeder: Feeder[ItemWork] = Feeder(handler.concurrency, put_on(channel))
    threads = ThreadPoolExecutor(handler.concurrency, thread_name_prefix=handler.event_type)

    async def handle(stream: StreamT[ItemWork]) -> None:
        async for work in stream:
            if feeder.take(work):
                try:
                    await _handle(handler, work, threads)
                finally:
                    feeder.done(work)

    handle.__doc__ = f"Call {handler.name} for each item of event type {handler.event_type}."
    agent = app.agent(channel, name=f"handler-{handler.event_type}", concurrency=handler.concurrency)(handle)
    return HandlerAgent(handler, agent, feeder)


async def _handle(handler: Handler, work: ItemWork, threads: ThreadPoolExecutor) -> None:
    try:
        call = _call(handler, work)
    except NotOwnedError:
        return
    except Exception as error:
        logger.exception("item %d of %s cannot be handled", work.index, work.node_run_id)
        await send_outcome(_failed(work, f"internal error: {type(error).__name__}: {error}"))
        return
    if call is None:
        return
    ended = await execute(call, threads)
    _measure(handler, ended.event)
    await send_outcome(ended.event)
    if ended.remains is not None:
        logger.warning("handler %s goes on past its deadline for %s", handler.name, call.context.idempotency_key)
        OVERDUE.labels(handler.event_type).inc()
        await asyncio.wait({ended.remains})


def _measure(handler: Handler, event: ItemFinished | ItemRetry) -> None:
    if isinstance(event, ItemRetry):
        ITEMS.labels(handler.event_type, "retry").inc()
        return
    ITEMS.labels(handler.event_type, event.result.value).inc()
    ITEM_SECONDS.labels(handler.event_type).observe(event.ended_at - event.started_at)


def _call(handler: Handler, work: ItemWork) -> Call | None:
    run = node_runs.run(work.partition, work.node_run_id)
    if run is None:
        return None
    item = node_runs.item(work.partition, run, work.index)
    if item is not None and item.result is not None:
        return None
    payload = dispatch.payload(work.partition, run, work.message)
    context = Context(
        node_run_id=run.node_run_id,
        workflow_run_id=run.workflow_run_id,
        workflow=run.workflow,
        node=run.node,
        event_type=handler.event_type,
        index=work.index,
        attempt=work.attempt,
        received_at=run.received_at,
        fields=payload[work.index - work.message],
    )
    return Call(handler, context, work.message, app.incarnation)


handler_agents = {event_type: _handler_agent(handler) for event_type, handler in handlers.items()}


def run_item(work: ItemWork) -> None:
    """Have an item handled by the agent of its event type; an item that nobody handles has FAILED."""
    found = handler_agents.get(work.event_type) if work.event_type is not None else None
    if found is not None:
        found.feeder.add(work)
    else:
        spawn(send_outcome(_failed(work, _no_handler(work))))


def _no_handler(work: ItemWork) -> str:
    if work.event_type is None:
        return "the item has no event type (eventType, event, action or type)"
    return f"no handler for event type {work.event_type[:_SHOWN_CHARACTERS]!r}"


def _failed(work: ItemWork, error: str) -> ItemFinished:
    now = time.time()
    return ItemFinished(
        node_run_id=work.node_run_id,
        index=work.index,
        message=work.message,
        event_type=work.event_type[:_SHOWN_CHARACTERS] if work.event_type is not None else None,
        attempt=work.attempt,
        result=Result.FAILED,
        error=error,
        worker=app.incarnation,
        started_at=now,
        ended_at=now,
    )


for one in handler_agents.values():
    one.feeder.attach(app)
dispatch.run_item = run_item
