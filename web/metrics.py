"""The gauges of a worker, read at the moment they are asked for; the counters are in `streams.metrics`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sized
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from port.client import PortClient
from web.health import Readiness
from web.here import Here


class Queue(Protocol):
    """What feeds an agent."""

    @property
    def waiting(self) -> int:
        """How many pieces of work wait."""

    @property
    def running(self) -> Sized:
        """The pieces that are being done."""


class Gauges(Collector):
    """What Prometheus may watch of this worker: state, queues, partitions."""

    def __init__(self, here: Here, readiness: Readiness, queues: Mapping[str, Queue]) -> None:
        self._here = here
        self._readiness = readiness
        self._queues_by_agent = queues

    def describe(self) -> list[Metric]:
        """Return nothing: what there is is told when it is asked for."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges."""
        here = self._here
        states = GaugeMetricFamily("port_runs_node_runs", "Node runs of this worker, by state", labels=["state"])
        for state, number in here.counts(here.now()).items():
            states.add_metric([state.value], number)
        yield states
        yield from self._queues()
        yield GaugeMetricFamily(
            "port_runs_due_entries",
            "Retries, ends of grace and held items that wait for their time",
            value=len(here.dispatch.due),
        )
        yield GaugeMetricFamily(
            "port_runs_held_items",
            "Items that wait for a handler of their event type to be deployed",
            value=here.holding.items,
        )
        yield GaugeMetricFamily(
            "port_runs_owned_partitions", "Partitions that this worker has taken over", value=len(here.partitions)
        )
        yield GaugeMetricFamily(
            "port_runs_ready", "Whether this worker is ready: 1 or 0", value=self._readiness.obstacle() is None
        )
        yield from _of_port(here.worker.port)
        yield CounterMetricFamily(
            "port_runs_offset_interventions",
            "How often records that Faust had dropped were read again",
            value=here.worker.offsets.interventions,
        )

    def _queues(self) -> Iterator[Metric]:
        waiting = GaugeMetricFamily("port_runs_queue_waiting", "Pieces of work that wait, by agent", labels=["agent"])
        running = GaugeMetricFamily("port_runs_queue_running", "Pieces of work being done, by agent", labels=["agent"])
        for name, queue in self._queues_by_agent.items():
            waiting.add_metric([name], queue.waiting)
            running.add_metric([name], len(queue.running))
        yield waiting
        yield running


def _of_port(port: PortClient) -> Iterator[Metric]:
    since, remaining = port.unreachable_since, port.budget.remaining
    yield GaugeMetricFamily(
        "port_runs_port_unreachable_seconds",
        "How long calls of Port's API have brought no answer, or only 5xx; 0 where the last one did",
        value=0.0 if since is None else max(0.0, time.time() - since),
    )
    yield GaugeMetricFamily(
        "port_runs_rate_limit_remaining",
        "Calls that are left of the organization's rate limit; NaN where Port did not say so lately",
        value=float("nan") if remaining is None else remaining,
    )
