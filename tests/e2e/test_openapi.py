"""The API of a real worker, on a real Kafka, asked by schemathesis what its document allows and what it does not."""

import asyncio
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import NewCluster
from tests.e2e.test_actions import HANDLERS, Desk
from tests.processes import STARTS_WITHIN, eventually, ready
from tests.web.probing import aimed, probe

TOKEN = "a-long-random-token"
OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


def test_no_question_is_answered_with_a_server_error(new_cluster: NewCluster, tmp_path: Path) -> None:
    cluster = new_cluster(handlers=HANDLERS)
    with cluster.worker(
        "one", WORKS=str(tmp_path / "works"), SIGNATURE="off", WEB_TOKEN=TOKEN, WEB_TEST_MESSAGES="on"
    ) as worker:
        eventually(lambda: ready(worker), "the worker is ready", STARTS_WITHIN)
        desk = Desk(cluster, worker, tmp_path)
        runs = [cluster.publish([{"type": "flaky"}, {"type": "later"}]) for _ in range(12)]
        for _ in range(24):
            desk.dead_letter({"type": "flaky"})
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        listed = eventually(
            lambda: len(found := worker.get("/api/dead-letters", bearer).json["letters"]) == 24 and found, "letters"
        )
        names = [one["letter"] for one in listed]
        letters, bulk = names[:12], names[12:]
        known: dict[str, list[object]] = {
            "node_run_id": [*runs],
            "event_type": ["flaky", "later"] * 2,
            "partition": [int(letter.partition("/")[0]) for letter in letters],
            "offset": [int(letter.partition("/")[2]) for letter in letters],
            "index": [0, 1],
        }
        document = aimed(worker.get("/api/openapi.json", bearer).json, known, {"BulkBody": {"letters": bulk}})
        probed = asyncio.run(probe(document, f"http://127.0.0.1:{worker.port}", TOKEN, tmp_path, 3))
        assert probed.status == 0, probed.said
        assert probed.server_errors() == {}
        met = {name for name, counts in probed.answers.items() if counts[200]}
        # The emulator's node runs have no callback, no letter here can be redriven as it is, no report waits for Port,
        # and a payload at random is not of its handler's event type.
        assert probed.answers.keys() - met == {
            "POST /callbacks/{token}",
            "POST /api/dead-letters/{partition}/{offset}/redrive",
            "POST /api/handlers/{event_type}/publish",
            "POST /api/node-runs/{node_run_id}/give-up",
        }


@pytest.mark.skipif(shutil.which("curl") is None, reason="the commands of the docs need curl")
def test_the_commands_of_the_docs_work(new_cluster: NewCluster, tmp_path: Path) -> None:
    [section] = re.findall(r"^## The API\n(.*?)^## ", OPERATIONS.read_text(), re.MULTILINE | re.DOTALL)
    with_token, without = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    cluster = new_cluster(handlers=HANDLERS)
    with cluster.worker("one", WORKS=str(tmp_path / "works"), WEB_TOKEN=TOKEN) as worker:
        eventually(lambda: ready(worker), "the worker is ready", STARTS_WITHIN)
        node_run_id = cluster.publish({"type": "flaky"})
        path, bearer = f"/api/node-runs/{node_run_id}", {"Authorization": f"Bearer {TOKEN}"}
        eventually(lambda: worker.get(path, bearer).json.get("state") == "reported", "the node run is reported")
        commands = with_token.replace("wfnr_xxxxxxxx", node_run_id).replace("deployment.requested", "flaky")
        searched, done = run(commands, worker.port, tmp_path)
        assert [one["nodeRunId"] for one in searched["nodeRuns"]] == [node_run_id]
        assert done["outcome"] == "applied"
        assert json.loads((tmp_path / "openapi.json").read_text())["openapi"] == "3.1.0"
        assert node_run_id in (tmp_path / "node-runs.csv").read_text()
    with cluster.worker("two", WORKS=str(tmp_path / "works")) as worker:
        eventually(lambda: ready(worker), "the worker is ready", STARTS_WITHIN)
        [paused] = run(f"WORKER=_\n{without.replace('deployment.requested', 'flaky')}", worker.port, tmp_path)
        assert paused["outcome"] == "applied"


def run(commands: str, port: int, folder: Path) -> list[dict[str, Any]]:
    """Run commands of the docs; returns the JSON documents that they print."""
    here = re.sub(r"^WORKER=\S+", f"WORKER=http://127.0.0.1:{port}", commands)
    done = subprocess.run(["sh", "-ec", here], cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    printed, decoder, found = done.stdout.strip(), json.JSONDecoder(), []
    while printed:
        document, end = decoder.raw_decode(printed)
        found.append(document)
        printed = printed[end:].strip()
    return found
