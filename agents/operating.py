"""Commands for operators, which talk to a worker's API: `node-runs`, `node-run`, `failures`, `stuck`, `handlers`,
`workers`, `audit`, `retry`, `cancel`, `dead-letters`, `redrive`, `discard`, `pause` and `resume`.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Final, cast
from urllib.parse import quote, urlencode

import aiohttp
import click
from faust.cli import argument, option
from pydantic import JsonValue
from pydantic_core import from_json
from rich.console import Console
from rich.table import Table
from rich.text import Text
from yarl import URL

from agents import shared
from agents.check import of_handler
from agents.commands import FAILED, FOR_PROGRAMS, Command, CommandError, asker, confirm
from port.ids import is_node_run_id
from streams.app import settings
from tables.state import State

_SECONDS: Final = 60.0
_OK: Final = frozenset({200, 202})
_LETTER: Final = re.compile(r"\d{1,6}/\d{1,18}")
_WORKER: Final = option("--worker", metavar="URL", help="The worker's address (http://127.0.0.1:WEB_PORT).")
_LIMIT: Final = option(
    "--limit", type=click.IntRange(1, 500), default=50, show_default=False, help="How many at most (50)."
)
_YES: Final = option("--yes", "-y", is_flag=True, default=False, help="Do not ask.")
Fields = dict[str, JsonValue]


class _Remote(Command):
    """Asks a worker."""

    abstract: ClassVar[bool] = True

    def ask(self, method: str, path: str, body: Fields | None = None) -> Fields:
        """Return the worker's answer. Raises CommandError where it refuses, with its reason."""
        base = (self.text("worker") or f"http://127.0.0.1:{settings.web_port}").rstrip("/")
        try:
            status, answer = asyncio.run(_ask(method, f"{base}{path}", body))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise CommandError(f"{base}: no answer: {type(error).__name__}: {error}", FAILED) from None
        if status not in _OK and "outcome" not in answer:
            raise CommandError(f"{answer.get('error', status)}: {answer.get('message', '')}", FAILED)
        return answer

    def listed(self, path: str, lines: str, columns: Mapping[str, str], **query: object) -> int:
        """Ask for a list, and print it: the field with its lines, and a heading for each of their fields."""
        given = {name: str(value) for name, value in query.items() if value not in (None, False, "")}
        answer = self.ask("GET", f"{path}?{urlencode(given)}" if given else path)
        return self.show(answer, _table(answer.get(lines), **columns))

    def show(self, answer: Fields, table: Table) -> int:
        """Print an answer, and beside it what is not in it."""
        if self.as_json:
            click.echo(json.dumps(answer, indent=2))
            return 0
        Console(soft_wrap=True).print(table if table.rows else Text("none"))
        for line in _not_in(answer):
            click.echo(line, err=True)
        return 0

    @property
    def limit(self) -> int:
        """The option."""
        return cast("int", self.kwargs.get("limit", 50))

    def do(self, question: str, path: str, body: Fields | None = None) -> int:
        """Ask, do it, and say what became of it."""
        if not self.kwargs.get("yes"):
            confirm(question)
        answer = self.ask("POST", path, body or {})
        click.echo(json.dumps(answer, indent=2) if self.as_json else answer.get("message", ""))
        return 0 if answer.get("outcome") in ("applied", "pending") else FAILED

    @property
    def node_run_id(self) -> str:
        """The argument. Raises CommandError."""
        given = self.text("node_run_id") or ""
        if not is_node_run_id(given):
            raise CommandError(f"{given[:80]!r} is no id of a node run")
        return given

    def seen(self) -> tuple[str, Fields]:
        """Return how the node run stands, and what an action on it brings along: if it goes on first, that is void."""
        answer = self.ask("GET", f"/api/node-runs/{self.node_run_id}?limit=1")
        counts = f"{_cell(answer.get('failed'))} of {_cell(answer.get('itemCount'))} items FAILED"
        return f"{_cell(answer.get('state'))}, {counts}", {"seen": answer.get("seen")}

    @property
    def letters(self) -> list[str]:
        """The arguments. Raises CommandError."""
        given = list(cast("tuple[str, ...]", self.kwargs.get("letters", ())))
        for name in given:
            if _LETTER.fullmatch(name) is None:
                raise CommandError(f"{name[:80]!r} is no partition/offset, as dead-letters lists them")
        return given


