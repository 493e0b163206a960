"""What became of an action, told once more by the page that the action leads to.

It stands in the page's address, signed, so that nobody can have a page of ours say what is not so. After a while a page
that is loaded again says no more of it.
"""

from __future__ import annotations

import secrets
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Final

from itsdangerous import BadData, URLSafeTimedSerializer
from pydantic import TypeAdapter, ValidationError
from yarl import URL

FIELD: Final = "said"
"""The parameter of the address."""
_SECONDS: Final = 600
_CHARACTERS: Final = 1_000


@dataclass(frozen=True)
class Notice:
    """What became of an action."""

    outcome: str
    message: str
    counts: dict[str, int]
    page: str = "/"
    """The page that tells it."""
    about: str = ""
    """A page beside it that shows what came of it, where there is one."""
    at: datetime | None = None


class Notices:
    """Signs notices, and reads them.

    Args:
        key: the same in all workers, so that each can tell what another has done; by default one of this process.
    """

    def __init__(self, key: str | None = None) -> None:
        self._serializer = URLSafeTimedSerializer(key or secrets.token_hex(32), salt="port-runs notice")
        self._current: ContextVar[Notice | None] = ContextVar("notice", default=None)

    def address(self, notice: Notice) -> str:
        """Return the address of the page that is to tell a notice."""
        told = asdict(notice) | {"message": notice.message[:_CHARACTERS], "at": None}
        return str(URL(notice.page, encoded=True).update_query({FIELD: self._serializer.dumps(told)}))

    def note(self, said: str | None) -> None:
        """Take note of what the address of the request says, for the page that answers it."""
        self._current.set(None if said is None else self._read(said))

    def current(self) -> Notice | None:
        """Return what the page that is being made is to tell."""
        return self._current.get()

    def _read(self, said: str) -> Notice | None:
        try:
            told, at = self._serializer.loads(said, max_age=_SECONDS, return_timestamp=True)
            return _NOTICE.validate_python(told | {"at": at})
        except (BadData, ValidationError, TypeError):
            return None


_NOTICE: Final = TypeAdapter(Notice)
