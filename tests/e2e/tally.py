"""The emulator's record as its file has it, told up: cheap to follow for many node runs, and over its restarts."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import orjson


class Tally:
    """What the record says of each node run so far."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._position = 0
        self._bodies: defaultdict[str, set[bytes]] = defaultdict(set)
        self.completed: dict[str, float] = {}
        """When the node run was completed, in epoch seconds."""

    def read_on(self) -> int:
        """Read what was added since the last call; returns how many node runs are completed."""
        with self._file.open("rb") as lines:
            lines.seek(self._position)
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                self._position += len(line)
                self._add(orjson.loads(line))
        return len(self.completed)

    def contradictions(self) -> list[str]:
        """Return the node runs for which completions of different content came."""
        return [node_run_id for node_run_id, bodies in self._bodies.items() if len(bodies) > 1]

    def _add(self, call: dict[str, Any]) -> None:
        if call["call"] != "report" or call["body"]["status"] != "COMPLETED":
            return
        node_run_id = call["path"].rsplit("/", 1)[-1]
        self._bodies[node_run_id].add(orjson.dumps(call["body"], option=orjson.OPT_SORT_KEYS))
        if call["changed"]:
            self.completed[node_run_id] = call["time"]
