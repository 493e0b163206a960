"""The commands that ask a worker: against the views of two workers, all of a test in one process."""

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.test_commands import ONE_AFTER_ANOTHER
from tests.web.fakes import FakeWorker
from tests.web.seeding import EVENT_TYPES, LETTERS, node_run_id_of, seed, team
from tests.web.serving import paired, running
from tests.web.sites import Around
from web.others import Peer

TOKEN = "a-long-random-token"
OPERATING = (
    *("node-runs", "node-run", "failures", "stuck", "handlers", "workers", "audit", "dead-letters"),
    *("retry", "cancel", "complete", "complete-item", "redrive", "discard", "pause", "resume"),
)


@dataclass(frozen=True)
class Ended:
    """What came of a command."""

    status: int
    out: str
    error: str

    @property
    def json(self) -> Any:
        assert self.status == 0, self.error
        return json.loads(self.out)


async def run(url: str, folder: Path, *commands: Sequence[str], token: str = TOKEN) -> list[Ended]:
    """Run commands one after another, while the views answer."""
    settings = {
        "PORT_ORG_ID": "org",
        "PORT_CLIENT_ID": "client",
        "PORT_CLIENT_SECRET": "secret",
        "HANDLERS": "examples.handlers",
        "WEB_TOKEN": token,
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", ONE_AFTER_ANOTHER),
        env={"PATH": os.environ["PATH"], "COLUMNS": "200", "WEB_PORT": url.rpartition(":")[2]} | settings,
        cwd=folder,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate(json.dumps([[command, ""] for command in commands]).encode())
    return [Ended(*each) for each in json.loads(out)]


async def test_what_is_listed(tmp_path: Path) -> None:
    one, other = team()
    seed(one, other)
    failed = node_run_id_of(6)
    async with paired(one, other, Around(TOKEN)) as (views, _):
        table, found, one_run, run_table, failures, stuck, handlers, workers, audit, letters = await run(
            views.url,
            tmp_path,
            ["node-runs", "--limit", "3"],
            ["node-runs", "--json", "--state", "refused"],
            ["node-run", failed, "--json"],
            ["node-run", failed],
            ["failures"],
            ["stuck", "--json"],
            ["handlers", "--live"],
            ["workers"],
            ["audit", "--limit", "4"],
            ["dead-letters", "--all"],
        )
    assert [node_run_id_of(number) in table.out for number in (25, 24, 23, 22)] == [True, True, True, False]
    assert table.error == "there are more: see --limit, or the export of the API\n"
    assert [each["nodeRunId"] for each in found.json["nodeRuns"]] == [node_run_id_of(16), node_run_id_of(15)]
    assert one_run.json["items"][0]["error"] == "there is no environment production-eu"
    assert "there is no environment production-eu" in run_table.out
    assert "there is no environment production-eu" in failures.out
    assert {each["why"] for each in stuck.json["lines"]} == {"callback", "retry", "refused"}
    paused = next(line for line in handlers.out.splitlines() if EVENT_TYPES[1] in line)
    assert "True" in paused
    assert "cli: anna" in paused
    assert all(worker.app.incarnation in workers.out for worker in (one, other))
    assert ("discard dead letter" in audit.out, "retry item" in audit.out) == (True, False)
    assert all(f"0/{offset}" in letters.out for offset in LETTERS)
    assert {each.status for each in (table, run_table, failures, handlers, workers, audit, letters)} == {0}


async def test_filters(tmp_path: Path) -> None:
    worker = FakeWorker()
    for number in range(6):
        worker.arrive(f"wfnr_{number}", workflow=f"flow & {number % 2}", event_types=(f"type {number % 3}",))
    worker.defer("wfnr_1", event_type="type 1")
    async with running(worker, Around(TOKEN)) as views:
        asked = [
            (["--workflow", "flow & 1"], "531"),
            (["--event-type", "type 2"], "52"),
            (["--since", "2027-01-15T08:00:03Z", "--until", "2027-01-15T08:00:05+00:00"], "32"),
            (["--text", "wfnr_4"], "4"),
            (["--state", "deferred"], "1"),
            (["--repeated"], ""),
            (["--limit", "2"], "54"),
        ]
        ended = await run(views.url, tmp_path, *(["node-runs", "--json", *options] for options, _ in asked))
    for (options, expected), each in zip(asked, ended, strict=True):
        ids = [run["nodeRunId"] for run in each.json["nodeRuns"]]
        assert ids == [f"wfnr_{number}" for number in expected], options


async def test_what_is_done(tmp_path: Path) -> None:
    one, other = team()
    seed(one, other)
    failed, waits = node_run_id_of(6), node_run_id_of(24)
    async with paired(one, other, Around(TOKEN)) as (views, _):
        retried, again, cancelled, paused, resumed, discarded, redriven = await run(
            views.url,
            tmp_path,
            ["retry", failed, "--item", "0", "--yes", "--json"],
            ["cancel", failed, "--yes"],
            ["cancel", waits, "--yes"],
            ["pause", EVENT_TYPES[0], "--yes"],
            ["resume", EVENT_TYPES[0], "--yes", "--json"],
            ["discard", "0/3", "0/4", "--note", "a test", "--yes"],
            ["redrive", "0/7", "--yes", "--json"],
        )
    assert retried.json["outcome"] == "applied"
    assert (again.status, cancelled.status) == (1, 0)
    assert "is paused in" in paused.out
    assert "is resumed in" in resumed.json["message"]
    assert discarded.out == "discard: 2 of 2 letters\n"
    assert (redriven.json["outcome"], len(one.post.entered)) == ("applied", 1)
    assert {audited.who.partition(":")[0] for audited in one.post.written} == {"cli"}


async def test_without_a_token_a_command_may_act(tmp_path: Path) -> None:
    worker = FakeWorker()
    worker.arrive("wfnr_a")
    async with running(worker, Around()) as views:
        [cancelled] = await run(views.url, tmp_path, ["cancel", "wfnr_a", "--yes"], token="")
    assert cancelled.status == 0


async def test_what_is_missing_is_said(tmp_path: Path) -> None:
    one, other = team()
    seed(one, other)
    away = Peer("runs-2", "http://127.0.0.1:1", frozenset(other.here.partitions))
    async with running(one, Around(TOKEN, peers=[away])) as views:
        ended = await run(views.url, tmp_path, *([name] for name in ("node-runs", "failures", "stuck", "workers")))
    partitions = ", ".join(map(str, sorted(other.here.partitions)))
    for each in ended:
        assert each.status == 0
        assert f"missing: partitions {partitions}\n" in each.error
        assert "missing: worker runs-2 at http://127.0.0.1:1: nobody listens there\n" in each.error


async def test_what_is_refused_is_one_line(tmp_path: Path) -> None:
    worker = FakeWorker()
    async with running(worker, Around(TOKEN)) as views:
        ended = await run(
            views.url,
            tmp_path,
            ["node-runs", "--since", "yesterday"],
            ["node-run", "wfnr_/.."],
            ["redrive", "0"],
            ["stuck", "--worker", "http://127.0.0.1:1"],
        )
        [denied] = await run(views.url, tmp_path, ["audit"], token="wrong")
    assert [(each.status, each.error.count("\n"), each.out) for each in [*ended, denied]] == [
        (1, 1, ""),
        (2, 1, ""),
        (2, 1, ""),
        (1, 1, ""),
        (1, 1, ""),
    ]
    assert ended[0].error.startswith("bad-query: since is an ISO time")
    assert denied.error.startswith("unauthorized: ")


async def test_each_has_help_and_speaks_to_programs(tmp_path: Path) -> None:
    all_of_them = await run("http://127.0.0.1:1", tmp_path, *([name, "--help"] for name in OPERATING))
    for name, ended in zip(OPERATING, all_of_them, strict=True):
        assert (ended.status, ended.error) == (0, "")
        assert f"Usage: faust {name} [OPTIONS]" in ended.out
        assert "--json" in ended.out
