"""Port is away for a while, and a worker dies meanwhile; when it is back, its rate limit is kept to."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import Any

import pytest

from tests.e2e.conftest import NewCluster
from tests.e2e.load import Load
from tests.e2e.record import Record
from tests.e2e.scale import SCALE, say
from tests.e2e.tables import incarnation_of
from tests.e2e.team import Team
from tests.e2e.watching import MIB, members_of, memory_of
from tests.processes import Cluster, Process, call, eventually
from tests.rates import most_within

QUICK = """
import random
from agents import handles

@handles("echo", concurrency=50)
async def echo(event: dict) -> dict:
    return {"n": event["n"], "call": random.getrandbits(64)}
"""
FAULTS = {"error": {"status": 503}, "hang": {"hang": True}}
REFUSED = "refused"
WAYS = ["error", "hang", REFUSED]
GROWS_AT_MOST = 64 * MIB
ALLOWED_PER_SECOND = int(3 * SCALE.outage_rate)
BURST = ALLOWED_PER_SECOND
REFUSED_AT_MOST = 0.02
"""The share of calls that the limit may refuse: whoever dies, or starts, knows nothing of it."""


class Port:
    """The emulator of one organization, which can be away."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._process: Process | None = None
        self._running = ExitStack()

    def start(self) -> None:
        self._process = self._running.enter_context(
            self._cluster.emulator("--rate-limit", f"{ALLOWED_PER_SECOND * 10}/10/{BURST}")
        )

    def close(self) -> None:
        if self._process is not None:
            self._process.stop()
        self._running.close()

    @contextmanager
    def away(self, way: str) -> Iterator[None]:
        """Be away as long as the block runs."""
        if way == REFUSED:
            self.close()
            yield
            self.start()
            return
        call(self._cluster.emulator_port, "PUT", "/emulator/faults", body=FAULTS[way])
        yield
        call(self._cluster.emulator_port, "PUT", "/emulator/faults", body={})


@pytest.fixture
def team(new_cluster: NewCluster) -> Iterator[Team]:
    with Team(new_cluster(handlers=QUICK, with_emulator=False)) as team:
        yield team


@pytest.fixture
def port(team: Team) -> Iterator[Port]:
    port = Port(team.cluster)
    port.start()
    yield port
    port.close()


def test_an_outage_of_port_with_a_kill_in_its_middle(team: Team, port: Port) -> None:
    load = Load(team.cluster)
    load.stock(int(SCALE.outage_rate * (SCALE.outage * len(WAYS) + 120)))
    team.start("survivor", "victim")
    team.settled()
    survivor = team["survivor"]
    name = incarnation_of(survivor)
    with members_of(team.cluster) as members, memory_of(survivor) as memory, load.steadily(SCALE.outage_rate):
        load.goes_on(300)
        before = max(memory)
        began = time.time()
        for way in WAYS:
            with port.away(way):
                time.sleep(SCALE.outage / 2)
                if way == WAYS[len(WAYS) // 2]:
                    team["victim"].kill()
                    team.start("victim")
                time.sleep(SCALE.outage / 2)
                assert_said(survivor, began)
        back = time.time()
        waiting = len(load.missing())
        load.completes()
        say(f"{back - began:.0f} s away, {waiting} node runs waited, delivered in {time.time() - back:.0f} s")
        team.settled()
    load.completes()
    assert port_of(survivor)["unreachableSince"] is None
    assert waiting > SCALE.outage_rate * SCALE.outage * (len(WAYS) - 1), "Port was away all the time"
    assert not load.contradictions()
    say(f"memory before {before / MIB:.0f} MiB, at most {max(memory) / MIB:.0f} MiB")
    assert max(memory) < before + GROWS_AT_MOST
    assert len(members) > SCALE.outage
    assert all(name in clients for clients in members)
    assert_kept_to_the_limit(Record(team.cluster))


def port_of(worker: Process) -> dict[str, Any]:
    """What the worker's view says of Port."""
    shown: dict[str, Any] = worker.get("/api/node-runs").json["port"]
    return shown


def assert_said(worker: Process, began: float) -> None:
    """The worker's view says since when Port is away, and that reports wait."""
    # From one way of being away to the next, a call or two may have got through.
    since = eventually(lambda: port_of(worker)["unreachableSince"], "it is said since when")
    assert began - 1 <= datetime.fromisoformat(since).timestamp() <= time.time()
    assert port_of(worker)["reportsWaiting"] > 0


def assert_kept_to_the_limit(record: Record) -> None:
    """What the emulator's last life saw: what it refused counts, too."""
    record.read_on()
    calls = record.limited()
    times = [one["time"] for one in calls]
    refused = sum(one["status"] == 429 for one in calls)
    say(f"{len(calls)} calls after the outage, {refused} of them refused by the rate limit")
    assert refused <= REFUSED_AT_MOST * len(calls)
    for seconds in (1.0, 5.0, 20.0):
        assert most_within(times, seconds) <= (BURST + ALLOWED_PER_SECOND * seconds) * (1 + REFUSED_AT_MOST)
