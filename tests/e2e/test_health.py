"""`/healthz` fails where an agent hangs, and only there. The worker takes 3 seconds for what else takes it 45."""

from __future__ import annotations

import http.client
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streams.progress import LOOK_SECONDS, STUCK_SECONDS
from tests.e2e.conftest import NewCluster
from tests.processes import STARTS_WITHIN, Cluster, Process, call, eventually, ready

LIMIT = 3.0
# Whoever is wedged waits for as long as a file of that name is there.
WEDGED = """
import asyncio
import time
from pathlib import Path

import agents.execution
from agents import handles
from agents.acknowledging import InOrder
from agents.settling import Settler
from streams import progress

progress.STUCK_SECONDS = 3.0
HERE = Path(__file__).parent

async def wedged(name):
    while (HERE / name).exists():
        await asyncio.sleep(0.05)

def wedge(name, function):
    async def hanging(*arguments, **more):
        ended = await function(*arguments, **more)
        await wedged(name)
        return ended
    return hanging

InOrder.add = wedge("router", InOrder.add)
agents.execution.execute = wedge("handlers", agents.execution.execute)
Settler.report = wedge("reporter", Settler.report)

@handles("echo", deadline="1s")
async def echo(event: dict) -> dict:
    return event

@handles("slow", concurrency=1, deadline="1h")
async def slow(event: dict) -> dict:
    await wedged("slow")
    return event

@handles("block")
async def block(event: dict) -> dict:
    time.sleep(1.5 * progress.STUCK_SECONDS)
    return event
"""


def health(worker: Process) -> tuple[int, str]:
    got = worker.get("/healthz", {})
    return got.status, got.text


@contextmanager
def wedged(folder: Path, name: str) -> Iterator[None]:
    (folder / name).touch()
    yield
    (folder / name).unlink()


def completed(cluster: Cluster, *node_run_ids: str) -> None:
    def are() -> bool:
        runs = [call(cluster.emulator_port, "GET", f"/emulator/node-runs/{one}").json for one in node_run_ids]
        return all(run["nodeRun"]["status"] == "COMPLETED" for run in runs)

    eventually(are, "the node runs are completed", 60, every=0.2)


def value(worker: Process, series: str) -> float:
    found = re.search(rf"^{re.escape(series)} (\S+)$", worker.get("/metrics").text, re.MULTILINE)
    return 0.0 if found is None else float(found[1])


def check_wedge(cluster: Cluster, worker: Process, name: str) -> None:
    """Wedge an agent, see that it shows, and that all is well again and nothing lost when it goes on."""
    with wedged(cluster.folder, name):
        began = time.monotonic()
        published = [cluster.publish({"type": "echo", "n": n}) for n in range(2)]
        eventually(lambda: health(worker) == (503, f"stuck: {name}\n"), f"{name} shows", 3 * LIMIT, every=0.2)
        # The look that finds it first counts from the look before, when it may not have been there.
        assert time.monotonic() - began >= LIMIT - LOOK_SECONDS
    eventually(lambda: health(worker) == (200, "ok\n"), f"{name} goes on", every=0.2)
    completed(cluster, *published)


def check_block(cluster: Cluster, worker: Process) -> None:
    """Block the event loop: no answer is the sign. Nobody else is blamed for it afterwards."""
    published = cluster.publish({"type": "block"})
    eventually(lambda: not answers(worker), "the event loop is blocked", every=0.2)
    eventually(lambda: answers(worker), "the event loop goes on", every=0.2)
    assert health(worker) == (200, "ok\n")
    completed(cluster, published)
    assert value(worker, 'port_runs_loop_lag_seconds_bucket{le="2.5"}') < value(
        worker, "port_runs_loop_lag_seconds_count"
    )


def answers(worker: Process) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", worker.port, timeout=0.5)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except TimeoutError:
        return False
    finally:
        connection.close()


def check_pause(cluster: Cluster, worker: Process) -> None:
    """Port is away, all places are taken by calls within their deadline, and as much is open as may be."""
    call(cluster.emulator_port, "PUT", "/emulator/faults", body={"status": 503})
    with wedged(cluster.folder, "slow"):
        published = [cluster.publish({"type": kind, "n": n}) for kind in ("slow", "echo") for n in range(3)]
        published += [cluster.publish({"type": "echo", "n": n}) for n in range(3)]
        arrivals = f'port_runs_lag{{topic="{cluster.org}.port-runs.arrivals"}}'
        eventually(lambda: value(worker, arrivals) > 0, "arrivals wait in Kafka", every=0.2)
        until = time.monotonic() + 2 * LIMIT
        while time.monotonic() < until:
            assert health(worker) == (200, "ok\n")
            time.sleep(0.2)
        assert value(worker, arrivals) > 0
        assert value(worker, 'port_runs_queue_waiting{agent="handler-slow"}') > 0
        # What Port has failed at waits with the retrier, and holds no place of the reporter.
        assert value(worker, 'port_runs_queue_waiting{agent="retrier"}') > 0
        assert value(worker, 'port_runs_queue_oldest_seconds{agent="handler-slow"}') > 2 * LIMIT
        assert value(worker, "port_runs_port_unreachable_seconds") > 0
    call(cluster.emulator_port, "PUT", "/emulator/faults", body={})
    completed(cluster, *published)


def test_a_hanging_agent_shows_and_a_pause_on_purpose_does_not(new_cluster: NewCluster) -> None:
    assert LIMIT < STUCK_SECONDS
    cluster = new_cluster(handlers=WEDGED)
    with cluster.worker("one", MAX_OPEN="5") as worker:
        eventually(lambda: ready(worker), "the worker is ready", STARTS_WITHIN)
        assert health(worker) == (200, "ok\n")
        for name in ("router", "handlers", "reporter"):
            check_wedge(cluster, worker, name)
        check_block(cluster, worker)
        check_pause(cluster, worker)
        assert health(worker) == (200, "ok\n")
