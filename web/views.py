"""Puts the web views on Faust's web server, in the place of Faust's own pages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, cast

from faust.web.base import BlueprintManager
from faust.web.drivers.aiohttp import Web

from agents.entering import record
from agents.reporter import reports, tells
from agents.router import foreign_samples
from agents.running import handler_agents
from agents.shared import callbacks, dispatch, holding, node_runs, overview, telling
from streams.app import app, settings
from streams.messages import Foreign
from streams.metrics import MESSAGES, REGISTRY
from web.auth import Guard
from web.callbacks import Callbacks
from web.health import Readiness
from web.here import Here
from web.metrics import Gauges, Queue
from web.pages import Pages
from web.site import Site, Strangers, counts_by_reason

readiness: Final = Readiness(app, dispatch)
here: Final = Here(
    app,
    node_runs,
    overview,
    dispatch,
    {event_type: one.feeder for event_type, one in handler_agents.items()},
    holding,
    telling,
)


def _messages() -> Iterator[tuple[str, float]]:
    for metric in MESSAGES.collect():
        yield from ((one.labels["what"], one.value) for one in metric.samples if one.name.endswith("_total"))


site: Final = Site(
    here=here,
    readiness=readiness,
    guard=Guard(settings.web_token.get_secret_value()),
    strangers=Strangers(foreign_samples, lambda: counts_by_reason(_messages(), list(Foreign))),
    registry=REGISTRY,
    pages=Pages(),
    callbacks=Callbacks(callbacks, here, record),
)

app.after_rebalance.append(readiness.note_assignment)
queues: dict[str, Queue] = {f"handler-{event_type}": one.feeder for event_type, one in handler_agents.items()}
REGISTRY.register(Gauges(here, readiness, queues | {"reporter": reports, "teller": tells}))
# Faust's index, which the settings cannot switch off, and whatever else they might.
server = cast("Web", app.web)
server.blueprints = BlueprintManager()
site.install(server.web_app)
