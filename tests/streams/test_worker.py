import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from local.kafka import free_port


@pytest.mark.parametrize(
    ("bound", "announced"),
    [("0.0.0.0", socket.gethostname()), ("10.1.2.3", "10.1.2.3")],  # noqa: S104
)
def test_faust_takes_nothing_from_the_environment(tmp_path: Path, bound: str, announced: str) -> None:
    """Its own variables win over what it is given: one of them is WEB_HOST, which says here where to listen."""
    settings = {
        "PORT_ORG_ID": "org",
        "PORT_CLIENT_ID": "c",
        "PORT_CLIENT_SECRET": "s",
        "HANDLERS": "mine",
        "WEB_TOKEN": "a-long-token",
        "WEB_HOST": bound,
        "WEB_PORT": "7000",
    }
    of_faust = {
        "WEB_BIND": "1.2.3.4",
        "NODE_CANONICAL_URL": "http://elsewhere",
        "BROKER_URL": "kafka://elsewhere:1",
        "PRODUCER_ACKS": "0",
        "PROCESSING_GUARANTEE": "exactly_once",
        "TOPIC_PARTITIONS": "99",
        "APP_WEB_TABLES_ENABLED": "1",
    }
    names = "canonical_url web_bind broker producer_acks processing_guarantee topic_partitions web_tables_enabled"
    script = f"from streams.app import app; print(*(getattr(app.conf, name) for name in {names.split()}))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=settings | of_faust,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    expected = f"http://{announced}:7000 {bound} [URL('kafka://127.0.0.1:9092')] -1 ProcessingGuarantee.AT_LEAST_ONCE 8"
    assert done.stdout == f"{expected} False\n"


@pytest.mark.parametrize("how", ["switched off", "not installed"])
def test_it_refuses_to_start_without_fausts_compiled_streams(tmp_path: Path, how: str) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['faust._cython.streams'] = None\n")
    missing = {"NO_CYTHON": "1"} if how == "switched off" else {"PYTHONPATH": str(tmp_path)}
    settings = {
        "PORT_ORG_ID": "org",
        "PORT_CLIENT_ID": "c",
        "PORT_CLIENT_SECRET": "s",
        "HANDLERS": "examples.handlers",
        "WEB_PORT": str(free_port()),
    }
    done = subprocess.run(
        [sys.executable, "-m", "faust", "-A", "streams.app", "worker"],
        env={"PATH": os.environ["PATH"], "DATA_DIR": str(tmp_path / "data")} | settings | missing,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    [line] = [line for line in done.stderr.splitlines() if "stopped:" in line]
    assert "faust._cython.streams" in line
    assert "Unset NO_CYTHON" in line
    assert "--no-binary faust-streaming" in line