async def _ask(method: str, url: str, body: Fields | None) -> tuple[int, Fields]:
    token = settings.web_token.get_secret_value()
    headers = {"Accept": "application/json", "X-Actor": asker()}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_SECONDS)) as session:
        if method != "GET" and not token:
            # Without a token of its own the worker asks for one that only its own pages know, and whoever asks for it.
            _, known = await _answer(session, "GET", str(URL(url).with_path("/api/session").with_query(None)), headers)
            headers["X-CSRF-Token"] = str(known.get("csrfToken", ""))
        return await _answer(session, method, url, headers, body)


async def _answer(
    session: aiohttp.ClientSession, method: str, url: str, headers: dict[str, str], body: Fields | None = None
) -> tuple[int, Fields]:
    async with session.request(method, url, json=body, headers=headers, allow_redirects=False) as answer:
        found = from_json(await answer.read())
        return answer.status, found if isinstance(found, dict) else {}


def _table(lines: JsonValue, **columns: str) -> Table:
    """Return a table of objects: headings and the fields under them."""
    table = Table(*columns.values(), header_style="bold")
    for line in lines if isinstance(lines, list) else []:
        fields = line if isinstance(line, dict) else {}
        table.add_row(*(Text(_cell(fields.get(name))) for name in columns))
    return table


def _not_in(answer: Fields) -> Iterator[str]:
    """Yield what is to be said of an answer that has not all."""
    if answer.get("missing"):
        yield f"missing: partitions {_cell(answer['missing'])}"
    workers = answer.get("missingWorkers")
    for one in workers if isinstance(workers, list) else []:
        if isinstance(one, dict):
            yield f"missing: worker {_cell(one.get('worker'))} at {_cell(one.get('url'))}: {_cell(one.get('why'))}"
    if answer.get("after"):
        yield "there are more: see --limit, or the export of the API"


def _cell(value: JsonValue) -> str:
    if value is None:
        return "-"
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return "".join(character if character.isprintable() else "?" for character in text[:200])


class node_runs(_Remote):
    """List node runs of all workers, the latest first, by filters."""

    options = [
        option("--state", type=click.Choice([state.value for state in State]), help="Only those in this state."),
        option("--event-type", metavar="TYPE", help="Only those with an item of this event type."),
        option("--workflow", metavar="NAME", help="Only those of the workflow with this identifier."),
        option("--since", metavar="TIME", help="Received then or later, as 2026-01-31T08:00:00Z; UTC without offset."),
        option("--until", metavar="TIME", help="Received before then."),
        option("--text", metavar="TEXT", help="The beginning of an id, wfnr_... or wfr_..., or a node's identifier."),
        option(
            "--repeated", is_flag=True, default=False, help="Only those of which an item was called more than once."
        ),
        _LIMIT,
        _WORKER,
        FOR_PROGRAMS,
    ]

    def act(self) -> int:
        """Print them."""
        columns = {"nodeRunId": "Node run", "eventTypes": "Event types", "state": "State", "result": "Result"}
        return self.listed(
            "/api/search",
            "nodeRuns",
            columns | {"items": "Items", "workflow": "Workflow", "receivedAt": "Received"},
            state=self.text("state"),
            eventType=self.text("event_type"),
            workflow=self.text("workflow"),
            since=self.text("since"),
            until=self.text("until"),
            text=self.text("text"),
            repeated=int(bool(self.kwargs.get("repeated"))) or None,
            limit=self.limit,
        )


class node_run(_Remote):
    """Show a node run and its items."""

    options = [argument("node_run_id"), _WORKER, FOR_PROGRAMS]

    def act(self) -> int:
        """Print it."""
        answer = self.ask("GET", f"/api/node-runs/{self.node_run_id}")
        columns = {"index": "Item", "eventType": "Event type", "state": "State", "result": "Result"}
        table = _table(answer.get("items"), **columns, attempt="Attempt", error="Error")
        table.title = f"{answer.get('nodeRunId')}: {answer.get('state')} {answer.get('result') or ''}"
        status = self.show(answer, table)
        if answer.get("ending") and not self.as_json:
            click.echo(answer["ending"])
        return status


