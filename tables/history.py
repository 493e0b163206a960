"""What a node run and its items remember of what is over: earlier calls, earlier answers of Port. For the views alone.

Bounded, and of no weight where there is nothing to remember. Nothing is decided by it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, TypeVar

from streams.records import Action, Body, By, Kept, Lines, Settled, Tries

MOST_KEPT: Final = 20
"""Calls of an item, and answers to reports of a node run: the first one, and the latest."""
MAX_REASON_CHARACTERS: Final = 300
_CALL_CHARACTERS: Final = 192
"""What a call takes beside its texts."""
MAX_LINES_CHARACTERS: Final = 16_384
"""Of the lines of all earlier calls of an item together: the oldest go first."""
One = TypeVar("One")


class How(StrEnum):
    """How a call of a handler ended that is not the latest word on its item."""

    RETRY = "retry"
    """It asked to be called again."""
    RAISED = "raised"
    """It raised, with retries left."""
    DEFERRED = "deferred"
    """Another system was to say how the item ended."""
    FAILED = "failed"
    """The item had FAILED, and was taken up again by hand."""


class Again(Kept):
    """Who wanted something done again, and when."""

    who: str
    at: float

    @classmethod
    def of(cls, action: Action, at: float) -> Again:
        """Return who asked by an action."""
        return cls(who=action.who[:MAX_REASON_CHARACTERS], at=at)


class EarlierCall(Kept):
    """A call of an item's handler that did not end the item, or not for good."""

    attempt: int
    how: How
    started_at: float | None = None
    """None where an earlier version wrote it, or where there was no call: another system had said how it ended."""
    ended_at: float | None = None
    error: str | None = None
    """The first line."""
    worker: str | None = None
    due_at: float | None = None
    """When it was to be called again, or until when another system could say how it ended."""
    decided_by: By | None = None
    """Who had said that it FAILED, where it was not the handler."""
    decided_who: str | None = None
    logs: Lines | None = None
    again: Again | None = None
    """Who wanted it called again."""


class EarlierCalls(Kept):
    """The first of an item's earlier calls, and the latest, in order."""

    calls: tuple[EarlierCall, ...]
    left_out: int = 0
    """How many there were between the first and the others."""

    @property
    def size(self) -> int:
        """How many characters they take, roughly."""
        texts = sum(_CALL_CHARACTERS + len(call.error or "") for call in self.calls)
        return texts + sum(call.logs.size for call in self.calls if call.logs is not None)


class EarlierAnswer(Kept):
    """An answer of Port to a report that was not the last one."""

    report: int
    body: Body
    settled: Settled
    status: int | None = None
    reason: str | None = None
    """The first line."""
    at: float | None = None
    tries: Tries | None = None
    again: Again | None = None
    """Who wanted the node run reported again."""


class RunHistory(Kept):
    """What a node run remembers beside its state."""

    answers: tuple[EarlierAnswer, ...] = ()
    """The first of Port's earlier answers, and the latest, in order."""
    left_out: int = 0
    """How many there were between the first and the others."""
    tries: Tries | None = None
    """Those before the last answer."""
    soft_cancelled_at: float | None = None
    """When Port was found to be cancelling its workflow run: nothing began from then on."""
    cancelled: Again | None = None
    """Who cancelled the node run, and when; nobody (`""`) where Port was found to have ended it or its workflow run."""
    completed: Again | None = None
    """Who completed the node run at Port by hand, and when."""


def with_call(earlier: EarlierCalls | None, call: EarlierCall) -> EarlierCalls:
    """Return the earlier calls of an item with one more."""
    known = EarlierCalls(calls=()) if earlier is None else earlier
    calls, left_out = _bounded((*known.calls, call))
    return EarlierCalls(calls=_with_few_lines(calls), left_out=known.left_out + left_out)


def called_again(earlier: EarlierCalls | None, again: Again) -> EarlierCalls | None:
    """Return the earlier calls of an item whose last one is followed by another because somebody wants that."""
    if earlier is None:
        return None
    *before, last = earlier.calls
    return earlier.model_copy(update={"calls": (*before, last.model_copy(update={"again": again}))})


def with_answer(history: RunHistory | None, answer: EarlierAnswer) -> RunHistory:
    """Return a node run's history with one more answer, and without tries of the next one."""
    known = RunHistory() if history is None else history
    answers, left_out = _bounded((*known.answers, answer))
    return known.model_copy(update={"answers": answers, "left_out": known.left_out + left_out, "tries": None})


def with_tries(history: RunHistory | None, tries: Tries) -> RunHistory:
    """Return a node run's history with the tries before the last answer."""
    return (RunHistory() if history is None else history).model_copy(update={"tries": tries})


def with_cancellation(history: RunHistory | None, cancelled: Again) -> RunHistory:
    """Return a node run's history with who cancelled it; the first one stays."""
    known = RunHistory() if history is None else history
    return known if known.cancelled is not None else known.model_copy(update={"cancelled": cancelled})


def with_completion(history: RunHistory | None, completed: Again) -> RunHistory:
    """Return a node run's history with who completed it at Port by hand."""
    return (RunHistory() if history is None else history).model_copy(update={"completed": completed})


def with_soft_cancel(history: RunHistory | None, at: float) -> RunHistory:
    """Return a node run's history with when Port was found to be cancelling its workflow run."""
    return (RunHistory() if history is None else history).model_copy(update={"soft_cancelled_at": at})


def first_line(text: str | None) -> str | None:
    """Return the first line of what may be long; None where there is none."""
    lines = [] if text is None else text.strip().splitlines()
    return lines[0][:MAX_REASON_CHARACTERS] if lines else None


def _bounded(kept: tuple[One, ...]) -> tuple[tuple[One, ...], int]:
    return (kept, 0) if len(kept) <= MOST_KEPT else ((kept[0], *kept[2:]), 1)


def _with_few_lines(calls: tuple[EarlierCall, ...]) -> tuple[EarlierCall, ...]:
    """Return the calls, those that come first without their lines where there are too many."""
    room = MAX_LINES_CHARACTERS
    kept: list[EarlierCall] = []
    for call in reversed(calls):
        room -= 0 if call.logs is None else call.logs.size
        kept.append(call if room >= 0 else _without_lines(call))
    return tuple(reversed(kept))


def _without_lines(call: EarlierCall) -> EarlierCall:
    if call.logs is None or not call.logs.latest:
        return call
    left_out = Lines(left_out=call.logs.left_out + len(call.logs.latest))
    return call.model_copy(update={"logs": left_out})
