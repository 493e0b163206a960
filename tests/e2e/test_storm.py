"""Workers that join and leave, again and again, under load."""

import pytest

from tests.e2e.conftest import NewTeam
from tests.e2e.load import Load, NotCompletedError
from tests.e2e.scale import SCALE, say
from tests.e2e.tables import changelog, partitions_of, stored
from tests.e2e.team import Team
from tests.processes import call, eventually

QUICK = """
from agents import handles
from streams.app import app

# Read when Faust makes its consumer, which is after the handlers are imported.
app.conf.broker_max_poll_records = {records}

@handles("echo", concurrency=200)
async def echo(event: dict) -> dict:
    return {{"n": event["n"], "records": app.consumer._thread._consumer._max_poll_records}}
"""
WITHOUT_A_LOOK_AT_OFFSETS = """
from faust.tables import recovery
from faust.transport.drivers import aiokafka as driver
from streams.offsets import EveryOffset
from streams.transport import ConsumerThread
from tables.recovery import Recovery

async def nothing_missing(self, spec, tp, follows, end):
    return
    yield

async def none_stalled(self, position):
    return []

EveryOffset._missing = nothing_missing
EveryOffset.stalled = none_stalled
# Nor with the repair of what is the most frequent cause of holes, nor with a recovery too short for many of them.
ConsumerThread._fetch_records = driver.AIOKafkaConsumerThread._fetch_records
Recovery._build_offsets = recovery.Recovery._build_offsets
"""
NAMES = ("steady", "guest")


def records_at_once(load: Load, node_run_id: str) -> int:
    """Return how many records the worker that handled the node run took from Kafka at a time, by its output."""
    got = call(load.cluster.emulator_port, "GET", f"/emulator/node-runs/{node_run_id}")
    return int(got.json["nodeRun"]["output"]["records"])


def tables_equal(team: Team) -> bool:
    """Whether each running worker has on its disk what a fresh reader of the changelog finds, and no row more."""
    written = changelog(team.cluster)
    for name, partitions in team.partitions().items():
        rows = stored(team.cluster.data_dir(name))
        if any(rows[partition] != written[partition] for partition in partitions):
            return False
    return True


def round_of(team: Team, load: Load, *, kill: bool, stalled: float, rate: float = SCALE.storm_rate) -> None:
    """Have a worker join and leave under load; nothing may be missing after each."""
    with load.steadily(rate):
        team.start("guest")
        team.settled()
        load.goes_on(200, stalled)
    load.completes(stalled)
    eventually(lambda: tables_equal(team), "the tables of both are as their changelog", every=0.5)
    with load.steadily(rate):
        load.goes_on(200, stalled)
        if kill:
            team["guest"].kill()
        else:
            assert team["guest"].stop() == 0
        team.settled()
        load.goes_on(200, stalled)
    load.completes(stalled)


@pytest.mark.parametrize("records", [20, 200])
def test_a_storm_of_joins_and_leaves_loses_nothing(new_team: NewTeam, records: int) -> None:
    team = new_team(QUICK.format(records=records))
    load = Load(team.cluster)
    team.start("steady")
    team.settled()
    for number in range(SCALE.storm_rounds):
        round_of(team, load, kill=number % 2 == 1, stalled=60)
        say(f"round {number + 1} of {SCALE.storm_rounds}: {len(load.published)} node runs")
    eventually(lambda: tables_equal(team), "the table of the survivor is as its changelog", every=0.5)
    assert partitions_of(team["steady"]) == list(range(8))
    assert not load.contradictions()
    assert {records_at_once(load, node_run_id) for node_run_id in list(load.published)[-50:]} == {records}


def test_the_same_storm_loses_node_runs_where_offsets_are_not_looked_at(new_team: NewTeam) -> None:
    team = new_team(QUICK.format(records=200) + WITHOUT_A_LOOK_AT_OFFSETS)
    load = Load(team.cluster)
    team.start("steady")
    team.settled()
    with pytest.raises(NotCompletedError) as lost:
        for number in range(SCALE.lossy_rounds):
            round_of(team, load, kill=False, stalled=30, rate=SCALE.lossy_rate)
            say(f"round {number + 1} of {SCALE.lossy_rounds}: {len(load.published)} node runs, nothing lost yet")
    say(str(lost.value))
