"""The emulator's record of Port's side: what the tests believe, never the application's own word."""

from dataclasses import dataclass, field
from typing import Any

from tests.processes import Cluster, call, eventually

Call = dict[str, Any]


@dataclass
class Record:
    """The calls of Port's API that an emulator has answered, read on and on."""

    cluster: Cluster
    calls: list[Call] = field(default_factory=list)
    _last: int = 0

    def read_on(self) -> list[Call]:
        """Return all calls so far."""
        while True:
            got = call(self.cluster.emulator_port, "GET", f"/emulator/calls?after={self._last}&limit=5000").json
            if not got["calls"]:
                return self.calls
            self.calls += got["calls"]
            self._last = got["calls"][-1]["seq"]

    def limited(self) -> list[Call]:
        """Return the calls so far that count for the rate limit: processed, or refused because of it."""
        return [one for one in self.calls if one["call"] != "auth" and one["fault"] in (None, "rate_limit")]

    def reports(self, node_run_id: str) -> list[Call]:
        """Return the reports of a node run so far, the refused ones included."""
        return [one for one in self.calls if one["call"] == "report" and one["path"].endswith(f"/{node_run_id}")]

    def completed(self, node_run_id: str, seconds: float = 30.0) -> dict[str, Any]:
        """Return the body that completed a node run, when there is one; that it is the only one is asserted."""

        def accepted() -> list[Call]:
            self.read_on()
            return [one for one in self.reports(node_run_id) if one["changed"]]

        [report] = eventually(accepted, f"{node_run_id} is completed in the emulator's record", seconds)
        body: dict[str, Any] = report["body"]
        assert body["status"] == "COMPLETED"
        return body

    def logs(self, node_run_id: str) -> list[str]:
        """Return the lines in a node run's log so far."""
        self.read_on()
        told = [one for one in self.calls if one["call"] == "logs" and f"/{node_run_id}/" in one["path"]]
        return [line["message"] for one in told for line in one["body"]["logs"]]
