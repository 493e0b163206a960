"""The signature of a message: `"v1," + base64(HMAC-SHA256(client secret, f"{timestamp}.{body}"))`.

`body` is the message without the two fields of its `headers`, as compact JSON. It is taken from the text of the
message, in which numbers, escapes, repeated names and the order of names stand as the sender wrote them: a text made
anew of the parsed message would differ in them.
"""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import SecretStr

SIGNATURE_HEADER: Final = "X-Port-Signature"
TIMESTAMP_HEADER: Final = "X-Port-Timestamp"
FRESH_SECONDS: Final = 300.0
"""How far `X-Port-Timestamp` may be from the time at which the message was sent."""

_OURS: Final = frozenset({SIGNATURE_HEADER, TIMESTAMP_HEADER})
_MILLISECONDS_FROM: Final = 100_000_000_000
"""As seconds this is in the year 5138, as milliseconds in 1973."""
# What follows bounds the time that a message made to take long can take: the check holds up everything else.
_MOST_MEMBERS: Final = 10_000
"""A message, or its `headers`, with more members is none of Port's."""
_MOST_REWRITTEN: Final = 262_144
"""A message with more characters must be right as it came."""
_TIMESTAMP: Final = re.compile(r"[0-9]{1,17}", re.ASCII)
_SPACE: Final = re.compile(r"[ \t\n\r]*")
_STRING_OR_SPACE: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[ \t\n\r]+')
# A number is its text: nothing is computed with it.
_JSON: Final = json.JSONDecoder(parse_int=str, parse_float=str)
_AS_IT_IS: Final = json.JSONEncoder(ensure_ascii=False)
_HALF: Final = re.compile("[\ud800-\udfff]")


def _unescaped(text: str) -> str:
    # JavaScript writes half a surrogate pair as an escape in any case.
    return _HALF.sub(lambda half: f"\\u{ord(half[0]):04x}", _AS_IT_IS.encode(text))


_ESCAPED: Final = (_unescaped, json.JSONEncoder(ensure_ascii=True).encode)


@dataclass(frozen=True)
class _Member:
    """A name and its value in the text of an object: from `start`, the value from `value_start`, up to `end`."""

    name: object
    value: object
    start: int
    value_start: int
    end: int


