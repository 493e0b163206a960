"""Takes secrets out of what is shown.

A value is a secret by the name it stands under: `token`, `password`, `clientSecret`, `X-Api-Key`, at any depth, also in
JSON inside a text, in JSON that was cut off, and in texts like `part=...` or `Bearer ...`. So is what a handler's model
declares as a `Secret`, wherever that name occurs.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator
from typing import Final, cast

from pydantic import JsonValue
from pydantic_core import from_json, to_json

from agents.callback_masking import masked_callbacks

MASK: Final = "***"
_MASK_JSON: Final = f'"{MASK}"'
_SECRET: Final = re.compile(
    "password|passwd|passphrase|pwd|secret|token|authorization|apikey|accesskey|privatekey|signingkey|encryptionkey"
    "|credential|cookie|bearer|jwt|connectionstring"
)
_declared: Final[set[str]] = set()
"""Names that stand for secrets, too, as `_plain` writes them."""
_NOT_IN_NAMES: Final = re.compile(r"[^a-z0-9]")
_NO_SECRETS: Final = frozenset({"null", "true", "false"})

_SCHEME: Final = re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9+/=._~-]{6,}", re.IGNORECASE)
_USER_INFO: Final = re.compile(r"(?<=://)[^\s/@:]*:[^\s/@]+(?=@)")
_WORD: Final = r"([A-Za-z0-9_.-]+)"
_QUOTE: Final = r"""\\*["']"""
# `name=`, `name: `, `"name": `, `'name': `, and of Python's pairs `('name', `.
_NAME: Final = re.compile(
    rf"(?<![A-Za-z0-9_.-]){_WORD}(?:{_QUOTE})?\s{{0,9}}[=:]\s{{0,99}}|\(\s{{0,9}}{_QUOTE}{_WORD}{_QUOTE}\s{{0,9}},\s{{0,99}}"
)
_VALUE: Final = re.compile(
    r"""\\+"[^"]*"?|\\+'[^']*'?|"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?|[^\s&;,"'<>]+""", re.DOTALL
)
_PYTHON: Final = re.compile(r"\s*[{\[][\s{\[(]*'")
"""How a dict or a list of Python begins, as errors and tracebacks have it: no JSON."""
_OPENED: Final = re.compile(r"[{\[(]")
_PARTS: Final = re.compile(r"""[{\[(]|[}\])]|"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?""", re.DOTALL)

# Strings, which may be cut off at the end of the text; brackets; numbers and words.
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|[\[\]{}]|[^\s"\[\]{},:]+', re.DOTALL)
_COLON: Final = re.compile(r"\s*:")
_LOOSE: Final = json.JSONDecoder(strict=False)
_WRONG_ESCAPE: Final = re.compile(r'\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4}|(.))', re.DOTALL)
_CUT_ESCAPE: Final = re.compile(r"\\(?:u[0-9A-Fa-f]{0,3})?\Z")


def is_secret(name: str) -> bool:
    """Whether what stands under this name is to be masked."""
    plain = _plain(name)
    return plain in _declared or _SECRET.search(plain) is not None


def _plain(name: str) -> str:
    return _NOT_IN_NAMES.sub("", name.lower())


def also_secret(names: Iterable[str]) -> None:
    """Have everything masked, from now on, that stands under these names, too."""
    _declared.update(map(_plain, names))


def masked(value: JsonValue) -> JsonValue:
    """Return a value of JSON with its secrets masked. That there is none (`null`), true and false are no secrets."""
    if isinstance(value, dict):
        return {name: _hidden(member) if is_secret(name) else masked(member) for name, member in value.items()}
    if isinstance(value, list):
        return [masked(element) for element in value]
    return masked_text(value) if isinstance(value, str) else value


def _hidden(value: JsonValue) -> JsonValue:
    return value if value is None or isinstance(value, bool) else MASK


def masked_text(text: str) -> str:
    """Return a text with its secrets masked. JSON in it, whole or cut off, is masked by its names."""
    if text.lstrip()[:1] in ("{", "[") and _PYTHON.match(text) is None:
        return "".join(_masked_json(text))
    text = _SCHEME.sub(rf"\1 {MASK}", text)
    text = masked_callbacks(_USER_INFO.sub(MASK, text))
    return "".join(_masked_assignments(text))


def _masked_assignments(text: str) -> Iterator[str]:
    position = 0
    for name in _NAME.finditer(text):
        if name.start() < position or not is_secret(name[1] or name[2]):
            continue
        if (end := _end_of_value(text, name.end())) is not None:
            yield f"{text[position : name.end()]}{MASK}"
            position = end
    yield text[position:]


def _end_of_value(text: str, start: int) -> int | None:
    """Return where the value ends that begins there; None where there is none."""
    if _OPENED.match(text, start) is None:
        value = _VALUE.match(text, start)
        return None if value is None else value.end()
    # An object or a list is a secret as a whole; where it is cut off, all that is left.
    depth = 0
    for part in _PARTS.finditer(text, start):
        depth += (part[0] in "{[(") - (part[0] in "}])")
        if depth == 0:
            return part.end()
    return len(text)


def _masked_json(text: str) -> Iterator[str]:
    """Yield the text of some JSON with its secrets masked: part by part, so that it may be cut off, or no JSON."""
    position, hides, depth = 0, False, 0
    for found in _TOKEN.finditer(text):
        part = found[0]
        if depth:
            # Inside an object or array that is a secret as a whole.
            depth += (part in "[{") - (part in "]}")
            position = found.end()
            continue
        yield text[position : found.start()]
        position = found.end()
        if hides:
            hides = False
            depth = int(part in "[{")
            yield part if part in _NO_SECRETS else _MASK_JSON
        elif part[0] == '"' and _COLON.match(text, position):
            hides = is_secret(_decoded(part) or "")
            yield part
        else:
            yield _masked_string(part) if part[0] == '"' else part
    if not depth:
        yield text[position:]


def _masked_string(part: str) -> str:
    text = _decoded(part)
    if text is None:
        return _MASK_JSON
    shown = masked_text(text)
    return part if shown == text else to_json(shown).decode()


def _decoded(part: str) -> str | None:
    """Return the text that a string of JSON stands for; None where it cannot be known.

    One that is wrong is what somebody looks for: it is read as it may be meant, with half pairs of surrogates, raw line
    breaks, and escapes that do not exist.
    """
    for candidate in (part, f'{_CUT_ESCAPE.sub("", part)}"'):
        try:
            return cast("str", from_json(candidate))
        except ValueError:
            pass
        with contextlib.suppress(ValueError):
            text = cast("str", _LOOSE.decode(_WRONG_ESCAPE.sub(_as_it_stands, candidate)))
            return text.encode(errors="replace").decode()
    return None


def _as_it_stands(escape: re.Match[str]) -> str:
    return escape[0] if escape[1] is None else f"\\\\{escape[1]}"
