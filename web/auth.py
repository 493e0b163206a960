"""Who may see the web views: the holder of `WEB_TOKEN`; without one, whoever asks on the loopback interface.

The token comes as `Authorization: Bearer`, never in a URL. People send it once in a form and get a session cookie that
is derived from it: it ends by itself, and with the token.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from yarl import URL

SESSION_COOKIE: Final = "port_runs_session"
SESSION_SECONDS: Final = 12 * 3600


def _is_same(one: str, other: str) -> bool:
    return hmac.compare_digest(_digest(one), _digest(other))


def _digest(text: str) -> bytes:
    # Of one length whatever is given; a header may hold what is no UTF-8.
    return hashlib.sha256(text.encode(errors="backslashreplace")).digest()


@dataclass(frozen=True)
class Guard:
    """Knows the token; empty: there is none, and the views listen on loopback only.

    Comparisons take the same time whatever they find.
    """

    token: str
    clock: Callable[[], float] = time.time

    @property
    def asks(self) -> bool:
        """Whether a login is needed at all."""
        return bool(self.token)

    def is_token(self, given: str) -> bool:
        """Whether this is the token."""
        return self.asks and _is_same(given, self.token)

    def is_authorized(self, authorization: str | None, session: str | None) -> bool:
        """Whether the header `Authorization` or the session cookie of a request opens the views."""
        if not self.asks:
            return True
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() == "bearer":
            return self.is_token(given.strip())
        return self._is_session(session or "")

    def session(self) -> str:
        """Return the value of a new session cookie."""
        ends_at = str(int(self.clock()) + SESSION_SECONDS)
        return f"{ends_at}.{self._signature(ends_at)}"

    def _is_session(self, cookie: str) -> bool:
        ends_at, _, signature = cookie.partition(".")
        if not _is_same(signature, self._signature(ends_at)):
            return False
        return int(ends_at) > self.clock()

    def _signature(self, ends_at: str) -> str:
        return hmac.new(self.token.encode(), _digest(f"port-runs session {ends_at}"), hashlib.sha256).hexdigest()


def is_loopback_name(host: str) -> bool:
    """Whether a request's `Host` names the loopback interface.

    Without a login this is what keeps out a page whose own name resolves to 127.0.0.1 (DNS rebinding).
    """
    try:
        name = URL(f"http://{host}").host or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
