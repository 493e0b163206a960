"""Every metric of a worker, listed once: name, type, labels, meaning and unit. `/metrics` serves them for Prometheus.

Counters and histograms are counted where things happen. Gauges have their value asked for when `/metrics` is read
(`web.metrics`). The table in docs/operations.md is made of this list: `python -m streams.metrics` prints it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

REGISTRY: Final = CollectorRegistry()
OTHER: Final = "other"
"""The label of event types that no handler is declared for: what messages say is not bounded."""


class Kind(StrEnum):
    """The types of metrics, in Prometheus' words."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True)
class Listed:
    """A metric as it is listed."""

    name: str
    """Without the endings that Prometheus adds to it (`_total`, `_bucket`, `_sum`, `_count`)."""
    kind: Kind
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()

    @property
    def series(self) -> tuple[str, ...]:
        """The names of its time series."""
        endings = {Kind.COUNTER: ("_total",), Kind.GAUGE: ("",), Kind.HISTOGRAM: ("_bucket", "_count", "_sum")}
        return tuple(f"{self.name}{ending}" for ending in endings[self.kind])

    def gauge(self, *values: tuple[Sequence[str], float]) -> GaugeMetricFamily:
        """Return it as a gauge with these values, each with the values of its labels."""
        family = GaugeMetricFamily(self.name, self.meaning, labels=self.labels)
        for labels, value in values:
            family.add_metric(labels, value)
        return family

    def total(self, value: float) -> CounterMetricFamily:
        """Return it as a counter without labels that was counted elsewhere."""
        return CounterMetricFamily(self.name, self.meaning, value=value)


LIST: Final[dict[str, Listed]] = {}
"""All metrics, by name, in the order of the table in the docs."""


def _listed(kind: Kind, name: str, unit: str, meaning: str, labels: Sequence[str] = ()) -> Listed:
    one = LIST[f"port_runs_{name}"] = Listed(f"port_runs_{name}", kind, unit, meaning, tuple(labels))
    return one


def _counter(name: str, unit: str, meaning: str, labels: Sequence[str] = ()) -> Counter:
    one = _listed(Kind.COUNTER, name, unit, meaning, labels)
    return Counter(one.name, one.meaning, one.labels, registry=REGISTRY)


def _histogram(name: str, unit: str, meaning: str, buckets: Sequence[float], labels: Sequence[str] = ()) -> Histogram:
    one = _listed(Kind.HISTOGRAM, name, unit, meaning, labels)
    return Histogram(one.name, one.meaning, one.labels, registry=REGISTRY, buckets=buckets)


def _set_gauge(name: str, unit: str, meaning: str, labels: Sequence[str] = ()) -> Gauge:
    one = _listed(Kind.GAUGE, name, unit, meaning, labels)
    return Gauge(one.name, one.meaning, one.labels, registry=REGISTRY)


def _gauge(name: str, unit: str, meaning: str, labels: Sequence[str] = ()) -> Listed:
    return _listed(Kind.GAUGE, name, unit, meaning, labels)


_QUICK: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_LONG: Final = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 600, 1800, 3600)

