"""Workers that are killed while they work."""

import random
import shutil
import time
from dataclasses import dataclass

import pytest

from streams.worker import SESSION_TIMEOUT
from tests.e2e.conftest import NewTeam
from tests.e2e.load import Load
from tests.e2e.scale import SCALE, say
from tests.e2e.tables import partition_of
from tests.e2e.team import Team

OUT_OF_ORDER = """
import asyncio
import random
from agents import handles

@handles("echo", concurrency=200)
async def echo(event: dict) -> dict:
    await asyncio.sleep(random.uniform(0, 1))
    # Another output in every call: a result that is not the recorded one shows.
    return {"n": event["n"], "call": random.getrandbits(64)}
"""
LONGEST_CALL = 1.0
RESUMES_WITHIN = SESSION_TIMEOUT + 5


@dataclass(frozen=True)
class Kill:
    """A worker was killed: when, and what it had."""

    at: float
    partitions: frozenset[int]


def kill_one(team: Team, name: str, *, disk_lost: bool) -> Kill:
    """Kill a worker, and start it again at once."""
    partitions = frozenset(team.partitions()[name])
    team[name].kill()
    kill = Kill(time.time(), partitions)
    if disk_lost:
        shutil.rmtree(team.cluster.data_dir(name))
    team.start(name)
    return kill


def away(load: Load, kill: Kill) -> dict[int, float]:
    """Return how long after a kill each partition of the killed worker had a node run completed again."""
    resumed: dict[int, float] = {}
    for node_run_id, at in load.tally.completed.items():
        partition = partition_of(node_run_id)
        # What is completed within the first second was on its way to Port when the worker died.
        if partition in kill.partitions and at > kill.at + 1:
            resumed[partition] = min(resumed.get(partition, at), at)
    return {partition: at - kill.at for partition, at in resumed.items()}


def slowest(load: Load, kill: Kill) -> float:
    """Return the longest time from publishing to completion among what the killed worker had in its hands.

    What was published later waits its turn behind these: how long says more of the machine than of the crash.
    """
    waited = [
        load.latency(node_run_id)
        for node_run_id, at in load.published.items()
        if abs(at - kill.at) < 2 * LONGEST_CALL and partition_of(node_run_id) in kill.partitions
    ]
    return max(waited)


@pytest.mark.parametrize("disk", ["kept", "lost"])
def test_kills_lose_nothing_contradict_nothing_and_hold_up_little(new_team: NewTeam, disk: str) -> None:
    team, chance = new_team(OUT_OF_ORDER), random.Random(disk)
    load = Load(team.cluster)
    team.start("one", "two")
    team.settled()
    kills: list[Kill] = []
    with load.steadily(SCALE.crash_rate, several=True):
        for number in range(SCALE.crashes):
            load.goes_on(chance.randrange(50, 150))
            kills.append(kill_one(team, chance.choice(["one", "two"]), disk_lost=disk == "lost"))
            team.settled()
            load.completes()
            say(f"kill {number + 1} of {SCALE.crashes}")
    load.completes()
    assert not load.contradictions()
    for kill in kills:
        resumed = away(load, kill)
        say(f"resumed after {max(resumed.values()):.1f} s, slowest node run {slowest(load, kill):.1f} s")
        assert resumed.keys() == kill.partitions
        assert max(resumed.values()) < RESUMES_WITHIN
        assert slowest(load, kill) < RESUMES_WITHIN + LONGEST_CALL
