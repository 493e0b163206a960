"""All node runs that a search finds, as one file: read and written page by page, so that no more is in memory."""

from __future__ import annotations

import asyncio
import csv
import io
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from typing import Final, Protocol

from aiohttp import web

from web.answers import query_of, refused
from web.data import MissingWorker, NodeRunInList, Shown

logger = logging.getLogger(__name__)

MOST_EXPORTED: Final = 100_000
"""Node runs in one file."""
MOST_EXPORTS: Final = 4
"""Files that a worker writes at a time."""
MISSING: Final = "X-Missing-Partitions"
"""The header that names the partitions whose node runs are not in the file, as far as that is known at its start."""
PAGE: Final = 250
"""Node runs that are read at a time."""
_WRITE_SECONDS: Final = 60.0
"""Who does not read for so long has lost its file."""
_FORMULA: Final = re.compile(r"""(^|[;,"\t\r\n])(?=\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r])""")
"""Where a spreadsheet takes what follows for a formula: at a beginning, and after what separates cells elsewhere."""
_COLUMNS: Final = (
    "nodeRunId",
    "workflowRunId",
    "workflow",
    "node",
    "eventTypes",
    "state",
    "result",
    "itemCount",
    "succeeded",
    "failed",
    "cancelled",
    "receivedAt",
    "endedAt",
    "durationSeconds",
)


class ExportEnd(Shown):
    """The last word of a file: whether it has all."""

    count: int
    """Node runs in the file."""
    complete: bool
    note: str | None
    """What is not in it, where it is not complete."""
    missing: list[int]
    """Partitions that nobody showed, all the time or for a while."""
    missing_workers: list[MissingWorker]
    """Workers that gave no answer, likewise."""


class NodeRunExport(ExportEnd):
    """All node runs that were searched for, the latest first."""

    node_runs: list[NodeRunInList]


class Found(Protocol):
    """A page of what was searched for."""

    @property
    def node_runs(self) -> list[NodeRunInList]:
        """The node runs, the latest first."""

    @property
    def after(self) -> str | None:
        """Where the next page begins; None where there is none."""

    @property
    def missing(self) -> list[int]:
        """Partitions whose node runs are not in it."""

    @property
    def missing_workers(self) -> list[MissingWorker]:
        """Workers that gave no answer."""


class Format(StrEnum):
    """What the file is."""

    CSV = "csv"
    JSON = "json"

    @property
    def content_type(self) -> str:
        """Its media type."""
        return "text/csv" if self is Format.CSV else "application/json"

    def begin(self) -> str:
        """Return how the file begins."""
        return _rows([_COLUMNS]) if self is Format.CSV else '{"nodeRuns":['

    def lines(self, runs: Sequence[NodeRunInList], *, first: bool) -> str:
        """Return node runs; `first`: none are before them."""
        if self is Format.CSV:
            dumped = (run.model_dump(mode="json", by_alias=True) for run in runs)
            return _rows([_cell(fields[name]) for name in _COLUMNS] for fields in dumped)
        return ("" if first or not runs else ",") + ",".join(run.to_json().decode() for run in runs)

    def end(self, end: ExportEnd) -> str:
        """Return the last word; a table has one only where it is not complete."""
        if self is Format.JSON:
            return f"],{end.to_json().decode()[1:]}"
        return "" if end.note is None else _rows([[f"# not complete: {end.note}"]])


def format_of(request: web.Request) -> Format:
    """Return `format`. Raises RefusedError (400)."""
    return query_of(request.query, "format", Format.CSV, Format, f"one of {', '.join(Format)}")


