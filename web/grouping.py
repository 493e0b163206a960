"""Puts equal failures together: error messages that differ only in what each call has of its own."""

from __future__ import annotations

import hashlib
import re
from typing import Final

_NUMBER: Final = r"\d+(?:[.,]\d+)*"
_UNIT: Final = r"(?:[mµun]s|seconds?|secs?|minutes?|mins?|hours?|days?|[smhd])"
_OWN: Final = {
    # What tells one kind of error from another stays, though it is a number.
    "kept": r"\b(?:HTTP|status|code|answers|answered|errno)(?: code)?[ :=]{1,2}\d{1,5}\b",
    "quoted": r"(?<!\w)'[^']*'(?!\w)|\"[^\"]*\"|`[^`]*`",
    "id": r"\bwf[a-z]*_[\w-]+|\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b",
    "time": r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?\b",
    "token": r"\b0x[0-9a-fA-F]+\b|\b(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{6,}\b|\b(?=[A-Za-z]*\d)(?=\d*[A-Za-z])\w{12,}\b",
    "duration": rf"(?<![\w.])(?:{_NUMBER} ?{_UNIT}\b ?)+(?<! )",
    "number": rf"(?<![A-Za-z_]){_NUMBER}",
}
"""What equal errors may differ in, the longest first. Each is applied to a few hundred characters at most."""
_DIFFERS: Final = re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in _OWN.items()))
_IN_PLACE: Final = {"quoted": "'…'", "duration": "#s", "number": "#"}
_ID_BYTES: Final = 8
GROUP: Final = "[0-9a-f]{16}"
"""How the id of a group is written."""
_ID: Final = re.compile(GROUP)


def pattern_of(message: str) -> str:
    """Return a message without ids, numbers, hex, quoted values, times and durations: the same for equal errors."""
    return _DIFFERS.sub(_in_place, message)


def _in_place(found: re.Match[str]) -> str:
    return found.group() if found.lastgroup == "kept" else _IN_PLACE.get(found.lastgroup or "", "<id>")


def group_of(event_type: str, message: str) -> str:
    """Return the id of the group that a failure belongs to: the same on every worker, and safe in an address."""
    text = f"{event_type}\0{pattern_of(message)}".encode(errors="replace")
    return hashlib.blake2b(text, digest_size=_ID_BYTES).hexdigest()


def is_group(given: str) -> bool:
    """Whether this may be the id of a group."""
    return _ID.fullmatch(given) is not None
