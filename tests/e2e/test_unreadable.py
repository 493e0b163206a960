"""Rows in the changelog that nobody can read: the worker goes on without them, and says so."""

import asyncio
import json

from aiokafka import AIOKafkaProducer

from tests.e2e.record import Record
from tests.processes import STARTS_WITHIN, Cluster, Process, eventually, ready


async def write(cluster: Cluster, topic: str, *records: tuple[bytes, bytes]) -> None:
    async with AIOKafkaProducer(bootstrap_servers=cluster.kafka.bootstrap) as producer:
        for key, value in records:
            await producer.send_and_wait(topic, value, key=key, partition=0)


def starts(worker: Process) -> None:
    eventually(lambda: ready(worker), "the worker is ready", STARTS_WITHIN)


def test_a_row_that_nobody_can_read_holds_up_nothing_and_is_shown(cluster: Cluster, record: Record) -> None:
    app = f"{cluster.org}.port-runs"
    with cluster.worker("first", PARTITIONS="1") as worker:
        starts(worker)
        lost = cluster.publish({"type": "later"})
        eventually(lambda: worker.get(f"/api/node-runs/{lost}").status == 200, "it is entered", STARTS_WITHIN)
        worker.stop()
    broken = b'{"v":1,"node_run_id":"x","received_at":null}'
    rows = [(f"o/{lost}".encode(), broken), (b"p/owner", broken), (b"p/paused/nobody", broken)]
    asyncio.run(write(cluster, f"{app}-ledger-changelog", *rows))
    # Read anew, whatever the local store held.
    with cluster.worker("second", PARTITIONS="1") as worker:
        starts(worker)
        other = cluster.publish({"type": "echo"})
        assert record.completed(other, STARTS_WITHIN)["result"] == "SUCCESS"

        overview = worker.get("/api/overview").json
        assert f"o/{lost}" in [row["key"] for row in overview["unreadable"]]
        [problem] = [one for one in overview["problems"] if lost in one["text"]]
        assert (problem["severity"], problem["to"]) == ("bad", f"/node-runs/{lost}")
        assert "a person completes it at Port" in problem["text"]
        shown = worker.get(f"/api/node-runs/{lost}")
        assert (shown.status, shown.json["error"]) == (500, "unreadable")
        assert 'port_runs_unreadable_rows{kind="open node run"} 1.0' in worker.get("/metrics").text

        # What comes again of it is kept, and calls no handler.
        again = {"context": {"nodeRunId": lost}, "payload": {"type": "echo"}}
        asyncio.run(write(cluster, f"{cluster.org}.runs", (b"again", json.dumps(again).encode())))

        def letters() -> list[str]:
            return [one["reason"] for one in worker.get("/api/dead-letters").json["letters"]]

        [reason] = eventually(letters, "it is a dead letter", STARTS_WITHIN)
        assert f"Arrival of {lost} cannot be entered: row o/{lost}" in reason
        assert worker.stop() == 0
    assert record.reports(lost) == []
