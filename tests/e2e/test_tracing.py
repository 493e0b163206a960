"""A worker sends its spans where OTEL_EXPORTER_OTLP_ENDPOINT says, the last ones at its stop."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from agents.spans import span_id_of
from tests.e2e.conftest import NewCluster
from tests.processes import STARTS_WITHIN, eventually, ready


@contextmanager
def collector() -> Iterator[tuple[int, list[bytes]]]:
    """Takes what is sent, as a collector of OpenTelemetry does; yields its port and the bodies."""
    bodies: list[bytes] = []

    class Takes(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Takes) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1], bodies
        server.shutdown()


def test_the_spans_of_a_node_run_reach_the_collector(new_cluster: NewCluster) -> None:
    cluster = new_cluster()
    with collector() as (port, bodies):
        endpoint = f"http://127.0.0.1:{port}"
        with cluster.worker("one", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) as worker:
            eventually(lambda: ready(worker), "the worker is ready", STARTS_WITHIN)
            node_run_id = cluster.publish({"type": "echo", "password": "hunter2"})
            reported = "/api/node-runs?state=reported"
            eventually(lambda: worker.get(reported).json["nodeRuns"], "the node run is reported")
            assert worker.stop() == 0
    requests = [ExportTraceServiceRequest.FromString(body) for body in bodies]
    [resource] = {str(one.resource) for request in requests for one in request.resource_spans}
    assert '"port-runs"' in resource
    scopes = [scope for request in requests for one in request.resource_spans for scope in one.scope_spans]
    spans = [span for scope in scopes for span in scope.spans]
    assert sorted(span.name for span in spans) == ["item", "node run", "report"]
    assert len({span.trace_id for span in spans}) == 1
    assert (
        {span.span_id for span in spans if span.name == "node run"}
        == {span_id_of(node_run_id).to_bytes(8, "big")}
        == {span.parent_span_id for span in spans if span.name != "node run"}
    )
    assert b"hunter2" not in b"".join(bodies)
