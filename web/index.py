"""The node runs of this worker in SQLite, for lists that the ledger's rows cannot give: filtered, searched, in pages.

It is a view and never the truth: made anew at each start, from the walk over the rows at a take-over and from every
acknowledged change since. All SQL runs in a thread of its own; the event loop only hands over what has changed.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from pydantic_core import to_json

from port.models import Result
from tables.state import Item, NodeRun, State, state_of
from web.answers import Cursor
from web.grouping import group_of
from web.masking import masked_text

logger = logging.getLogger(__name__)

FLUSH_SECONDS: Final = 1.0
"""How long changes are gathered before they are written; a search has them written first."""
MOST_PENDING: Final = 2_000
"""Changes that are written at once, without waiting for that."""
_MOST_QUEUED: Final = 1
_SHOWN_CHARACTERS: Final = 200
SEARCH_SECONDS: Final = 2.0
"""How long one search may take; what else is asked for waits meanwhile."""
_MANY: Final = 5_000
_STEPS: Final = 50_000
"""Of SQLite's machine, between two looks at the clock: some milliseconds."""
_SCHEMA: Final = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -16384;
CREATE TABLE node_runs (
    node_run_id TEXT PRIMARY KEY,
    partition INTEGER NOT NULL,
    workflow_run_id TEXT,
    workflow TEXT,
    node TEXT,
    state TEXT NOT NULL,
    received_at REAL NOT NULL,
    attempts INTEGER NOT NULL,
    failed_at REAL,
    why TEXT
) WITHOUT ROWID;
CREATE INDEX by_time ON node_runs (received_at DESC, node_run_id DESC);
CREATE INDEX by_state ON node_runs (state, received_at DESC, node_run_id DESC);
CREATE INDEX by_workflow ON node_runs (workflow, received_at DESC, node_run_id DESC);
CREATE INDEX by_run ON node_runs (workflow_run_id);
CREATE INDEX by_node ON node_runs (node, received_at DESC, node_run_id DESC);
CREATE INDEX by_attempts ON node_runs (received_at DESC, node_run_id DESC) WHERE attempts > 1;
CREATE INDEX by_partition ON node_runs (partition);
CREATE INDEX by_failure ON node_runs (failed_at DESC) WHERE failed_at IS NOT NULL;
CREATE TABLE event_types (
    event_type TEXT NOT NULL,
    received_at REAL NOT NULL,
    node_run_id TEXT NOT NULL,
    partition INTEGER NOT NULL,
    PRIMARY KEY (event_type, received_at DESC, node_run_id DESC)
) WITHOUT ROWID;
CREATE INDEX event_types_by_partition ON event_types (partition);
CREATE TABLE failures (
    node_run_id TEXT NOT NULL,
    item INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    failure TEXT NOT NULL,
    event_type TEXT NOT NULL,
    message TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (node_run_id, item)
) WITHOUT ROWID;
CREATE INDEX failures_by_group ON failures (failure, at, node_run_id);
CREATE INDEX failures_by_time ON failures (at);
CREATE INDEX failures_by_partition ON failures (partition);
"""
_TABLES: Final = ("node_runs", "event_types", "failures")
# Beside MAX(at) the other columns are those of its row.
_GROUPS: Final = (
    "SELECT failure, event_type, message, COUNT(*) AS items, COUNT(DISTINCT node_run_id), MAX(at), node_run_id "
    "FROM failures GROUP BY failure ORDER BY items DESC, MAX(at) DESC LIMIT ?"
)
_GROUPS_SINCE: Final = _GROUPS.replace("GROUP BY", "WHERE at >= ? GROUP BY")


def _from_json(columns: str) -> str:
    """Return a SELECT of the rows of one JSON text, each an array; `t`: times, in whole microseconds.

    One statement for many rows: with one for each this thread would take turns with the event loop at every row, each
    turn being up to 5 ms of the other's.
    """
    fields = (f"json_extract(value, '$[{n}]'){' / 1e6' if kind == 't' else ''}" for n, kind in enumerate(columns))
    return f"SELECT {', '.join(fields)} FROM json_each(?)"  # noqa: S608 - of what stands below


_NODE_RUNS: Final = f"INTO node_runs {_from_json('......t.t.')}"
_FIRST: Final = f"INSERT OR IGNORE {_NODE_RUNS}"
_LATER: Final = f"INSERT OR REPLACE {_NODE_RUNS}"
_EVENT_TYPES: Final = f"INSERT OR IGNORE INTO event_types {_from_json('.t..')}"
_FIRST_FAILURE: Final = (
    "INSERT OR IGNORE INTO failures SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7 "
    "WHERE NOT EXISTS (SELECT 1 FROM node_runs WHERE node_run_id = ?1)"
)

T = TypeVar("T")


@dataclass(frozen=True)
class Query:
    """Which node runs are wanted; None for any."""

    state: State | None = None
    """As the rows have it: what runs or is deferred at this moment counts as waiting."""
    event_type: str | None = None
    workflow: str | None = None
    since: float | None = None
    until: float | None = None
    """Received from `since` on and before `until`, in epoch seconds."""
    repeated: bool = False
    """Only those of which an item was called more than once."""
    text: str | None = None
    """The beginning of a node-run or workflow-run id, or a node's identifier."""
    failure: str | None = None
    """Only those with an item in this group of failures."""


