"""Workers that are told to stop in the middle of a rebalance, while node runs come at a steady rate."""

import itertools
import signal
import statistics
import time
from collections import Counter
from pathlib import Path

from tests.e2e.conftest import NewTeam
from tests.e2e.load import Load
from tests.e2e.scale import SCALE, say
from tests.e2e.team import Team
from tests.processes import STARTS_WITHIN, Process, eventually

NOTING = """
import asyncio
import os
from agents import Context, handles

@handles("echo", concurrency=200)
async def echo(event: dict, ctx: Context) -> dict:
    await asyncio.sleep(event["n"] % 10 / 10)  # so that calls end at any moment of a rebalance
    file = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, ctx.idempotency_key.encode() + b"\\n")
    os.close(file)
    return {"n": event["n"]}
"""
ASSIGNED = b"Executing _on_partitions_assigned"
LATEST = 0.2
"""Seconds between a worker's new assignment and its SIGTERM, at most."""
STOPS_WITHIN = 100.0
SETTLES_WITHIN = 3 * STARTS_WITHIN


def assignments(worker: Process) -> int:
    """Return how often the worker has been assigned partitions, by its log."""
    return worker.log.read_bytes().count(ASSIGNED)


class Rounds:
    """Two names; in each round the one joins, and the other is told to stop when that gives it a new assignment."""

    def __init__(self, team: Team) -> None:
        self.team = team
        self.load = Load(team.cluster)
        self.notes = team.cluster.folder / "notes"
        self._names = itertools.cycle(["one", "two"])
        self._last = next(self._names)
        self._start(self._last)

    def _start(self, name: str) -> None:
        self.team.start(name, NOTES=str(self.notes))
        self.team.settled(SETTLES_WITHIN)

    def round(self, delay: float) -> tuple[float, float]:
        """Return the longest time without a completion, and the longest of a node run, in seconds."""
        began, old, new = time.time(), self.team[self._last], next(self._names)
        before = assignments(old)
        self.team.start(new, NOTES=str(self.notes))
        eventually(lambda: assignments(old) > before, "a new assignment", SETTLES_WITHIN, every=0.005)
        time.sleep(delay)
        assert old.stop(STOPS_WITHIN) == 0
        self.team.settled(SETTLES_WITHIN)
        self._last = new
        self.load.goes_on(100)
        times = sorted(at for at in self.load.tally.completed.values() if at >= began)
        gaps = (after - before for before, after in itertools.pairwise(times))
        return max(gaps), max(map(self.load.latency, self._ended(began)))

    def _ended(self, began: float) -> list[str]:
        return [node_run_id for node_run_id, at in self.load.tally.completed.items() if at >= began]


def calls_in(notes: Path) -> Counter[str]:
    """Return how often the handler was called for each item."""
    return Counter(notes.read_text().split())


def test_a_stop_in_the_middle_of_a_rebalance_repeats_no_call(new_team: NewTeam) -> None:
    rounds = Rounds(new_team(NOTING))
    gaps: list[float] = []
    with rounds.load.steadily(SCALE.drain_rate):
        rounds.load.goes_on(100)
        for number in range(SCALE.drain_rounds):
            delay = LATEST * number / max(1, SCALE.drain_rounds - 1)
            gap, latency = rounds.round(delay)
            gaps.append(gap)
            say(f"SIGTERM after {1000 * delay:.0f} ms: {gap:.1f} s without a completion, {latency:.1f} s for one")
    rounds.load.completes()
    calls = calls_in(rounds.notes)
    say(f"longest {max(gaps):.1f} s, median {statistics.median(gaps):.1f} s; {calls.total()} calls")
    assert calls.keys() == {f"{node_run_id}-0" for node_run_id in rounds.load.published}
    assert {item: number for item, number in calls.items() if number > 1} == {}
    assert not rounds.load.contradictions()


def test_two_workers_that_stop_together_repeat_no_call(new_team: NewTeam) -> None:
    team = new_team(NOTING)
    load, notes = Load(team.cluster), team.cluster.folder / "notes"
    team.start("one", "two", "three", NOTES=str(notes))
    team.settled(SETTLES_WITHIN)
    with load.steadily(SCALE.drain_rate):
        load.goes_on(50)
        for name in ("one", "two"):
            team[name].child.send_signal(signal.SIGTERM)
        assert [team[name].ended(STOPS_WITHIN) for name in ("one", "two")] == [0, 0]
        team.settled(SETTLES_WITHIN)
        load.goes_on(50)
    load.completes()
    calls = calls_in(notes)
    assert calls.keys() == {f"{node_run_id}-0" for node_run_id in load.published}
    assert {item: number for item, number in calls.items() if number > 1} == {}
