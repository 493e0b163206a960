"""The workflow's own node, through a real Kafka and a worker to the emulator of Port: seconds."""

import json
from pathlib import Path

from local.pytest_plugin import PortEmulator, StartWorker

NODE = json.loads((Path(__file__).parents[1] / "deploy-node.json").read_text())


def test_the_node_of_the_workflow_is_completed(port_emulator: PortEmulator, start_worker: StartWorker) -> None:
    start_worker("deployer_handlers")
    node_run_id = port_emulator.publish(
        NODE, trigger={"service": "checkout", "version": "1.4.0", "environment": "production"}
    )
    broken = port_emulator.publish(NODE, trigger={"service": "checkout"})
    done = port_emulator.completion(node_run_id)
    assert done.result == "SUCCESS"
    assert done.output == {
        "service": "checkout",
        "version": "1.4.0",
        "environment": "production",
        "key": f"{node_run_id}-0",
    }
    assert port_emulator.completion(broken).result == "FAILED"
