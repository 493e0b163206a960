"""Port is away for a while, and a worker dies meanwhile."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.e2e.conftest import NewCluster
from tests.e2e.load import Load
from tests.e2e.scale import FULL, SCALE, say
from tests.e2e.tables import incarnation_of
from tests.e2e.team import Team
from tests.e2e.watching import MIB, members_of, memory_of
from tests.processes import Cluster, Process, call

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
EACH_ALONE = [[way] for way in WAYS]
ONE_AFTER_THE_OTHER = [WAYS]


class Port:
    """The emulator of one organization, which can be away."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._process: Process | None = None
        self._running = ExitStack()

    def start(self) -> None:
        self._process = self._running.enter_context(self._cluster.emulator())

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


@pytest.mark.parametrize("ways", EACH_ALONE if SCALE is FULL else ONE_AFTER_THE_OTHER, ids="-".join)
def test_an_outage_of_port_with_a_kill_in_its_middle(team: Team, port: Port, ways: list[str]) -> None:
    load = Load(team.cluster)
    load.stock(int(SCALE.outage_rate * (SCALE.outage * len(ways) + 120)))
    team.start("survivor", "victim")
    team.settled()
    survivor = team["survivor"]
    name = incarnation_of(survivor)
    with members_of(team.cluster) as members, memory_of(survivor) as memory, load.steadily(SCALE.outage_rate):
        load.goes_on(300)
        before = max(memory)
        for way in ways:
            with port.away(way):
                time.sleep(SCALE.outage / 2)
                if way == ways[len(ways) // 2]:
                    team["victim"].kill()
                    team.start("victim")
                time.sleep(SCALE.outage / 2)
            say(f"{way}: over, {len(load.missing())} node runs wait")
            load.completes()
        team.settled()
    load.completes()
    assert not load.contradictions()
    say(f"memory before {before / MIB:.0f} MiB, at most {max(memory) / MIB:.0f} MiB")
    assert max(memory) < before + GROWS_AT_MOST
    assert len(members) > SCALE.outage
    assert all(name in clients for clients in members)
