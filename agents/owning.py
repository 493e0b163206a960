"""Takes partitions over and hands them on, so that a rebalance repeats no call of a handler.

Nothing is written when a call begins. A worker that lost a partition says once what it still runs of it (`Released`);
the new owner waits for that word, or for the death of the worker, before it starts older items.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from agents.shared import dispatch, holding, ledger, outcomes, pausing, rows, spawn
from agents.work import ItemWork
from streams.app import app
from streams.records import Died, Released, RunningItem, TypePaused
from tables.ownership import Ownership, buried, cleared, named, released, taken
from tables.rows import NotOwnedError
from tables.state import Note
from tables.unreadable import UnreadableRowError

logger = logging.getLogger(__name__)
_LOOK_SECONDS: Final = 1.0

running: list[Callable[[], Iterable[ItemWork]]] = []
"""Filled by the handler agents: what each of them runs."""
_taken: dict[int, Ownership] = {}
_mourned: defaultdict[int, set[str]] = defaultdict(set)
"""The workers whose death was said to each partition."""


def _begin() -> None:
    """Take what this worker owns now and did not before. Called when the tables are recovered."""
    mine = [work for works in running for work in works()]
    for partition in sorted(app.owned - dispatch.active):
        try:
            before = ledger.ownership(partition)
            now = taken(before, app.incarnation)
            ledger.own(partition, now)
            pausing.taken(partition, ledger.paused(partition))
        except NotOwnedError:
            continue
        _taken[partition] = now
        _mourned.pop(partition, None)
        if now.awaited:
            logger.info("partition %d: waiting for word of %s", partition, ", ".join(now.awaited))
        # A call that has ended, and whose actor waits for the end of the rebalance, is none that runs.
        still = [work for work in mine if work.partition == partition and not _ended(partition, _item(work))]
        dispatch.begin(partition, now, still)


def _item(work: ItemWork) -> RunningItem:
    return RunningItem(worker=app.incarnation, node_run_id=work.node_run_id, index=work.index, attempt=work.attempt)


def _lost(partition: int) -> None:
    """Say what this worker still runs of a partition that it has just lost."""
    row = _taken.pop(partition, None)
    _mourned.pop(partition, None)
    if row is None:
        return
    still = tuple(_item(work) for works in running for work in works() if work.partition == partition)
    word = Released(worker=app.incarnation, generation=row.generation, running=still)
    app.outbox.put(_say(partition, word))


async def _say(partition: int, word: Released | Died) -> None:
    await (await outcomes.send(partition=partition, value=word))


def enter_word(partition: int, word: Released | Died) -> None:
    """Take note of what an earlier owner still runs, or of its death. Raises NotOwnedError."""
    # It may come between the recovery of the table and the taking.
    row = _taken.get(partition) or ledger.ownership(partition)
    if row is not None:
        held = partition in _taken
        _change(partition, row, released(row, word, held=held) if isinstance(word, Released) else buried(row, word))


def enter_pause(partition: int, event: TypePaused) -> Note:
    """Have the items of a handler wait, or wait no more; tells whether something later was asked for before.

    Raises NotOwnedError.
    """
    note = ledger.pause(partition, event)
    if note is Note.APPLIED and partition in _taken:
        rows.then(partition, lambda: pausing.change(partition, event))
    return note


def _change(partition: int, before: Ownership, after: Ownership, *, resume: bool = True) -> None:
    if after is before:
        return
    ledger.own(partition, after)
    if partition in _taken:
        _taken[partition] = after
        rows.then(partition, lambda: _owned(partition, after, resume=resume))


def _owned(partition: int, ownership: Ownership, *, resume: bool) -> None:
    dispatch.owned(partition, ownership, resume=resume)
    if resume:
        spawn(dispatch.take_over())


async def look_for_the_dead() -> None:
    """Wait no longer for workers that have died, and for what has ended.

    A death is said in the outcomes topic, behind all that the dead worker had sent there.
    """
    waiting = {partition: row.generation for partition, row in _taken.items() if named(row)}
    if not waiting or not app.settled.is_set() or app.should_stop:
        return
    alive = await app.group.alive()
    if alive is None or app.incarnation not in alive or not app.settled.is_set():
        return
    for partition, generation in waiting.items():
        row = _taken.get(partition)
        if row is None or row.generation != generation:
            # It went and came back meanwhile: others may wait to be known of than lived then.
            continue
        for dead in named(row) - alive - _mourned[partition]:
            _mourned[partition].add(dead)
            app.outbox.put(_say(partition, Died(worker=dead, generation=generation)))
        _change(partition, row, cleared(row, named(row), partial(_ended, partition)), resume=False)


def _ended(partition: int, item: RunningItem) -> bool:
    try:
        run = ledger.run(partition, item.node_run_id)
    except UnreadableRowError:
        return False
    known = None if run is None else ledger.item(partition, run, item.index)
    return known is not None and (known.result is not None or known.attempt >= item.attempt)


async def _count() -> None:
    app.add_future(dispatch.count())


app.timer(interval=_LOOK_SECONDS)(look_for_the_dead)
app.on_lost += [_lost, ledger.taken_over, dispatch.lost, holding.lost, pausing.lost]
app.on_settled.append(_begin)
app.after_rebalance += [look_for_the_dead, dispatch.take_over, _count]
