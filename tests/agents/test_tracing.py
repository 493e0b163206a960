"""Spans of the way of a node run, as an exporter in memory gets them."""

import logging
import sys
from collections.abc import Mapping

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from agents.spans import Spans, span_id_of, trace_id_of
from agents.tracing import spans_of
from streams.records import Settled
from tables.state import NodeRun
from tests.agents.examples import context
from tests.tables.examples import answered, finished, reporting, retry

SECRET = "hunter2"
SOMEWHERE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Spans:
    return Spans("host-1", SimpleSpanProcessor(exporter))


def made(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def way(spans: Spans, settled: Settled = Settled.REPORTED, error: str | None = None) -> NodeRun:
    """A node run comes, its item is called, its report answered."""
    run = reporting()
    spans.item(context(), finished(error=error), 150.0, 151.5)
    spans.report(run, answered(settled))
    return run


def test_the_way_of_a_node_run_is_in_the_trace_of_its_workflow_run(
    spans: Spans, exporter: InMemorySpanExporter
) -> None:
    run = way(spans)
    found = made(exporter)
    assert list(found) == ["item", "report", "node run"]
    around = found["node run"].get_span_context()
    assert around is not None
    assert around.trace_id == trace_id_of("anything", run.workflow_run_id)
    assert around.span_id == span_id_of(run.node_run_id)
    assert found["node run"].parent is None
    for name in ("item", "report"):
        own, parent = found[name].get_span_context(), found[name].parent
        assert own is not None
        assert parent is not None
        assert (own.trace_id, parent.span_id) == (around.trace_id, around.span_id)
        assert own.span_id != around.span_id
    assert found["node run"].resource.attributes["service.name"] == "port-runs"


def test_times_and_attributes_are_those_of_the_ledger(spans: Spans, exporter: InMemorySpanExporter) -> None:
    run = way(spans)
    found = made(exporter)
    times = {name: (span.start_time, span.end_time) for name, span in found.items()}
    assert times["item"] == (150_000_000_000, 151_500_000_000)
    assert times["node run"] == (int(run.received_at * 1e9), 400_000_000_000)
    assert times["report"] == (int((run.last_ended_at or 0) * 1e9), 400_000_000_000)
    attributes = found["item"].attributes
    assert attributes is not None
    assert attributes["port.node_run_id"] == run.node_run_id
    assert (attributes["port.event_type"], attributes["port.attempt"], attributes["port.ended"]) == (
        "greet",
        1,
        "SUCCESS",
    )


def test_ids_do_not_depend_on_the_worker(spans: Spans, exporter: InMemorySpanExporter) -> None:
    way(spans)
    way(Spans("host-2", SimpleSpanProcessor(exporter)))
    runs = [span.get_span_context() for span in exporter.get_finished_spans() if span.name == "node run"]
    assert len(runs) == 2
    assert runs[0] == runs[1]


def test_failures_show_without_their_text(spans: Spans, exporter: InMemorySpanExporter) -> None:
    way(spans, Settled.REFUSED, error=f"no: {SECRET}")
    found = made(exporter)
    assert {name: span.status.status_code for name, span in found.items()} == dict.fromkeys(found, StatusCode.ERROR)
    assert SECRET not in str([(span.attributes, span.events, span.status.description) for span in found.values()])


def test_a_node_run_is_over_once(spans: Spans, exporter: InMemorySpanExporter) -> None:
    spans.item(context(), retry(), 150.0, 151.0)
    way(spans, Settled.OUTPUT_REFUSED)
    assert list(made(exporter)) == ["item", "report"]
    way(spans)
    assert [span.name for span in exporter.get_finished_spans()].count("node run") == 1


def test_sampling_keeps_or_drops_a_whole_trace(exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    way(Spans("host-1", SimpleSpanProcessor(exporter)))
    assert not exporter.get_finished_spans()


@pytest.mark.parametrize(
    "environment", [{}, SOMEWHERE | {"OTEL_SDK_DISABLED": "true"}, SOMEWHERE | {"OTEL_TRACES_EXPORTER": "none"}]
)
def test_it_is_off_unless_it_is_said_where_they_go(environment: Mapping[str, str]) -> None:
    assert spans_of("host-1", environment) is None


def test_it_is_on_where_that_is_said() -> None:
    spans = spans_of("host-1", SOMEWHERE)
    assert spans is not None
    spans.close()


def test_without_the_extra_one_line_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delitem(sys.modules, "agents.spans", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with caplog.at_level(logging.WARNING):
        assert spans_of("host-1", SOMEWHERE) is None
    assert "pip install 'port-runs[otel]'" in caplog.text
