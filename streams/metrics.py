"""Every metric of a worker, each with its meaning; `/metrics` serves them for Prometheus."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY: Final = CollectorRegistry()

MESSAGES: Final = Counter(
    "port_runs_messages",
    "Messages read from <orgId>.runs, by what they turned out to be: arrival, dead letter, signature refused (dead "
    "letters, too), or why they are not ours",
    ["what"],
    registry=REGISTRY,
)
EVENTS: Final = Counter(
    "port_runs_ledger_events",
    "Events applied to the ledger: applied, duplicate (changed nothing), late (for nothing that is known), refused (a "
    "callback for what has ended otherwise)",
    ["note"],
    registry=REGISTRY,
)
RECOVERED: Final = Counter(
    "port_runs_recovered_records",
    "Records that Faust had dropped and that were read again, by topic",
    ["topic"],
    registry=REGISTRY,
)
ITEMS: Final = Counter(
    "port_runs_items",
    "Calls of handlers, by event type and how they ended: SUCCESS, FAILED, CANCELLED, retry, deferred",
    ["event_type", "ended"],
    registry=REGISTRY,
)
ITEM_SECONDS: Final = Histogram(
    "port_runs_item_seconds",
    "How long calls of handlers took",
    ["event_type"],
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 600, 1800, 3600),
    registry=REGISTRY,
)
API_CALLS: Final = Counter(
    "port_runs_api_calls",
    "Calls of Port's API, by call and status (none: no answer came)",
    ["call", "status"],
    registry=REGISTRY,
)
API_SECONDS: Final = Histogram(
    "port_runs_api_seconds", "How long calls of Port's API took", ["call"], registry=REGISTRY
)
OVERDUE: Final = Counter(
    "port_runs_overdue_calls",
    "Calls of handlers that went on past their deadline and kept their slot",
    ["event_type"],
    registry=REGISTRY,
)
SOURCE_COPIED: Final = Counter(
    "port_runs_source_copied_records", "Records copied from the source cluster to the own one", registry=REGISTRY
)
SOURCE_LAG: Final = Gauge(
    "port_runs_source_lag",
    "Records of the source cluster that are not copied yet, by partition, of those that this worker copies",
    ["partition"],
    registry=REGISTRY,
)
SOURCE_UP: Final = Gauge(
    "port_runs_source_up",
    "Whether this worker is connected to the source cluster: 1 or 0; absent where there is none",
    ["source"],
    registry=REGISTRY,
)
