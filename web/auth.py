"""Who may see the web views, and who may act: the holder of `WEB_TOKEN`; without one, whoever asks on the loopback
interface. `WEB_READ_TOKEN` opens the views alone.

A token comes as `Authorization: Bearer`, never in a URL. People send it once in a form and get a session cookie that
is derived from it: it ends by itself, and with the token.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qs

from aiohttp import web
from yarl import URL

from web.answers import refused
from web.connections import read_body

SESSION_COOKIE: Final = "port_runs_session"
SESSION_SECONDS: Final = 12 * 3600
CSRF_FIELD: Final = "csrf_token"
CSRF_HEADER: Final = "X-CSRF-Token"
_MARK_CHARACTERS: Final = 32


def _is_same(one: str, other: str) -> bool:
    return hmac.compare_digest(_digest(one), _digest(other))


def _digest(text: str) -> bytes:
    # Of one length whatever is given; a header may hold what is no UTF-8.
    return hashlib.sha256(text.encode(errors="backslashreplace")).digest()


class Role(StrEnum):
    """What a caller may do."""

    FULL = "full"
    READ = "read"
    """See everything, and change nothing."""


@dataclass(frozen=True)
class Access:
    """Who asks: what it may do, and what its forms must bring along."""

    role: Role
    csrf: str
    """The token that each action of a browser needs; a page of another site does not know it. Empty where none is
    needed: the caller sends its token with every request by itself."""

    @property
    def may_act(self) -> bool:
        """Whether it may change anything."""
        return self.role is Role.FULL


@dataclass(frozen=True)
class Guard:
    """Knows the tokens; with an empty `token` there is none, and the views listen on loopback only.

    Comparisons take the same time whatever they find.
    """

    token: str
    read_token: str = ""
    """Opens the views, and allows nothing else. Empty: there is none."""
    clock: Callable[[], float] = time.time
    # Without a token a form is good for the process that has made it.
    _process: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)

    @property
    def asks(self) -> bool:
        """Whether a login is needed at all."""
        return bool(self.token)

    def role_of(self, given: str) -> Role | None:
        """Return what a token opens; None where it is none of ours."""
        found = [role for role, token in self._tokens() if _is_same(given, token)]
        return found[0] if found else None

    def access(self, authorization: str | None, session: str | None) -> Access | None:
        """Return what the header `Authorization` or the session cookie of a request opens; None for nothing."""
        if not self.asks:
            return Access(Role.FULL, _signed(self._process, "port-runs csrf"))
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() == "bearer":
            role = self.role_of(given.strip())
            return None if role is None else Access(role, "")
        return self._access_of_session(session or "")

    def session(self, role: Role = Role.FULL) -> str:
        """Return the value of a new session cookie, for who has shown the token of this role."""
        ends_at, mark = str(int(self.clock()) + SESSION_SECONDS), secrets.token_hex(16)
        return f"{ends_at}.{mark}{_signed(dict(self._tokens())[role], _session(ends_at, mark))}"

    def _access_of_session(self, cookie: str) -> Access | None:
        ends_at, _, rest = cookie.partition(".")
        mark, signature = rest[:_MARK_CHARACTERS], rest[_MARK_CHARACTERS:]
        signed = _session(ends_at, mark)
        # All tokens are tried, whichever fits.
        found = [(role, token) for role, token in self._tokens() if _is_same(signature, _signed(token, signed))]
        if not found or int(ends_at) <= self.clock():
            return None
        [(role, token)] = found
        return Access(role, _signed(token, f"port-runs csrf {cookie}"))

    def _tokens(self) -> list[tuple[Role, str]]:
        tokens = ((Role.FULL, self.token), (Role.READ, self.read_token))
        return [(role, token) for role, token in tokens if token and self.asks]


_ACCESS: Final = web.RequestKey("access", Access)


def access_of(request: web.Request) -> Access:
    """Return who asks; every request that a view sees has passed the guard, which has noted it."""
    return request[_ACCESS]


def note_access(request: web.Request, access: Access) -> None:
    """Note who asks, for `access_of`."""
    request[_ACCESS] = access


async def check_action(request: web.Request, access: Access) -> None:
    """Check that a request that changes something is meant so by who may do it. The guard calls it for all of them.

    A browser proves it by the hidden field `csrf_token` of a form (`macros.html` has it), or the header `X-CSRF-Token`.

    Raises:
        RefusedError: 403; `read-only` or `csrf`.
    """
    if not access.may_act:
        raise refused(HTTPStatus.FORBIDDEN, "read-only", "this token sees everything, and may change nothing")
    if not access.csrf:
        return
    origin = request.headers.get("Origin")
    if origin is not None and origin.partition("://")[2].lower() != request.host.lower():
        raise refused(HTTPStatus.FORBIDDEN, "csrf", "a page of another origin asks for this")
    given = request.headers.get(CSRF_HEADER) or await _field(request)
    if not _is_same(given, access.csrf):
        message = f"load the page anew and try again; programs send {CSRF_HEADER} as /api/session tells it"
        raise refused(HTTPStatus.FORBIDDEN, "csrf", message)


async def _field(request: web.Request) -> str:
    if request.content_type != "application/x-www-form-urlencoded":
        return ""
    # aiohttp keeps what was read, so that the view reads it again.
    form = parse_qs((await read_body(request)).decode(errors="replace"))
    return form.get(CSRF_FIELD, [""])[0]


def _session(ends_at: str, mark: str) -> str:
    return f"port-runs session {ends_at} {mark}"


def _signed(token: str, text: str) -> str:
    return hmac.new(token.encode(), _digest(text), hashlib.sha256).hexdigest()


def is_loopback_name(host: str) -> bool:
    """Whether a request's `Host` names the loopback interface.

    Without a login this is what keeps out a page whose own name resolves to 127.0.0.1 (DNS rebinding).
    """
    try:
        name = URL(f"http://{host}").host or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
