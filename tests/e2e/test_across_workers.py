"""Two workers: each answers for both. One is killed: its part is said to be missing, and comes back."""

from typing import Any

from tests.e2e.conftest import NewTeam
from tests.e2e.load import Load
from tests.e2e.tables import PARTITIONS, incarnation_of, partition_of
from tests.processes import HANDLERS, Process, eventually

COMES_BACK_WITHIN = 60.0
"""A session of the group, a rebalance, and the recovery of the table."""


def listed(worker: Process) -> dict[str, Any]:
    shown: dict[str, Any] = worker.get("/api/node-runs?limit=500").json
    return shown


def test_a_killed_workers_part_is_said_to_be_missing_and_comes_back(new_team: NewTeam) -> None:
    team = new_team(HANDLERS)
    team.start("one", "two")
    team.settled()
    one, two = team["one"], team["two"]
    load = Load(team.cluster)
    load.publish(40, per_second=200)
    load.completes()
    ids = set(load.published)

    def all_listed() -> bool:
        return all({run["nodeRunId"] for run in listed(worker)["nodeRuns"]} == ids for worker in (one, two))

    eventually(all_listed, "both list all of them")
    for worker in (one, two):
        assert (listed(worker)["missing"], listed(worker)["missingWorkers"]) == ([], [])
    lost, incarnation = team.partitions()["two"], incarnation_of(two)
    theirs = next(one_id for one_id in sorted(ids) if partition_of(one_id) in lost)
    assert one.get(f"/api/node-runs/{theirs}").json == two.get(f"/api/node-runs/{theirs}").json

    two.kill()
    shown = listed(one)
    assert shown["missing"] == lost
    assert [(gone["worker"], gone["partitions"]) for gone in shown["missingWorkers"]] == [(incarnation, lost)]
    assert {run["nodeRunId"] for run in shown["nodeRuns"]} == {it for it in ids if partition_of(it) not in lost}
    away = one.get(f"/api/node-runs/{theirs}")
    assert (away.status, away.json["error"]) == (503, "owner-away")
    assert incarnation in away.json["message"]
    assert incarnation in one.get("/workers").text

    def back() -> bool:
        # On the way every partition is either shown or said to be missing.
        now = listed(one)
        here = {partition for worker in now["workers"] for partition in worker["partitions"]}
        assert here | set(now["missing"]) == set(range(PARTITIONS))
        return bool(not now["missing"] and not now["missingWorkers"])

    eventually(back, "the other worker has taken all over", COMES_BACK_WITHIN, every=0.2)
    assert {run["nodeRunId"] for run in listed(one)["nodeRuns"]} == ids
    assert one.get(f"/api/node-runs/{theirs}").status == 200
