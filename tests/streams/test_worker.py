import os
import subprocess
import sys
from pathlib import Path

import pytest

from local.kafka import free_port


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
