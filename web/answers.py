"""Answers of the web views that are no answers: what is wrong with a request, or why it cannot be met."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from http import HTTPStatus
from typing import Final, TypeVar

from aiohttp import web

from port.ids import is_node_run_id
from tables.state import State
from web.data import ErrorShown

DEFAULT_LIMIT: Final = 50
MOST_LIMIT: Final = 500
_MOST_ITEMS: Final = 10_000_000
_SHOWN_CHARACTERS: Final = 80
_MOST_CHARACTERS: Final = 200
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


def node_run_id_of(request: web.Request) -> str:
    """Return the node-run id in the path. Raises RefusedError (400)."""
    given = request.match_info["node_run_id"]
    if not is_node_run_id(given):
        raise refused(HTTPStatus.BAD_REQUEST, "malformed-id", f"no node-run id: {given[:_SHOWN_CHARACTERS]!r}")
    return given


def limit_of(request: web.Request, default: int = DEFAULT_LIMIT) -> int:
    """Return `limit`. Raises RefusedError (400)."""
    return _query(request, "limit", default, _number(1, MOST_LIMIT), f"a number from 1 to {MOST_LIMIT}")


def first_of(request: web.Request) -> int:
    """Return `from`, the first item to show. Raises RefusedError (400)."""
    return _query(request, "from", 0, _number(0, _MOST_ITEMS), f"a number from 0 to {_MOST_ITEMS}")


def state_of(request: web.Request) -> State | None:
    """Return `state`, None for any. Raises RefusedError (400)."""
    return choice_of(request, "state", State)


def choice_of(request: web.Request, name: str, among: type[S]) -> S | None:
    """Return one of several words, None for any. Raises RefusedError (400)."""
    return _query(request, name, None, among, f"one of {', '.join(among)}")


def text_in(asked: Mapping[str, str], name: str) -> str | None:
    """Return a text that is searched for, None for any. Raises RefusedError (400)."""
    given = asked.get(name, "").strip()
    if len(given) > _MOST_CHARACTERS:
        raise refused(HTTPStatus.BAD_REQUEST, "bad-query", f"{name} has {_MOST_CHARACTERS} characters at most")
    return given.encode(errors="replace").decode() or None


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


def after_of(request: web.Request) -> tuple[float, str] | None:
    """Return `after`, where the page before has ended: a time and an id. Raises RefusedError (400)."""
    given = request.query.get("after", "")
    if not given:
        return None
    at, _, name = given.partition(",")
    try:
        return float(at), name[:_MOST_CHARACTERS]
    except ValueError:
        message = "after is what the page before said, unchanged"
        raise refused(HTTPStatus.BAD_REQUEST, "bad-query", message) from None


def _query(request: web.Request, name: str, default: T, read: Callable[[str], T], expected: str) -> T:
    given = request.query.get(name)
    if not given:
        return default
    try:
        return read(given)
    except ValueError:
        message = f"{name} is {expected}, not {given[:_SHOWN_CHARACTERS]!r}"
        raise refused(HTTPStatus.BAD_REQUEST, "bad-query", message) from None


def _number(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and least <= int(text) <= most):
            raise ValueError(text)
        return int(text)

    return read
