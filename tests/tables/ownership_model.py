"""One partition of the ledger that moves among several workers, some of which die.

A `World` holds what outlives a worker (two logs with committed offsets, the changelog, the group and what it says of
its members) and the workers, each with the real ledger and the real dispatch. `World.step` does one thing that may
happen next, chosen by a byte, so that bytes are a history; `World.settle` lets everything come to rest, without further
moves, and then every node run must have been finished. Whatever must never happen raises `Violation` at once:

- an item runs in two live workers at a time;
- an attempt of an item begins again although the worker that began it has not crashed;
- an item begins again although its end stands in the changelog or in the outcomes log;
- a worker that stops leaves although a call of it has ended and its end stands in neither.

The workers do what the agents must do:

- A rebalance begins with all of them: none enters events of its own until it is over for itself, and the owner waits
  until the changelog has everything. Then each learns of its assignment, in its own time. Calls go on meanwhile, and
  how they end goes to the outcomes log.
- Who lost the partition says what it still runs (`Released`).
- Who has taken it writes so, and waits for the words of earlier owners. It asks who lives. Of a worker that has died it
  sends word through the outcomes log too, so that what that worker sent before its death is read before that.
- A worker that stops begins nothing more and takes no partition, has the ends of its calls recorded, and leaves the
  group without a word: when all its calls have ended, or their time is over. Rebalances come and go meanwhile.
"""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Callable, Coroutine, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from agents.dispatch import Dispatch
from agents.work import ItemWork, ReportWork, TellWork
from port.models import Result
from streams.records import (
    Arrival,
    Died,
    FailureTold,
    ItemFinished,
    ItemRetry,
    NodeRunEvent,
    Released,
    ReportAnswered,
    RunningItem,
    Settled,
    Source,
)
from tables import ownership
from tables.due import DueIndex
from tables.ledger import Applied, Ledger, NodeRuns
from tables.overview import Overview
from tables.ownership import Ownership
from tables.report import report_body
from tables.rows import NotOwnedError
from tables.state import State
from tests.tables.model import Violation, require
from tests.tables.rows import DictRows, Write

P: Final = 0
"""The partition."""
MAX_ATTEMPTS: Final = 2
_MOST_WORKERS: Final = 3
_PATIENCE: Final = 500

Place = tuple[str, int]
"""An item: its node run and its index."""


def arrival(node_run_id: str, items: int, number: int = 0) -> Arrival:
    """A message with so many items."""
    return Arrival(
        node_run_id=node_run_id,
        source=Source(cluster="c", topic="t", partition=0, offset=number, timestamp=float(number)),
        digest=f"{node_run_id}-{number}",
        text=json.dumps({"payload": [{"eventType": "greet"}] * items}),
        array=True,
        count=items,
    )


