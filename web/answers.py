"""Answers of the web views that are no answers: what is wrong with a request, or why it cannot be met."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, TypeVar

from aiohttp import web

from port.ids import is_node_run_id
from tables.state import State
from web.data import ErrorShown

DEFAULT_LIMIT: Final = 50
MOST_LIMIT: Final = 500
DEFAULT_ITEMS: Final = 100
"""How many items of a node run one answer shows where `limit` does not say."""
MOST_FIRST: Final = 10_000_000
_SHOWN_CHARACTERS: Final = 80
T = TypeVar("T")


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


def limit_of(request: web.Request, default: int = DEFAULT_LIMIT, most: int = MOST_LIMIT) -> int:
    """Return `limit`. Raises RefusedError (400)."""
    return query_of(request, "limit", default, _number(1, most), f"a number from 1 to {most}")


def first_of(request: web.Request) -> int:
    """Return `from`, the first item to show. Raises RefusedError (400)."""
    return query_of(request, "from", 0, _number(0, MOST_FIRST), f"a number from 0 to {MOST_FIRST}")


def flag_of(request: web.Request, name: str) -> bool:
    """Return whether something is asked for, by 1. Raises RefusedError (400)."""
    return query_of(request, name, False, {"0": False, "1": True}.__getitem__, "0 or 1")


def state_of(request: web.Request) -> State | None:
    """Return `state`, None for any. Raises RefusedError (400)."""
    return query_of(request, "state", None, State, f"one of {', '.join(State)}")


def query_of(request: web.Request, name: str, default: T, read: Callable[[str], T], expected: str) -> T:
    """Return what is asked for in the query, as `read` reads it.

    Raises:
        RefusedError: 400, where `read` raises ValueError or KeyError.
    """
    given = request.query.get(name)
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