@dataclass(frozen=True)
class Page:
    """Node-run ids, the latest first, each with its partition; and where the next page begins."""

    node_runs: list[tuple[int, str]]
    after: Cursor | None


@dataclass(frozen=True)
class Failures:
    """Items that have FAILED with the same event type, and with messages that differ in ids and numbers alone."""

    failure: str
    """The id of the group."""
    event_type: str
    message: str
    """That of the latest of them."""
    items: int
    node_runs: int
    latest: float
    """When the latest of them ended, in epoch seconds."""
    node_run_id: str
    """The node run of the latest of them."""


@dataclass(frozen=True)
class FailedRun:
    """A node run that has FAILED, or whose report Port has refused."""

    partition: int
    node_run_id: str
    at: float
    """When its last item ended, or Port refused its report; epoch seconds."""
    message: str
    """Of an item that has FAILED, or Port's reason."""


class _Told(NamedTuple):
    """What is to be written of a node run. Made of each change of each of them, so no dataclass: that takes longer."""

    partition: int
    run: NodeRun
    first: bool
    """Whether it is told of for the first time: by the walk over the rows, then, it may be older than what is known."""
    types: bool
    """Whether it may have event types that are not written yet."""


class TooWideError(Exception):
    """A search would take too long: what is looked for is rare among many that are alike."""


