"""The gauges of a worker, read at the moment they are asked for. Every metric is listed in `streams.metrics`."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from typing import Protocol

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from port.client import PortClient
from port.trouble import TroubleKind
from streams import metrics
from streams.lag import Lag
from streams.progress import Watch
from web.health import Readiness
from web.here import Here


class Queue(Protocol):
    """What feeds an agent."""

    @property
    def waiting(self) -> int:
        """How many pieces of work wait."""

    @property
    def taken(self) -> int:
        """How many are being done."""

    def oldest(self) -> float:
        """For how many seconds the oldest of those that wait has waited."""


class Gauges(Collector):
    """What Prometheus may watch of this worker: state, queues, partitions, health."""

    def __init__(
        self, here: Here, readiness: Readiness, queues: Mapping[str, Queue], watch: Watch, lag: Lag | None = None
    ) -> None:
        self._here = here
        self._readiness = readiness
        self._queues_by_agent = queues
        self._watch = watch
        self._lag = lag

    def describe(self) -> list[Metric]:
        """Return nothing: what there is is told when it is asked for."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges."""
        yield from self._states()
        yield from self._queues()
        yield from self._health()
        yield from _of_port(self._here.worker.port)
        yield metrics.INTERVENTIONS.total(self._here.worker.offsets.interventions)
        yield self._open_transactions()

    def _open_transactions(self) -> Metric:
        worker, longest = self._here.worker, dict[str, float]()
        for one in worker.transactions.all():
            longest[one.where.topic] = max(one.seconds, longest.get(one.where.topic, 0.0))
        topics = sorted({tp.topic for tp in worker.offsets.expected} | longest.keys())
        return metrics.OPEN_TRANSACTION.gauge(*(([topic], longest.get(topic, 0.0)) for topic in topics))

    def _states(self) -> Iterator[Metric]:
        here = self._here
        yield metrics.NODE_RUNS.gauge(*(([state.value], n) for state, n in here.counts(here.now()).items()))
        by_type = here.overview.counts_by_type().items()
        yield metrics.NODE_RUNS_BY_TYPE.gauge(
            *(([state.value, event_type or metrics.OTHER], number) for (state, event_type), number in by_type)
        )
        yield metrics.PARKED.gauge(([], sum(1 for _ in here.parked())))
        counts = here.node_runs.unreadable.counts().items()
        yield metrics.UNREADABLE_ROWS.gauge(*(([kind.value], number) for kind, number in counts))
        yield metrics.DUE.gauge(([], len(here.dispatch.due)))
        yield metrics.HELD.gauge(([], here.holding.items))
        yield metrics.OWNED.gauge(([], len(here.partitions)))

    def _queues(self) -> Iterator[Metric]:
        queues = self._queues_by_agent.items()
        yield metrics.WAITING.gauge(*(([name], queue.waiting) for name, queue in queues))
        yield metrics.OLDEST.gauge(*(([name], queue.oldest()) for name, queue in queues))
        yield metrics.RUNNING.gauge(*(([name], queue.taken) for name, queue in queues))

    def _health(self) -> Iterator[Metric]:
        yield metrics.KAFKA_AWAY.gauge(([], self._here.worker.kafka.away_seconds()))
        yield metrics.READY.gauge(([], self._readiness.obstacle() is None))
        yield metrics.HEALTHY.gauge(([], self._watch.problem() is None))
        yield metrics.STANDING.gauge(*(([name], seconds) for name, seconds in self._watch.standing().items()))
        behind = {} if self._lag is None else self._lag.by_topic()
        yield metrics.LAG.gauge(*(([topic], records) for topic, records in behind.items()))


def _of_port(port: PortClient) -> Iterator[Metric]:
    since, remaining = port.unreachable_since, port.budget.remaining
    yield metrics.UNREACHABLE.gauge(([], 0.0 if since is None else max(0.0, time.time() - since)))
    kind = None if port.trouble is None else port.trouble.kind
    yield metrics.CREDENTIALS_REFUSED.gauge(([], kind is TroubleKind.CREDENTIALS))
    yield metrics.REMAINING.gauge(([], math.nan if remaining is None else remaining))