@dataclass
class _Progress:
    """What is written of a file, and what was found missing."""

    most: int
    count: int = 0
    more: bool = False
    notes: list[str] = field(default_factory=list)
    missing: set[int] = field(default_factory=set)
    workers: dict[str, MissingWorker] = field(default_factory=dict)

    def take(self, page: Found) -> list[NodeRunInList]:
        """Take note of a page; returns what is to be written of it."""
        self.missing.update(page.missing)
        self.workers |= {one.worker: one for one in page.missing_workers}
        runs = page.node_runs[: self.most - self.count]
        self.more = len(runs) < len(page.node_runs) or page.after is not None
        self.count += len(runs)
        return runs

    def end(self) -> ExportEnd:
        """Return the last word."""
        notes, missing = [*self.notes], sorted(self.missing)
        if self.more and not notes:
            notes.append(f"it ends after {self.count:,} node runs, and there are more")
        if missing:
            notes.append(f"nobody showed all of the partitions {', '.join(map(str, missing))}")
        return ExportEnd(
            count=self.count,
            complete=not notes,
            note="; ".join(notes) or None,
            missing=missing,
            missing_workers=[self.workers[name] for name in sorted(self.workers)],
        )


@dataclass(frozen=True)
class Export:
    """What is to be written: the pages, as a file of this form, of `most` node runs at most.

    `stopping` says whether the worker is about to stop. The file ends then, and says so.
    """

    pages: AsyncIterator[Found]
    form: Format
    most: int
    stopping: Callable[[], bool]


@dataclass
class Exports:
    """Writes the files of one worker."""

    open: int = 0
    """How many are being written now."""

    async def write(self, request: web.Request, export: Export) -> web.StreamResponse:
        """Answer with a file.

        Raises:
            RefusedError: 503, too many files are being written.
        """
        if self.open >= MOST_EXPORTS:
            message = f"{MOST_EXPORTS} exports are being written: try again when one has ended"
            raise refused(HTTPStatus.SERVICE_UNAVAILABLE, "busy", message, {"Retry-After": "10"})
        self.open += 1
        try:
            return await _write(request, export)
        finally:
            self.open -= 1


async def _write(request: web.Request, export: Export) -> web.StreamResponse:
    form, progress = export.form, _Progress(export.most)
    # What fails before the first page is there is an answer of its own, and no file.
    runs = progress.take(await anext(export.pages))
    text = form.begin() + await asyncio.to_thread(form.lines, runs, first=True)
    answer = _answer(form, progress)
    try:
        await answer.prepare(request)
        await _send(answer, text)
        async for lines in _further(request, export, progress):
            await _send(answer, lines)
        await _send(answer, form.end(progress.end()))
    except (ConnectionError, TimeoutError):
        # A file without its end must not look as if it had one.
        if request.transport is not None:
            request.transport.abort()
    return answer


async def _further(request: web.Request, export: Export, progress: _Progress) -> AsyncIterator[str]:
    """Yield the pages after the first. The answer has begun, so only its last word can tell what goes wrong."""
    while progress.more and progress.count < progress.most:
        if request.transport is None or request.transport.is_closing():
            raise ConnectionError
        if export.stopping():
            progress.notes.append("the worker that wrote it was stopped")
            return
        before = progress.count
        try:
            runs = progress.take(await anext(export.pages))
            lines = await asyncio.to_thread(export.form.lines, runs, first=before == 0)
        except Exception:
            progress.count = before
            logger.exception("an export failed after %d node runs", before)
            progress.notes.append("the view failed; the worker's log says why")
            return
        yield lines


def _answer(form: Format, progress: _Progress) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Disposition": f'attachment; filename="node-runs.{form}"'})
    answer.content_type = form.content_type
    if form is Format.CSV:
        answer.charset = "utf-8"
    if progress.missing:
        answer.headers[MISSING] = ",".join(map(str, sorted(progress.missing)))
    return answer


async def _send(answer: web.StreamResponse, text: str) -> None:
    if text:
        async with asyncio.timeout(_WRITE_SECONDS):
            await answer.write(text.encode(errors="replace"))


def _rows(rows: Iterable[Iterable[str]]) -> str:
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue()


def _cell(value: object) -> str:
    text = "" if value is None else " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return _FORMULA.sub(r"\1'", text)
