"""A payload of 10,000 items: it completes, and costs no more per item than small ones do."""

import psutil

from tests.e2e.conftest import NewTeam
from tests.e2e.record import Record
from tests.e2e.scale import say
from tests.processes import Cluster, Process

HANDLERS = """
from agents import handles

@handles("count", concurrency=100)
async def count(event: dict) -> dict:
    return {"n": event["n"]}
"""
LARGE = 10_000
DEARER_AT_MOST = 1.5


class Costs:
    """What a worker takes for payloads, in CPU seconds."""

    def __init__(self, cluster: Cluster, worker: Process) -> None:
        self._cluster = cluster
        self._record = Record(cluster)
        self._process = psutil.Process(worker.child.pid)

    def per_item(self, messages: int, items: int) -> float:
        """Return the seconds per item of so many messages with so many items each, when all are completed."""
        payload = [{"type": "count", "n": number} for number in range(items)]
        began = self._seconds()
        node_runs = [self._cluster.publish(payload) for _ in range(messages)]
        for node_run_id in node_runs:
            body = self._record.completed(node_run_id, 120.0)
            assert (body["result"], body["output"]["succeeded"]) == ("SUCCESS", items)
            assert [item["output"]["n"] for item in body["output"]["items"]] == list(range(items))
        each = (self._seconds() - began) / (messages * items)
        say(f"{messages} x {items} items: {1e6 * each:.0f} µs of CPU per item")
        return each

    def _seconds(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


def test_the_cost_per_item_does_not_grow_with_the_payload(new_team: NewTeam) -> None:
    team = new_team(HANDLERS)
    team.start("one")
    team.settled()
    costs = Costs(team.cluster, team["one"])
    costs.per_item(5, 100)
    small = costs.per_item(40, 100)
    assert costs.per_item(1, LARGE) < DEARER_AT_MOST * small
