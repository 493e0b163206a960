"""Handlers that run longer than a rebalance, while workers come and go."""

import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.conftest import NewTeam
from tests.e2e.load import Load
from tests.e2e.scale import SCALE, say
from tests.e2e.team import Team
from tests.processes import eventually

SLOW = """
import asyncio
import json
import os
import time
from agents import Context, handles

def note(what: str, item: str) -> None:
    line = json.dumps({"what": what, "item": item, "worker": os.getpid(), "at": time.time()})
    file = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, line.encode() + b"\\n")
    os.close(file)

@handles("echo", concurrency=1000, deadline="10m")
async def echo(event: dict, ctx: Context) -> dict:
    note("start", ctx.idempotency_key)
    await asyncio.sleep(float(os.environ["HANDLER_SECONDS"]))
    note("end", ctx.idempotency_key)
    return {"n": event["n"]}
"""
RATE = 4.0
ACKNOWLEDGED_WITHIN = 1.0
"""A call that ended shortly before its worker died may not have its outcome on the broker."""


@dataclass(frozen=True)
class Note:
    """A handler's call began or ended."""

    what: str
    item: str
    worker: int
    at: float


def notes_in(file: Path) -> list[Note]:
    lines = file.read_bytes().splitlines() if file.exists() else []
    return [Note(**json.loads(line)) for line in lines]


def starts_in(file: Path) -> Counter[str]:
    """Return how often the handler was started for each item."""
    return Counter(note.item for note in notes_in(file) if note.what == "start")


class Moves:
    """Two workers with slow handlers; each call is noted in a file."""

    def __init__(self, team: Team) -> None:
        self.team = team
        self.load = Load(team.cluster)
        self.notes = team.cluster.folder / "notes"
        self.start("one", "two")
        team.settled()

    def start(self, *names: str) -> None:
        self.team.start(*names, NOTES=str(self.notes), HANDLER_SECONDS=str(SCALE.handler))

    def more_starts(self, number: int) -> None:
        """Wait until so many more calls have begun."""
        wanted = sum(starts_in(self.notes).values()) + number
        eventually(lambda: sum(starts_in(self.notes).values()) >= wanted, "calls begin", 60)

    def join(self) -> None:
        """Have a third worker join while handlers run; those that run at its start outlast the rebalance."""
        self.more_starts(20)
        began = time.monotonic()
        self.start("three")
        self.team.settled()
        say(f"the third worker has its partitions after {time.monotonic() - began:.1f} s")
        self.more_starts(20)

    def items(self) -> set[str]:
        """Return the items of all node runs that were published."""
        return {f"{node_run_id}-0" for node_run_id in self.load.published}


@pytest.fixture
def moves(new_team: NewTeam) -> Moves:
    return Moves(new_team(SLOW))


def test_where_all_workers_live_no_handler_is_started_twice(moves: Moves) -> None:
    with moves.load.steadily(RATE):
        moves.join()
        began = time.monotonic()
        assert moves.team["one"].stop(60) == 0
        say(f"the first worker left after {time.monotonic() - began:.1f} s")
        moves.team.settled()
        moves.more_starts(20)
    moves.load.completes()
    starts = starts_in(moves.notes)
    assert starts.keys() == moves.items()
    assert {item: number for item, number in starts.items() if number > 1} == {}


def test_a_kill_repeats_at_most_what_ran_at_that_moment(moves: Moves) -> None:
    with moves.load.steadily(RATE):
        moves.join()
        victim = moves.team["one"]
        victim.kill()
        killed = time.time()
        running = _running(notes_in(moves.notes), victim.child.pid, killed)
        moves.team.settled()
        moves.more_starts(20)
    moves.load.completes()
    starts = starts_in(moves.notes)
    assert starts.keys() == moves.items()
    repeated = {item for item, number in starts.items() if number > 1}
    say(f"{len(running)} calls ran at the kill, {len(repeated)} were repeated")
    assert running
    assert repeated <= running
    assert max(starts.values()) <= 2


def _running(notes: list[Note], worker: int, at: float) -> set[str]:
    mine = [note for note in notes if note.worker == worker]
    ended = {note.item for note in mine if note.what == "end" and note.at < at - ACKNOWLEDGED_WITHIN}
    return {note.item for note in mine} - ended