# What comes in.
MESSAGES: Final = _counter(
    "messages",
    "messages",
    "messages read from `<orgId>.runs`, by what they turned out to be: `arrival`, `dead letter`, `signature refused` "
    "and `unsure` (dead letters, too), or why they are not ours",
    ["what"],
)
UNSURE: Final = _counter(
    "unsure_messages",
    "messages",
    "messages that look like a Kafka node's in a form that is not known; they are kept as dead letters, and a node run "
    "may wait for each",
)
REPEATED: Final = _counter(
    "repeated_messages",
    "messages",
    "messages whose node run has one with the same content, by where that stood: `same place` (read again), `another` "
    "(sent again, or an equal element of an array that comes one by one, which cannot be told apart)",
    ["stood"],
)
DEAD_LETTERS: Final = _counter(
    "dead_letters", "records", "records that went to the dead letters, by the topic that they stood in", ["topic"]
)
LAG: Final = _gauge(
    "lag",
    "records",
    "records of this worker's partitions that have not had their turn yet, by topic; absent while Kafka does not "
    "answer",
    ["topic"],
)
RECOVERED: Final = _counter(
    "recovered_records", "records", "records that Faust had dropped and that were read again, by topic", ["topic"]
)
INTERVENTIONS: Final = _listed(Kind.COUNTER, "offset_interventions", "times", "how often records were read again")
LOG_REWINDS: Final = _counter(
    "log_rewinds",
    "times",
    "how often a partition's log was found to hold other records than it did, or to end sooner, by topic: lost or "
    "restored on the broker",
    ["topic"],
)
DELETED_RECORDS: Final = _counter(
    "deleted_records",
    "records",
    "records that were deleted, by retention say, before they were read, at most, by topic",
    ["topic"],
)
OPEN_TRANSACTION: Final = _gauge(
    "open_transaction_seconds",
    "seconds",
    "for how long at least a transaction of a producer has kept what is behind it from being read, the longest of each "
    "topic; 0 where none does",
    ["topic"],
)
EVENTS: Final = _counter(
    "ledger_events",
    "events",
    "events applied to the ledger: `applied`, `duplicate` (changed nothing), `late` (for nothing that is known), "
    "`refused` (a callback for what has ended otherwise), `set aside` (a dead letter: the node run's row cannot be "
    "read)",
    ["note"],
)
# Where node runs stand.
NODE_RUNS: Final = _gauge("node_runs", "node runs", "node runs of this worker, by state", ["state"])
NODE_RUNS_BY_TYPE: Final = _gauge(
    "node_runs_by_type",
    "node runs",
    "the same by the event type of their first item as well; `running` and `deferred` ones count as `waiting` here. "
    f"Event types without a handler are `{OTHER}`",
    ["state", "event_type"],
)
UNREADABLE_ROWS: Final = _gauge(
    "unreadable_rows",
    "rows",
    "rows of the ledger that this worker found unreadable and set aside, by what they are of: `open node run` (a "
    "person must complete it at Port), `finished node run`, `message`, `digest`, `item`, `owner`, `paused handler`",
    ["kind"],
)
DUE: Final = _gauge(
    "due_entries", "entries", "retries, ends of deferrals and of grace, and held items that wait for their time"
)
HELD: Final = _gauge(
    "held_items", "items", "items that wait for a handler of their event type to be deployed (`UNKNOWN_EVENTS=hold`)"
)
# Handlers.
ITEMS: Final = _counter(
    "items",
    "calls",
    "calls of handlers, by event type and how they ended: `SUCCESS`, `FAILED`, `CANCELLED`, `retry`, `deferred`",
    ["event_type", "ended"],
)
ITEM_SECONDS: Final = _histogram(
    "item_seconds", "seconds", "how long calls of handlers took that ended their item", _LONG, ["event_type"]
)
ATTEMPTS: Final = _histogram(
    "item_attempts", "calls", "how many calls of its handler an item took to its end", (1, 2, 3, 5, 10), ["event_type"]
)
DEADLINE_MISSES: Final = _counter(
    "deadline_misses", "calls", "calls of handlers that were ended by their deadline", ["event_type"]
)
OVERDUE: Final = _counter(
    "overdue_calls",
    "calls",
    "calls of handlers that went on past their deadline, or their cancellation, and kept their place",
    ["event_type"],
)
WAITING: Final = _gauge(
    "queue_waiting",
    "pieces of work",
    "pieces of work that wait, by agent: `handler-<event type>`, `reporter`, `retrier` (reports and log lines "
    "that Port has failed at before), `teller` (log lines)",
    ["agent"],
)
OLDEST: Final = _gauge(
    "queue_oldest_seconds",
    "seconds",
    "how long the oldest of them has waited for an actor; 0 where none does",
    ["agent"],
)
RUNNING: Final = _gauge("queue_running", "pieces of work", "pieces of work that are being done, by agent", ["agent"])
# Port.
REPORT_SECONDS: Final = _histogram(
    "report_seconds",
    "seconds",
    "from the end of the last item to Port's answer to the report, by the node run's result and by what Port made of "
    "the report: `reported`, `refused`, `output_refused` (sent once more without the output), `cancelled`",
    _LONG,
    ["result", "settled"],
)
PARKED: Final = _gauge(
    "parked_reports",
    "reports",
    "reports that Port fails at while it takes others: sent again with pauses up to 15 minutes, until Port takes them, "
    "refuses them for good, or somebody gives them up",
)
API_CALLS: Final = _counter(
    "api_calls", "calls", "calls of Port's API, by call and status (`none`: no answer came)", ["call", "status"]
)
API_SECONDS: Final = _histogram("api_seconds", "seconds", "how long calls of Port's API took", _QUICK, ["call"])
UNREACHABLE: Final = _gauge(
    "port_unreachable_seconds",
    "seconds",
    "how long calls of Port's API have brought no answer, or only 5xx; 0 where the last one did",
)
CREDENTIALS_REFUSED: Final = _gauge(
    "credentials_refused", "0 or 1", "whether Port refuses the credentials, or the token that it has given for them"
)
REMAINING: Final = _gauge(
    "rate_limit_remaining",
    "calls",
    "calls that are left of the organization's rate limit; `NaN` where Port did not say so lately",
)
# The worker.
OWNED: Final = _gauge("owned_partitions", "partitions", "partitions that this worker has taken over")
KAFKA_AWAY: Final = _gauge(
    "kafka_away_seconds",
    "seconds",
    "for how long the own Kafka has not answered this worker, or has taken no records; 0 where it does",
)
READY: Final = _gauge("ready", "0 or 1", "whether this worker is ready: what `/readyz` says")
HEALTHY: Final = _gauge("healthy", "0 or 1", "whether this worker is healthy: what `/healthz` says")
STANDING: Final = _gauge(
    "standing_seconds",
    "seconds",
    "for how long an agent, consumer or other stage has had work and has made no progress; 0 where it is well, or "
    "paused on purpose",
    ["stage"],
)
RECOVERY_SECONDS: Final = _histogram(
    "recovery_seconds",
    "seconds",
    "rebalances: from the loss of the partitions, at first from the start, until the table was recovered and events "
    "flowed again",
    (0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600),
)
LOOP_LAG: Final = _histogram(
    "loop_lag_seconds",
    "seconds",
    "how much later than asked for the event loop woke a task that looks four times a second",
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
SOURCE_COPIED: Final = _counter(
    "source_copied_records", "records", "records copied from the source cluster to the own one"
)
SOURCE_CUT: Final = _counter(
    "source_refused_records",
    "records",
    "records of the source that the own topic refused as they were, by what was kept of them: `whole` (without headers "
    "or key), `part`, `dead letter`",
    ["kept"],
)
SOURCE_LAG: Final = _set_gauge(
    "source_lag",
    "records",
    "records of the source cluster that are not copied yet, of the partitions that this worker copies",
    ["partition"],
)
SOURCE_UP: Final = _set_gauge(
    "source_up",
    "0 or 1",
    "whether this worker is connected to the source cluster; absent where there is none",
    ["source"],
)


def table(metrics: Iterable[Listed] = LIST.values()) -> str:
    """Return the list as a table in Markdown. Counters stand there with the ending that Prometheus knows them by."""
    lines = ["| metric | type | labels | unit | meaning |", "|---|---|---|---|---|"]
    for one in metrics:
        name = one.series[0] if one.kind is Kind.COUNTER else one.name
        labels = ", ".join(f"`{label}`" for label in one.labels)
        lines.append(f"| `{name}` | {one.kind} | {labels} | {one.unit} | {one.meaning} |".replace("|  |", "| |"))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(table())