class Index:
    """The view. Used from one event loop.

    Args:
        file: where it stands meanwhile; replaced where it exists.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="index")
        self._pending: dict[str, _Told] = {}
        self._items: dict[tuple[str, int], tuple[_Told, Item]] = {}
        """Items that have FAILED, or had once."""
        self._timer: asyncio.TimerHandle | None = None
        self._queued = 0
        """How many batches wait to be written; exact enough without a lock."""
        self._database: sqlite3.Connection | None = None

    async def start(self) -> None:
        """Make an empty one."""
        await self._do(self._open)

    async def stop(self) -> None:
        """End it, and remove its file."""
        if self._timer is not None:
            self._timer.cancel()
        await self._do(self._close)
        self._thread.shutdown()

    def changed(self, partition: int, before: NodeRun | None, after: NodeRun, item: Item | None) -> None:
        """Take note of how a node run stands, and of the item that was written with it."""
        waits = self._pending.get(after.node_run_id)
        if before is not None or waits is None:
            types = before is None or before.event_types != after.event_types or (waits is not None and waits.types)
            self._pending[after.node_run_id] = _Told(partition, after, before is None, types)
        else:
            # The walk tells of what has changed already: that stays, but its event types are not written yet.
            self._pending[after.node_run_id] = waits._replace(types=True)
        if item is not None and (item.result is Result.FAILED or item.reopened is not None):
            self._items[after.node_run_id, item.index] = _Told(partition, after, first=False, types=False), item
        if len(self._pending) + len(self._items) >= MOST_PENDING:
            self._flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._flush)

    def drop(self, partition: int) -> None:
        """Forget a partition."""
        self._flush()
        self._thread.submit(self._drop, partition)

    async def caught_up(self) -> None:
        """Return when no more than a few batches wait to be written."""
        if self._queued > _MOST_QUEUED:
            await self._do(lambda: None)

    async def search(self, query: Query, limit: int, after: Cursor | None = None) -> Page:
        """Return a page of node runs.

        Raises:
            TooWideError: it takes longer than SEARCH_SECONDS.
        """
        self._flush()
        rows = await self._do(lambda: self._search(query, limit, after))
        page = [(int(str(partition)), str(node_run_id)) for partition, node_run_id, _ in rows[:limit]]
        last = rows[limit - 1] if len(rows) > limit else None
        return Page(page, None if last is None else (float(str(last[2])), str(last[1])))

    async def failures(self, limit: int, since: float = 0.0) -> list[Failures]:
        """Return the groups of items that have FAILED since then (epoch seconds), the most frequent first."""
        self._flush()
        sql = _GROUPS_SINCE if since else _GROUPS
        rows = await self._do(lambda: self._rows(sql, [since, limit] if since else [limit]))
        return [
            Failures(str(one), str(kind), str(message), int(str(items)), int(str(runs)), float(str(at)), str(latest))
            for one, kind, message, items, runs, at, latest in rows
        ]

    async def failed(self, since: float, limit: int) -> tuple[int, list[FailedRun]]:
        """Return how many node runs have FAILED since then, or were refused by Port, and the latest of them."""
        self._flush()
        counting = "SELECT COUNT(*) FROM node_runs WHERE failed_at >= ?"
        listing = (
            "SELECT partition, node_run_id, failed_at, why FROM node_runs WHERE failed_at >= ? "
            "ORDER BY failed_at DESC LIMIT ?"
        )
        counted, rows = await self._do(lambda: (self._rows(counting, [since]), self._rows(listing, [since, limit])))
        number = sum(int(str(count)) for (count,) in counted)
        return number, [FailedRun(int(str(place)), str(one), float(str(at)), str(why)) for place, one, at, why in rows]

    async def _do(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._pending:
            pending, items = list(self._pending.values()), list(self._items.values())
            self._pending, self._items = {}, {}
            self._queued += 1
            self._thread.submit(self._write, pending, items)

    # In the thread.

    def _open(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.unlink(missing_ok=True)
        self._database = sqlite3.connect(self._file, isolation_level=None, check_same_thread=False)
        self._database.executescript(_SCHEMA)

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None
        self._file.unlink(missing_ok=True)

    def _write(self, changes: list[_Told], items: list[tuple[_Told, Item]]) -> None:
        self._queued -= 1
        if (database := self._database) is None:
            return
        try:
            self._write_all(database, changes, items)
        except sqlite3.Error:
            # A full disk, say. What comes later is written again; lists lack what this batch had.
            logger.exception("the index of the views cannot be written: its lists lack something until the next start")
            if database.in_transaction:
                database.execute("ROLLBACK")

    def _write_all(self, database: sqlite3.Connection, changes: list[_Told], items: list[tuple[_Told, Item]]) -> None:
        types = [
            (_short(name), _microseconds(told.run.received_at), told.run.node_run_id, told.partition)
            for told in changes
            if told.types
            for name in told.run.event_types
        ]
        own = [(told, told.run.item) for told in changes if told.run.item is not None]
        database.execute("BEGIN")
        # What is told of for the first time may be older than what is known: that stays, and goes by the node run.
        database.executemany(_FIRST_FAILURE, [_failure(*one) for one in own if one[0].first and _has_failed(one[1])])
        for sql, rows in (
            (_FIRST, [_row(told.partition, told.run) for told in changes if told.first]),
            (_LATER, [_row(told.partition, told.run) for told in changes if not told.first]),
            (_EVENT_TYPES, types),
        ):
            database.execute(sql, (to_json(rows).decode(),))
        self._write_items([one for one in own if not one[0].first] + items)
        database.execute("COMMIT")

    def _write_items(self, items: list[tuple[_Told, Item]]) -> None:
        failed = [_failure(told, item) for told, item in items if _has_failed(item)]
        again = [
            (told.run.node_run_id, item.index)
            for told, item in items
            if item.reopened is not None and not _has_failed(item)
        ]
        if self._database is not None:
            self._database.executemany("INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?, ?, ?)", failed)
            self._database.executemany("DELETE FROM failures WHERE node_run_id = ? AND item = ?", again)

    def _drop(self, partition: int) -> None:
        if self._database is None:
            return
        for table in _TABLES:
            self._database.execute(f"DELETE FROM {table} WHERE partition = ?", (partition,))  # noqa: S608

    def _search(self, query: Query, limit: int, after: Cursor | None) -> list[tuple[object, ...]]:
        return self._rows(*_sql(query, self._narrowest(query), limit, after))

    def _narrowest(self, query: Query) -> _Condition | None:
        """Return the condition that the fewest rows meet; None where it is best to go through all by time."""
        conditions = _conditions(query)
        if len(conditions) == 1 and conditions[0].ordered:
            return conditions[0]
        numbers = [self._number(query, one) for one in conditions]
        if (fewest := min(numbers, default=_MANY)) < _MANY:
            return conditions[numbers.index(fewest)]
        # Where many meet each, a page is soon full; what would have to be sorted is not begun with.
        return next((one for one in conditions if one.ordered), None)

    def _number(self, query: Query, condition: _Condition) -> int:
        """Return how many rows meet a condition in the span of time; _MANY where there are more."""
        where, values = _joined([condition, *_span(query, condition.table.split()[1])])
        rows = self._rows(f"SELECT COUNT(*) FROM (SELECT 1 FROM {condition.table} {where}LIMIT {_MANY})", values)  # noqa: S608
        return int(str(rows[0][0])) if rows else 0

    def _rows(self, sql: str, values: list[object]) -> list[tuple[object, ...]]:
        if self._database is None:
            return []
        ends_at = time.monotonic() + SEARCH_SECONDS
        self._database.set_progress_handler(lambda: time.monotonic() > ends_at, _STEPS)
        try:
            return self._database.execute(sql, values).fetchall()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                raise
            raise TooWideError from None
        finally:
            self._database.set_progress_handler(None, 0)


def _row(partition: int, run: NodeRun) -> tuple[object, ...]:
    attempts = 1 if run.item is None else max(1, run.item.attempt)
    state = state_of(run)
    failed_at, why = _bad_end(run, state)
    return (
        run.node_run_id,
        partition,
        run.workflow_run_id,
        None if run.workflow is None else _plain(run.workflow),
        None if run.node is None else _plain(run.node),
        (State.WAITING if state is State.DEFERRED else state).value,
        _microseconds(run.received_at),
        attempts,
        None if failed_at is None else _microseconds(failed_at),
        why,
    )


def _microseconds(seconds: float) -> int:
    # As the times of what is shown are rounded, so that a page ends where its last line stands.
    return round(seconds * 1e6)


def _plain(text: str) -> str:
    # SQLite ends a text of JSON there.
    return text.replace("\0", "\ufffd")


def _bad_end(run: NodeRun, state: State) -> tuple[float | None, str | None]:
    """Return when the node run FAILED, or was refused, and why; None for both where it was not."""
    if state is State.REFUSED:
        return run.settled_at, _line(run.reason or "refused")
    if run.result is not Result.FAILED:
        return None, None
    several = f"{run.failed} of {run.items} items failed"
    why = several if run.item is None or run.items > 1 else run.item.error or "failed"
    return run.received_at if run.last_ended_at is None else run.last_ended_at, _line(why)


def _has_failed(item: Item) -> bool:
    return item.result is Result.FAILED


def _failure(told: _Told, item: Item) -> tuple[object, ...]:
    run, message = told.run, _line(item.error or "failed")
    event_type = _short(item.event_type or next(iter(run.event_types), ""))
    at = run.received_at if item.ended_at is None else item.ended_at
    return run.node_run_id, item.index, told.partition, group_of(event_type, message), event_type, message, at


def _line(text: str) -> str:
    # The whole is masked first: a secret may be cut so that it is known no more.
    return _short(masked_text(text).partition("\n")[0])


def _short(text: str) -> str:
    # A lone surrogate could not be written as UTF-8.
    return _plain(text[:_SHOWN_CHARACTERS].encode(errors="replace").decode())


@dataclass(frozen=True)
class _Condition:
    """One thing that is wanted, and how SQLite finds the rows that have it."""

    sql: str
    """With `of` for the table whose order counts."""
    values: tuple[object, ...]
    table: str = ""
    """With its index, in which these rows stand in the order of time; empty where there is none."""
    ordered: bool = True
    """Whether they stand in that order there; else they are sorted."""


def _conditions(query: Query) -> list[_Condition]:
    """Return what must hold, but the span of time; first what most often is met by few."""
    found: list[_Condition] = []
    if query.text:
        found.append(_of_text(query.text))
    if query.repeated:
        found.append(_Condition("r.attempts > 1", (), "node_runs r INDEXED BY by_attempts"))
    if query.failure is not None:
        failed = "r.node_run_id IN (SELECT node_run_id FROM failures WHERE failure = ?)"
        found.append(_Condition(failed, (query.failure,), "node_runs r", ordered=False))
    if query.workflow is not None:
        workflow = _plain(query.workflow)
        found.append(_Condition("r.workflow = ?", (workflow,), "node_runs r INDEXED BY by_workflow"))
    if query.event_type is not None:
        found.append(_Condition("t.event_type = ?", (_short(query.event_type),), "event_types t"))
    if query.state is not None:
        found.append(_Condition("r.state = ?", (query.state.value,), "node_runs r INDEXED BY by_state"))
    return found


def _of_text(text: str) -> _Condition:
    if not text.startswith(("wfnr_", "wfr_")):
        return _Condition("r.node = ?", (_plain(text),), "node_runs r INDEXED BY by_node")
    column = "node_run_id" if text.startswith("wfnr_") else "workflow_run_id"
    table = "node_runs r" if column == "node_run_id" else "node_runs r INDEXED BY by_run"
    return _Condition(f"r.{column} >= ? AND r.{column} < ?", (text, text + "\U0010ffff"), table, ordered=False)


def _span(query: Query, of: str) -> list[_Condition]:
    limits = ((">=", query.since), ("<", query.until))
    return [_Condition(f"{of}.received_at {sign} ?", (at,)) for sign, at in limits if at is not None]


def _joined(conditions: Sequence[_Condition]) -> tuple[str, list[object]]:
    """Return the WHERE of conditions, and its values."""
    where = f"WHERE {' AND '.join(one.sql for one in conditions)} " if conditions else ""
    return where, [value for one in conditions for value in one.values]


def _sql(query: Query, first: _Condition | None, limit: int, after: Cursor | None) -> tuple[str, list[object]]:
    """Return the statement for one line more than a page has, and its values. `first` is looked for before all else."""
    table = "node_runs r INDEXED BY by_time" if first is None else first.table
    # CROSS: SQLite is not to begin with the other one.
    if table == "event_types t":
        of, table = "t", f"{table} CROSS JOIN node_runs r ON r.node_run_id = t.node_run_id"
    else:
        of = "r"
        if query.event_type is not None:
            same = "t.received_at = r.received_at AND t.node_run_id = r.node_run_id"
            table = f"{table} CROSS JOIN event_types t ON {same}"
    wanted = _conditions(query) + _span(query, of)
    if after is not None:
        wanted.append(_Condition(f"({of}.received_at, {of}.node_run_id) < (?, ?)", after))
    where, values = _joined(wanted)
    plus = "" if first is None or first.ordered else "+"
    order = f"ORDER BY {plus}{of}.received_at DESC, {plus}{of}.node_run_id DESC LIMIT ?"
    columns = f"r.partition, r.node_run_id, {of}.received_at"
    return f"SELECT {columns} FROM {table} {where}{order}", [*values, limit + 1]  # noqa: S608 - values are bound
