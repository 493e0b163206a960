"""What the emulator of Port saw, which alone is believed: no subject is asked for anything."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import orjson

from bench.errors import BenchError
from bench.work import payload, work

_AT_ONCE: Final = 2_000


class Port:
    """The emulator's own calls."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._session = aiohttp.ClientSession(json_serialize=lambda value: orjson.dumps(value).decode())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def delay(self, milliseconds: int) -> None:
        """Let every call of Port's API take so long."""
        await self._call("PUT", "/emulator/faults", {"latency_ms": milliseconds})

    async def register(self, ids: Sequence[tuple[str, str]]) -> None:
        """Make node runs known, by the ids of workflow run and node run."""
        for start in range(0, len(ids), _AT_ONCE):
            some = ids[start : start + _AT_ONCE]
            body = {"nodeRuns": [{"workflowRunId": run, "nodeRunId": node_run} for run, node_run in some]}
            await self._call("POST", "/emulator/node-runs/register", body)

    async def completed(self) -> int:
        """Return how many node runs are completed."""
        return int((await self._call("GET", "/emulator"))["completed"])

    async def calls(self, after: int) -> list[dict[str, Any]]:
        """Return calls of Port's API behind the one with this number, the oldest first; none where there is none."""
        found = (await self._call("GET", f"/emulator/calls?after={after}&limit={_AT_ONCE}"))["calls"]
        return list(found)

    async def _call(self, method: str, path: str, body: object = None) -> Any:
        async with self._session.request(method, self._base_url + path, json=body) as answer:
            text = await answer.text()
            if answer.status != 200:
                raise BenchError(f"the emulator answered {answer.status} to {method} {path}: {text[:500]}")
            return orjson.loads(text)


class Record:
    """The calls of one trial, read on and on and held against what was published.

    Attributes:
        completed: when each node run's completion arrived at Port, by its id: seconds since the epoch.
        calls: how many calls there were.
    """

    def __init__(self, port: Port, latency_ms: int) -> None:
        self.completed: dict[str, float] = {}
        self.calls = 0
        self._port = port
        self._latency = latency_ms / 1000
        self._bodies: dict[str, Any] = {}
        self._last = 0

    async def read_on(self) -> None:
        """Read the calls so far. Raises BenchError where two bodies contradict each other."""
        while calls := await self._port.calls(self._last):
            self._last = calls[-1]["seq"]
            self.calls += len(calls)
            for call in calls:
                self._read(call)

    def _read(self, call: Mapping[str, Any]) -> None:
        body = call["body"]
        if call["call"] != "report" or body["status"] != "COMPLETED":
            return
        node_run = call["path"].rsplit("/", 1)[-1]
        known = self._bodies.setdefault(node_run, body)
        if body != known:
            raise BenchError(f"{node_run} was completed with {known}, then with {body}")
        if call["changed"]:
            # The emulator writes the time down when it has waited out its latency.
            self.completed[node_run] = call["time"] - self._latency

    def require(self, published: Mapping[str, int]) -> None:
        """Raise BenchError unless each of these node runs, by their numbers, is completed with its own true output."""
        if missing := [node_run for node_run in published if node_run not in self.completed]:
            raise BenchError(f"{len(missing)} of {len(published)} node runs are not completed, such as {missing[0]}")
        for node_run, number in published.items():
            expected = {"status": "COMPLETED", "result": "SUCCESS", "output": work(payload(number))}
            if self._bodies[node_run] != expected:
                raise BenchError(f"{node_run} was completed with {self._bodies[node_run]} instead of {expected}")
