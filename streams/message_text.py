"""The JSON text in the bytes of a message: with marks before it, with halves of surrogate pairs, or broken."""

from __future__ import annotations

import codecs
import hashlib
import json
import math
import re
from dataclasses import dataclass
from typing import Final

import orjson
from pydantic import JsonValue
from pydantic_core import from_json

from port.signature import SIGNATURE_HEADER, TIMESTAMP_HEADER

HALVES: Final = "half a surrogate pair stands in a text of it; handlers get U+FFFD in its place"
NOT_FINITE: Final = "a number of the message is larger than any that can be computed with"
_REASON_CHARACTERS: Final = 200
_MARKS: Final = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SCHEMA_PREFIX: Final = re.compile(rb'\x00[\x00-\xff]{4}[\x00-\x7f]{0,8}?(?=\s*\{\s*["}])')
"""Of a schema registry: a zero byte, the id of the schema in four, and for some formats a few more."""
_BEGINS: Final = re.compile(r'\s*[{\[]\s*["}\]{\[0-9tfn-]')
_ESCAPE: Final = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
"""An escape, or the two of a pair; the group is half a pair that stands alone."""


def _number(digits: str) -> float:
    # Python reads no integer of more than 4,300 digits. It only has to be one.
    return float(digits[:400])


# What other parsers refuse: numbers without end, NaN, more levels. Only to see what the message is.
_LENIENT: Final = json.JSONDecoder(parse_int=_number)


@dataclass(frozen=True)
class Parsed:
    """A message that is JSON, or nearly so."""

    fields: JsonValue
    text: str
    """As `pydantic_core.from_json` reads it, unless there is a problem."""
    problem: str | None = None
    """Why it cannot be handled."""
    note: str | None = None
    """What of the message is not as it came."""


@dataclass(frozen=True)
class Broken:
    """Bytes that are no JSON; `text` is what they say, with U+FFFD for what is no text."""

    text: str
    problem: str


def parse(raw: bytes) -> Parsed | Broken:
    """Read a message. Never raises."""
    try:
        return Parsed(from_json(raw, allow_inf_nan=False), raw.decode())
    except (ValueError, RecursionError):
        return _parse_unusual(raw)


def _parse_unusual(raw: bytes) -> Parsed | Broken:
    body = json_bytes(raw)
    try:
        text = body.decode()
        whole = _ESCAPE.sub(_whole, text)
        return Parsed(from_json(whole, allow_inf_nan=False), whole, note=None if whole == text else HALVES)
    except (ValueError, RecursionError) as wrong:
        problem = f"not JSON in UTF-8: {wrong}"[:_REASON_CHARACTERS]
    text = body.decode(errors="replace")
    try:
        return Parsed(_LENIENT.decode(text), text, problem)
    except (ValueError, RecursionError):
        return Broken(text, problem)


def _whole(escape: re.Match[str]) -> str:
    return escape[0] if escape[1] is None else r"\ufffd"


def json_bytes(raw: bytes) -> bytes:
    """Return the JSON of a message in UTF-8: without a byte order mark and the prefix of a schema registry."""
    if raw[:1] == b"{" and raw[1:2] != b"\x00":
        return raw
    if (prefix := _SCHEMA_PREFIX.match(raw)) is not None:
        return raw[prefix.end() :]
    if not raw.startswith(_MARKS) and b"\x00" not in raw[:4]:
        return raw
    try:
        text = raw.decode(json.detect_encoding(raw))
    except UnicodeError:
        return raw
    # A stray zero byte makes no other encoding.
    return text.encode() if _BEGINS.match(text) else raw


class _NotFiniteError(ValueError):
    """A number that no float holds."""


def _finite(text: str) -> orjson.Fragment:
    if math.isinf(float(text)):
        raise _NotFiniteError
    return orjson.Fragment(text)


# A number is its text: 1.0 is another than 1, and none is rounded.
_FINITE: Final = json.JSONDecoder(parse_int=orjson.Fragment, parse_float=_finite, parse_constant=orjson.Fragment)
_EXACT: Final = json.JSONDecoder(parse_int=orjson.Fragment, parse_float=orjson.Fragment, parse_constant=orjson.Fragment)


class _Number(str):
    """The text of a number, told from a string by how it is shown."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


_SHOWN: Final = json.JSONDecoder(parse_int=_Number, parse_float=_Number, parse_constant=_Number)


@dataclass(frozen=True)
class Digest:
    """By what a message is known when it comes again, and whether every number in it is one to compute with."""

    text: str
    finite: bool = True


def digest_of(raw: bytes) -> Digest:
    """Return the digest of a message: the first 32 hex digits of a SHA-256.

    It is that of the content: neither the order of members, nor white space, nor the two headers of a signature count,
    a number counts as it is written. Of what is no JSON object it is that of the bytes. Equal bytes have equal digests.
    """
    finite = True
    try:
        text = json_bytes(raw).decode()
        fields, finite = _with_exact_numbers(text)
        return Digest(bytes_digest(_canonical(fields, text)), finite)
    except (ValueError, RecursionError):
        return Digest(bytes_digest(raw), finite)


def _with_exact_numbers(text: str) -> tuple[object, bool]:
    try:
        return _FINITE.decode(text), True
    except _NotFiniteError:
        return _EXACT.decode(text), False


def bytes_digest(content: bytes) -> str:
    """Return the digest of bytes as they are: for what is too large to be looked into."""
    return hashlib.sha256(content).hexdigest()[:32]


def _canonical(fields: object, text: str) -> bytes:
    try:
        return orjson.dumps(_without_signature(fields), option=orjson.OPT_SORT_KEYS)
    except TypeError:
        # Half a surrogate pair, or many levels.
        return repr(_sorted(_without_signature(_SHOWN.decode(text)))).encode()


def _sorted(value: object) -> object:
    if isinstance(value, dict):
        return {name: _sorted(value[name]) for name in sorted(value)}
    return [_sorted(one) for one in value] if isinstance(value, list) else value


def _without_signature(fields: object) -> object:
    if not isinstance(fields, dict):
        raise ValueError("no object")
    headers = fields.get("headers")
    if isinstance(headers, dict):
        headers.pop(SIGNATURE_HEADER, None)
        headers.pop(TIMESTAMP_HEADER, None)
        if not headers:
            del fields["headers"]
    return fields
