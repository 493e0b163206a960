"""A driver that publishes node runs by itself, and holds its own list against the emulator's record."""

import asyncio
import json
import secrets
import time
from collections import defaultdict
from dataclasses import dataclass, field

from aiokafka import AIOKafkaProducer

from tests.e2e.record import Record
from tests.processes import Cluster, call

_REGISTERED_AT_ONCE = 1000


@dataclass
class Load:
    """Node runs of one organization, each with one item of event type `echo`."""

    cluster: Cluster
    published: list[str] = field(default_factory=list)

    def register(self, count: int) -> list[tuple[str, str]]:
        """Make node runs known to the emulator; returns workflow-run and node-run ids."""
        ids = [(f"wfr_{secrets.token_hex(8)}", f"wfnr_{secrets.token_hex(8)}") for _ in range(count)]
        for start in range(0, count, _REGISTERED_AT_ONCE):
            some = ids[start : start + _REGISTERED_AT_ONCE]
            body = {"nodeRuns": [{"workflowRunId": run, "nodeRunId": node} for run, node in some]}
            got = call(self.cluster.emulator_port, "POST", "/emulator/node-runs/register", body=body)
            assert got.status == 200, got.text
        return ids

    async def publish(self, ids: list[tuple[str, str]], per_second: float) -> None:
        """Publish a node run for each pair of ids, at a steady rate."""
        async with AIOKafkaProducer(bootstrap_servers=self.cluster.kafka.bootstrap, linger_ms=5) as producer:
            began = time.monotonic()
            for number, (run, node) in enumerate(ids):
                ahead = began + number / per_second - time.monotonic()
                if ahead > 0.02:
                    await asyncio.sleep(ahead)
                context = {"workflowRunId": run, "nodeRunId": node}
                message = {"context": context, "payload": {"type": "echo", "n": number}}
                await producer.send(f"{self.cluster.org}.runs", json.dumps(message).encode())
                self.published.append(node)

    def missing(self, record: Record) -> set[str]:
        """Return the node runs that are not completed in the emulator's record."""
        return set(self.published) - {_node_run_id(one["path"]) for one in record.read_on() if one["changed"]}

    def contradictions(self, record: Record) -> list[str]:
        """Return the node runs for which bodies of different content were sent."""
        bodies: defaultdict[str, set[str]] = defaultdict(set)
        for one in record.read_on():
            if one["call"] == "report":
                bodies[_node_run_id(one["path"])].add(json.dumps(one["body"], sort_keys=True))
        return [node_run_id for node_run_id, sent in bodies.items() if len(sent) > 1]


def _node_run_id(path: str) -> str:
    return path.rsplit("/", 1)[-1]
