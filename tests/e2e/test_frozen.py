"""A worker that stands still for longer than its session, and then goes on."""

import asyncio
import json
import subprocess
import time
from dataclasses import dataclass

from streams.exits import RESTART
from tests.e2e.conftest import NewTeam
from tests.e2e.load import Load
from tests.e2e.scale import SCALE, say
from tests.e2e.tables import changes, node_run_id
from tests.processes import Cluster, Process

VARIED = """
import asyncio
import random
from agents import handles

@handles("echo", concurrency=200)
async def echo(event: dict) -> dict:
    await asyncio.sleep(random.uniform(0, 0.5))
    return {"n": event["n"], "call": random.getrandbits(64)}
"""
RATE = 30.0
NOTICES_WITHIN = 10.0


@dataclass(frozen=True)
class Standing:
    """Where a row of the table says that a node run stands. Each number may only grow."""

    stage: int
    """Open, frozen for its report, settled, finished."""
    items: int
    ended: int

    def behind(self, other: "Standing") -> bool:
        """Whether this is an earlier state than the other."""
        return self.stage < other.stage or self.items < other.items or self.ended < other.ended


def standing(kind: bytes, value: bytes) -> Standing:
    """Return what a node run's row says; the kind is the first letter of its key."""
    row: dict[str, object] = json.loads(value)
    stage = 3 if kind == b"f" else 2 if row.get("settled") else 1 if row.get("covered") is not None else 0
    counted = [row.get(name, 0) for name in ("items", "succeeded", "failed")]
    items, succeeded, failed = (number if isinstance(number, int) else 0 for number in counted)
    return Standing(stage, items, succeeded + failed)


async def backwards(cluster: Cluster) -> list[str]:
    """Return the changes, in the order of the changelog, that put a node run into an earlier state."""
    latest: dict[str, Standing] = {}
    found: list[str] = []
    async for record in changes(cluster):
        kind = record.key.split(b"/")[0]
        if kind not in (b"o", b"f") or record.value is None:
            continue
        name, now = node_run_id(record.key), standing(kind, record.value)
        before = latest.setdefault(name, now)
        if now.behind(before):
            found.append(f"offset {record.offset} of partition {record.partition}, {name}: {before}, then {now}")
        latest[name] = now
    assert latest, "the changelog has rows of node runs"
    return found


def exit_status(worker: Process, seconds: float) -> int | None:
    """Return the status with which a worker ends by itself; None where it goes on."""
    try:
        return worker.child.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def test_a_worker_that_stood_still_ends_and_puts_nothing_back(new_team: NewTeam) -> None:
    team = new_team(VARIED)
    load = Load(team.cluster)
    team.start("one", "two")
    team.settled()
    with load.steadily(RATE):
        load.goes_on(100)
        frozen = team["one"]
        frozen.freeze()
        time.sleep(SCALE.frozen)
        frozen.thaw()
        status = exit_status(frozen, NOTICES_WITHIN)
        say(f"it ended with status {status}")
        if status is None:
            frozen.kill()
        team.start("one")
        team.settled()
        load.completes()
    load.completes()
    assert not load.contradictions()
    assert asyncio.run(backwards(team.cluster)) == []
    assert status == RESTART
