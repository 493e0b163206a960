"""The crash of a worker finds defects that are put into it on purpose.

The broker's acknowledgements of the table's changelog are late here, so that there is a time in which a worker that
does not wait for them does wrong. A worker without a defect only gets slower by it.
"""

from dataclasses import dataclass

import pytest

from tests.e2e.conftest import NewTeam
from tests.e2e.load import Load, NotCompletedError
from tests.e2e.scale import SCALE, SMALL, say
from tests.e2e.team import Team
from tests.e2e.test_crashes import OUT_OF_ORDER
from tests.processes import eventually

LATE_CHANGELOG = """
import tables.changelog
tables.changelog.ROUND_SECONDS = tables.changelog.BUSY_ROUND_SECONDS = 3.0
"""
MUTANTS = {
    "offset before the acknowledgement": """
from agents.acknowledging import InOrder
_add = InOrder.add

async def add(self, partition, event, written, then=None):
    if event is not None:
        event.ack()
    await _add(self, partition, None, written, then)

InOrder.add = add
""",
    # Offsets keep their order, by being late: it is the effects alone that come too early.
    "effect before the acknowledgement": """
import asyncio
from agents.acknowledging import InOrder
from tables.rows import LatestRows, StoredRows
_init, _add = LatestRows.__init__, InOrder.add

class Early(StoredRows):
    def get(self, partition, key):
        return self.latest.get(partition, key)

def init(self, app):
    _init(self, app)
    self.stored = Early(app, self.table)
    self.stored.latest = self

def then(self, partition, call):
    call()

async def add(self, partition, event, written, then=None):
    late = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(6, late.set_result, None)
    await _add(self, partition, event, [*written, late], then)

LatestRows.__init__, LatestRows.then, InOrder.add = init, then, add
""",
}


@dataclass(frozen=True)
class Found:
    """What a crash did to node runs."""

    lost: int
    contradicted: int


def crashed(team: Team) -> Found:
    """Kill a worker under load, and start it again."""
    load = Load(team.cluster)
    team.start("one")
    team.settled()
    with load.steadily(SCALE.crash_rate, several=True):
        load.goes_on(150)
        # Completions come just after a round of the changelog. The kill comes in the middle of the next one.
        enough = len(load.published) + int(2 * SCALE.crash_rate)
        eventually(lambda: len(load.published) >= enough, "more is published")
        team["one"].kill()
        team.start("one")
        team.settled()
    try:
        load.completes(stalled=20)
    except NotCompletedError as lost:
        say(str(lost))
    found = Found(len(load.missing()), len(load.contradictions()))
    say(str(found))
    return found


@pytest.mark.skipif(SCALE is SMALL, reason="says something of the two others only: run by make soak")
def test_a_late_changelog_alone_does_no_harm(new_team: NewTeam) -> None:
    assert crashed(new_team(OUT_OF_ORDER + LATE_CHANGELOG)) == Found(0, 0)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_defect_is_found(new_team: NewTeam, mutant: str) -> None:
    assert crashed(new_team(OUT_OF_ORDER + LATE_CHANGELOG + MUTANTS[mutant])) != Found(0, 0)
