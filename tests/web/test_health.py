"""`/healthz` of a worker in which something stands still, over real HTTP."""

from itertools import count

import pytest

from streams.progress import Stage, Watch
from tests.web.conftest import NewClient


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