class failures(_Remote):
    """List what fails, by event type and message, the most frequent first, of all workers."""

    options = [_LIMIT, _WORKER, FOR_PROGRAMS]

    def act(self) -> int:
        """Print it."""
        columns = {"count": "Items", "nodeRuns": "Node runs", "eventType": "Event type", "message": "Message"}
        columns |= {"latest": "Latest", "latestAt": "At"}
        return self.listed("/api/failures", "failures", columns, limit=self.limit)


class stuck(_Remote):
    """List what waits for a callback, a handler or a retry, what ends soonest first, and reports that Port fails at."""

    options = [_LIMIT, _WORKER, FOR_PROGRAMS]

    def act(self) -> int:
        """Print it."""
        columns = {"nodeRunId": "Node run", "index": "Item", "eventType": "Event type", "why": "Waits for"}
        return self.listed("/api/stuck", "lines", columns | {"until": "Until", "said": "Said"}, limit=self.limit)


class workers(_Remote):
    """List the workers of the group and how each does; who does not answer is said to be missing."""

    options = [_WORKER, FOR_PROGRAMS]

    def act(self) -> int:
        """Print them."""
        columns = {"worker": "Worker", "state": "State", "partitions": "Partitions", "version": "Version"}
        columns |= {"uptimeSeconds": "Up (s)", "memoryBytes": "Memory (bytes)", "loopLagSeconds": "Loop lag (s)"}
        return self.listed("/api/workers", "workers", columns | {"waiting": "Items wait", "url": "URL"})


class audit(_Remote):
    """List who did what by hand, the latest first, and what came of it."""

    options = [_LIMIT, _WORKER, FOR_PROGRAMS]

    def act(self) -> int:
        """Print it."""
        columns = {"at": "At", "who": "Who", "what": "What", "outcome": "Outcome", "nodeRunId": "Node run"}
        columns |= {"index": "Item", "eventType": "Event type", "letter": "Letter", "why": "Why"}
        return self.listed("/api/audit", "actions", columns, limit=self.limit)


class handlers(_Remote):
    """List the handlers that HANDLERS names: event type, function, the fields that it takes, and its limits.

    With --json each has the JSON schema of its model, too; null where it takes any object. With --live a worker is
    asked instead: what the handlers of all workers have to do now, and which are paused.
    """

    options = [
        option("--live", is_flag=True, default=False, help="Ask a worker what they have to do now."),
        _WORKER,
        FOR_PROGRAMS,
    ]

    def act(self) -> int:
        """Print them by event type."""
        if self.kwargs.get("live"):
            columns = {"eventType": "Event type", "function": "Function", "running": "Run", "queued": "Wait"}
            columns |= {"concurrency": "Places", "paused": "Paused", "pausedBy": "By", "waiting": "Kept by the pause"}
            return self.listed("/api/handlers", "handlers", columns)
        found = [of_handler(handler) for _, handler in sorted(shared.handlers.items())]
        if self.as_json:
            names = [{"eventType": finding.name.removeprefix("handler "), **finding.details} for finding in found]
            click.echo(json.dumps(names, indent=2))
        else:
            for finding in found:
                click.echo(f"{finding.name.removeprefix('handler ')}\n  {finding.found}")
        return 0


class retry(_Remote):
    """Call the handlers of a node run's FAILED items again, or send its report again that was refused, or waits."""

    options = [
        argument("node_run_id"),
        option("--item", type=click.IntRange(min=0), help="Only this item; it may wait for a retry, too."),
        _WORKER,
        _YES,
        FOR_PROGRAMS,
    ]

    def act(self) -> int:
        """Do it."""
        item = cast("int | None", self.kwargs.get("item"))
        path = f"/api/node-runs/{self.node_run_id}"
        if item is None:
            stands, seen = self.seen()
            return self.do(f"Retry {self.node_run_id}, which is {stands}?", f"{path}/retry", seen)
        return self.do(f"Retry {self.node_run_id} item {item}?", f"{path}/items/{item}/retry")


