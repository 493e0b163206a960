"""What the pages show in pictures and in tests: node runs in every state, of one worker or several."""

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from pydantic import JsonValue

from streams.lag import Behind
from streams.records import Action, Audited, ItemDeferred, Settled, Source, TypePaused
from tests.web.fakes import NOON, FakeWorker, halves, lines
from web.counted import Counts
from web.declared import ArrayShown, Declaration, Kind, RetryShown
from web.series import Latency, Step

NODES = [
    ("deploy-service", "request-deployment", "deployment.requested"),
    ("onboard-team", "notify-owners", "notification.requested"),
    ("new-environment", "provision-cluster", "infrastructure.requested"),
    ("rotate-secrets", "restart-workloads", "deployment.requested"),
]
THREE_ITEMS = 12
"""The number of the node run that has more than one item."""
SERVICES = ["checkout", "payments", "search", "catalog", "inventory", "shipping"]
TRACE = """Traceback (most recent call last):
  File "/app/my_handlers.py", line 41, in deployment_requested
    release = await registry.release(event.service, event.version)
  File "/app/registry.py", line 88, in release
    raise RegistryError(f"no release {version} of {service}")
registry.RegistryError: no release 1.4.9 of payments
"""


_FIELD: JsonValue = {"type": "string"}
DECLARED = Declaration(
    function="my_handlers.deployment_requested",
    place="my_handlers.py:41",
    kind=Kind.COROUTINE,
    concurrency=20,
    deadline_seconds=300.0,
    retry=RetryShown(attempts=4, first_pause_seconds=1.0, longest_pause_seconds=300.0, never=["RegistryError"]),
    array=ArrayShown(share=0.9, cancel_rest=True),
    json_schema={
        "title": "DeploymentRequested",
        "type": "object",
        "required": ["service", "version", "environment"],
        "properties": {
            "service": {"type": "string", "examples": ["checkout"]},
            "version": {"type": "string", "examples": ["1.4.0"]},
            "environment": {"enum": ["staging", "production"]},
            "replicas": {"type": "integer", "default": 2},
            "note": _FIELD,
        },
    },
)
EVENT_TYPES = ("deployment.requested", "infrastructure.requested", "notification.requested")
LETTERS = {
    3: (
        "the node-run id is malformed",
        b'{"context":{"nodeRunId":"wfnr_ 7d1e"},"payload":{"eventType":"deployment.requested"}}',
    ),
    4: ("it is no JSON: expected value at line 1 column 1", b"\xff\xfe\x00d\x00e\x00p\x00l\x00o\x00y"),
    7: ("its signature is wrong", b'{"context":{"nodeRunId":"wfnr_9f27c1"},"payload":{"token":"t0k3n"}}'),
    9: ("it is no JSON: EOF while parsing a string at line 1 column 31", b'{"context":{"nodeRunId":"wfnr_1'),
}


def team() -> tuple[FakeWorker, FakeWorker]:
    """Return two workers that share the partitions, and what stands in topics: dead letters and audit."""
    one, other = FakeWorker("runs-1-9c41e07b", EVENT_TYPES), FakeWorker("runs-2-52d0aa16", EVENT_TYPES)
    halves(one, other)
    other.post = one.post
    return one, other


def seed(*workers: FakeWorker) -> None:
    """Bring node runs in every state, dead letters, and what people did. Needs a running event loop."""
    for number in range(26):
        _arrives(_owner(workers, node_run_id_of(number)), number)
    for worker in workers:
        worker.app.port.budget.remaining, worker.app.port.budget.limit = 13_482, 15_000
        worker.behind = {
            "acme.runs": Behind(0, 0, 0, 0.0),
            "acme.port-runs.arrivals": Behind(14, 3, 9, 0.0),
            "acme.port-runs.outcomes": Behind(2, 1, 2, 0.0),
        }
        _handlers(worker)
    post = workers[0].post
    for offset, (reason, raw) in LETTERS.items():
        post.add(offset, raw, reason)
    for audited in _audit():
        post.letters.add(audited)
    action = Action(id="p1", who="cli: anna")
    for worker in workers:
        for partition in worker.here.partitions:
            event_type = EVENT_TYPES[1]
            worker.pausing.change(partition, TypePaused(event_type=event_type, paused=True, action=action, at=NOON))


def _handlers(worker: FakeWorker) -> None:
    """Bring what handlers have done in the last hour, and calls of every age."""
    for number, event_type in enumerate(EVENT_TYPES):
        worker.counted[event_type] = Counts(
            succeeded=4812 >> number, failed=37 * number, retried=12, deadline_missed=4 * number, deferred=number
        )
        for took in range(40):
            worker.samples.of(event_type).add(0.2 + took * took / 900)
    worker.samples.take()
    worker.declarations[EVENT_TYPES[0]] = DECLARED


def node_run_id_of(number: int) -> str:
    """Return the id of one of the node runs."""
    return f"wfnr_{(number * 7919 + 104729) * 2654435761 % 2**40:010x}{number:02x}"


def _owner(workers: Sequence[FakeWorker], node_run_id: str) -> FakeWorker:
    return next(one for one in workers if one.here.partition_of(node_run_id) in one.here.partitions)


