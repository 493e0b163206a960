"""In which form bytes come that are no JSON in UTF-8: said in a dead letter's reason, and read for the views."""

from __future__ import annotations

import codecs
from typing import Final

_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig", "a byte order mark of UTF-8 (EF BB BF)"),
    # Before UTF-16, whose mark its own begins with.
    (codecs.BOM_UTF32_LE, "utf-32", "a byte order mark of UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "a byte order mark of UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "a byte order mark of UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "a byte order mark of UTF-16"),
)
_PACKED: Final = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"PK\x03\x04", "zip"),
    (b"\xff\x06\x00\x00sNaPpY", "snappy"),
)
_OBJ: Final = b"Obj\x01"
_REGISTRY_BYTES: Final = 5
_JSON_BEGINS: Final = b"{["
_REMEDY: Final = "publish plain JSON in UTF-8"


def form_of(raw: bytes) -> str | None:
    """Return in which other form bytes are than plain text in UTF-8, and what to do; None where nothing is known."""
    if not raw:
        return "it is empty"
    found = _mark(raw) or _container(raw) or _zeros(raw) or _not_utf_8(raw)
    return None if found is None else f"{found}: {_REMEDY}"


def text_of(raw: bytes) -> str:
    """Return bytes as text: in the encoding that they say they have, in UTF-8 else, what is none of it replaced."""
    marked = next((encoding for mark, encoding, _ in _MARKS if raw.startswith(mark)), None)
    return raw.decode(marked or _zero_encoding(raw) or "utf-8", errors="replace")


def _mark(raw: bytes) -> str | None:
    return next((f"it begins with {said}" for mark, _, said in _MARKS if raw.startswith(mark)), None)


def _container(raw: bytes) -> str | None:
    for magic, name in _PACKED:
        if raw.startswith(magic):
            return f"it is packed with {name}"
    if raw.startswith(_OBJ):
        return "it is an Avro file"
    if raw[:1] == b"\0" and len(raw) > _REGISTRY_BYTES and raw[1:2] == b"\0":
        schema, rest = int.from_bytes(raw[1:_REGISTRY_BYTES]), raw[_REGISTRY_BYTES:].lstrip()
        kind = "JSON" if rest[:1] in (b"{", b"[") else "Avro or Protobuf"
        if _zero_encoding(raw) is None:
            return f"it begins with a schema registry's prefix (00, schema {schema}) and {kind} behind it"
    return None


def _zero_encoding(raw: bytes) -> str | None:
    """Return the encoding of text in which ASCII has zeros beside it."""
    start = raw[:4]
    if len(start) == 4 and start[1:] == b"\0\0\0" and start[0]:
        return "utf-32-le"
    if len(start) == 4 and start[:3] == b"\0\0\0" and start[3] in _JSON_BEGINS:
        return "utf-32-be"
    if len(start) == 4 and not start[1] and not start[3] and start[0] and start[2]:
        return "utf-16-le"
    if len(start) == 4 and not start[0] and not start[2] and start[1] and start[3]:
        return "utf-16-be"
    return None


def _zeros(raw: bytes) -> str | None:
    encoding = _zero_encoding(raw)
    return None if encoding is None else f"it is text in {encoding.upper().rpartition('-')[0]}"


def _not_utf_8(raw: bytes) -> str | None:
    try:
        raw.decode()
    except UnicodeDecodeError as wrong:
        return f"byte {wrong.start:,} ({raw[wrong.start]:02X}) is no UTF-8, maybe Latin-1 or binary"
    return None
