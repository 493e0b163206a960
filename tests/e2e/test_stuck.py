"""What is stuck, as a real worker shows it: a call near its deadline, past it, and what waits behind it."""

from pathlib import Path

from tests.e2e.conftest import NewCluster
from tests.processes import STARTS_WITHIN, Process, eventually, ready

HANDLERS = """
import os, time
from pathlib import Path
from agents import handles

@handles("stays", concurrency=1, deadline="3s")
def stays(event: dict) -> dict:
    while not Path(os.environ["ENDS"]).exists():
        time.sleep(0.05)
    return {}
"""


def test_a_call_that_does_not_end_and_what_waits_behind_it(new_cluster: NewCluster, tmp_path: Path) -> None:
    cluster, ends = new_cluster(handlers=HANDLERS), tmp_path / "ends"
    with cluster.worker("one", ENDS=str(ends), UNKNOWN_EVENTS="fail") as worker:
        eventually(lambda: ready(worker), "the worker is ready", STARTS_WITHIN)
        first = cluster.publish({"type": "stays"})
        eventually(lambda: worker.get("/api/handlers/stays").json["handlers"][0]["running"] == 1, "the first is called")
        second = cluster.publish({"type": "stays"})
        eventually(lambda: _whys(worker) == {first: "deadline"}, "the first is near its deadline")
        eventually(lambda: _whys(worker) == {first: "overdue", second: "place"}, "the first is past it")
        eventually(lambda: _result(worker, second) == "FAILED", "the second has had one more deadline")
        assert _result(worker, first) == "FAILED"
        assert _whys(worker) == {first: "overdue"}
        ends.touch()
        eventually(lambda: _whys(worker) == {}, "the call has ended")


def _whys(worker: Process) -> dict[str, str]:
    return {line["nodeRunId"]: line["why"] for line in worker.get("/api/stuck").json["lines"]}


def _result(worker: Process, node_run_id: str) -> object:
    return worker.get(f"/api/node-runs/{node_run_id}").json["result"]
