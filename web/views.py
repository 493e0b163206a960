"""Puts the web views on Faust's web server, in the place of Faust's own pages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, cast

from faust.web.base import BlueprintManager
from faust.web.drivers.aiohttp import Web

from agents.asking import ask, ask_to_pause, write
from agents.callbacks import derived_key
from agents.entering import record
from agents.progress import all_stages, lag, paused
from agents.reporter import next_try, reports, retries, settler, tells
from agents.router import arrival_of, foreign_samples
from agents.running import handler_agents
from agents.sending import Sent, publish, signed
from agents.shared import arrivals, callbacks, calls, dispatch, holding, node_runs, overview, pausing, specs, telling
from agents.trying import Tried
from port.nodes import NodeExecution
from port.secrets import secret_fields
from streams.app import app, settings
from streams.messages import Foreign, Message, NodeRunMessage, sort_out
from streams.metrics import LOOP_LAG, MESSAGES, RECOVERY_SECONDS, REGISTRY, REPORT_SECONDS
from streams.progress import STUCK_SECONDS, Watch
from streams.records import Audited, Settled, Source
from streams.samples import HANDLER_SAMPLES, REPORT_SAMPLES
from streams.settings import Signature
from streams.tail import Tail, Taken
from streams.topics import partition_of
from tables.state import State
from web.actions import Actions
from web.auth import Guard
from web.callbacks import Callbacks
from web.connections import BoundedRunner, Limits
from web.counted import HandlerCounts, counts_by_handler
from web.declared import declaration_of
from web.front import Looked
from web.handlers import Handlers
from web.health import Readiness
from web.here import Here
from web.index import Index, Query
from web.letterbox import Letters
from web.letters import LetterViews
from web.masking import also_secret
from web.metrics import Gauges, Queue
from web.others import Others, Peer, Seal
from web.owners import Owners
from web.pages import Pages
from web.search import Lists
from web.series import Series, SeriesViews, count_of
from web.site import Site, Strangers, counts_by_reason
from web.status import LoopLag, Status
from web.stuck import Stuck
from web.trials import TEST_MESSAGE, Payload, Trials
from web.workers import Workers

for handler_agent in handler_agents.values():
    for model in handler_agent.handler.models:
        also_secret(secret_fields(model))

readiness: Final = Readiness(app, dispatch)
here: Final = Here(
    app,
    node_runs,
    overview,
    dispatch,
    {event_type: one.feeder for event_type, one in handler_agents.items()},
    holding,
    telling,
    calls,
    settler.tries_of,
    settler.parked,
    next_try,
)


def _messages() -> Iterator[tuple[str, float]]:
    for metric in MESSAGES.collect():
        yield from ((one.labels["what"], one.value) for one in metric.samples if one.name.endswith("_total"))


def _completed() -> dict[str, int]:
    answered = count_of(REPORT_SECONDS, "result", "_count")
    once_more = count_of(REPORT_SECONDS, "result", "_count", settled=Settled.OUTPUT_REFUSED.value)
    return {result: number - once_more.get(result, 0) for result, number in answered.items()}


watch: Final = Watch(all_stages(), paused, STUCK_SECONDS)
series: Final = Series(
    app.incarnation,
    lambda: count_of(MESSAGES, "what").get("arrival", 0),
    _completed,
    lambda: overview.open,
    HANDLER_SAMPLES,
    REPORT_SAMPLES,
)


handler_counts: Final = HandlerCounts(counts_by_handler, HANDLER_SAMPLES.hour)


@dataclass
class _Recovery:
    """Measures how long rebalances take."""

    since: float = field(default_factory=time.monotonic)

    async def begins(self) -> None:
        self.since = time.monotonic()

    def ends(self) -> None:
        RECOVERY_SECONDS.observe(time.monotonic() - self.since)


def _late(seconds: float) -> None:
    LOOP_LAG.observe(seconds)
    series.late(seconds)


@app.task  # type: ignore[untyped-decorator]
async def look_at_itself() -> None:
    """Look at what this worker makes of its work, for `/healthz`, the metrics and the charts."""
    await asyncio.gather(watch.run(_late), lag.run(), series.run(), handler_counts.run())


async def _roster() -> list[Peer] | None:
    members = await app.group.members()
    if members is None:
        return None
    changelog = app.topic_specs.changelog.name
    return [Peer(one.client_id, one.url, one.assigned.get(changelog, frozenset())) for one in members]


others: Final = Others(
    app.incarnation,
    lambda: str(app.conf.canonical_url),
    lambda: here.listed,
    settings.partitions,
    _roster,
    Seal(settings.client_secrets[0], settings.app_id),
)
loop_lag: Final = LoopLag()
guard: Final = Guard(settings.web_token.get_secret_value(), settings.web_read_token.get_secret_value())
pages: Final = Pages(derived_key(settings.port_client_secret, settings.port_org_id).get_secret_value())
owners: Final = Owners(here, readiness, others)
actions: Final = Actions(
    here,
    owners,
    pages,
    pausing,
    handler_agents.keys(),
    ask,
    ask_to_pause,
)
known_letters: Final = Letters()
tail: Final = Tail(
    settings.own.client(),
    f"{app.incarnation}.views",
    {specs.dead_letters.name: known_letters.take_letter, specs.audit.name: known_letters.take_audited},
)


async def _read_letter(partition: int, offset: int) -> Taken | None:
    return await tail.read(specs.dead_letters.name, partition, offset)


def _decode(raw: bytes | None, named: str | None) -> Message:
    return sort_out(raw, named, settings.max_items)


async def _enter(message: NodeRunMessage, source: Source) -> None:
    key = message.node_run_id.encode()
    partition = partition_of(key, settings.partitions)
    await (await arrivals.send(key=key, value=arrival_of(message, source), partition=partition))


async def _try_out(event_type: str, payload: Payload) -> Tried:
    return await handler_agents[event_type].trials.run(payload)


async def _publish(payload: Payload, node_run_id: str, workflow_run_id: str) -> Sent:
    execution = NodeExecution(node_run_id, workflow_run_id, TEST_MESSAGE, TEST_MESSAGE, time.time())
    message = execution.message(dict(payload))
    if settings.signature is Signature.REQUIRED:
        message = signed(message, settings.client_secrets[0])
    return await publish(settings.own, specs.runs.name, node_run_id, message)


async def _note(audited: Audited) -> None:
    await write(audited)
    known_letters.add(audited)


@app.task  # type: ignore[untyped-decorator]
async def follow_letters() -> None:
    """Follow the dead letters, and what people did."""
    await tail.run()


index: Final = Index(settings.data_dir / f"{settings.app_id}.views.sqlite")
declarations: Final = {name: declaration_of(one.handler) for name, one in handler_agents.items()}
trials: Final = Trials(
    settings.web_test_messages,
    app.incarnation,
    pages,
    actions,
    declarations,
    _try_out,
    _publish,
    _note,
)
status: Final = Status(here, readiness, loop_lag)


async def _refused(limit: int) -> list[str]:
    found = await index.search(Query(state=State.REFUSED), limit)
    return [node_run_id for _, node_run_id in found.node_runs]


site: Final = Site(
    here=here,
    readiness=readiness,
    guard=guard,
    strangers=Strangers(foreign_samples, lambda: counts_by_reason(_messages(), list(Foreign))),
    registry=REGISTRY,
    pages=pages,
    callbacks=Callbacks(callbacks, here, record),
    actions=actions,
    letters=LetterViews(known_letters, pages, actions, _read_letter, _enter, write, _decode),
    watch=watch,
    others=others,
    owners=owners,
    workers=Workers(status, others, pages, asks=guard.asks),
    looked=Looked(
        failed=index,
        behind=lag.behind,
        letters=known_letters,
        series=SeriesViews(series.shown, others),
        status=status,
        watch=watch,
        pausing=pausing,
        deadlines={name: one.handler.deadline for name, one in handler_agents.items()},
    ),
    areas=[
        Lists(here, index, others, pages),
        Stuck(here, pages, others, pausing, declarations, _refused),
        Handlers(here, pages, pausing, declarations, others, handler_counts, trials),
    ],
)

app.after_rebalance.append(readiness.note_assignment)
app.before_start += [loop_lag.start, index.start]
app.after_stop += [loop_lag.stop, others.close, index.stop]
overview.followers.append(index)
queues: dict[str, Queue] = {f"handler-{event_type}": one.feeder for event_type, one in handler_agents.items()}
REGISTRY.register(
    Gauges(here, readiness, queues | {"reporter": reports, "retrier": retries, "teller": tells}, watch, lag)
)
recovery: Final = _Recovery()
app.before_rebalance.append(recovery.begins)
app.on_settled.append(recovery.ends)
# Faust's index, which the settings cannot switch off, and whatever else they might.
server = cast("Web", app.web)
server.blueprints = BlueprintManager()
site.install(server.web_app)
# Before it is set up, at the start: Faust's own has no limits.
server._runner = BoundedRunner(server.web_app, Limits())
