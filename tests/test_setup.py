"""What the two commands stand on: the Makefile, the lock files and the scripts."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCKS = ["requirements.lock", "requirements-image.lock"]
PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+)", re.MULTILINE)


def pins(lock: str) -> dict[str, str]:
    return {match["name"]: match["version"] for match in PIN.finditer((ROOT / lock).read_text())}


def project() -> dict[str, list[str]]:
    """The requirements of pyproject.toml, by extra; the application's own under the empty name."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {"": table["dependencies"], **table["optional-dependencies"]}


def sh(script: str, path: str, *, cwd: Path = ROOT, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["/bin/sh", "-c", script],
        cwd=cwd,
        env={"PATH": path} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def tool(folder: Path, name: str, body: str) -> Path:
    """A command that does `body`, for a PATH on which it comes first."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


class TestLocks:
    @pytest.mark.parametrize("lock", LOCKS)
    def test_each_package_has_hashes_and_no_address_stands_there(self, lock: str) -> None:
        text = (ROOT / lock).read_text()
        assert "://" not in text
        assert "index" not in text
        blocks = re.split(r"\n(?=[A-Za-z0-9])", text)
        assert len(blocks) == len(pins(lock))
        assert [block for block in blocks if "--hash=sha256:" not in block] == []

    @pytest.mark.parametrize(
        ("lock", "extras"), [(LOCKS[0], ["", "local", "otel", "dev", "build"]), (LOCKS[1], ["", "build"])]
    )
    def test_it_fits_the_project_file(self, lock: str, extras: list[str]) -> None:
        pinned = pins(lock)
        wanted = [Requirement(line) for extra in extras for line in project()[extra]]
        stale = [str(r) for r in wanted if not r.specifier.contains(pinned.get(canonicalize_name(r.name), "0"))]
        assert stale == [], "run `make lock`"

    def test_the_image_gets_what_was_tested(self) -> None:
        assert pins(LOCKS[1]).items() <= pins(LOCKS[0]).items()


class TestPython:
    FIND = "sh scripts/find-python.sh"

    def test_a_python_that_is_too_old_is_told_in_one_line(self, tmp_path: Path) -> None:
        for name in ("python3", "python3.11", "python3.12", "python3.13", "python3.14"):
            tool(tmp_path, name, "exit 1")
        found = sh(self.FIND, f"{tmp_path}:/usr/bin:/bin")
        assert found.returncode == 1
        assert found.stdout == ""
        assert found.stderr.startswith("Python 3.11, 3.12, 3.13 or 3.14 is needed")
        assert found.stderr.count("\n") == 1

    def test_the_chosen_one_is_the_only_candidate(self, tmp_path: Path) -> None:
        found = sh(self.FIND, os.environ["PATH"], PYTHON=str(tool(tmp_path, "other", "exit 1")))
        assert found.returncode == 1
        assert "is no Python 3.11" in found.stderr

    def test_a_later_candidate_is_found(self, tmp_path: Path) -> None:
        for name in ("python3", "python3.14"):
            tool(tmp_path, name, "exit 1")
        tool(tmp_path, "python3.13", '[ "$2" != "import sys; print(sys.executable)" ] || echo /the/thirteenth')
        found = sh(self.FIND, f"{tmp_path}:/usr/bin:/bin")
        assert found.stdout == "/the/thirteenth\n", found.stderr


class TestSystemPackages:
    REQUIRE = ". scripts/system-packages.sh; require_packages the-python"

    @pytest.fixture
    def tools(self, tmp_path: Path) -> Path:
        """A machine whose Python lacks venv; its apt-get writes down how it was called."""
        folder = tmp_path / "tools"
        folder.mkdir()
        tool(folder, "the-python", 'case "$2" in *ensurepip* | *Python.h*) exit 1 ;; *) echo 3.12 ;; esac')
        tool(folder, "apt-get", f'echo "$*" >>"{tmp_path}/apt"')
        tool(folder, "uname", 'case "$1" in -s) echo Linux ;; *) echo x86_64 ;; esac')
        (folder / "tr").symlink_to(shutil.which("tr") or "tr")
        return folder

    def test_who_is_not_root_gets_the_one_command(self, tools: Path, tmp_path: Path) -> None:
        tool(tools, "id", "echo 1000")
        done = sh(self.REQUIRE, str(tools))
        assert done.returncode == 1
        assert "sudo apt-get install -y python3.12-venv" in done.stderr
        assert done.stderr.count("\n") == 1
        assert not (tmp_path / "apt").exists()

    def test_root_gets_them_installed(self, tools: Path, tmp_path: Path) -> None:
        tool(tools, "id", "echo 0")
        done = sh(self.REQUIRE, str(tools))
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "apt").read_text().splitlines()[-1].endswith(" python3.12-venv")

    def test_on_arm64_a_compiler_is_needed(self, tools: Path) -> None:
        tool(tools, "id", "echo 1000")
        tool(tools, "uname", 'case "$1" in -s) echo Linux ;; *) echo aarch64 ;; esac')
        done = sh(self.REQUIRE, str(tools))
        assert "python3.12-venv gcc libc6-dev python3.12-dev" in done.stderr

    def test_without_apt_the_names_are_told(self, tools: Path) -> None:
        (tools / "apt-get").unlink()
        done = sh(self.REQUIRE, str(tools))
        assert done.returncode == 1
        assert "Missing on this system" in done.stderr


class TestDeveloper:
    def test_settings_in_the_environment_are_kept_from_the_tests(self) -> None:
        own = {
            "PORT_ORG_ID": "mine",
            "PORT_CLIENT_ID": "me",
            "HANDLERS": "mine",
            "WEB_TOKEN": "x",
            "KAFKA_BROKERS": "k:1",
        }
        test = "tests/local/test_emulator_cli.py::test_the_options_reach_the_api"
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test],
            cwd=ROOT,
            env=os.environ | own,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout

    def test_a_package_that_is_added_later_is_found(self) -> None:
        [entry] = Path(sysconfig.get_path("purelib")).glob("__editable__.port_runs-*.pth")
        assert Path(entry.read_text().strip()) == ROOT, "run `make setup`"

    def test_a_file_with_secrets_beside_the_compose_file_is_not_judged(self, tmp_path: Path) -> None:
        [lint] = re.findall(r"^\t\$\(VENV\)/bin/(compose-lint .*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
        shutil.copy(ROOT / "docker-compose.yml", tmp_path)
        (tmp_path / ".env").write_text("PORT_CLIENT_SECRET=of-the-developer\n")
        done = sh(lint, f"{Path(sys.executable).parent}:{os.environ['PATH']}", cwd=tmp_path)
        assert done.returncode == 0, done.stdout


class TestMake:
    def test_help_lists_every_target(self) -> None:
        makefile = (ROOT / "Makefile").read_text()
        targets = re.findall(r"^([a-z]+):", makefile, re.MULTILINE)
        shown = sh("make", os.environ["PATH"]).stdout
        assert re.findall(r"^  make ([a-z]+) ", shown, re.MULTILINE) == targets

    def test_an_installation_that_fails_is_told(self, tmp_path: Path) -> None:
        tool(tmp_path, "python", 'echo "Collecting it"; echo "ERROR: no such package" >&2; exit 1')
        (tmp_path / "bin").mkdir()
        (tmp_path / "python").rename(tmp_path / "bin" / "python")
        done = sh(f". scripts/install-locked.sh; install_locked {tmp_path} it.lock", "/usr/bin:/bin")
        assert done.returncode == 1
        assert "ERROR: no such package" in done.stderr
        assert "The packages of it.lock could not be installed" in done.stderr


@pytest.mark.parametrize(
    ("linter", "name", "fault"),
    [
        ("hadolint", "Dockerfile", "FROM debian\nRUN cd /tmp && apt-get install gcc\n"),
        ("shellcheck", "script.sh", "#!/bin/sh\nrm $1\n"),
        ("compose-lint", "docker-compose.yml", "services:\n  a:\n    image: a:1.0\n    privileged: true\n"),
    ],
)
def test_the_linters_report_faults(linter: str, name: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(fault)
    done = subprocess.run([Path(sys.executable).parent / linter, tmp_path / name], capture_output=True, check=False)
    assert done.returncode != 0
