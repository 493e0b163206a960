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
# What Faust's own fetch does around a rebalance now and then, here at each: a batch is taken and thrown away, and the
# partition's position stays behind it. Faust then acknowledges what it never delivered.
DROPPING = """
from streams.transport import ConsumerThread

fetch, lost = ConsumerThread._fetch_records, set()

async def dropping(self, consumer, active, timeout=None, max_records=None):
    found = await fetch(self, consumer, active, timeout, max_records)
    generation = self.consumer.app.consumer_generation_id
    for tp in list(found):
        if tp.topic.endswith(".runs") and (generation, tp) not in lost:
            lost.add((generation, tp))
            del found[tp]
    return found

ConsumerThread._fetch_records = dropping
"""
WITHOUT_A_LOOK_AT_OFFSETS = """
from streams.offsets import EveryOffset

async def nothing_missing(self, spec, tp, follows, end):
    return
    yield

async def none_stalled(self, position):
    return []

EveryOffset._missing = nothing_missing
EveryOffset.stalled = none_stalled
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


def round_of(team: Team, load: Load, *, kill: bool, stalled: float) -> None:
    """Have a worker join and leave under load; nothing may be missing after each."""
    with load.steadily(SCALE.storm_rate):
        team.start("guest")
        team.settled()
        load.goes_on(200, stalled)
    load.completes(stalled)
    eventually(lambda: tables_equal(team), "the tables of both are as their changelog", every=0.5)
    with load.steadily(SCALE.storm_rate):
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


def test_what_is_dropped_at_each_rebalance_is_read_again(new_team: NewTeam) -> None:
    team = new_team(QUICK.format(records=200) + DROPPING)
    load = Load(team.cluster)
    team.start("steady")
    team.settled()
    round_of(team, load, kill=False, stalled=60)
    assert not load.contradictions()
    counter = f'port_runs_recovered_records_total{{topic="{team.cluster.org}.runs"}} '
    again = [line for line in team["steady"].get("/metrics").text.splitlines() if line.startswith(counter)]
    assert float(again[0].removeprefix(counter)) > 0


def test_without_a_look_at_offsets_the_same_is_lost(new_team: NewTeam) -> None:
    team = new_team(QUICK.format(records=200) + DROPPING + WITHOUT_A_LOOK_AT_OFFSETS)
    load = Load(team.cluster)
    team.start("steady")
    team.settled()
    with pytest.raises(NotCompletedError) as lost:
        round_of(team, load, kill=False, stalled=20)
    say(str(lost.value))
