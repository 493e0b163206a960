"""Two workers under Port's rate limit, scaled down: they share it, and are never refused."""

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import NewCluster
from tests.e2e.load import Load
from tests.e2e.record import Record
from tests.e2e.scale import say
from tests.e2e.team import Team
from tests.e2e.test_outage import QUICK
from tests.processes import call
from tests.rates import most_within

NODE_RUNS = 450
PER_SECOND = 50
BURST = 100
LIMIT: dict[str, object] = {"limit": 1000, "period": 20, "burst": BURST}
"""Port's 15,000 in 300 seconds and 1,500 at once, all by 15."""
WAY_OF_THE_CLOCK = 1
"""The emulator looks at its clock for the limit, and again for its record."""


@pytest.fixture
def team(new_cluster: NewCluster) -> Iterator[Team]:
    with Team(new_cluster(handlers=QUICK)) as team:
        yield team


def test_two_workers_share_the_rate_limit(team: Team) -> None:
    load, record = Load(team.cluster), Record(team.cluster)
    team.start("first", "second")
    team.settled()
    for form in ("seconds", "epoch"):
        limit = {"rate_limit": LIMIT | {"reset_form": form}}
        assert call(team.cluster.emulator_port, "PUT", "/emulator/faults", body=limit).status == 200
        before = len(record.read_on())
        load.publish(NODE_RUNS, per_second=NODE_RUNS)
        load.completes()
        record.read_on()
        calls = [one for one in record.limited() if one["seq"] > before]
        times = [one["time"] for one in calls]
        say(f"{form}: {len(calls)} calls in {times[-1] - times[0]:.1f} s")
        assert [one for one in calls if one["status"] == 429] == []
        assert len(calls) == NODE_RUNS, "one for each node run"
        for seconds in (0.1, 1.0, 5.0, times[-1] - times[0]):
            assert most_within(times, seconds) <= BURST + PER_SECOND * seconds + WAY_OF_THE_CLOCK
        assert times[-1] - times[0] < 2 * (NODE_RUNS - BURST / 2) / PER_SECOND, "and use what it allows"
    assert not load.contradictions()
    assert not load.missing()
    assert [one["call"] for one in record.calls].count("auth") == 2, "one token for each worker"
