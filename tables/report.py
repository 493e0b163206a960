"""The body that completes a node run at Port: a pure function of its frozen state, so the same bytes every time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from pydantic import JsonValue
from pydantic_core import from_json, to_json

from port.models import Result, Status
from streams.records import Body
from tables.history import RunHistory
from tables.state import Item, NodeRun, Stop

MAX_BODY_BYTES: Final = 1_048_576
"""Port answers 413 above it."""
_ROOM: Final = MAX_BODY_BYTES - 16_384
"""What items may take of a body; the rest is for what stands around them."""
_ERROR_CHARACTERS: Final = 2_000
_COMPLETED: Final = Status.COMPLETED.value.encode()


SAID: Final = {
    Stop.SOFT: "the workflow run was cancelled",
    Stop.REST: "too many other items have failed",
    Stop.RUN: "the workflow run was cancelled",
    Stop.HAND: "it was cancelled by hand",
    Stop.OVER: "Port has ended the node run",
    Stop.ELSEWHERE: "the node run was completed at Port by somebody else",
}
"""Why items of a node run are cancelled, for people."""


def why_stopped(run: NodeRun) -> str:
    """Return what an item of a node run has for its error that ends as cancelled. For a node run that is stopped."""
    history = run.history or RunHistory()
    if run.stopped is Stop.ELSEWHERE and history.completed is not None:
        return f"cancelled: the node run was completed at Port by hand ({history.completed.who})"
    by = f" ({history.cancelled.who})" if run.stopped is Stop.HAND and history.cancelled is not None else ""
    return f"cancelled: {SAID[run.stopped or Stop.RUN]}{by}"


def report_body(run: NodeRun, items: Iterable[Item]) -> bytes:
    """Return the JSON body of the report.

    Args:
        run: a node run whose report is frozen (`covered` is set).
        items: the covered items, in order, all of them ended. They are read once.

    The output of an object payload is its handler's, with `error` in it where the item has not succeeded; of an array,
    or of several messages, a summary with each item's output in order, cut to Port's limit with a note.
    """
    if run.body is Body.SMALL:
        output = _encoded(_small_output(run, items))
    elif run.covered == 1 and not run.array:
        output = _single_output(next(iter(items)))
    else:
        output = _encoded(_summary(run, items))
    # As `NodeRunUpdate` has it, but that the output is written once, and not validated: it may be large.
    return b'{"status":"%s","result":"%s","output":%s}' % (_COMPLETED, str(run.result).encode(), output)


def _error(message: str) -> dict[str, JsonValue]:
    return {"message": message[:_ERROR_CHARACTERS]}


def _small_output(run: NodeRun, items: Iterable[Item]) -> dict[str, JsonValue]:
    note = "Port refused the output of this node run; it is kept where the handlers run."
    if run.result is Result.SUCCESS:
        return {"note": note}
    # Not the node run's counters: items that come after the report go on changing them.
    counts = Counter(item.result for item in items)
    return {"note": note, "error": _error(_unmet(run, counts))}


def _unmet(run: NodeRun, counts: Counter[Result | None]) -> str:
    failed, cancelled = counts[Result.FAILED], counts[Result.CANCELLED]
    if not cancelled:
        return f"{failed} of {run.covered} items failed"
    return f"{failed} of {run.covered} items failed, {cancelled} were cancelled"


def _single_output(item: Item) -> bytes:
    error: dict[str, JsonValue] = {}
    if item.result is not Result.SUCCESS:
        error = {"error": _error(item.error or "failed")}
    output = _encoded(_output(item) | error)
    if len(output) <= _ROOM:
        return output
    note = f"The output is larger than Port takes ({len(output):,} bytes) and is left out."
    return _encoded({"note": note, **error})


def _output(item: Item) -> dict[str, JsonValue]:
    try:
        output = from_json(item.output or "{}")
    except ValueError:
        output = None
    return output if isinstance(output, dict) else {"note": "The output is left out: it cannot be read."}


def _encoded(value: JsonValue) -> bytes:
    return to_json(value, inf_nan_mode="null")


def _summary(run: NodeRun, items: Iterable[Item]) -> dict[str, JsonValue]:
    entries: list[JsonValue] = []
    room, left_out, first_error = _ROOM, 0, ""
    counts: Counter[Result | None] = Counter()
    for item in items:
        counts[item.result] += 1
        if item.result is Result.FAILED and not first_error:
            first_error = f"; item {item.index} ({item.event_type or 'no event type'}): {item.error}"
        entry, size = _fitting_entry(item, room)
        room -= size
        if entry is None:
            left_out += 1
        else:
            entries.append(entry)
    summary: dict[str, JsonValue] = {"succeeded": counts[Result.SUCCESS], "failed": counts[Result.FAILED]}
    if counts[Result.CANCELLED]:
        summary["cancelled"] = counts[Result.CANCELLED]
    summary["items"] = entries
    if left_out:
        summary["note"] = f"{left_out} items are left out: the output is larger than Port takes."
    if run.result is not Result.SUCCESS:
        summary["error"] = _error(_unmet(run, counts) + first_error)
    return summary


def _fitting_entry(item: Item, room: int) -> tuple[dict[str, JsonValue] | None, int]:
    # What is longer than the whole room is not read, so that many large outputs cost no more than they take up.
    whole = len(item.output or "") <= room
    for parts in _PARTS if whole else _PARTS[1:]:
        entry = _entry(item, parts)
        size = len(_encoded(entry)) + 1
        if size <= room:
            return entry, size
    return None, 0


_PARTS: Final = (("error", "output"), ("error",), ())
"""What an entry has of its item, until it fits."""


def _entry(item: Item, parts: tuple[str, ...]) -> dict[str, JsonValue]:
    entry: dict[str, JsonValue] = {"index": item.index, "result": item.result}
    if item.event_type is not None:
        entry["eventType"] = item.event_type[:200]
    succeeded = item.result is Result.SUCCESS
    if "error" in parts and not succeeded:
        entry["error"] = _error(item.error or "failed")
    if "output" not in parts:
        entry["note"] = "The output is left out: it is larger than fits."
    elif succeeded or item.output is not None:
        entry["output"] = _output(item)
    return entry