class give_up(_Remote):
    """Send the report of a node run no more that Port has neither taken nor refused: it counts as refused.

    Complete the node run at Port before (complete): else its workflow waits for ever.
    """

    options = [argument("node_run_id"), _WORKER, _YES, FOR_PROGRAMS]

    def act(self) -> int:
        """Do it."""
        stands, seen = self.seen()
        question = f"Give up the report of {self.node_run_id}, which is {stands}?"
        return self.do(question, f"/api/node-runs/{self.node_run_id}/give-up", seen)


class cancel(_Remote):
    """Cancel what has not ended of a node run, and have it reported as CANCELLED."""

    options = [argument("node_run_id"), _WORKER, _YES, FOR_PROGRAMS]

    def act(self) -> int:
        """Do it."""
        stands, seen = self.seen()
        question = f"Cancel {self.node_run_id}, which is {stands}?"
        return self.do(question, f"/api/node-runs/{self.node_run_id}/cancel", seen)


class dead_letters(_Remote):
    """List the latest dead letters to which nothing was done."""

    options = [
        option("--all", "everything", is_flag=True, default=False, help="Those redriven and discarded, too."),
        _LIMIT,
        _WORKER,
        FOR_PROGRAMS,
    ]

    def act(self) -> int:
        """Print them."""
        columns = {"letter": "Letter", "reason": "Reason", "start": "Begins", "size": "Bytes", "at": "At"}
        everything = 1 if self.kwargs.get("everything") else None
        return self.listed("/api/dead-letters", "letters", columns, all=everything, limit=self.limit)


class redrive(_Remote):
    """Have the messages of dead letters enter the ledger, as they are, or one of them edited."""

    options = [
        argument("letters", nargs=-1, required=True),
        option("--file", "file", help="What takes the place of the message; for one letter."),
        option("--node-run", "node_run", help="Whose message it is, where that is unsure; for one letter."),
        option("--note", default="", help="Why; stands in the audit."),
        _WORKER,
        _YES,
        FOR_PROGRAMS,
    ]

    def act(self) -> int:
        """Do it."""
        letters, file, note = self.letters, self.text("file"), self.text("note") or ""
        question = f"Redrive {', '.join(letters)}?"
        node_run = self.text("node_run")
        if file is None and node_run is None:
            fields: Fields = {"what": "redrive", "letters": list(letters), "note": note}
            return self.do(question, "/api/dead-letters/bulk", fields)
        if len(letters) != 1:
            raise CommandError("--file and --node-run go with one letter")
        text = None if file is None else _text_of(file)
        changed: Fields = {"text": text, "node_run_id": node_run, "note": note}
        return self.do(question, f"/api/dead-letters/{letters[0]}/redrive", changed)


def _text_of(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{file}: {error}") from None


class discard(_Remote):
    """Take note that nothing is to become of dead letters. They stay on their topic as long as that keeps them."""

    options = [
        argument("letters", nargs=-1, required=True),
        option("--note", required=True, help="Why; stands in the audit."),
        _WORKER,
        _YES,
        FOR_PROGRAMS,
    ]

    def act(self) -> int:
        """Do it."""
        fields: Fields = {"what": "discard", "letters": list(self.letters), "note": self.text("note")}
        return self.do(f"Discard {', '.join(self.letters)}?", "/api/dead-letters/bulk", fields)


class pause(_Remote):
    """Have the items of a handler wait, on all workers. What runs, runs on."""

    options = [argument("event_type"), _WORKER, _YES, FOR_PROGRAMS]

    def act(self) -> int:
        """Do it."""
        name = self.text("event_type") or ""
        return self.do(f"Pause {name}?", f"/api/handlers/{quote(name, safe='')}/pause")


class resume(_Remote):
    """Have the items of a paused handler go on."""

    options = [argument("event_type"), _WORKER, _YES, FOR_PROGRAMS]

    def act(self) -> int:
        """Do it."""
        name = self.text("event_type") or ""
        return self.do(f"Resume {name}?", f"/api/handlers/{quote(name, safe='')}/resume")
