"""Who owns a partition of the ledger, and what others still run of it: one row, and the pure functions that change it.

A handler's call belongs to the worker that began it, for as long as that worker lives. So a new owner does not start
what an earlier one may be running: it waits for the word of each earlier owner (`Released`), which names what that one
still runs, or for its death; and it waits with each item so named for its outcome, or for the death of who runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final

from streams.records import Died, Record, Released, RunningItem

NOBODY: Final = ""
UNKNOWN: Final = "?"
"""Stands for an earlier owner whose name is lost, with its row. It is no member of the group, so it is said to have
died; that word stands behind what the real one has said when it lost the partition."""


class Ownership(Record):
    """The row of a partition.

    A worker is named by its incarnation, new at each start of a process.
    """

    owner: str
    generation: int = 1
    """Counts the takings of the partition."""
    awaited: Mapping[str, int] = {}
    """Earlier owners that have not said what they still run, with the generations of their ownership."""
    elsewhere: tuple[RunningItem, ...] = ()
    """What earlier owners still run."""


def taken(row: Ownership | None, me: str) -> Ownership:
    """Return the row as a worker writes it when it takes the partition.

    It waits for the word of every earlier owner, of itself too where it had the partition before: its own word stands
    in the outcomes topic, in front of the outcomes that it has sent there since.
    """
    if row is None:
        return Ownership(owner=me)
    awaited = {**row.awaited, row.owner: row.generation} if row.owner != NOBODY else row.awaited
    return Ownership(owner=me, generation=row.generation + 1, awaited=awaited, elsewhere=row.elsewhere)


def released(row: Ownership, event: Released, *, held: bool = False) -> Ownership:
    """Return the row after an earlier owner's word; unchanged where it was not waited for, or not of that ownership.

    The word may come before the next owner has taken the partition: then that one need not wait for it. While the
    owner itself holds the partition (`held`) a word of its present ownership is no new one: it has given nothing up.
    """
    if held and (row.owner, row.generation) == (event.worker, event.generation):
        return row
    heard = {"generation": row.generation}
    event = event.model_copy(update={"running": tuple(item.model_copy(update=heard) for item in event.running)})
    if UNKNOWN in (row.owner, *row.awaited):
        # It may be of the one whose name is lost.
        row = row.model_copy(update={"elsewhere": _merged(row.elsewhere, event.running)})
    if (row.owner, row.generation) == (event.worker, event.generation):
        return row.model_copy(update={"owner": NOBODY, "elsewhere": _merged(row.elsewhere, event.running)})
    if row.awaited.get(event.worker) != event.generation:
        return row
    awaited = {worker: generation for worker, generation in row.awaited.items() if worker != event.worker}
    return row.model_copy(update={"awaited": awaited, "elsewhere": _merged(row.elsewhere, event.running)})


def cleared(row: Ownership, alive: Collection[str], ended: Callable[[RunningItem], bool]) -> Ownership:
    """Return the row without the dead, what they ran, and what has ended."""
    awaited = {worker: generation for worker, generation in row.awaited.items() if worker in alive}
    elsewhere = tuple(item for item in row.elsewhere if item.worker in alive and not ended(item))
    if len(awaited) == len(row.awaited) and len(elsewhere) == len(row.elsewhere):
        return row
    return row.model_copy(update={"awaited": awaited, "elsewhere": elsewhere})


def named(row: Ownership) -> frozenset[str]:
    """Return the workers that the row waits for: for their word, or for what they run."""
    return frozenset(row.awaited) | {item.worker for item in row.elsewhere}


def buried(row: Ownership, event: Died) -> Ownership:
    """Return the row without a worker that has died; unchanged where it is waited for since that was found.

    Called when everything is read that the dead worker had sent: an item of which it had said the end is not run again.
    """
    later = {worker for worker, generation in row.awaited.items() if generation >= event.generation}
    later |= {item.worker for item in row.elsewhere if item.generation > event.generation}
    return row if event.worker in later else cleared(row, named(row) - {event.worker}, lambda _: False)


def _merged(known: tuple[RunningItem, ...], more: tuple[RunningItem, ...]) -> tuple[RunningItem, ...]:
    latest = {(item.node_run_id, item.index): item for item in known}
    for item in more:
        before = latest.get((item.node_run_id, item.index))
        if before is None or item.attempt >= before.attempt:
            latest[item.node_run_id, item.index] = item
    return tuple(latest.values())
