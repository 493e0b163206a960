"""The stages of this worker: what has to make progress while it has work. `streams.progress` looks at them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from agents import reporter
from agents.backlog import backlog
from agents.running import handler_agents
from agents.shared import rows, specs
from streams.app import app
from streams.bridge import Bridge
from streams.lag import Lag
from streams.progress import Stage

lag: Final = Lag(app.offsets, app.log_reader)


def paused() -> bool:
    """Tell whether the whole worker is paused on purpose, or by what no restart of it would mend.

    It starts, stops or drains; the group shares its partitions out; the own Kafka is away.
    """
    away = app.kafka.away or not lag.answers
    return app.stopping or app.rebalancing or not app.settled.is_set() or away


def _reader(name: str, topic: str, waits: Callable[[], bool] = lambda: False) -> Stage:
    """Return the stage of the agent that reads a topic; where it `waits` it takes nothing new on, on purpose."""
    offsets = app.offsets

    def has_work() -> bool:
        return offsets.in_hand(topic) or (lag.by_topic().get(topic, 0) > 0 and not waits())

    return Stage(name, name, lambda: offsets.turns_ended[topic], has_work)


def _bridge(bridge: Bridge) -> Stage:
    # It goes round every few seconds, also where there is nothing to copy.
    return Stage("bridge", "bridge", lambda: bridge.rounds, lambda: bridge.status.connected)


def all_stages() -> list[Stage]:
    """Return the stages of this worker."""
    changelog = rows.changelog
    return [
        *([] if app.bridge is None else [_bridge(app.bridge)]),
        _reader("router", specs.runs.name),
        _reader("ledger-arrivals", specs.arrivals.name, lambda: backlog.room() <= 0),
        _reader("ledger-outcomes", specs.outcomes.name),
        Stage("changelog", "changelog", lambda: changelog.acknowledged, lambda: changelog.unacknowledged > 0),
        *(agent.stage for agent in handler_agents.values()),
        *reporter.stages,
    ]