def _arrives(worker: FakeWorker, number: int) -> None:
    workflow, node, event_type = NODES[number % len(NODES)]
    service, node_run_id = SERVICES[number % len(SERVICES)], node_run_id_of(number)
    payload = {
        "eventType": event_type,
        "service": service,
        "version": f"1.4.{number % 10}",
        "environment": "production" if number % 3 else "staging",
    }
    count = 3 if number == THREE_ITEMS else 1
    worker.arrive(
        node_run_id,
        text=json.dumps({"payload": payload if count == 1 else [payload] * 3, "workflowNodeRunId": node_run_id}),
        count=count,
        workflow=workflow,
        node=node,
        workflow_run_id=f"wfr_{number:04x}f81d2c",
        event_types=(event_type,),
        source=Source(cluster="k:9092", topic="o.runs", partition=0, offset=number, timestamp=NOON + number),
    )
    _goes_on(worker, number, service, event_type)


def _goes_on(worker: FakeWorker, number: int, service: str, event_type: str) -> None:
    node_run_id = node_run_id_of(number)
    output = json.dumps(
        {"deployed": f"{service} 1.4.{number % 10}", "replicas": 6, "url": f"https://{service}.example"}
    )
    match number:
        case 25 | 23:
            worker.run(node_run_id)
        case 24:
            pass  # It waits.
        case 12:
            worker.end(node_run_id, 0, output=output, event_type=event_type)
            _is_called_again(worker, node_run_id, event_type)
            worker.end(node_run_id, 2, output=output, event_type=event_type)
            worker.settle(node_run_id)
        case 22 | 18:
            _waits_for_a_callback(worker, node_run_id, event_type)
        case 21 | 17:
            worker.defer(node_run_id, error="the registry answers 503", event_type=event_type)
        case 20:
            worker.end(node_run_id, output=output, event_type=event_type)
            worker.report(node_run_id)
        case 16 | 15:
            worker.end(node_run_id, output=output, event_type=event_type)
            worker.settle(node_run_id, Settled.REFUSED, "not_found: no such workflow node run")
        case 13 | 6 | 5 | 3:
            worker.end(node_run_id, error="there is no environment production-eu", event_type=event_type)
            worker.settle(node_run_id)
        case _:
            worker.end(node_run_id, output=output, event_type=event_type)
            worker.settle(node_run_id)


def _is_called_again(worker: FakeWorker, node_run_id: str, event_type: str) -> None:
    here = worker.app.incarnation
    asked = lines("asking the registry for payments 1.4.9", "no answer within 1 s", at=NOON + 13)
    worker.defer(
        node_run_id,
        1,
        "the registry does not answer",
        event_type,
        logs=asked,
        worker=here,
        started_at=NOON + 13,
        due_at=NOON + 20,
    )
    error, said = (
        "RegistryError: no release 1.4.9 of payments",
        lines("asking the registry for payments 1.4.9", at=NOON + 20),
    )
    worker.end(node_run_id, 1, error=error, trace=TRACE, event_type=event_type, attempt=2, logs=said)


def _waits_for_a_callback(worker: FakeWorker, node_run_id: str, event_type: str) -> None:
    worker.outcome(
        ItemDeferred(
            node_run_id=node_run_id,
            index=0,
            message=0,
            event_type=event_type,
            attempt=1,
            until=NOON + 3600,
            worker=worker.app.incarnation,
            started_at=NOON + 20,
            at=NOON + 21,
        )
    )
    partition = worker.here.partition_of(node_run_id)
    worker.here.dispatch.due.set(partition, (node_run_id, 0), 4_000_000_000.0, lambda: None)


def _audit() -> list[Audited]:
    failed, waits = node_run_id_of(6), node_run_id_of(24)
    return [
        Audited(
            id="a1", at=NOON + 60, who="cli: anna", what="retry item", outcome="applied", node_run_id=failed, index=0
        ),
        Audited(
            id="a2",
            at=NOON + 90,
            who="web",
            what="cancel",
            outcome="refused",
            why="every item has ended",
            node_run_id=failed,
        ),
        Audited(id="a3", at=NOON + 120, who="cli: anna", what="pause", outcome="applied", event_type=EVENT_TYPES[1]),
        Audited(
            id="a4",
            at=NOON + 180,
            who="web",
            what="discard dead letter",
            outcome="applied",
            why="a test message",
            letter="0/9",
        ),
        Audited(id="a5", at=NOON + 240, who="api", what="complete item", outcome="applied", node_run_id=waits, index=0),
    ]


def last_hour() -> list[Step]:
    """Numbers as a worker counts them, in steps of a minute."""
    begin = datetime.fromtimestamp(NOON, UTC) - timedelta(minutes=60)
    return [_minute(begin + timedelta(minutes=number), number) for number in range(60)]


def _minute(at: datetime, number: int) -> Step:
    wave = 1 + 0.5 * math.sin(number / 7) + 0.12 * math.sin(number * 1.9)
    failed = round(4 + 3 * math.sin(number / 3)) + (38 if number in (41, 42) else 0)
    succeeded = max(0, round(415 * (1 + 0.5 * math.sin((number - 0.4) / 7))) - failed)
    return Step(
        at=at,
        received=round(420 * wave),
        completed={"SUCCESS": succeeded, "FAILED": failed},
        open=round(40 * wave),
        handler=Latency(
            count=succeeded,
            p50=0.21 + 0.03 * math.sin(number / 4),
            p99=0.9 + 0.25 * math.sin(number / 5) + (1.1 if number in (41, 42) else 0),
        ),
        report=None,
        loop_lag=0.004,
    )