def signature_of(body: bytes, timestamp: str, secret: SecretStr) -> str:
    """Return the value of `X-Port-Signature` for a body and the text of `X-Port-Timestamp`."""
    signed = timestamp.encode() + b"." + body
    digest = hmac.new(secret.get_secret_value().encode(), signed, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def refusal(raw: bytes, sent_at: float | None, secrets: Sequence[SecretStr], *, required: bool) -> str | None:
    """Say why a message is not to be trusted; None where it may pass. Never raises, quotes nothing.

    A message that carries one of the two headers claims to be signed: then its signature must be right, and its
    timestamp (in seconds or milliseconds) within `FRESH_SECONDS` of `sent_at`. Not documented is whether the emptied
    `headers` object stays in what is signed, and how non-ASCII text is escaped: each way is right.

    Args:
        raw: the message as it came: an object as JSON in UTF-8.
        sent_at: when it was sent, in epoch seconds. Never the time of the check: a backlog of days must pass. None
            where that is not known: then its freshness is not judged.
        secrets: the client secrets; each is right, as during a rotation.
        required: whether a message that is not signed is refused, too.
    """
    try:
        return _refusal(raw, sent_at, secrets, required=required)
    except (ValueError, IndexError, RecursionError):
        return "its signature cannot be read"


def _refusal(raw: bytes, sent_at: float | None, secrets: Sequence[SecretStr], *, required: bool) -> str | None:
    members: list[_Member] = []
    text = ""
    if any(name.encode() in raw for name in _OURS):
        text = raw.decode()
        members = _members(text, _skip(text, 0))
    headers = [member for member in members if _is_headers(member)]
    fields = _members(text, headers[0].value_start) if len(headers) == 1 else []
    found = [field for field in fields if field.name in _OURS]
    if not found and len(headers) <= 1:
        return "it is not signed, and a signature is required" if required else None
    values = {field.name: field.value for field in found}
    if len(found) != 2 or len(values) != 2:
        return f"it must carry {SIGNATURE_HEADER} and {TIMESTAMP_HEADER} once each"
    return _wrong(_bodies(text), values[SIGNATURE_HEADER], values[TIMESTAMP_HEADER], sent_at, secrets)


def _is_headers(member: _Member) -> bool:
    return member.name == "headers" and isinstance(member.value, dict)


def _wrong(
    bodies: Iterator[str], signature: object, timestamp: object, sent_at: float | None, secrets: Sequence[SecretStr]
) -> str | None:
    if not isinstance(signature, str) or not isinstance(timestamp, str) or not _TIMESTAMP.fullmatch(timestamp):
        return "its signature or timestamp is of another form than Port's"
    given = signature.encode("utf-8", "surrogatepass")
    expected = (signature_of(body.encode(), timestamp, secret).encode() for body in bodies for secret in secrets)
    if not any(hmac.compare_digest(one, given) for one in expected):
        return "its signature is wrong"
    if sent_at is None:
        return None
    seconds = int(timestamp) / 1000 if int(timestamp) >= _MILLISECONDS_FROM else int(timestamp)
    away = abs(seconds - sent_at)
    if not away <= FRESH_SECONDS:
        return f"its {TIMESTAMP_HEADER} is {away:,.0f} s from when it was sent, of {FRESH_SECONDS:g} s allowed"
    return None


def _bodies(text: str) -> Iterator[str]:
    """Yield what may have been signed: the text as it came first, then with its strings escaped anew."""
    yield from _bare(text)
    if len(text) > _MOST_REWRITTEN:
        return
    for escaped in _ESCAPED:
        rewritten = _compact(text, escaped)
        if rewritten != text:
            yield from _bare(rewritten)


def _bare(text: str) -> Iterator[str]:
    """Yield the text without the signature's fields: with `headers`, then without it where it is empty now."""
    kept: list[str] = []
    without: list[str] = []
    for member in _members(text, _skip(text, 0)):
        whole = text[member.start : member.end]
        if not _is_headers(member):
            kept.append(whole)
            without.append(whole)
            continue
        fields = [field for field in _members(text, member.value_start) if field.name not in _OURS]
        bare = f'"headers":{_object(text[field.start : field.end] for field in fields)}'
        kept.append(bare)
        without += [bare] if fields else []
    yield _object(kept)
    if len(without) < len(kept):
        yield _object(without)


def _object(members: Iterable[str]) -> str:
    return f"{{{','.join(members)}}}"


def _members(text: str, start: int) -> list[_Member]:
    """Return the members of the object that begins at `start`. Raises ValueError or IndexError for what is no JSON."""
    if text[start] != "{":
        raise ValueError("no object")
    members: list[_Member] = []
    position = _skip(text, start + 1)
    while text[position] != "}":
        if len(members) == _MOST_MEMBERS:
            raise ValueError("too many members")
        name, name_end = _JSON.raw_decode(text, position)
        value_start = _skip(text, _skip(text, name_end) + 1)
        value, end = _JSON.raw_decode(text, value_start)
        members.append(_Member(name, value, position, value_start, end))
        position = _skip(text, end)
        if text[position] == ",":
            position = _skip(text, position + 1)
    return members


def _skip(text: str, position: int) -> int:
    space = _SPACE.match(text, position)
    return position if space is None else space.end()


def _compact(text: str, escaped: Callable[[str], str]) -> str:
    """Return JSON without space between its parts, its strings written by `escaped`."""

    def rewritten(found: re.Match[str]) -> str:
        part = found[0]
        if part[0] != '"':
            return ""
        # Of ASCII, all but DEL is written in one way only.
        return (
            part if part.isascii() and part.isprintable() and "\\" not in part else escaped(_JSON.raw_decode(part)[0])
        )

    return _STRING_OR_SPACE.sub(rewritten, text)
