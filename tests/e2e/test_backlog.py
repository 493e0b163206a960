"""Much more work waits than a worker may take on."""

from tests.e2e.conftest import NewTeam
from tests.e2e.load import Load
from tests.e2e.scale import SCALE, say
from tests.e2e.watching import MIB, memory_of, taken_by

BUSY = """
import asyncio
from agents import handles

@handles("echo", concurrency=100)
async def echo(event: dict) -> dict:
    await asyncio.sleep(0.3)
    return {"n": event["n"]}
"""
SLOW_CHANGELOG = """
from tables.changelog import Changelog
at_once = Changelog._round

async def late(self):
    await asyncio.sleep(0.5)
    await at_once(self)

Changelog._round = late
"""
GROWS_AT_MOST = 64 * MIB
IN_HAND = 500
"""What a worker may have read already when it pauses its arrivals."""


def test_a_backlog_is_taken_on_piece_by_piece_and_survives_a_rebalance(new_team: NewTeam) -> None:
    team = new_team(BUSY)
    load = Load(team.cluster)
    load.create_topic()
    load.publish(SCALE.backlog, per_second=5000)
    settings = {"MAX_OPEN": str(SCALE.max_open)}
    team.start("one", **settings)
    team.settled()
    with taken_by(team.cluster) as taken, memory_of(team["one"]) as memory:
        load.goes_on(max(SCALE.backlog // 10, 2 * SCALE.max_open))
        before = max(memory)
        load.goes_on(SCALE.backlog // 4)
        alone = len(taken)
        team.start("two", **settings)
        team.settled()
        load.completes()
    most, most_of_one = max(sample.open for sample in taken), max(sample.open for sample in taken[:alone])
    say(f"taken on and open: at most {most_of_one} by one worker, {most} by both")
    say(f"memory {before / MIB:.0f} MiB, then at most {max(memory) / MIB:.0f}")
    assert not load.contradictions()
    assert 0 < most_of_one <= SCALE.max_open + IN_HAND
    assert most <= 2 * (SCALE.max_open + IN_HAND)
    assert max(memory) < before + GROWS_AT_MOST


def test_a_slow_changelog_lets_no_more_in(new_team: NewTeam) -> None:
    team = new_team(BUSY + SLOW_CHANGELOG)
    load = Load(team.cluster)
    load.create_topic()
    load.publish(2000, per_second=5000)
    team.start("one", MAX_OPEN="200")
    team.settled()
    with taken_by(team.cluster) as taken:
        load.completes()
    most = max(sample.open for sample in taken)
    say(f"taken on and open: at most {most}")
    assert 0 < most <= 200 + IN_HAND
