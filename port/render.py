"""Renders the `{{ jq }}` templates of an action node's payload, as Port does before it publishes.

- A string that is one expression, white space around it aside, keeps the type of the result.
- An expression inside a longer string is interpolated: strings as they are, anything else as compact JSON, so that
  null reads `null`. That is what Port's own open-source renderer does (port-labs/jq-node-bindings).
- Of several results the first counts; no result (`empty`) is null.
- Keys are left alone, and so is everything that is no string.

The expressions come from whoever writes workflows, so they are evaluated in a child process with an empty
environment, a time limit and, on Linux, a memory limit.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import JsonValue

from port.errors import RenderError

_CHILD: Final = Path(__file__).with_name("_render_child.py")
_ANSWER_LIMIT: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Expression:
    """A jq expression cut out of a template, without its braces."""

    text: str


Template = tuple[str | Expression, ...]
"""A string cut into literal pieces and expressions, in order."""


@dataclass(frozen=True, slots=True)
class _Found:
    """An expression with the place where it stands, for the error message."""

    path: str
    expression: Expression


class TemplateSyntaxError(ValueError):
    """A `{{` that no `}}` ends."""


def split_template(text: str) -> Template:
    """Cut a string at its `{{ … }}`. Raises TemplateSyntaxError where one is not closed.

    A `}}` inside a jq string or closing an object of the expression does not end it; a comment of jq ends with its
    line or with the `}}`. A lone `}}` outside an expression is text.
    """
    pieces: list[str | Expression] = []
    position = 0
    while (start := text.find("{{", position)) >= 0:
        if start > position:
            pieces.append(text[position:start])
        end = _end_of_expression(text, start + 2)
        if end is None:
            raise TemplateSyntaxError(f"the {{{{ at character {start + 1} has no }}}}")
        pieces.append(Expression(text[start + 2 : end]))
        position = end + 2
    if position < len(text):
        pieces.append(text[position:])
    return tuple(pieces)


def _end_of_expression(text: str, position: int) -> int | None:
    """Where the `}}` of an expression stands that begins at `position`; None if nowhere.

    `open_` holds what is open: `{`, `(` and `"`. Inside a string only `\\(`, which opens an expression, and `"` count.
    """
    open_: list[str] = []
    while position < len(text):
        character = text[position]
        if open_ and open_[-1] == '"':
            position = _step_in_string(text, position, open_)
        elif character == "#":
            position = _end_of_comment(text, position)
        elif _closes_template(text, position, open_):
            return position
        else:
            _step_in_code(character, open_)
            position += 1
    return None


def _step_in_string(text: str, position: int, open_: list[str]) -> int:
    if text[position] == '"':
        open_.pop()
    elif text[position] == "\\":
        if text.startswith("(", position + 1):
            open_.append("(")
        return position + 2
    return position + 1


def _step_in_code(character: str, open_: list[str]) -> None:
    if character in '"({':
        open_.append(character)
    elif open_ and (open_[-1], character) in {("(", ")"), ("{", "}")}:
        open_.pop()


def _end_of_comment(text: str, position: int) -> int:
    ends = [end for end in (text.find("\n", position), text.find("}}", position)) if end >= 0]
    return min(ends, default=len(text))


def _closes_template(text: str, position: int, open_: list[str]) -> bool:
    """An unclosed parenthesis does not keep the template open: jq then tells what is wrong with the expression."""
    return text.startswith("}}", position) and '"' not in open_ and (not open_ or open_[-1] != "{")


async def render(
    payload: JsonValue, inputs: Mapping[str, JsonValue], *, time_limit: float = 5.0, path: str = "payload"
) -> JsonValue:
    """Return `payload` with every template rendered against `inputs`, the object that jq sees as `.`.

    `time_limit` is in seconds, for all expressions together. Raises RenderError naming the place (below `path`), the
    expression and the reason. A payload without templates starts no process. Cancelling it ends the process.
    """
    found = list(_find(payload, path))
    if not found:
        return payload
    values = iter(await _evaluate(found, inputs, time_limit))
    return _replace(payload, values)


def _find(value: JsonValue, path: str) -> Iterator[_Found]:
    """The expressions of `value` in the order in which `_replace` meets them."""
    if isinstance(value, str):
        for piece in _split_at(value, path):
            if isinstance(piece, Expression):
                yield _Found(path, piece)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _find(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _find(inner, f"{path}[{index}]")


def _split_at(text: str, path: str) -> Template:
    try:
        return split_template(text)
    except TemplateSyntaxError as error:
        raise RenderError(path, None, str(error)) from error


def _replace(value: JsonValue, values: Iterator[JsonValue]) -> JsonValue:
    if isinstance(value, str):
        return _fill(split_template(value), values)
    if isinstance(value, dict):
        return {key: _replace(inner, values) for key, inner in value.items()}
    if isinstance(value, list):
        return [_replace(inner, values) for inner in value]
    return value


def _fill(template: Template, values: Iterator[JsonValue]) -> JsonValue:
    expressions = [piece for piece in template if isinstance(piece, Expression)]
    around = "".join(piece for piece in template if isinstance(piece, str))
    if len(expressions) == 1 and not around.strip():
        return next(values)
    return "".join(_as_text(next(values)) if isinstance(piece, Expression) else piece for piece in template)


def _as_text(value: JsonValue) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)


async def _evaluate(found: Sequence[_Found], inputs: Mapping[str, JsonValue], time_limit: float) -> list[JsonValue]:
    expressions = [one.expression.text for one in found]
    request = json.dumps({"input": inputs, "expressions": expressions, "seconds": time_limit}).encode()
    lines, reason = await _run_child(request, time_limit)
    values = [_value(one, line) for one, line in zip(found, lines, strict=False)]
    if len(values) < len(found):
        stopped_at = found[len(values)]
        raise RenderError(stopped_at.path, stopped_at.expression.text, reason)
    return values


def _value(one: _Found, line: bytes) -> JsonValue:
    answer: dict[str, JsonValue] = json.loads(line)
    if "error" in answer:
        raise RenderError(one.path, one.expression.text, str(answer["error"]))
    return answer["value"]


async def _run_child(request: bytes, time_limit: float) -> tuple[list[bytes], str]:
    """The complete lines that the child wrote, and why there may be too few of them."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        str(_CHILD),
        env={},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    output = bytearray()
    reason = "the process that evaluates jq ended early (out of memory?)"
    finished = False
    try:
        async with asyncio.timeout(time_limit):
            await asyncio.gather(_feed(child, request), _drain(child, output))
        finished = True
    except TimeoutError:
        reason = f"took longer than {time_limit:g} s"
    except _TooMuchOutput:
        reason = f"gave more than {_ANSWER_LIMIT // 1024**2} MiB"
    finally:
        await _end(child, by_force=not finished)
    return bytes(output).split(b"\n")[:-1], reason


class _TooMuchOutput(Exception):
    pass


async def _feed(child: asyncio.subprocess.Process, request: bytes) -> None:
    assert child.stdin is not None  # noqa: S101 - it was started with a pipe
    with contextlib.suppress(ConnectionError):  # it died: what it answered until then tells where
        child.stdin.write(request)
        await child.stdin.drain()
    child.stdin.close()


async def _drain(child: asyncio.subprocess.Process, output: bytearray) -> None:
    assert child.stdout is not None  # noqa: S101 - it was started with a pipe
    while chunk := await child.stdout.read(65536):
        output += chunk
        if len(output) > _ANSWER_LIMIT:
            raise _TooMuchOutput


async def _end(child: asyncio.subprocess.Process, *, by_force: bool) -> None:
    if by_force and child.returncode is None:
        # Not `child.kill()`: it polls first, and so may take the exit status away from asyncio's own watcher.
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)
    await child.wait()
