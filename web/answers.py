"""Answers of the web views that are no answers: what is wrong with a request, or why it cannot be met."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from http import HTTPStatus
from typing import Final, TypeVar

from aiohttp import web

from port.ids import is_node_run_id
from tables.state import State
from tables.unreadable import UnreadableRowError
from web.data import ErrorShown

DEFAULT_LIMIT: Final = 50
MOST_LIMIT: Final = 500
DEFAULT_ITEMS: Final = 100
"""How many items of a node run one answer shows where `limit` does not say."""
MOST_FIRST: Final = 10_000_000
_SHOWN_CHARACTERS: Final = 80
MOST_CHARACTERS: Final = 200
"""Of a filter."""
AFTER: Final = r"-?[0-9]{1,17}(\.[0-9]{1,17})?(e[+-]?[0-9]{1,3})?,[A-Za-z0-9_/-]{1,100}"
"""Where a page ends, as it is written."""
Cursor = tuple[float, str]
"""Where a page of a list ends that is ordered by time: the time of its last line, in epoch seconds, and its id."""
T = TypeVar("T")
S = TypeVar("S", bound=StrEnum)


@dataclass
class RefusedError(Exception):
    """A request is not met."""

    status: HTTPStatus
    shown: ErrorShown
    headers: Mapping[str, str] = field(default_factory=dict)


def refused(status: HTTPStatus, error: str, message: str, headers: Mapping[str, str] | None = None) -> RefusedError:
    """Return why a request is not met: one word for programs, and a sentence."""
    return RefusedError(status, ErrorShown(error=error, message=message), headers or {})


def unreadable(wrong: UnreadableRowError) -> RefusedError:
    """Return why a node run cannot be shown or acted on whose row cannot be read."""
    row = wrong.row
    message = (
        f"{row.key} in partition {row.partition} of the ledger cannot be read ({row.why}); nothing is done with "
        f"{row.node_run_id} here. Look at it in Port: where it is still open, end it with the command complete"
    )
    return refused(HTTPStatus.INTERNAL_SERVER_ERROR, "unreadable", message)


def node_run_id_of(request: web.Request) -> str:
    """Return the node-run id in the path. Raises RefusedError (400)."""
    given = request.match_info["node_run_id"]
    if not is_node_run_id(given):
        raise refused(HTTPStatus.BAD_REQUEST, "malformed-id", f"no node-run id: {given[:_SHOWN_CHARACTERS]!r}")
    return given


def limit_of(request: web.Request, default: int = DEFAULT_LIMIT, most: int = MOST_LIMIT) -> int:
    """Return `limit`. Raises RefusedError (400)."""
    return query_of(request.query, "limit", default, _number(1, most), f"a number from 1 to {most}")


def first_of(request: web.Request) -> int:
    """Return `from`, the first item to show. Raises RefusedError (400)."""
    return query_of(request.query, "from", 0, _number(0, MOST_FIRST), f"a number from 0 to {MOST_FIRST}")


def flag_in(asked: Mapping[str, str], name: str) -> bool:
    """Return whether something is asked for, by 1. Raises RefusedError (400)."""
    return query_of(asked, name, False, {"0": False, "1": True}.__getitem__, "0 or 1")


def state_of(request: web.Request) -> State | None:
    """Return `state`, None for any. Raises RefusedError (400)."""
    return choice_of(request, "state", State)


def choice_of(request: web.Request, name: str, among: type[S]) -> S | None:
    """Return one of several words, None for any. Raises RefusedError (400)."""
    return query_of(request.query, name, None, among, f"one of {', '.join(among)}")


def text_in(asked: Mapping[str, str], name: str) -> str | None:
    """Return a text that is searched for, None for any. Raises RefusedError (400)."""
    given = asked.get(name, "").strip()
    if len(given) > MOST_CHARACTERS:
        raise refused(HTTPStatus.BAD_REQUEST, "bad-query", f"{name} has {MOST_CHARACTERS} characters at most")
    return whole(given) or None


def whole(text: str) -> str:
    """Return a text of a URL with what is no UTF-8 replaced: neither another URL nor SQLite takes a lone surrogate."""
    return text.encode(errors="replace").decode()


def time_in(asked: Mapping[str, str], name: str) -> float | None:
    """Return a point in time in epoch seconds, None for any. Raises RefusedError (400)."""
    given = asked.get(name, "").strip()
    try:
        at = datetime.fromisoformat(given) if given else None
        # Without an offset it is meant as all times are shown, in UTC.
        return None if at is None else (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        message = f"{name} is an ISO time, like 2026-01-31T08:00:00Z"
        raise refused(HTTPStatus.BAD_REQUEST, "bad-query", message) from None


def after_of(request: web.Request) -> Cursor | None:
    """Return `after`, where the page before has ended. Raises RefusedError (400)."""
    given = request.query.get("after", "")
    if given and re.fullmatch(AFTER, given) is None:
        message = "after is what the page before said, unchanged"
        raise refused(HTTPStatus.BAD_REQUEST, "bad-query", message)
    return cursor_of(given) if given else None


def written(cursor: Cursor) -> str:
    """Return it as `after` has it."""
    return f"{cursor[0]!r},{cursor[1]}"


def cursor_of(after: str) -> Cursor:
    """Return what `written` has written."""
    at, _, name = after.partition(",")
    return float(at), name


def query_of(asked: Mapping[str, str], name: str, default: T, read: Callable[[str], T], expected: str) -> T:
    """Return what is asked for in the query, as `read` reads it.

    Raises:
        RefusedError: 400, where `read` raises ValueError or KeyError.
    """
    given = asked.get(name)
    if not given:
        return default
    try:
        return read(given)
    except (ValueError, KeyError):
        message = f"{name} is {expected}, not {given[:_SHOWN_CHARACTERS]!r}"
        raise refused(HTTPStatus.BAD_REQUEST, "bad-query", message) from None


def _number(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and least <= int(text) <= most):
            raise ValueError(text)
        return int(text)

    return read
