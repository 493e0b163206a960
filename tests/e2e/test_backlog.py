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
