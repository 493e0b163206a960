"""`faust -A streams.app check` as people run it: what is wrong is named with its remedy, in text and in JSON."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from local.kafka import free_port
from tests.e2e.record import Record
from tests.processes import SECRET, STARTS_WITHIN, Cluster, eventually, ready
from tests.source_kafka import SourceKafka

CANARY = "canary-of-a-check"
Environment = dict[str, str]


class Run:
    """A command that runs, and what came of it."""

    def __init__(self, folder: Path, environment: Environment, *arguments: str) -> None:
        clean = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        self._child = subprocess.Popen(
            [sys.executable, "-m", "faust", "-A", "streams.app", *arguments],
            # What is not closed is told on standard error then.
            env=clean | {"PYTHONWARNINGS": "default"} | environment,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ended(self) -> tuple[int, str]:
        """Return its exit status and standard output; nothing is on standard error."""
        out, error = self._child.communicate(timeout=60)
        assert error == ""
        assert CANARY not in out
        assert SECRET not in out
        return self._child.returncode, out


def check(folder: Path, environment: Environment) -> tuple[int, dict[str, Any], str]:
    """Run it twice at a time; returns the exit status, the findings by name, and the text."""
    for_people, for_programs = Run(folder, environment, "check"), Run(folder, environment, "check", "--json")
    status, text = for_people.ended()
    other, document = for_programs.ended()
    assert status == other
    findings = json.loads(document)
    for finding in findings:
        assert set(finding) == {"name", "status", "found", "remedy", "details"}
        assert finding["remedy"] or finding["status"] in ("ok", "skipped")
    assert [line.split()[0] for line in text.splitlines() if line[:1].strip()][:-1] == [f["status"] for f in findings]
    assert status == any(finding["status"] == "wrong" for finding in findings)
    return status, {finding["name"]: finding for finding in findings}, text


@pytest.fixture
def environment(cluster: Cluster) -> Environment:
    """The settings of a worker with which nothing is wrong."""
    return {
        "PORT_ORG_ID": cluster.org,
        "PORT_CLIENT_ID": "client",
        "PORT_CLIENT_SECRET": SECRET,
        "HANDLERS": "examples.handlers",
        "PORT_API_BASE_URL": f"http://127.0.0.1:{cluster.emulator_port}",
        "KAFKA_BROKERS": cluster.kafka.bootstrap,
        "DATA_DIR": str(cluster.data_dir("checked")),
        "WEB_PORT": str(free_port()),
    }


def test_nothing_is_wrong_and_nothing_changed(cluster: Cluster, record: Record, environment: Environment) -> None:
    status, found, text = check(cluster.folder, environment)
    assert status == 0
    assert "ok       port: " in text
    assert f"ok       kafka topic {cluster.org}.port-runs.arrivals: is not there yet" in text
    assert f"{len(found)} looked at: " in text.splitlines()[-1]
    assert not cluster.data_dir("checked").exists()
    assert [call["call"] for call in record.read_on()] == ["auth", "auth"]
    assert "takes service, version, environment, [timestamp]; concurrency 20, deadline 300 s, retries 5" in text
    details = found["handler deployment.started"]["details"]
    assert details["schema"]["required"] == ["service", "version", "environment"]
    assert (details["concurrency"], details["deadline"], details["retries"]) == (20, 300, 5)


def of_another_region(environment: Environment) -> Environment:
    return {"PORT_CLIENT_ID": "client-of-the-us-region"}


def wrong_secret(environment: Environment) -> Environment:
    return {"PORT_CLIENT_SECRET": CANARY}


def nothing_right(environment: Environment) -> Environment:
    closed = {"PORT_API_BASE_URL": f"http://127.0.0.1:{free_port()}", "KAFKA_BROKERS": f"127.0.0.1:{free_port()}"}
    return closed | {"DATA_DIR": __file__}


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (
            of_another_region,
            {
                "port": (
                    "these credentials are refused at",
                    "PORT_API_BASE_URL=https://api.getport.io or https://api.us.",
                )
            },
        ),
        (wrong_secret, {"port": ("these credentials are refused at", "check PORT_CLIENT_ID and PORT_CLIENT_SECRET")}),
        (
            nothing_right,
            {
                "port": ("cannot be used: ClientConnectorError", "check PORT_API_BASE_URL"),
                "DATA_DIR": ("test_check.py is no folder", "set DATA_DIR to a folder"),
                "kafka": ("KAFKA_BROKERS: nothing listens at", "check address and broker"),
            },
        ),
    ],
)
def test_what_is_wrong(
    cluster: Cluster,
    environment: Environment,
    change: Callable[[Environment], Environment],
    wrong: dict[str, tuple[str, str]],
) -> None:
    status, found, text = check(cluster.folder, environment | change(environment))
    assert status == 1
    expect(found, text, wrong)


def expect(found: dict[str, Any], text: str, wrong: dict[str, tuple[str, str]]) -> None:
    """Exactly these are wrong, with this finding and remedy, in both forms."""
    assert {name for name, finding in found.items() if finding["status"] == "wrong"} == set(wrong)
    for name, (told, remedy) in wrong.items():
        finding = found[name]
        assert told in finding["found"]
        assert remedy in finding["remedy"]
        assert f"wrong    {name}: {finding['found']}\n         to do: {finding['remedy']}\n" in text


class TestSource:
    """Port's Kafka, as far as a customer has rights there."""

    @pytest.fixture
    def settings(self, environment: Environment, source: SourceKafka, cluster: Cluster) -> Environment:
        source.allow(cluster.org)
        return environment | source.settings()

    def test_a_wrong_group(self, cluster: Cluster, source: SourceKafka, settings: Environment) -> None:
        source.add_topic(cluster.org)
        status, found, text = check(cluster.folder, settings | {"CONSUMER_GROUP": f"team-{cluster.org}"})
        assert status == 1
        expect(found, text, {"source group": ("GROUP_AUTHORIZATION_FAILED", f"begin it with {cluster.org}.")})

    def test_a_missing_topic(self, cluster: Cluster, settings: Environment) -> None:
        status, found, text = check(cluster.folder, settings)
        assert status == 1
        expect(found, text, {"source runs": (f"topic {cluster.org}.runs is not there", "check PORT_ORG_ID")})


def test_beside_a_worker(cluster: Cluster, environment: Environment) -> None:
    with cluster.worker("w") as worker:
        eventually(lambda: ready(worker), "the worker is ready", STARTS_WITHIN)
        status, found, _ = check(cluster.folder, environment | {"WEB_PORT": str(worker.port)})
    assert status == 0
    assert found["web"]["found"].startswith(f"a worker answers at 127.0.0.1:{worker.port} already")
    assert "1 worker, stable; still to be read: 0 of " in found["kafka group"]["found"]
    assert {f["status"] for name, f in found.items() if name.startswith("kafka topic")} == {"ok"}


def test_help(tmp_path: Path, environment: Environment) -> None:
    for run in [Run(tmp_path, environment, "--help"), Run(tmp_path, environment, "check", "--help")]:
        status, text = run.ended()
        assert status == 0
        assert "Look at settings, Kafka, Port's API" in text


def test_a_setting_that_cannot_be_read(tmp_path: Path, environment: Environment) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "faust", "-A", "streams.app", "check"],
        env=environment | {"PARTITIONS": "many"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr.startswith("PARTITIONS: ")
