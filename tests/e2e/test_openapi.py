"""The API of a real worker, on a real Kafka, asked by schemathesis what its document allows and what it does not."""

import asyncio
from pathlib import Path

from tests.e2e.conftest import NewCluster
from tests.e2e.test_actions import HANDLERS, Desk
from tests.processes import STARTS_WITHIN, eventually, ready
from tests.web.probing import aimed, probe

TOKEN = "a-long-random-token"


def test_no_question_is_answered_with_a_server_error(new_cluster: NewCluster, tmp_path: Path) -> None:
    cluster = new_cluster(handlers=HANDLERS)
    with cluster.worker("one", WORKS=str(tmp_path / "works"), SIGNATURE="off", WEB_TOKEN=TOKEN) as worker:
        eventually(lambda: ready(worker), "the worker is ready", STARTS_WITHIN)
        desk = Desk(cluster, worker, tmp_path)
        runs = [cluster.publish([{"type": "flaky"}, {"type": "later"}]) for _ in range(12)]
        for _ in range(12):
            desk.dead_letter({"type": "flaky"})
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        listed = eventually(
            lambda: len(found := worker.get("/api/dead-letters", bearer).json["letters"]) == 12 and found, "letters"
        )
        letters = [one["letter"] for one in listed]
        known: dict[str, list[object]] = {
            "node_run_id": [*runs],
            "event_type": ["flaky", "later"] * 2,
            "partition": [int(letter.partition("/")[0]) for letter in letters],
            "offset": [int(letter.partition("/")[2]) for letter in letters],
            "index": [0, 1],
        }
        document = aimed(worker.get("/api/openapi.json", bearer).json, known, letters)
        probed = asyncio.run(probe(document, f"http://127.0.0.1:{worker.port}", TOKEN, tmp_path, 5))
        assert probed.status == 0, probed.said
        assert probed.server_errors() == {}
        met = {name for name, counts in probed.answers.items() if counts[200]}
        # The emulator's node runs have no callback, and no letter here can be redriven as it is.
        assert probed.answers.keys() - met == {
            "POST /callbacks/{token}",
            "POST /api/dead-letters/{partition}/{offset}/redrive",
        }
