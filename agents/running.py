"""The handler agents: one for each event type, with its own concurrency, fed from the ledger."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from functools import lru_cache, partial
from typing import cast

from faust.types import StreamT

from agents import owning
from agents.backlog import backlog
from agents.cancelling import NodeRunAt, Place, Poller, RunningCall, stop_of
from agents.contract import Context, Handler, HandlerError, middleware_in
from agents.entering import record
from agents.execution import Call, Ended, Threads, execute
from agents.feeding import Feeder, InMemoryChannel
from agents.resources import SESSION, resources_in
from agents.shared import calls, dispatch, handlers, holding, node_runs, pausing, resources, spans, spawn, telling
from agents.trying import Trials
from agents.work import ItemWork
from port.budget import Urgency
from port.client import Answer, Before
from port.models import Result, WorkflowRun
from port.secrets import Decryption
from streams.app import app, settings
from streams.exits import stop_process
from streams.metrics import ATTEMPTS, DEADLINE_MISSES, ITEM_SECONDS, ITEMS, OVERDUE
from streams.progress import Stage
from streams.records import ItemFinished, ItemRetry, RunCancelled
from streams.samples import HANDLER_SAMPLES, Samples
from streams.settings import UnknownEvents
from tables.report import SAID, why_stopped
from tables.rows import NotOwnedError, RowError
from tables.state import NodeRun, Run, Stop, ask_of_item

logger = logging.getLogger(__name__)

_SHOWN_CHARACTERS = 200
_middleware = middleware_in(settings.handlers)


class HandlerAgent:
    """A handler, the Faust agent that calls it, and what feeds the agent."""

    def __init__(self, handler: Handler) -> None:
        channel: InMemoryChannel[ItemWork] = InMemoryChannel(app)
        self.handler = handler
        self.feeder: Feeder[ItemWork] = Feeder()
        self.feeder.attach(app)
        owning.running.append(lambda: self.feeder.running)
        self.trials = Trials(handler, self.feeder, telling, settings.client_secrets, _middleware)
        self._threads = Threads(handler.concurrency)
        self._samples = HANDLER_SAMPLES.of(handler.event_type)
        self._overdue = 0
        self._recording = 0
        name = f"handler-{handler.event_type}"
        self.stage = Stage(name, "handlers", lambda: self.feeder.moves, self._has_work)

        async def handle(_: StreamT[ItemWork]) -> None:
            while True:
                work = await self.feeder.take()
                try:
                    await self._handle(work)
                finally:
                    self.feeder.done(work)

        handle.__doc__ = f"Call {handler.name} for each item of event type {handler.event_type}."
        app.agent(channel, name=name, concurrency=handler.concurrency)(handle)

    @property
    def unended(self) -> int:
        """How many calls have not ended."""
        return len(self.feeder.running) - self._recording - self._overdue

    def _has_work(self) -> bool:
        handler = self.handler
        return self._recording > 0 or self.feeder.ought_to_move(handler.concurrency, handler.deadline, self._overdue)

    async def _handle(self, work: ItemWork) -> None:
        try:
            call = _call(self.handler, work)
            if call is None:
                return
        except NotOwnedError:
            # In no partition, or in one that has moved.
            await self._try(work)
            return
        except Exception as error:
            await _record_error(work, error)
            return
        running = _running(work, call)
        calls.add(running)
        try:
            ended = await self._call(work, call)
        finally:
            calls.remove(running)
        if ended is not None and ended.remains is not None:
            await self._outlast(ended.remains, call)

    async def _call(self, work: ItemWork, call: Call) -> Ended | None:
        """Call the handler, and have its end recorded; None where that failed."""
        began_at = time.time()
        try:
            ended = await execute(call, self._threads)
        except Exception as error:
            await _record_error(work, error)
            return None
        try:
            if telling.said or ended.remains is not None:
                await telling.ended(call.context, goes_on=ended.remains is not None)
        finally:
            # Also where the worker leaves while Port is still told of the progress.
            await self._record(work.partition, call, ended, began_at)
        return ended

    async def _record(self, partition: int, call: Call, ended: Ended, began_at: float) -> None:
        _measure(self.handler, self._samples, ended)
        if spans is not None:
            spans.item(call.context, ended.event, began_at, time.time())
        self._recording += 1
        try:
            await record(partition, ended.event)
        finally:
            self._recording -= 1

    async def _try(self, work: ItemWork) -> None:
        """Make a dry run, if it is one."""
        tried = await self.trials.take(work, self._threads)
        if tried is None:
            return
        call, remains = tried
        if remains is not None:
            await self._outlast(remains, call)

    async def _outlast(self, remains: asyncio.Future[object], call: Call) -> None:
        """Keep the slot of a call that goes on past its deadline, or its cancellation, until it ends."""
        past = "cancellation" if call.context.cancellation.is_cut else "deadline"
        logger.warning("handler %s goes on past its %s for %s", self.handler.name, past, call.context.idempotency_key)
        OVERDUE.labels(self.handler.event_type).inc()
        self._overdue += 1
        if self._overdue == self.handler.concurrency:
            self._watch()
        try:
            await asyncio.wait({remains})
        finally:
            self._overdue -= 1
            self.feeder.blocked_since = None
            telling.forget(call.context)

    def _watch(self) -> None:
        """While all slots are kept by calls past their ends, what waits gets nowhere: it has one more deadline."""
        waiting = self.feeder.pending
        self.feeder.blocked_since = time.monotonic()
        asyncio.get_running_loop().call_later(self.handler.deadline, self._give_up, waiting)

    def _give_up(self, waiting: list[ItemWork]) -> None:
        if self._overdue < self.handler.concurrency:
            return
        error = f"all {self._overdue} calls of the handler go on past their deadline of {self.handler.deadline:g} s"
        # A dry run has a time limit of its own.
        for work in self.feeder.withdraw(work for work in waiting if work.partition >= 0):
            spawn(record(work.partition, _failed(work, error)))
        self._watch()


def _running(work: ItemWork, call: Call) -> RunningCall:
    context = call.context
    return RunningCall(
        work.partition,
        work.node_run_id,
        work.index,
        context.workflow_run_id,
        context.cancellation,
        at_once=call.handler.cut_at_once,
    )


async def _record_error(work: ItemWork, error: Exception) -> None:
    logger.error("item %d of %s cannot be handled", work.index, work.node_run_id, exc_info=error)
    await record(work.partition, _failed(work, f"internal error: {type(error).__name__}: {error}"))


def _measure(handler: Handler, samples: Samples, ended: Ended) -> None:
    event = ended.event
    if ended.missed:
        DEADLINE_MISSES.labels(handler.event_type).inc()
    if not isinstance(event, ItemFinished):
        _ended(handler.event_type, "retry" if isinstance(event, ItemRetry) else "deferred").inc()
        return
    _ended(handler.event_type, event.result.value).inc()
    seconds = event.ended_at - event.started_at
    _took(handler.event_type).observe(seconds)
    _attempts(handler.event_type).observe(event.attempt)
    samples.add(seconds)


# Looking a metric up by its labels costs more than counting.
_ended = lru_cache(ITEMS.labels)
_took = lru_cache(ITEM_SECONDS.labels)
_attempts = lru_cache(ATTEMPTS.labels)


def _call(handler: Handler, work: ItemWork) -> Call | None:
    run = node_runs.run(work.partition, work.node_run_id)
    if run is None:
        return None
    if not isinstance(ask_of_item(run, work.index, node_runs.item(work.partition, run, work.index)), Run):
        # It has ended, or is cancelled, while it waited.
        return None
    payload = dispatch.payload(work.partition, run, work.message)
    context = Context(
        node_run_id=run.node_run_id,
        workflow_run_id=run.workflow_run_id,
        workflow=run.workflow,
        node=run.node,
        event_type=work.event_type or handler.event_type,
        index=work.index,
        attempt=work.attempt,
        received_at=run.received_at,
        fields=payload[work.index - work.message],
        decryption=Decryption(*settings.client_secrets),
        deadline_at=time.time() + handler.deadline,
        host=telling,
    )
    return Call(handler, context, work.message, app.incarnation, _middleware)


handler_agents = {event_type: HandlerAgent(handler) for event_type, handler in handlers.items()}


def run_item(work: ItemWork) -> None:
    """Have an item handled by the agent of its event type; one that nobody handles has FAILED, or is held."""
    found = handlers.find(work.event_type) if work.event_type is not None else None
    if found is not None and pausing.is_paused(work.partition, found.event_type):
        pausing.keep(found.event_type, work)
    elif found is not None:
        handler_agents[found.event_type].feeder.add(work)
    elif work.event_type is not None and settings.unknown_events is UnknownEvents.HOLD:
        _hold(work)
    else:
        _fail(work, _no_handler(work))


def _pause(partition: int, event_type: str) -> None:
    """Take back what no actor of a handler has begun. A handler that another version has is none here."""
    if (agent := handler_agents.get(event_type)) is not None:
        waiting = [work for work in agent.feeder.pending if work.partition == partition]
        for work in agent.feeder.withdraw(waiting):
            pausing.keep(event_type, work)


def _release(partition: int, node_run_id: str, index: int) -> None:
    holding.ended(partition, node_run_id, index)
    pausing.ended(partition, node_run_id, index)


def _fail(work: ItemWork, error: str) -> None:
    spawn(record(work.partition, _failed(work, error)))


def _hold(work: ItemWork) -> None:
    why = _no_handler(work)
    over = f"{why}: none was deployed within the {holding.seconds:g} s that it was held"
    try:
        came_at = _came_at(work.partition, work.node_run_id, work.message)
    except RowError:
        return
    if not holding.hold(work, came_at, lambda: _fail(work, over)):
        _fail(work, f"{why}, and as many items as MAX_OPEN allows ({settings.max_open}) are held already")
    backlog.look()


@lru_cache(maxsize=16)
def _came_at(partition: int, node_run_id: str, first: int) -> float:
    """Return Kafka's timestamp of the message of some items. Remembered: a message of 10,000 items is large to read."""
    run = node_runs.run(partition, node_run_id)
    message = None if run is None else node_runs.message(partition, run, first)
    return time.time() if message is None else message.source.timestamp


