"""What happened to a node run, in order, as far as its state knows: earlier attempts of an item are not kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from tables.state import State
from web.data import ItemShown, ItemState, MessageShown, NodeRunShown

MOST_MOMENTS: Final = 60
"""How many a page shows; those in the middle are left out first."""


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
    for item in run.items:
        yield from _of_item(item, alone=run.item_count == 1)
    yield from _reported(run)


def _received(message: MessageShown) -> Moment:
    source, last = message.source, message.first_item + message.items - 1
    which = f"item {last}" if message.items == 1 else f"items {message.first_item} to {last}"
    where = f"{which}, {source.topic} / {source.partition} / {source.offset}"
    return Moment(source.timestamp, "Received", "received", where)


def _of_item(item: ItemShown, *, alone: bool) -> Iterator[Moment]:
    name = "" if alone else f"Item {item.index}: "
    if item.started_at is not None:
        yield Moment(item.started_at, f"{name}attempt {max(item.attempt, 1)} started", "started", item.worker or "")
    if item.result is not None:
        yield Moment(
            item.ended_at,
            f"{name}{item.result}",
            "good" if item.result == "SUCCESS" else "bad",
            "" if item.decided_by is None else "decided by another than its handler",
        )
        return
    if item.state is ItemState.RUNNING:
        yield Moment(None, f"{name}running", "started")
    for at, what in (
        (item.due_at, "is called again"),
        (item.held_until, "held for a handler until then"),
        (item.deferred_until, "waits for a callback until then"),
    ):
        if at is not None:
            yield Moment(at, f"{name}{what}", "waits", (item.error or "")[:200] if at is item.due_at else "")


def _reported(run: NodeRunShown) -> Iterator[Moment]:
    if run.report is None:
        return
    if run.ended_at is None:
        status = run.report.status
        yield Moment(None, "Report on its way to Port", "reports", "" if status is None else f"last answer: {status}")
        return
    answer = "no answer" if run.report.status is None else f"HTTP {run.report.status}"
    yield Moment(
        run.ended_at,
        f"Port answered the report: {answer}",
        "bad" if run.state is State.REFUSED else "good",
        f"covers {run.report.covered_items} of {run.item_count}, {run.report.body} body",
    )


def _place(moment: Moment) -> tuple[bool, float]:
    # What is now or not known comes last; the order of what has one time stays as it is.
    return moment.at is None, 0.0 if moment.at is None else moment.at.timestamp()


def _since(received_at: datetime | None, moment: Moment) -> Moment:
    if received_at is None or moment.at is None:
        return moment
    seconds = (moment.at - received_at).total_seconds()
    return Moment(moment.at, moment.what, moment.kind, moment.detail, seconds if seconds > 0 else None)
