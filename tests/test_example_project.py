"""The project in examples/, installed into an empty environment as its README says, and its own tests run there."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = Path("examples/deployer")


def run(*command: object, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    # These tests may themselves be run by a pytest of several processes, which is not meant for another one.
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=own | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's folder in a copy of what git tracks, with an environment in which it and port-runs are installed.

    What they depend on is found where these tests have it, so that nothing is downloaded: pip still checks that each of
    it is there, in a version that is allowed.
    """
    copy = tmp_path_factory.mktemp("checkout")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in tracked.stdout.splitlines():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    folder = copy / PROJECT
    made = run(sys.executable, "-m", "venv", folder / ".venv", cwd=folder)
    assert made.returncode == 0, made.stderr
    # The one that comes along with Python 3.11 is too old; there is a newer one where the rest is found.
    run(folder / ".venv/bin/pip", "uninstall", "--yes", "--quiet", "setuptools", cwd=folder)
    (packages,) = (folder / ".venv").glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    [line] = re.findall(r"^(\.venv/bin/pip install .*)$", (folder / "README.md").read_text(), re.MULTILINE)
    pip, _, arguments = line.partition(" install ")
    offline = "--no-index --no-build-isolation --disable-pip-version-check --quiet"
    done = run("sh", "-c", f"{pip} install {offline} {arguments}", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_what_is_imported_is_what_was_installed(project: Path) -> None:
    shown = run(".venv/bin/python", "-c", "import agents; print(agents.__file__)", cwd=project)
    assert shown.stdout.startswith(str(project / ".venv")), shown.stdout + shown.stderr


def test_its_tests_pass(project: Path) -> None:
    done = run(".venv/bin/python", "-m", "pytest", "-q", cwd=project)
    assert "7 passed" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0


def test_a_type_checker_finds_the_types_of_what_is_installed(project: Path) -> None:
    options = ("--strict", "--python-executable", ".venv/bin/python")
    done = run(sys.executable, "-m", "mypy", *options, "deployer_handlers", "tests", cwd=project)
    assert done.returncode == 0, done.stdout + done.stderr


def test_its_node_is_the_one_that_node_json_prints(project: Path) -> None:
    settings = {
        "PORT_ORG_ID": "org",
        "PORT_CLIENT_ID": "id",
        "PORT_CLIENT_SECRET": "s",
        "HANDLERS": "deployer_handlers",
    }
    done = run(
        ".venv/bin/python",
        *("-m", "faust", "-A", "streams.app", "node-json", "deployment.requested"),
        cwd=project,
        **settings,
    )
    assert json.loads(done.stdout) == json.loads((project / "deploy-node.json").read_text()), done.stderr
