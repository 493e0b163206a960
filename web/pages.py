"""The HTML pages. Every value is escaped; the only scripts and styles are the page's own, by a nonce of each answer."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Final

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import JsonValue
from pydantic_core import to_json

from tables.state import State
from web.notices import Notices

SHOWN_CHARACTERS: Final = 50_000
"""How much of one payload or output a page shows; the API has the whole."""
_MINUTE: Final = 60
_HOUR: Final = 3600
_WHOLE_FROM: Final = 10


class Pages:
    """The templates.

    Args:
        key: what notices are signed with; see `web.notices`.
    """

    def __init__(self, key: str | None = None) -> None:
        self.notices = Notices(key)
        self._templates = Environment(
            loader=PackageLoader("web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(pretty=_pretty, instant=_instant, iso=_iso, duration=duration, rate=_rate)
        self._templates.globals.update(states=list(State), paths=(), asks=False)

    def know(self, **values: object) -> None:
        """Let every page know these values."""
        self._templates.globals.update(values)

    def answer(self, template: str, *, status: int = 200, **values: object) -> web.Response:
        """Return a page as an answer."""
        nonce = secrets.token_urlsafe(16)
        text = self._templates.get_template(template).render(nonce=nonce, notice=self.notices.current(), **values)
        body = text.encode(errors="replace")
        answer = web.Response(status=status, body=body, content_type="text/html", charset="utf-8")
        answer.headers["Content-Security-Policy"] = (
            f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; "
            "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
        return answer


def _pretty(value: JsonValue) -> str:
    text = to_json(value, indent=2, inf_nan_mode="null").decode()
    if len(text) <= SHOWN_CHARACTERS:
        return text
    return f"{text[:SHOWN_CHARACTERS]}\n… {len(text) - SHOWN_CHARACTERS:,} further characters: see the JSON"


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds")


def _instant(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _rate(number: float) -> str:
    return f"{number:,.0f}" if number >= _WHOLE_FROM or number == int(number) else f"{number:.1f}"


def duration(seconds: float) -> str:
    """Return a span of time for people."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), _MINUTE)
    if seconds < _HOUR:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, _MINUTE)
    return f"{hours} h {minutes} min"
