"""`/healthz` of a worker in which something stands still, over real HTTP."""

from itertools import count

import pytest

from streams.partition_counts import Misfit
from streams.progress import Stage, Watch
from tests.web.conftest import NewClient
from tests.web.fakes import FakeWorker
from web.health import NotReady, Readiness


@pytest.fixture
def watch() -> Watch:
    stages = [
        Stage("handler-secret-project", "handlers", lambda: 1, lambda: True),
        Stage("handler-other", "handlers", lambda: 1, lambda: True),
        Stage("router", "router", lambda: 1, lambda: True),
        Stage("reporter", "reporter", lambda: 1, lambda: False),
    ]
    return Watch(stages, lambda: False, limit=1.0, clock=count().__next__)


async def test_what_stands_still_is_said_to_everybody_without_names(watch: Watch, new_client: NewClient) -> None:
    client = await new_client("a-token")
    for _ in range(3):
        watch.look()
    answer = await client.get("/healthz")
    assert (answer.status, await answer.text()) == (503, "stuck: handlers, router\n")
    metrics = await (await client.get("/metrics", headers={"Authorization": "Bearer a-token"})).text()
    assert "port_runs_healthy 0.0" in metrics


def test_why_a_worker_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWorker()
    readiness = Readiness(fake.worker, fake.here.dispatch, settled=True)
    assert readiness.obstacle() is None
    fake.app.misfit = lambda: Misfit("topic a has 12 partitions", "set SURPLUS_PARTITIONS=ignore")
    assert readiness.obstacle() is NotReady.PARTITIONS
    # While Kafka is away a rebalance does not end: what it is about is Kafka.
    fake.app.rebalancing = True
    monkeypatch.setattr(fake.app.kafka, "since", 1.0)
    assert readiness.obstacle() is NotReady.KAFKA
