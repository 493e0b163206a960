"""Masks the URLs of callbacks in texts: whoever has one can complete the item. Knows nothing of their keys."""

from __future__ import annotations

import re
from typing import Final

from port.secrets import MASK

# As it is, in a URL, and in JSON that escapes slashes. A token is longer than any other path that may stand there.
_TOKEN: Final = re.compile(r"(callbacks(?:/|%2F|\\+/))[A-Za-z0-9_.=%~-]{40,}", re.ASCII | re.IGNORECASE)


def masked_callbacks(text: str) -> str:
    """Return a text in which `***` stands for the token of each URL of a callback."""
    return _TOKEN.sub(rf"\1{MASK}", text) if "allbacks" in text or "ALLBACKS" in text else text