class HereRows:
    """`tables.rows.Rows` of the partition, while it is here."""

    def __init__(self) -> None:
        self.here: DictRows | None = None

    def of(self) -> DictRows:
        if self.here is None:
            raise NotOwnedError("the partition is not here")
        return self.here

    def get(self, partition: int, key: bytes) -> bytes | None:
        return self.of().get(partition, key)

    def scan(self, partition: int, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        return self.of().scan(partition, prefix)

    def put(self, partition: int, key: bytes, value: bytes) -> None:
        self.of().put(partition, key, value)

    def delete(self, partition: int, key: bytes) -> None:
        self.of().delete(partition, key)


class Due(DueIndex):
    """What becomes due, when the world says so."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[Hashable, Callable[[], None]] = {}

    def set(self, partition: int, key: Hashable, at: float, call: Callable[[], None]) -> None:
        self.calls[key] = call

    def drop(self, partition: int, key: Hashable) -> None:
        self.calls.pop(key, None)

    def drop_partition(self, partition: int) -> None:
        self.calls.clear()


@dataclass(eq=False)
class Call:
    """Work that has begun: then it has ended in an event, which is then sent, and at last certain."""

    work: ItemWork | ReportWork | TellWork
    event: NodeRunEvent | None = None
    sent: bool = False
    passed_on: bool = False


class Worker:
    """One life of a worker. What is named as in the agents does what it does there."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.crashed = False
        self.stopping = False
        self.leaving = False
        """Whether it has drained: it waits until all is acknowledged, and enters nothing of its own any more."""
        self.assigned: bool | None = None
        """What the last rebalance gave it, until it learns of it."""
        self.owned = False
        self.rebalancing = True
        self.settled = False
        self.latest, self.stored = HereRows(), HereRows()
        self.ledger = Ledger(self.latest)
        self.overview = Overview()
        self.due = Due()
        self.dispatch = Dispatch(NodeRuns(self.stored), self.due, self.overview, 0.0)
        self.waiting: list[ItemWork | ReportWork | TellWork] = []
        self.dispatch.run_item = self.dispatch.report = self.dispatch.tell = self.waiting.append
        self.dispatch.release = lambda *_: None
        self.dispatch.mend = self._mend
        self.calls: list[Call] = []
        self.turns: deque[tuple[int, Callable[[], None]]] = deque()
        self.tasks: list[Coroutine[object, None, None]] = []
        self.words: list[Released] = []
        self.positions: dict[str, int] = {}
        self.taken: Ownership | None = None
        self.answer: tuple[int, frozenset[str]] | None = None
        self.buried: set[str] = set()

    @property
    def reads(self) -> bool:
        """Whether it reads the logs of the partition."""
        return self.alive and self.owned and not self.rebalancing

    # The changelog

    def then(self, call: Callable[[], None]) -> None:
        self.turns.append((len(self.latest.of().written), call))
        if self.turns[0][0] <= len(self.stored.of().written):
            self._acted()

    def acknowledged(self, count: int) -> bool:
        """The changelog takes so many further writes."""
        if self.latest.here is None:
            return False
        stored = self.stored.of()
        new = self.latest.here.written[len(stored.written) :][:count]
        for write in new:
            stored.apply(*write)
        self.world.changelog += new
        return self._acted() or bool(new)

    def _acted(self) -> bool:
        moved = False
        while self.turns and self.turns[0][0] <= len(self.stored.of().written):
            moved = True
            self.turns.popleft()[1]()
        return moved

    # agents/entering.py

    def enter(self, event: Arrival | NodeRunEvent, then: Callable[[], None]) -> None:
        applied = self.ledger.arrival(P, event) if isinstance(event, Arrival) else self.ledger.outcome(P, event)

        def acknowledged() -> None:
            if isinstance(event, ItemFinished):
                self.world.ended.add((event.node_run_id, event.index))
            self._act(event, applied)
            then()

        self.then(acknowledged)

    def _act(self, event: Arrival | NodeRunEvent, applied: Applied) -> None:
        if applied.run is None or P not in self.dispatch.active:
            return
        self.overview.changed(P, applied.before, applied.run)
        if isinstance(event, ItemFinished | ItemRetry) and event.worker == self.name:
            self.dispatch.call_ended(P, event.node_run_id, event.index, event.attempt)
        self.dispatch.act(P, applied)

    def record(self, call: Call, event: NodeRunEvent) -> None:
        call.sent = True
        if self.settled and P in self.dispatch.active:
            self.world.say("%s enters %s", self, event)
            self.enter(event, partial(self._done, call))
            return
        self.world.send(self, event)
        call.passed_on = True

    def _done(self, call: Call) -> None:
        self.calls.remove(call)

    def passed_on(self, call: Call) -> None:
        """The broker's acknowledgement of an event in the outcomes log has come back."""
        self._done(call)

    def _mend(self, partition: int, node_run_id: str, then: Callable[[], None]) -> None:
        before = self.ledger.run(partition, node_run_id)
        self.ledger.resume(partition, node_run_id)
        after = self.ledger.run(partition, node_run_id)

        def acknowledged() -> None:
            self.overview.changed(partition, before, after)
            then()

        self.then(acknowledged)

    # agents/owning.py

    def begin(self) -> None:
        if P in self.dispatch.active:
            return
        self.taken = ownership.taken(self.ledger.ownership(P), self.name)
        self.buried.clear()
        self.ledger.own(P, self.taken)
        self.world.say("%s takes it: %s", self, self.taken)
        running = self._running()
        if not self.world.claims_ended:
            running = [work for work in running if not self._ended(self._named(work))]
        self.dispatch.begin(P, self.taken, running)

    def _running(self) -> list[ItemWork]:
        return [call.work for call in self.calls if isinstance(call.work, ItemWork)]

    def _named(self, work: ItemWork) -> RunningItem:
        return RunningItem(worker=self.name, node_run_id=work.node_run_id, index=work.index, attempt=work.attempt)

    def _lost(self) -> None:
        row, self.taken = self.taken, None
        if row is None:
            return
        still = tuple(self._named(work) for work in self._running())
        self.words.append(Released(worker=self.name, generation=row.generation, running=still))

    def enter_word(self, word: Released | Died) -> None:
        # Who stops has not taken it, and notes it for the next owner.
        row = self.taken or self.ledger.ownership(P)
        if row is not None:
            self._change(row, self._heard(row, word))

    def _heard(self, row: Ownership, word: Released | Died) -> Ownership:
        held = self.taken is not None
        return ownership.released(row, word, held=held) if isinstance(word, Released) else ownership.buried(row, word)

    def _change(self, before: Ownership, after: Ownership) -> None:
        if after is before:
            return
        self.ledger.own(P, after)
        if self.taken is not None:
            self.taken = after
            self.then(lambda: self._now_owned(after))

    def _now_owned(self, row: Ownership) -> None:
        self.dispatch.owned(P, row)
        self.tasks.append(self.dispatch.take_over())

    def ask_for_the_dead(self) -> bool:
        """Ask the group who lives; the answer comes later."""
        row = self.taken
        if row is None or not (row.awaited or row.elsewhere) or not self.settled or self.answer is not None:
            return False
        self.answer = (row.generation, frozenset(self.world.members))
        return True

    def hear_of_the_dead(self) -> bool:
        """Wait no longer for those who have died, nor with what has ended."""
        if self.answer is None:
            return False
        (generation, alive), self.answer = self.answer, None
        row = self.taken
        if row is None or not self.settled or (row.generation != generation and not self.world.old_answers):
            return False
        if self.world.hasty_burial:
            self._change(row, ownership.cleared(row, alive, self._ended))
            return self.taken is not row
        dead = ownership.named(row) - alive - self.buried
        for worker in sorted(dead):
            self.buried.add(worker)
            self.world.say("%s finds %s dead", self, worker)
            self.world.outcomes.append(Died(worker=worker, generation=row.generation))
        self._change(row, ownership.cleared(row, ownership.named(row), self._ended))
        return bool(dead) or self.taken is not row

    def _ended(self, item: RunningItem) -> bool:
        run = self.ledger.run(P, item.node_run_id)
        known = None if run is None else self.ledger.item(P, run, item.index)
        return known is not None and (known.result is not None or known.attempt >= item.attempt)

    # streams/worker.py

    def revoked(self) -> None:
        self.learn()
        self.rebalancing = True
        self.settled = False
        if self.world.flushes:
            while self.acknowledged(1000):
                pass

    def learn(self) -> bool:
        """Learn of the assignment."""
        if self.assigned is None:
            return False
        before, self.owned, self.assigned = self.owned, self.assigned, None
        if before and not self.owned:
            self.turns.clear()
            self.waiting.clear()
            self._lost()
            self.latest.here = self.stored.here = None
            self.ledger.taken_over(P)
            self.dispatch.lost(P)
            # What takes over gives way for one turn of the event loop only, and then finds the partition gone.
            while self.go_on(0):
                pass
        return True

    def recovered(self) -> bool:
        """The rebalance is over for this worker."""
        if not self.alive or self.assigned is not None or not self.rebalancing:
            return False
        while self.speak():
            pass
        self.rebalancing = False
        if self.owned:
            if self.latest.here is None:
                self.latest.here = DictRows(self.world.changelog)
                self.stored.here = DictRows(self.world.changelog)
            self.positions = dict(self.world.committed)
        if self.stopping and self.world.ends_wait:
            return True
        self.settled = not self.leaving
        if not self.stopping:
            self._settle()
        return True

    def _settle(self) -> None:
        if self.owned:
            self.begin()
            self.tasks += [self.dispatch.take_over(), self.dispatch.count()]
        self.ask_for_the_dead()

    def leave(self) -> None:
        """Have everything acknowledged that was written, and the ends of calls, too."""
        self.leaving, self.settled = True, False
        if self.latest.here is not None:
            while self.acknowledged(1000):
                pass
        if self.world.ends_wait:
            return
        for call in [call for call in self.calls if call.event is not None]:
            if not call.sent and call.event is not None:
                self.record(call, call.event)
            if call.passed_on:
                self.passed_on(call)

    def speak(self) -> bool:
        """Send the word of a partition that was lost."""
        if not self.words:
            return False
        self.world.send(self, self.words.pop(0))
        return True

    def go_on(self, how: int) -> bool:
        """Bring one taking over forward by a chunk."""
        if not self.tasks:
            return False
        task = self.tasks[how % len(self.tasks)]
        try:
            task.send(None)
        except StopIteration:
            self.tasks.remove(task)
        return True

    def __str__(self) -> str:
        return self.name


@dataclass
class World:
    """See the module's text.

    Args:
        arrivals: the arrivals log.
        deaths: whether workers crash; without, they only stop.
        flushes: False for workers that let the partition go before the changelog has everything.
        hasty_burial: True for an owner that does not wait until it has read what a dead worker has sent.
        old_answers: True for an owner that believes who lives, though it asked as an earlier owner.
        claims_ended: True for a new owner that takes a call of its own for running, though its outcome is known.
        ends_wait: True for workers that have the ends of calls wait until a rebalance is over, which one that stops
            does not notice, and that leave without them when their time is over.
    """

    arrivals: Sequence[Arrival]
    deaths: bool = True
    flushes: bool = True
    hasty_burial: bool = False
    old_answers: bool = False
    claims_ended: bool = False
    ends_wait: bool = False
    outcomes: list[NodeRunEvent | Released | Died] = field(init=False, default_factory=list)
    committed: dict[str, int] = field(init=False, default_factory=lambda: {"arrivals": 0, "outcomes": 0})
    done: dict[str, int] = field(init=False, default_factory=lambda: {"arrivals": 0, "outcomes": 0})
    changelog: list[Write] = field(init=False, default_factory=list)
    workers: list[Worker] = field(init=False, default_factory=list)
    members: set[str] = field(init=False, default_factory=set)
    ended: set[Place] = field(init=False, default_factory=set)
    begun: dict[tuple[Place, int], Worker] = field(init=False, default_factory=dict)
    bodies: dict[str, bytes] = field(init=False, default_factory=dict)
    clock: float = field(init=False, default=1000.0)
    names: int = field(init=False, default=0)
    trace: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.rebalance()

    def say(self, text: str, *values: object) -> None:
        self.trace.append(text % values)

    def send(self, worker: Worker, event: NodeRunEvent | Released) -> None:
        """Append an event of a worker to the outcomes log."""
        self.say("%s sends %s", worker, event)
        if isinstance(event, ItemFinished):
            self.ended.add((event.node_run_id, event.index))
        self.outcomes.append(event)

    @property
    def live(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.alive]

    @property
    def owner(self) -> Worker | None:
        """The worker that reads the logs."""
        return next((worker for worker in self.workers if worker.reads), None)

    # What may happen

    def step(self, byte: int) -> None:
        """Do what the byte says: what, and which or how."""
        which, how = byte % len(_STEPS), byte // len(_STEPS)
        _STEPS[which](self, how)

    def rebalance(self, how: int = 0) -> bool:
        """The group assigns the partition anew; a worker may have joined."""
        if not self.live or (how % 2 and len(self.live) < _MOST_WORKERS):
            self.join()
        self.give_to(self.live[how // 2 % len(self.live)])
        return True

    def join(self) -> Worker:
        """A worker starts. It is of the group with the next rebalance."""
        self.names += 1
        self.workers.append(Worker(self, f"w{self.names}"))
        return self.workers[-1]

    def give_to(self, owner: Worker) -> None:
        """The group assigns the partition to a worker."""
        for worker in self.live:
            worker.revoked()
        self.members = {worker.name for worker in self.live}
        for worker in self.live:
            worker.assigned = worker is owner
        self.say("rebalance: of %s it is %s's", sorted(self.members), owner)

    def move(self, how: int = 0) -> bool:
        """A rebalance comes when the last one is over for all."""
        if any(worker.rebalancing for worker in self.live):
            return False
        return self.rebalance(how)

    def overtake(self, how: int = 0) -> bool:
        """A rebalance comes at any time."""
        return how % 4 == 0 and self.rebalance(how // 4)

    def learn(self, how: int = 0) -> bool:
        """A worker learns of its assignment."""
        return self._any(lambda worker: worker.learn(), how)

    def recover(self, how: int = 0) -> bool:
        """A worker is through with the rebalance."""
        return self._any(lambda worker: worker.recovered(), how)

    def speak(self, how: int = 0) -> bool:
        """A worker sends word."""
        return self._any(lambda worker: worker.speak(), how)

    def take_over(self, how: int = 0) -> bool:
        """The owner goes on with taking over."""
        return self._any(lambda worker: worker.go_on(how), how)

    def ask(self, how: int = 0) -> bool:
        """A worker asks who lives."""
        return self._any(lambda worker: worker.ask_for_the_dead(), how)

    def hear(self, how: int = 0) -> bool:
        """A worker hears who lives."""
        return self._any(lambda worker: worker.hear_of_the_dead(), how)

    def arrive(self, _: int = 0) -> bool:
        """The owner reads the next arrival."""
        return self._read("arrivals", self.arrivals)

    def outcome(self, _: int = 0) -> bool:
        """The owner reads the next outcome."""
        return self._read("outcomes", self.outcomes)

    def _read(self, log: str, events: Sequence[Arrival | NodeRunEvent | Released | Died]) -> bool:
        owner = self.owner
        if owner is None or owner.positions[log] == len(events):
            return False
        offset = owner.positions[log]
        owner.positions[log] += 1
        event = events[offset]
        self.say("%s reads %s %s: %s", owner, log, offset, event)
        if isinstance(event, Released | Died):
            owner.enter_word(event)
            owner.then(lambda: self._acknowledged(log, offset))
        else:
            owner.enter(event, lambda: self._acknowledged(log, offset))
        return True

    def _acknowledged(self, log: str, offset: int) -> None:
        self.done[log] = max(self.done[log], offset + 1)

    def commit(self, _: int = 0) -> None:
        """The owner's acknowledged events are committed."""
        self.committed = dict(self.done)

    def acknowledge(self, how: int = 0) -> bool:
        """The changelog takes a few further writes."""
        return self._any(lambda worker: worker.acknowledged(1 + how // 2), how)

    def due(self, how: int = 0) -> bool:
        """A retry is due."""
        return self._any(_fire, how)

    def work(self, how: int = 0) -> bool:
        """A worker begins what waits."""
        return self._any(lambda worker: bool(worker.waiting) and not worker.stopping and self._begin(worker), how)

    def end(self, how: int = 0) -> bool:
        """A call ends."""
        calls = [call for worker in self.live for call in worker.calls if call.event is None]
        if not calls:
            return False
        self._end(calls[how % len(calls)], how)
        return True

    def record(self, how: int = 0) -> bool:
        """The event of a call that has ended is sent."""
        may = [worker for worker in self.live if worker.settled or not self.ends_wait]
        ended = [(w, c) for w in may for c in w.calls if c.event is not None and not c.sent]
        if not ended:
            return False
        worker, call = ended[how % len(ended)]
        assert call.event is not None
        worker.record(call, call.event)
        return True

    def passed_on(self, how: int = 0) -> bool:
        """What was sent to the outcomes log is acknowledged there."""
        sent = [(worker, call) for worker in self.live for call in worker.calls if call.passed_on]
        if not sent:
            return False
        worker, call = sent[how % len(sent)]
        worker.passed_on(call)
        return True

    def kill(self, how: int = 0) -> bool:
        """A worker crashes. Of its writes that are not acknowledged the first few survive."""
        if not self.deaths:
            return self.stop(how)
        if how % 2 or not self.live:
            return False
        worker = self.live[how // 2 % len(self.live)]
        self.say("%s is KILLED", worker)
        worker.crashed = True
        self._end_of(worker, how)
        return True

    def stop(self, how: int = 0) -> bool:
        """A worker stops: first it only begins no more, and when its calls are through, or their time is over, it
        leaves.
        """
        stopping = [worker for worker in self.live if worker.stopping]
        if not stopping and (how % 2 or len(self.live) < 2):
            return False
        worker = (stopping or self.live)[how // 2 % len(stopping or self.live)]
        if not worker.stopping:
            self.say("%s is told to stop", worker)
            worker.stopping = True
        elif worker.leaving:
            self._left(worker, how)
        elif not worker.calls or how % 4 == 0:
            self.say("%s has drained", worker)
            worker.leave()
        return True

    def _left(self, worker: Worker, how: int) -> None:
        # What ended since then goes along.
        worker.leave()
        self.say("%s has STOPPED", worker)
        lost = [call.event for call in worker.calls if call.event is not None]
        require(not lost, f"{worker} leaves without {lost}")
        for call in worker.calls:
            if isinstance(call.work, ItemWork):
                # Cut off: it may begin anew.
                del self.begun[(call.work.node_run_id, call.work.index), call.work.attempt]
        self._end_of(worker, how)
        self.rebalance(how)

    def _end_of(self, worker: Worker, survived: int) -> None:
        worker.alive = False
        for task in worker.tasks:
            task.close()
        if worker.latest.here is not None:
            worker.turns.clear()
            worker.acknowledged(survived)
        self.done = dict(self.committed)

    # What a worker does

    def _any(self, do: Callable[[Worker], bool], how: int) -> bool:
        """Let the first worker do it that can, beginning with some one."""
        live = self.live
        return any(do(live[(how + number) % len(live)]) for number in range(len(live)))

    def _begin(self, worker: Worker) -> bool:
        work = worker.waiting.pop(0)
        runs = worker.dispatch.node_runs
        run = runs.run(P, work.node_run_id)
        if run is None:
            return True
        if isinstance(work, ItemWork):
            item = runs.item(P, run, work.index)
            if item is None or item.result is None:
                self._check_begin(worker, work)
                worker.calls.append(Call(work))
            return True
        if isinstance(work, TellWork):
            worker.calls.append(Call(work, FailureTold(node_run_id=run.node_run_id, index=work.index)))
            return True
        if run.covered is None or run.settled is not None:
            return True
        body = report_body(run, list(runs.items(P, run))[: run.covered])
        require(self.bodies.setdefault(run.node_run_id, body) == body, f"two reports of {run.node_run_id}")
        self.clock += 1
        answer = ReportAnswered(node_run_id=run.node_run_id, body=work.body, settled=Settled.REPORTED, at=self.clock)
        worker.calls.append(Call(work, answer))
        return True

    def _end(self, call: Call, how: int) -> None:
        work = call.work
        assert isinstance(work, ItemWork)
        self.clock += 1
        worker = next(worker for worker in self.workers if call in worker.calls)
        base = {"node_run_id": work.node_run_id, "index": work.index, "message": work.message}
        base |= {"attempt": work.attempt, "worker": worker.name}
        if how % 2 and work.attempt < MAX_ATTEMPTS:
            call.event = ItemRetry.model_validate(base | {"due_at": self.clock, "error": "again"})
            return
        output = json.dumps({"at": self.clock})
        times = {"started_at": self.clock, "ended_at": self.clock}
        call.event = ItemFinished.model_validate(base | times | {"result": Result.SUCCESS, "output": output})

    # What must hold

    def _check_begin(self, worker: Worker, work: ItemWork) -> None:
        place = (work.node_run_id, work.index)
        what = f"{place}, attempt {work.attempt}"
        self.say("%s begins %s", worker, what)
        require(place not in self.ended, f"{what} begins after its end")
        others = [
            other.name
            for other in self.live
            for call in other.calls
            if isinstance(call.work, ItemWork) and call.event is None
            if (call.work.node_run_id, call.work.index) == place
        ]
        require(not others, f"{what} begins at {worker} and runs at {others}")
        before = self.begun.get((place, work.attempt))
        require(
            before is None or before.crashed, f"{what} begins at {worker} and had begun at {before}, which lives on"
        )
        self.begun[place, work.attempt] = worker

    def settle(self) -> None:
        """Let everything come to rest without further moves, and check that nothing is missing."""
        for worker in [worker for worker in self.live if worker.stopping]:
            self._left(worker, 0)
        self.rebalance()
        for _ in range(_PATIENCE):
            # Asking who lives goes on for as long as something is waited for: it counts only by what it changes.
            self.ask()
            moved = [step(self) for step in _TO_REST]
            if not any(moved):
                break
        else:
            raise Violation("the world does not come to rest")
        self._check_end()

    def close(self) -> None:
        """Let nothing go on."""
        for worker in self.workers:
            for task in worker.tasks:
                task.close()

    def _check_end(self) -> None:
        owner = self.owner
        assert owner is not None
        rows = owner.stored.of()
        require(not owner.calls and not owner.waiting, f"{owner} has work left")
        require(not rows.keys(b"o/"), f"open for ever: {rows.keys(b'o/')}, as {owner.taken} has it")
        finished = {arrival.node_run_id for arrival in self.arrivals}
        require(len(rows.keys(b"f/")) == len(finished), "a node run is lost")
        row = owner.taken
        require(row is not None and not row.awaited and not row.elsewhere, f"waits for ever: {row}")
        counts = {state: count for state, count in owner.overview.counts().items() if count}
        require(counts == {State.REPORTED: len(finished)} and not owner.overview.open, f"wrong counts: {counts}")


def _fire(worker: Worker) -> bool:
    if not worker.due.calls:
        return False
    worker.due.calls.pop(next(iter(worker.due.calls)))()
    return True


_TO_REST: Final[Sequence[Callable[[World], bool]]] = (
    World.learn,
    World.recover,
    World.take_over,
    World.hear,
    World.arrive,
    World.outcome,
    World.acknowledge,
    World.due,
    World.work,
    World.end,
    World.record,
    World.passed_on,
)
_STEPS: Final[Sequence[Callable[[World, int], object]]] = (
    World.work,
    World.end,
    World.record,
    World.acknowledge,
    World.outcome,
    World.arrive,
    World.learn,
    World.recover,
    World.work,
    World.take_over,
    World.end,
    World.record,
    World.acknowledge,
    World.outcome,
    World.recover,
    World.learn,
    World.speak,
    World.passed_on,
    World.due,
    World.hear,
    World.ask,
    World.commit,
    World.move,
    World.overtake,
    World.stop,
    World.kill,
)


def history(seed: int) -> tuple[list[Arrival], bytes]:
    """What comes in, and what happens, step by step: one or two node runs, perhaps each of them twice."""
    chance = random.Random(seed)
    arrivals = [arrival(f"wfnr_{name}", chance.randint(1, 2), place) for place, name in enumerate("ab")]
    arrivals = arrivals[: chance.randint(1, 2)] * chance.randint(1, 2)
    return arrivals, chance.randbytes(chance.randint(20, 300))


def play(arrivals: Sequence[Arrival], steps: bytes, **how: bool) -> World:
    """Let a history happen, then come to rest. Raises `Violation`, with the story as its note."""
    world = World(arrivals, **how)
    try:
        for byte in steps:
            world.step(byte)
        world.settle()
    except Violation as violation:
        violation.add_note("\n".join(world.trace))
        raise
    finally:
        world.close()
    return world


def search(seeds: Sequence[int], **how: bool) -> None:
    """Play the histories of these seeds. Raises the first `Violation`, of a history cut down to what it needs."""
    for seed in seeds:
        arrivals, steps = history(seed)
        try:
            play(arrivals, steps, **how)
        except Violation as violation:
            violation.add_note(f"seed {seed}")
            _cut_down(arrivals, steps, **how)
            raise


def _cut_down(arrivals: Sequence[Arrival], steps: bytes, **how: bool) -> None:
    """Raise the violation of the history without all the steps that it can do without."""
    found: Violation | None = None
    place = 0
    while place < len(steps):
        fewer = steps[:place] + steps[place + 1 :]
        try:
            play(arrivals, fewer, **how)
        except Violation as violation:
            found, steps = violation, fewer
        else:
            place += 1
    if found is not None:
        raise found