def _is_lost(work: ItemWork) -> bool:
    """Whether the message of an item cannot be read any more."""
    with contextlib.suppress(RowError):
        run = node_runs.run(work.partition, work.node_run_id)
        message = None if run is None else node_runs.message(work.partition, run, work.message)
        return message is not None and message.lost
    return False


def _no_handler(work: ItemWork) -> str:
    if work.event_type is None and _is_lost(work):
        return "what was kept of its message cannot be read any more"
    if work.event_type is None:
        return "the item has no event type (eventType, event, action or type)"
    return f"no handler for event type {work.event_type[:_SHOWN_CHARACTERS]!r}"


def _cancel_call(run: NodeRun, index: int) -> bool:
    return calls.cancel(run.node_run_id, index, why_stopped(run), soft=run.stopped is Stop.SOFT)


def _end_cancelled(work: ItemWork, why: str) -> None:
    """End an item that is cancelled before it is called, or called again."""
    spawn(record(work.partition, _failed(work, why, Result.CANCELLED)))


async def _look(workflow_run_id: str, before: Before) -> WorkflowRun | Answer:
    def check() -> None:
        app.standstill.check()
        before()

    return await app.port.get_run(workflow_run_id, check, Urgency.POLL)


class _Waiting:
    """What waits in the due index: retries, deferred and held items."""

    def node_runs(self) -> set[NodeRunAt]:
        """Return the node runs that have an entry."""
        return {
            NodeRunAt(partition, node_run_id)
            for partition in dispatch.active
            for node_run_id, _ in cast("list[tuple[str, int]]", dispatch.due.keys(partition))
        }

    def workflow_run_id(self, place: NodeRunAt) -> str | None:
        """Return the workflow run of one that still waits, and is neither cancelled for good nor reported."""
        with contextlib.suppress(RowError):
            run = node_runs.run(place.partition, place.node_run_id)
            if run is not None and run.stopped in (None, Stop.SOFT) and run.covered is None:
                return run.workflow_run_id
        return None


