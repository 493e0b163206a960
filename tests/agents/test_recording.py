"""Whether how a call ended is recorded, whatever the worker and its group are at: by the real app, without Kafka."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import asyncio, json, sys
from streams.app import app
import agents.entering as entering, agents.reporter, agents.running, agents.owning
from agents.shared import outcomes
from streams.records import ItemFinished

sent = []

async def send(**record):
    sent.append(record["value"])
    acknowledged = asyncio.get_running_loop().create_future()
    acknowledged.set_result(None)
    return acknowledged

async def nothing():
    return None

def rebalance_begins():
    # The first line of what Faust calls.
    app.settled.clear()

async def recorded(what):
    app._stopping = app._leaving = False
    app.settled.clear()
    sent.clear()
    for step in what:
        match step:
            case "started" | "a rebalance ends":
                app.on_rebalance_end()
            case "a rebalance begins":
                rebalance_begins()
            case "it drains":
                app._stopping = True
            case "it leaves":
                app._leaving = True
                app.settled.clear()
    times = {"started_at": 1, "ended_at": 2}
    event = ItemFinished(
        node_run_id="wfnr_1", index=0, message=0, attempt=1, result="SUCCESS", worker=app.incarnation, **times
    )
    async with asyncio.timeout(60):
        await entering.record(0, event)
        await app.outbox.empty()
    assert sent == [event]
    return app.settled.is_set()

async def main(histories):
    outcomes.send = send
    app.after_rebalance.clear()
    app.group.unassigned = nothing
    app.add_future = asyncio.ensure_future
    print(json.dumps({name: await recorded(what) for name, what in histories.items()}))

asyncio.run(main(json.loads(sys.argv[1])))
"""
HISTORIES = {
    "it runs": (["started"], True),
    "before its first assignment": ([], False),
    "in a rebalance": (["started", "a rebalance begins"], False),
    "it drains": (["started", "it drains"], True),
    "it drains in a rebalance": (["started", "a rebalance begins", "it drains"], False),
    "it drains after one": (["started", "a rebalance begins", "it drains", "a rebalance ends"], True),
    "it drains after one that began later": (
        ["started", "it drains", "a rebalance begins", "a rebalance ends"],
        True,
    ),
    "it leaves": (["started", "it drains", "it leaves"], False),
    "it leaves, and a rebalance ends": (["started", "it drains", "it leaves", "a rebalance ends"], False),
}


def test_how_a_call_ended_is_recorded_whatever_goes_on(tmp_path: Path) -> None:
    (tmp_path / "some_handlers.py").write_text(
        "from agents import handles\n\n@handles('a')\ndef a(event: dict) -> None:\n    pass\n"
    )
    settings = {
        "PORT_ORG_ID": "org",
        "PORT_CLIENT_ID": "c",
        "PORT_CLIENT_SECRET": "s",
        "HANDLERS": "some_handlers",
        "DATA_DIR": str(tmp_path / "data"),
        "PYTHONPATH": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps({name: history for name, (history, _) in HISTORIES.items()})],
        env={"PATH": os.environ["PATH"]} | settings,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == {name: settled for name, (_, settled) in HISTORIES.items()}
