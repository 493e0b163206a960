"""Spans of OpenTelemetry, for `agents.tracing`: the only module that needs the extra `otel`.

The trace of a node run is its workflow run, so that all of its node runs stand together. Ids are derived, not drawn:
whichever worker makes a span, after a crash or a move, too, it belongs to the same trace and node run. Spans are made
when their end is known, with the times of the ledger; nothing is kept open.
"""

from __future__ import annotations

import os
from hashlib import sha256
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags, set_span_in_context
from opentelemetry.util.types import AttributeValue

from agents.contract import Context
from port.models import Result
from streams.records import ItemFinished, ItemRetry, ReportAnswered, Settled
from tables.state import NodeRun

_ENDS: Final = frozenset({Settled.REPORTED, Settled.REFUSED, Settled.CANCELLED})


def trace_id_of(node_run_id: str, workflow_run_id: str | None) -> int:
    """Return the id of the trace that a node run belongs to."""
    return int.from_bytes(sha256((workflow_run_id or node_run_id).encode()).digest()[:16], "big")


def span_id_of(node_run_id: str) -> int:
    """Return the id of a node run's own span."""
    return int.from_bytes(sha256(node_run_id.encode()).digest()[:8], "big")


class _Ids(RandomIdGenerator):
    """Draws ids but for the next span, where they are set."""

    next: tuple[int, int] | None = None

    def generate_trace_id(self) -> int:
        return super().generate_trace_id() if self.next is None else self.next[0]

    def generate_span_id(self) -> int:
        return super().generate_span_id() if self.next is None else self.next[1]


class Spans:
    """Makes the spans of this worker's work: `item` and `report`, and around them `node run`.

    No payload, output or error text is in them.

    Args:
        worker: the identity of the worker.
        processor: where they go; None for what OTEL_* says, in batches, from a thread.
    """

    def __init__(self, worker: str, processor: SpanProcessor | None = None) -> None:
        self._ids = _Ids()
        own: dict[str, AttributeValue] = {"service.instance.id": worker}
        if "OTEL_SERVICE_NAME" not in os.environ:
            own["service.name"] = "port-runs"
        self._provider = TracerProvider(resource=Resource.create(own), id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(processor or BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("port-runs")

    def item(self, context: Context, event: object, began_at: float, ended_at: float) -> None:
        """Make the span of a call of a handler; `event` is what became of it."""
        result = event.result.value if isinstance(event, ItemFinished) else None
        ended = result or ("retry" if isinstance(event, ItemRetry) else "deferred")
        attributes = _named(context.node_run_id, context.workflow_run_id) | {
            "port.event_type": context.event_type,
            "port.item": context.index,
            "port.attempt": context.attempt,
            "port.ended": ended,
        }
        self._child("item", attributes, began_at, ended_at, failed=result == Result.FAILED)

    def report(self, run: NodeRun, answered: ReportAnswered) -> None:
        """Make the span of a report, and that of the node run where it is over."""
        attributes = _named(run.node_run_id, run.workflow_run_id) | {"port.settled": answered.settled.value}
        if answered.status is not None:
            attributes["http.response.status_code"] = answered.status
        refused = answered.settled is not Settled.REPORTED
        self._child("report", attributes, run.last_ended_at or run.received_at, answered.at, failed=refused)
        if answered.settled in _ENDS:
            self._node_run(run, answered)

    def _node_run(self, run: NodeRun, answered: ReportAnswered) -> None:
        ids = (trace_id_of(run.node_run_id, run.workflow_run_id), span_id_of(run.node_run_id))
        if not self._sampled(ids[0]):
            return
        attributes = _named(run.node_run_id, run.workflow_run_id) | {
            "port.workflow": run.workflow or "",
            "port.node": run.node or "",
            "port.items": run.items,
            "port.result": "" if run.result is None else run.result.value,
        }
        self._ids.next = ids
        try:
            span = self._tracer.start_span(
                "node run", kind=SpanKind.CONSUMER, attributes=attributes, start_time=_nanoseconds(run.received_at)
            )
        finally:
            self._ids.next = None
        if run.result is Result.FAILED or answered.settled is Settled.REFUSED:
            span.set_status(StatusCode.ERROR)
        span.end(_nanoseconds(max(answered.at, run.received_at)))

    def _child(
        self, name: str, attributes: dict[str, AttributeValue], began_at: float, ended_at: float, *, failed: bool
    ) -> None:
        node_run_id = str(attributes["port.node_run_id"])
        trace_id = trace_id_of(node_run_id, str(attributes.get("port.workflow_run_id", "")) or None)
        if not self._sampled(trace_id):
            return
        around = SpanContext(
            trace_id, span_id_of(node_run_id), is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED)
        )
        span = self._tracer.start_span(
            name,
            context=set_span_in_context(NonRecordingSpan(around)),
            attributes=attributes,
            start_time=_nanoseconds(began_at),
        )
        if failed:
            span.set_status(StatusCode.ERROR)
        span.end(_nanoseconds(max(began_at, ended_at)))

    def _sampled(self, trace_id: int) -> bool:
        # One decision for the whole trace, by its id: whoever makes a part of it decides the same.
        return self._provider.sampler.should_sample(None, trace_id, "node run").decision is Decision.RECORD_AND_SAMPLE

    def close(self) -> None:
        """Send what was not sent yet. Blocks, for as long as OTEL_* says."""
        self._provider.shutdown()


def _named(node_run_id: str, workflow_run_id: str | None) -> dict[str, AttributeValue]:
    named: dict[str, AttributeValue] = {"port.node_run_id": node_run_id}
    return named if workflow_run_id is None else named | {"port.workflow_run_id": workflow_run_id}


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