async def _run_seen(place: Place, found: WorkflowRun) -> None:
    """Have a node run cancelled where its workflow run is, and its calls here, also of a partition that has moved."""
    node_run_id, told = place.node_run_id, calls.all_told(place.node_run_id)
    run = _known(place)
    if run is not None and run.covered is not None:
        # Reported: it is the report that has ended it. What came later runs to its end.
        return
    known = run.stopped if run is not None else Stop.SOFT if told else None
    stop = stop_of(found, node_run_id, known)
    if stop is None:
        return
    if stop.outdoes(known):
        logger.info("%s is cancelled: %s", node_run_id, SAID[stop])
        await record(place.partition, _cancelled(node_run_id, stop, found))
        run = _known(place)
        if run is not None and run.stopped is None:
            # Its last item ended meanwhile: it is reported as that says.
            return
    calls.cancel_all(node_run_id, f"cancelled: {SAID[stop]}", soft=stop is Stop.SOFT)


def _cancelled(node_run_id: str, stop: Stop, found: WorkflowRun) -> RunCancelled:
    elsewhere, node_run = stop is Stop.ELSEWHERE, found.node_run(node_run_id)
    over = elsewhere or stop is Stop.OVER
    return RunCancelled(
        node_run_id=node_run_id,
        over=over,
        soft=stop is Stop.SOFT,
        elsewhere=elsewhere,
        port_result=node_run.result if over and node_run is not None else None,
        at=time.time(),
    )


