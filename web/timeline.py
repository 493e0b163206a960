"""What happened to a node run, in order, as far as its state remembers it: see `tables.history`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from http import HTTPStatus
from typing import Final

from port.models import Result
from streams.records import By, Settled
from tables.history import How
from tables.state import State, Stop
from web.data import AnswerShown, CallShown, ItemShown, ItemState, LinesShown, MessageShown, NodeRunShown, TriesShown

MOST_MOMENTS: Final = 60
"""How many a page shows; those in the middle are left out first."""
_ERROR_CHARACTERS: Final = 200
_SAID_BY: Final = {
    By.CALLBACK: "said by a callback",
    By.CLI: "completed by hand, on the command line",
    By.WEB: "completed by hand, in the web views",
    By.API: "completed by hand, by the API",
}
_FOUND: Final = {
    Stop.RUN: "The workflow run was found to be cancelled",
    Stop.OVER: "Port was found to have ended the node run",
    Stop.ELSEWHERE: "The node run was found completed at Port, by somebody else",
}
_SOFTLY: Final = "nothing begins from here on; what runs may end"
_ENDS: Final = {
    How.RETRY: ("asked to be called again", "waits"),
    How.RAISED: ("raised, and is called again", "bad"),
    How.DEFERRED: ("deferred: waits for a callback", "waits"),
    How.FAILED: ("FAILED", "bad"),
}


@dataclass(frozen=True)
class Moment:
    """Something that happened, or is to come."""

    at: datetime | None
    """None: now, or at a time that is not known."""
    what: str
    kind: str
    """received, started, good, bad, waits or reports: how it looks."""
    detail: str = ""
    since: float | None = None
    """Seconds since the receipt of the first message."""
    due: datetime | None = None
    """When what it leads to is due."""
    lines: LinesShown | None = None
    """What the call has logged that ended so, or that runs."""
    key: str = ""
    """What it is called within the page, where it has lines."""


@dataclass(frozen=True)
class Timeline:
    """The moments of a node run."""

    moments: tuple[Moment, ...]
    left_out: int = 0
    """How many there are besides."""


def timeline(run: NodeRunShown) -> Timeline:
    """Return the timeline of a node run, made of the items and messages that are in `run`."""
    moments = sorted(_moments(run), key=_place)
    shown = tuple(_since(run.received_at, one) for one in moments)
    if len(shown) <= MOST_MOMENTS:
        return Timeline(shown)
    half = MOST_MOMENTS // 2
    return Timeline(shown[:half] + shown[-half:], len(shown) - MOST_MOMENTS)


def _moments(run: NodeRunShown) -> Iterator[Moment]:
    for message in run.messages:
        yield _received(message)
    if not run.messages and run.received_at is not None:
        yield Moment(run.received_at, "Received", "received")
    yield from _waited(run)
    for item in run.items:
        yield from _of_item(item, "" if run.item_count == 1 else f"Item {item.index}: ")
    yield from _cancelled(run)
    yield from _reports(run)


def _cancelled(run: NodeRunShown) -> Iterator[Moment]:
    if run.soft_cancelled_at is not None:
        yield Moment(run.soft_cancelled_at, "Port was found to be cancelling the workflow run", "waits", _SOFTLY)
    port_has = f"Port has {run.port_result}" if run.port_result is not None else ""
    if run.cancellation is not None and run.cancellation.who:
        yield Moment(run.cancellation.at, "Cancelled by hand", "bad", run.cancellation.who)
    elif run.cancellation is not None and run.completion is None:
        what = _FOUND.get(run.stopped or Stop.RUN, _FOUND[Stop.RUN])
        yield Moment(run.cancellation.at, what, "bad", port_has)
    if run.completion is not None:
        what = f"Completed at Port by hand: {run.port_result}"
        kind = "good" if run.port_result == Result.SUCCESS else "bad"
        yield Moment(run.completion.at, what, kind, run.completion.who)


def _received(message: MessageShown) -> Moment:
    source, last = message.source, message.first_item + message.items - 1
    which = f"item {last}" if message.items == 1 else f"items {message.first_item} to {last}"
    where = f"{which}, {source.topic} / {source.partition} / {source.offset}"
    return Moment(source.timestamp, "Received", "received", where)


def _waited(run: NodeRunShown) -> Iterator[Moment]:
    """Yield how long it took until the first call, of the items that are shown."""
    calls = [one.started_at for item in run.items for one in item.calls[:1]]
    calls += [item.called_at for item in run.items if not item.calls]
    first = min((at for at in calls if at is not None), default=None)
    if run.received_at is None:
        return
    if first is not None:
        seconds = max(0.0, (first - run.received_at).total_seconds())
        yield Moment(run.received_at, "Waiting", "waits", f"{seconds:,.1f} s until the first call")
    elif run.report is None and any(item.state is ItemState.WAITING for item in run.items):
        yield Moment(None, "Waiting", "waits", "for the first call")


def _of_item(item: ItemShown, name: str) -> Iterator[Moment]:
    for number, call in enumerate(item.calls):
        yield from _call(item, call, name)
        if not number and item.calls_left_out:
            yield Moment(call.ended_at, f"{name}{item.calls_left_out} further calls are left out", "waits")
    attempt = item.attempt if item.result is not None else item.attempt + 1
    if item.called_at is not None:
        yield Moment(item.called_at, f"{name}attempt {max(attempt, 1)} started", "started", item.worker or "")
    if item.result is not None:
        how = _said(item.error, item.decided_by, item.decided_who)
        ended = Moment(item.ended_at, f"{name}{item.result}", "good" if item.result == "SUCCESS" else "bad", how)
        yield _with_lines(ended, item.logs, f"{item.index}-{attempt}")
        return
    if item.state is ItemState.RUNNING:
        yield _with_lines(Moment(None, f"{name}running", "started"), item.logs, f"{item.index}-{attempt}")
        return
    for at, what in (
        (item.due_at, "is called again"),
        (item.held_until, "held for a handler until then"),
        (item.deferred_until, "waits for a callback until then"),
    ):
        if at is not None:
            yield Moment(at, f"{name}{what}", "waits")


def _call(item: ItemShown, call: CallShown, name: str) -> Iterator[Moment]:
    if call.started_at is not None:
        yield Moment(call.started_at, f"{name}attempt {call.attempt} started", "started", call.worker or "")
    what, kind = _ENDS[call.how]
    if call.how is How.RAISED and item.result == Result.CANCELLED and call is item.calls[-1]:
        what = "raised, with calls left"
    detail = _said(call.error, call.decided_by, call.decided_who)
    # An earlier version did not write when a call ended.
    ended = Moment(call.ended_at or call.due_at, f"{name}{what}", kind, detail, due=call.due_at)
    yield _with_lines(ended, call.logs, f"{item.index}-{call.attempt}-{call.how}")
    if call.again is not None:
        yield Moment(call.again.at, f"{name}to be called again, by hand", "received", call.again.who)


def _said(error: str | None, by: By | None, who: str | None) -> str:
    """Return why an item ended so, and whose word that is."""
    text = (error or "")[:_ERROR_CHARACTERS]
    if by is None:
        return text
    whose = f"{_SAID_BY[by]}: {who}" if who else _SAID_BY[by]
    return f"{whose}: {text}" if text else whose


def _with_lines(moment: Moment, lines: LinesShown | None, key: str) -> Moment:
    return moment if lines is None else replace(moment, lines=lines, key=f"lines-{key}")


def _reports(run: NodeRunShown) -> Iterator[Moment]:
    for number, answer in enumerate(run.answers):
        yield from _answered(answer)
        if not number and run.answers_left_out:
            yield Moment(answer.at, f"{run.answers_left_out} further answers of Port are left out", "reports")
    report = run.report
    if report is None:
        return
    yield from _tried(report.tries)
    if run.ended_at is None:
        yield Moment(None, "Report on its way to Port", "reports", _so_far(run))
        return
    if not report.sent:
        yield Moment(run.ended_at, "Over: nothing is reported", "reports", run.ending or "")
        return
    covers = f"covers {report.covered_items} of {run.item_count}, {report.body} body"
    taken = run.state is State.REPORTED and report.status != HTTPStatus.CONFLICT
    yield Moment(
        run.ended_at,
        f"Port answered the report: {_status(report.status)}",
        "good" if run.state is State.REPORTED else "bad",
        covers if taken else f"{run.ending or ''} {covers}".strip(),
    )


def _answered(answer: AnswerShown) -> Iterator[Moment]:
    yield from _tried(answer.tries)
    what = f"Port answered the report: {_status(answer.status)}"
    smaller = answer.settled is Settled.OUTPUT_REFUSED
    detail = ": ".join(
        part
        for part in ("its output was refused, a small body is next" if smaller else "refused", answer.reason)
        if part
    )
    yield Moment(answer.at, what, "bad", detail)
    if answer.again is not None:
        yield Moment(answer.again.at, "To be reported again, by hand", "received", answer.again.who)


def _tried(tries: TriesShown | None) -> Iterator[Moment]:
    if tries is None:
        return
    before = tries.count - len(tries.latest)
    for number, one in enumerate(tries.latest):
        detail = "; ".join(
            part for part in (f"after {before} other tries" if before and not number else "", one.reason) if part
        )
        yield Moment(one.at, f"Report tried: {_status(one.status)}; it is tried again", "reports", detail)


def _so_far(run: NodeRunShown) -> str:
    tries = None if run.report is None else run.report.tries
    if tries is not None and tries.latest:
        last = tries.latest[-1].reason or _status(tries.latest[-1].status)
        return f"{tries.count} {'try' if tries.count == 1 else 'tries'} so far, last: {last}"
    status = None if run.report is None else run.report.status
    return "" if status is None else f"last answer: {status}"


def _status(status: int | None) -> str:
    return "no answer" if status is None else f"HTTP {status}"


def _place(moment: Moment) -> tuple[bool, float]:
    # What is now or not known comes last; the order of what has one time stays as it is.
    return moment.at is None, 0.0 if moment.at is None else moment.at.timestamp()


def _since(received_at: datetime | None, moment: Moment) -> Moment:
    if received_at is None or moment.at is None:
        return moment
    seconds = (moment.at - received_at).total_seconds()
    return replace(moment, since=seconds if seconds > 0 else None)
