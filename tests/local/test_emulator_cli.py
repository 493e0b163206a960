import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import aiohttp
import pytest
from pydantic import JsonValue, SecretStr

from local.emulator.__main__ import main
from local.examples import load_example
from port.client import AnswerKind, PortClient
from port.models import NodeRunUpdate, Result, Status
from tests.local.calls import Body

ROOT = Path(__file__).parents[2]


@contextlib.asynccontextmanager
async def _running(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """An emulator as a process of its own, and its address."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "local.emulator", "--port", "0", *arguments),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            line = (await process.stdout.readline()).decode()
        assert line.startswith("listening on http://127.0.0.1:"), line
        yield process, line.removeprefix("listening on ").strip()
    finally:
        if process.returncode is None:
            os.kill(process.pid, signal.SIGKILL)
        await process.communicate()


async def _get(method: str, url: str, **options: JsonValue) -> tuple[int, Body, Mapping[str, str]]:
    """One plain call: status, body and headers of the answer."""
    headers = {"Authorization": str(options["authorization"])} if "authorization" in options else {}
    async with aiohttp.request(method, url, json=options.get("json"), headers=headers) as answer:
        return answer.status, await answer.json(), answer.headers


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
async def test_it_serves_until_it_is_told_to_stop(how: signal.Signals, tmp_path: Path) -> None:
    record = tmp_path / "calls.jsonl"
    async with _running("--client-id", "me", "--client-secret", "canary-9", "--record", str(record)) as (process, url):
        _, started, _ = await _get("POST", f"{url}/emulator/node-runs", json=load_example("service-deployed"))
        async with PortClient(url, "me", SecretStr("canary-9")) as client:
            body = NodeRunUpdate(status=Status.COMPLETED, result=Result.SUCCESS).to_json()
            got = await client.report(str(started["nodeRunId"]), str(started["workflowRunId"]), body)
            assert got.kind is AnswerKind.ACCEPTED
            process.send_signal(how)
            async with asyncio.timeout(10):
                out, errors = await process.communicate()
    assert (process.returncode, out, errors) == (0, b"", b"")
    text = record.read_text()
    assert '"call":"report"' in text
    assert "canary" not in text


async def test_a_hanging_call_does_not_keep_it_from_stopping() -> None:
    async with _running("--accept-unknown") as (process, url), aiohttp.ClientSession() as session:
        async with session.put(f"{url}/emulator/faults", json={"hang": True}) as answer:
            assert answer.status == 200
        hanging = asyncio.create_task(session.get(f"{url}/v1/kafka-credentials"))
        while not (await (await session.get(f"{url}/emulator/calls")).json())["calls"]:
            pass
        process.terminate()
        async with asyncio.timeout(10):
            assert await process.wait() == 0
        with pytest.raises(aiohttp.ClientError):
            await hanging


def _fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that it ends with."""
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("emulator: ")
    assert errors.count("\n") == 1
    return errors


def test_what_the_caller_must_change_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        line = _fails(capsys, "--port", str(taken.getsockname()[1]))
        assert "ddress already in use: choose another --port" in line
    assert "No such file or directory" in _fails(capsys, "--record", str(tmp_path / "missing" / "calls.jsonl"))
    (tmp_path / "node-runs.jsonl").write_text("{\n")
    assert "line 1" in _fails(capsys, "--state-dir", str(tmp_path))


@pytest.mark.parametrize(
    "arguments", [["--rate-limit", "5"], ["--rate-limit", "0/1/1"], ["--client-secret", ""], ["--x"]]
)
def test_wrong_arguments_are_refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


async def test_the_options_reach_the_api() -> None:
    async with _running("--rate-limit", "60/60/1", "--token-seconds", "77", "--kafka", "k:1") as (_, url):
        credentials: Body = {"clientId": "emulator-client", "clientSecret": "emulator-secret"}
        _, token, _ = await _get("POST", f"{url}/v1/auth/access_token", json=credentials)
        assert token["expiresIn"] in (76, 77)
        bearer = f"Bearer {token['accessToken']}"
        _, kafka, headers = await _get("GET", f"{url}/v1/kafka-credentials", authorization=bearer)
        assert (kafka["credentials"], headers["x-ratelimit-limit"]) == (
            {"brokers": ["k:1"], "username": "emulator", "password": "emulator-password"},
            "60",
        )
        status, _, _ = await _get("GET", f"{url}/v1/kafka-credentials", authorization=bearer)
        assert status == 429


def test_help_tells_of_the_calls(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for word in ("--state-dir", "--kafka", "/emulator/faults", "PORT_CLIENT_SECRET"):
        assert word in shown