def _known(place: Place) -> NodeRun | None:
    """Return a node run as it stands here; None where its partition has moved."""
    with contextlib.suppress(RowError):
        return node_runs.run(place.partition, place.node_run_id)
    return None


@app.task  # type: ignore[untyped-decorator]
async def poll_cancelled() -> None:
    """Notice the cancellation of workflow runs whose items run long."""
    if settings.cancel_poll_seconds:
        await Poller(calls, _Waiting(), _look, _run_seen, settings.cancel_poll_seconds).run()


def _failed(work: ItemWork, error: str, result: Result = Result.FAILED) -> ItemFinished:
    now = time.time()
    return ItemFinished(
        v=2 if result is Result.CANCELLED else 1,
        node_run_id=work.node_run_id,
        index=work.index,
        message=work.message,
        event_type=work.event_type[:_SHOWN_CHARACTERS] if work.event_type is not None else None,
        attempt=work.attempt,
        result=result,
        error=error,
        worker=app.incarnation,
        started_at=now,
        ended_at=now,
    )


async def open_resources() -> None:
    """Open what the handlers share; the worker does not start without it."""
    telling.begin()
    try:
        await resources.open([SESSION, *resources_in(settings.handlers)])
    except HandlerError as wrong:
        logger.exception("a resource of the handlers cannot be opened")
        stop_process(f"HANDLERS: {wrong}")


async def drain() -> None:
    """Begin no more calls, and wait for those that run, for `DRAIN_SECONDS` at most."""
    telling.draining.set()
    feeders = [agent.feeder for agent in handler_agents.values()]
    for feeder in feeders:
        feeder.stop()
    running = sum(len(feeder.running) for feeder in feeders)
    if running:
        await _idle(feeders, running)
    for agent in handler_agents.values():
        agent.trials.stop()


async def _idle(feeders: list[Feeder[ItemWork]], running: int) -> None:
    logger.info("waiting up to %g s for %d calls of handlers", settings.drain_seconds, running)
    ended = asyncio.gather(*(feeder.idle() for feeder in feeders))
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(ended, settings.drain_seconds)
    # What has ended is recorded all the same, see `Outbox`.
    left = sum(agent.unended for agent in handler_agents.values())
    if left:
        logger.warning("%d calls of handlers are cut off; other workers begin them anew", left)


dispatch.run_item = run_item
dispatch.release = _release
pausing.take_back = _pause
pausing.go_on = run_item
dispatch.cancel_call = _cancel_call
dispatch.end_cancelled = _end_cancelled
app.before_start.append(open_resources)
app.after_stop.append(resources.close)
if spans is not None:
    app.after_stop.append(partial(asyncio.to_thread, spans.close))
