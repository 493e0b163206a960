"""One partition of the ledger, simulated with everything around it: the logs, the worker, its crashes, and Port.

A `World` holds what outlives a worker (three input logs with committed offsets, the changelog, Port) and the worker
itself: its rows, its ledger and the jobs that it has in hand. `World.step` does one thing that may happen next, chosen
by a byte, so that bytes are a history; `World.settle` lets everything come to rest, without further crashes, and then
nothing may be missing. Whatever must never happen raises `Violation` at once.

The worker follows the rules that the agents must follow:

- It enters a message of the source directly, or passes it on to the arrivals log. The offset at the source counts as
  done when the changelog has acknowledged what was written, in the order of the source.
- The event of a job, too, is entered directly, or goes by the outcomes log, as that of a partition that has moved. What
  was entered directly stands in no log: after a crash it is there only as far as the changelog has it.
- It acts on the rows that the changelog has acknowledged, and on no others: they may hold a part of what a later event
  has written.
- A job is in hand until its own event has been applied and acknowledged, so that nothing is started twice in one life.
- A job that waits gives way to a newer one of its kind, and is looked at again before it starts: the state may no
  longer ask for it.
- When it takes the partition over it goes through the open node runs, while events come: each is resumed, and when that
  is acknowledged, what it asks for is started.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Final, TypeAlias

from port.models import LogLevel, Result
from streams.records import (
    Action,
    Arrival,
    Body,
    By,
    DeferralExpired,
    FailureTold,
    GraceOver,
    ItemAgain,
    ItemCompleted,
    ItemDeferred,
    ItemFinished,
    ItemRetry,
    Line,
    Lines,
    NodeRunEvent,
    ReportAgain,
    ReportAnswered,
    ReportStopped,
    RunCancelled,
    Settled,
)
from tables.history import MOST_KEPT, How
from tables.ledger import Applied, Ledger, NodeRuns
from tables.report import report_body
from tables.state import (
    AwaitWord,
    Cancel,
    EndGrace,
    Item,
    ItemAsk,
    NodeRun,
    Note,
    Report,
    Run,
    RunAsk,
    Stop,
    Tell,
    ask_of_item,
    ask_of_run,
)
from tests.tables.rows import DictRows

PARTITION: Final = 0
_LOGS: Final = ("source", "arrivals", "outcomes")
MAX_ATTEMPTS: Final = 2
LARGE: Final = "x" * 5000
"""More than stands in a node run's own row."""
_SHOWN: Final = frozenset({"node_run_id", "index", "attempt", "result", "digest", "count", "settled", "items"})
_PATIENCE: Final = 5000
"""Steps after which a world that has not come to rest never will."""

JobKey: TypeAlias = tuple[str, str, int]


class Violation(AssertionError):
    """Something happened that never must, or did not happen that must."""


def require(holds: bool, what: str) -> None:
    """Raise `Violation` where `holds` is false."""
    if not holds:
        raise Violation(what)


@dataclass(frozen=True)
class Scenario:
    """What comes in, and how Port takes it.

    `arrivals` is what the source holds. `refused` names the bodies that Port refuses, by node run.
    """

    arrivals: tuple[Arrival, ...]
    grace: float = 0.0
    refused: dict[str, tuple[Body, ...]] = field(default_factory=dict)
    cancels: tuple[tuple[str, Stop], ...] = ()
    """The node runs that are cancelled at some time, in this order, and how: softly, by hand, or as the run is over at
    Port, or the node run itself."""


@dataclass
class Port:
    """Port at its strictest: the first completion counts, and a second, different one is what must never be sent."""

    refused: dict[str, tuple[Body, ...]]
    final: dict[str, bytes] = field(default_factory=dict)
    bodies: dict[tuple[str, Body, int], bytes] = field(default_factory=dict)
    turned_down: set[tuple[str, Body, int]] = field(default_factory=set)
    told: set[tuple[str, int, int]] = field(default_factory=set)
    over: set[str] = field(default_factory=set)
    """The node runs that Port has ended itself."""

    def complete(self, node_run_id: str, kind: Body, report: int, body: bytes) -> Settled:
        first = self.bodies.setdefault((node_run_id, kind, report), body)
        require(first == body, f"two different {kind} bodies for {node_run_id}: {first!r}, {body!r}")
        if kind is Body.SMALL:
            require((node_run_id, Body.FULL, report) in self.turned_down, f"a small body for {node_run_id}, unasked")
        if node_run_id in self.over:
            return Settled.CANCELLED  # 409, and a look at the run shows another result
        if node_run_id in self.final:
            require(self.final[node_run_id] == body, f"a second, different completion of {node_run_id}: {body!r}")
            return Settled.REPORTED  # 409, and a look at the run shows the same result
        if kind in self.refused.get(node_run_id, ()):
            self.turned_down.add((node_run_id, kind, report))
            return Settled.OUTPUT_REFUSED
        self.final[node_run_id] = body
        return Settled.REPORTED


@dataclass
class Job:
    """What the worker has in hand: it waits, then runs (or Port has answered), then its event is sent."""

    node_run_id: str
    ask: Run | AwaitWord | Cancel | Tell | Report | EndGrace
    running: bool = False
    cut: bool = False
    attempt: int = 0
    answer: ReportAnswered | None = None
    sent: NodeRunEvent | None = None


@dataclass
class Turn:
    """What waits until the changelog has acknowledged so many writes."""

    written: int
    then: Callable[[], None]


class Worker:
    """One life of a worker: everything in it is lost at a crash. `careful` is that of the world."""

    def __init__(self, rows: DictRows, positions: dict[str, int], grace: float, *, careful: bool) -> None:
        self.rows = rows
        self.ledger = Ledger(rows, grace=grace)
        self.stored = DictRows(rows.written)
        self.node_runs = NodeRuns(self.stored) if careful else self.ledger
        self.positions = dict(positions)
        self.turns: deque[Turn] = deque()
        self.jobs: dict[JobKey, Job] = {}
        self.open = deque(run.node_run_id for run in self.node_runs.open_runs(PARTITION))
        """The node runs that are still to be taken over."""
        self.started: set[tuple[str, int, int]] = set()
        self.stopping: deque[str] = deque()
        """The node runs whose rest is to be cancelled."""

    def acknowledged(self, count: int) -> None:
        """The changelog has so many writes: they are in the store."""
        for write in self.rows.written[len(self.stored.written) : count]:
            self.stored.apply(*write)


class World:
    """See the module's text.

    Args:
        scenario: what comes in.
        careful: False for a worker that acts on states that are not acknowledged.
        store_ahead: whether a crash may leave a local store that holds more than the changelog.
        hasty: True for a worker to which a message of the source is done before the changelog has it.
    """

    def __init__(
        self, scenario: Scenario, *, careful: bool = True, store_ahead: bool = False, hasty: bool = False
    ) -> None:
        self.arrivals: list[Arrival] = []
        self.outcomes: list[NodeRunEvent] = []
        self.scenario = scenario
        self.careful = careful
        self.store_ahead = store_ahead
        self.hasty = hasty
        self.port = Port(dict(scenario.refused))
        self.committed = dict.fromkeys(_LOGS, 0)
        self.done = dict(self.committed)
        self.acknowledged = 0
        self.worker = Worker(DictRows(), self.committed, scenario.grace, careful=careful)
        self.clock = 1000.0
        self.ended: dict[tuple[str, int], int | None] = {}
        """Which items have ended, and since which taking up again."""
        self.deferred: dict[tuple[str, int], int | None] = {}
        self.words: list[ItemCompleted] = []
        """What other systems have said, some of it more than once."""
        self.decided: dict[tuple[str, int], tuple[str, int | None]] = {}
        """By which word an item has ended, where the ledger has said so."""
        self.calls: dict[tuple[str, int], set[tuple[int, How]]] = {}
        """The calls that are an item's earlier ones, and how they ended, where the ledger has said so."""
        self.answers: dict[str, set[tuple[int, Body]]] = {}
        """The reports that Port has answered otherwise than at last, likewise."""
        self.places: dict[tuple[str, str], range] = {}
        self.cancels = deque(scenario.cancels)
        self.noticed: set[str] = set()
        self.stopped: dict[str, Stop] = {}
        """The node runs whose cancellation is acknowledged, and how the hardest was."""
        self.hard: set[str] = set()
        """The node runs that were cancelled at some time otherwise than softly."""
        self.trace: list[str] = []

    # What may happen

    def step(self, byte: int) -> None:
        """Do what the byte says: its low half what, its high half which or how."""
        _STEPS[byte & 15](self, byte >> 4)

    def route(self, how: int = 0) -> bool:
        """Take the next message of the source: most often it is entered directly."""
        offset = self.worker.positions["source"]
        if offset == len(self.scenario.arrivals):
            return False
        event = self.scenario.arrivals[offset]
        if how % 4 == 3:
            self.arrivals.append(event)
            self._say("source %s: passed on", offset)
        else:
            self._enter(f"source {offset}", event)
        self._read("source", offset)
        return True

    def arrive(self, _: int = 0) -> bool:
        """Apply the next event of the arrivals log."""
        return self._next("arrivals", self.arrivals)

    def outcome(self, _: int = 0) -> bool:
        """Apply the next event of the outcomes log."""
        return self._next("outcomes", self.outcomes)

    def acknowledge(self, count: int) -> bool:
        """Let the broker acknowledge further changelog records, a few; what they make count is asked for."""
        worker = self.worker
        self.acknowledged = min(self.acknowledged + 1 + count // 4, len(worker.rows.written))
        worker.acknowledged(self.acknowledged)
        moved = False
        while worker.turns and worker.turns[0].written <= self.acknowledged:
            moved = True
            worker.turns.popleft().then()
        return moved

    def take_over(self, _: int = 0) -> bool:
        """Go on with the next open node run that was there when the partition was taken over, or that is stopped."""
        worker = self.worker
        if worker.stopping:
            self._start(worker.stopping.popleft())
            return True
        if not worker.open:
            return False
        node_run_id = worker.open.popleft()
        resumed = worker.ledger.resume(PARTITION, node_run_id)
        self._say("%s is taken over%s", node_run_id, ", resumed" if resumed else "")
        self._then(lambda: self._start(node_run_id))
        return True

    def speak(self, how: int) -> bool:
        """Another system says how an item has ended: something new, or what was said before."""
        if how % 4 == 3 and self.words:
            self._hear(self.words[how % len(self.words)], how)
            return True
        runs = [run for node_run_id in self._ids() if (run := self.worker.ledger.run(PARTITION, node_run_id))]
        if not runs:
            return False
        run = runs[how % len(runs)]
        self.clock += 1
        failed = how % 3 == 0
        said = ItemCompleted(
            node_run_id=run.node_run_id,
            index=how % run.items,
            result=Result.FAILED if failed else Result.SUCCESS,
            output=None if failed else f'{{"said": {self.clock}, "more": "{LARGE if how > 7 else ""}"}}',
            error=f"said at {self.clock}" if failed else None,
            digest=f"said at {self.clock}",
            by=By.CALLBACK,
            at=self.clock,
        )
        self.words.append(said)
        self._hear(said, how)
        return True

    def _hear(self, said: ItemCompleted, how: int) -> None:
        if how // 4 == 3:
            self.outcomes.append(said)
        else:
            self._enter("said", said)

    def _ids(self) -> list[str]:
        return sorted({arrival.node_run_id for arrival in self.scenario.arrivals})

    def commit(self, how: int = 0) -> None:
        """Commit the offsets of the acknowledged events; now and then somebody cancels a workflow run."""
        self.committed = dict(self.done)
        if how % 4 == 3 and self.cancels:
            self.cancel(how)
        elif how % 4 == 2:
            self.again(how)

    def again(self, how: int) -> None:
        """Somebody wants an item called again, or a report sent again that Port has refused."""
        known = (self.worker.node_runs.run(PARTITION, node_run_id) for node_run_id in self._ids())
        runs = [run for run in known if run is not None]
        if not runs:
            return
        run, action = runs[how // 4 % len(runs)], Action(id=f"{self.clock}", who="somebody")
        self.clock += 1
        if run.settled is Settled.REFUSED:
            # What was wrong with it is mended at Port.
            self.port.refused.pop(run.node_run_id, None)
        if run.settled is Settled.REFUSED and how > 7:
            self.outcomes.append(
                ReportAgain(node_run_id=run.node_run_id, report=run.report, action=action, at=self.clock)
            )
            return
        items = [item for item in self.worker.node_runs.items(PARTITION, run) if item.result or item.due_at]
        if items:
            item = next((item for item in items if item.result is Result.FAILED), items[0])
            seen = {"index": item.index, "attempt": item.attempt, "ended_at": item.ended_at}
            event = {"node_run_id": run.node_run_id, "action": action, "at": self.clock} | seen
            self.outcomes.append(ItemAgain.model_validate(event))

    def cancel(self, how: int = 0) -> None:
        """Have the next workflow run cancelled, and the worker notice it."""
        node_run_id, stop = self.cancels.popleft()
        run = self.worker.node_runs.run(PARTITION, node_run_id)
        completed = stop is Stop.ELSEWHERE
        if run is None or (run.covered is not None and not completed) or (completed and node_run_id in self.port.final):
            return
        if stop in (Stop.OVER, Stop.ELSEWHERE):
            require(node_run_id not in self.port.final, f"{node_run_id} is completed, and not covered")
            self.port.over.add(node_run_id)
        self.noticed.add(node_run_id)
        if stop is not Stop.SOFT:
            self.hard.add(node_run_id)
        action = Action(id=f"{self.clock}", who="somebody") if stop in (Stop.HAND, Stop.ELSEWHERE) else None
        event = RunCancelled(
            node_run_id=node_run_id,
            over=stop in (Stop.OVER, Stop.ELSEWHERE),
            soft=stop is Stop.SOFT,
            elsewhere=completed,
            port_result="SUCCESS" if completed else None,
            action=action,
            at=self.clock,
        )
        if how // 4 == 3:
            self.outcomes.append(event)
        else:
            self._enter("noticed", event)

    def work(self, how: int) -> bool:
        """Bring one job that is in hand forward by one step."""
        jobs = [job for job in self.worker.jobs.values() if job.sent is None]
        if not jobs:
            return False
        self._advance(jobs[how % len(jobs)], how)
        return True

    def repeat(self, _: int = 0) -> None:
        """Deliver again from the committed offsets on, as after a rebalance that leaves the partition here."""
        self._say("delivered again from %s", self.committed)
        self.worker.positions = dict(self.committed)

    def crash(self, survived: int) -> None:
        """End the worker. Of its unacknowledged changelog records the first few survive; another worker takes over."""
        written = self.worker.rows.written
        kept = self.acknowledged + survived % (len(written) - self.acknowledged + 1)
        store = None
        if self.store_ahead and survived % 2:
            # The changelog is read again onto the store from the last acknowledged record on.
            store = written + written[self.acknowledged : kept]
        self._say("CRASH: %s of %s changelog records survive, %s acknowledged", kept, len(written), self.acknowledged)
        if store:
            self._say("the local store survives with all of them")
        self.acknowledged = kept
        self.done = dict(self.committed)
        self.worker = Worker(DictRows(written[:kept], store), self.committed, self.scenario.grace, careful=self.careful)

    def settle(self) -> None:
        """Let everything come to rest without crashes, and check that nothing is missing."""
        for _ in range(_PATIENCE):
            everything = 4 * len(self.worker.rows.written)
            moved = [self.take_over(), self.route(), self.arrive(), self.outcome(), self.acknowledge(everything)]
            if not any((*moved, self.work(0))):
                break
        else:
            raise Violation("the world does not come to rest")
        self._check_end()

    # The worker

    def _then(self, call: Callable[[], None]) -> None:
        self.worker.turns.append(Turn(len(self.worker.rows.written), call))

    def _next(self, log: str, events: Sequence[Arrival | NodeRunEvent]) -> bool:
        offset = self.worker.positions[log]
        if offset == len(events):
            return False
        self._enter(f"{log} {offset}", events[offset])
        self._read(log, offset)
        return True

    def _read(self, log: str, offset: int) -> None:
        """The event at the offset was taken; it is done when what it has written is acknowledged."""
        self.worker.positions[log] = offset + 1
        if self.hasty and log == "source":
            self._done(log, offset)
        else:
            self._then(lambda: self._done(log, offset))

    def _done(self, log: str, offset: int) -> None:
        self.done[log] = max(self.done[log], offset + 1)

    def _enter(self, where: str, event: Arrival | NodeRunEvent) -> None:
        ledger = self.worker.ledger
        applied = ledger.arrival(PARTITION, event) if isinstance(event, Arrival) else ledger.outcome(PARTITION, event)
        shown = event.model_dump(include=set(_SHOWN), exclude_none=True)
        self._say("%s: %s %s -> %s", where, type(event).__name__, shown, applied.note)
        self._then(lambda: self._counts(event, applied))

    def _counts(self, event: Arrival | NodeRunEvent, applied: Applied) -> None:
        if isinstance(event, Arrival):
            self._check_place(event, applied)
        else:
            key = _key_of_event(event)
            if key in self.worker.jobs and self.worker.jobs[key].sent is event:
                del self.worker.jobs[key]
        if isinstance(event, ItemFinished | ItemCompleted | DeferralExpired | ItemDeferred):
            self._note(event, applied)
        if applied.note is Note.APPLIED:
            self._remember(event, applied)
        if isinstance(event, RunCancelled) and applied.note is Note.APPLIED:
            assert applied.run is not None
            if applied.run.stopped is not None:
                self.stopped[event.node_run_id] = applied.run.stopped
        self._ask(applied)
        before, run = applied.before, applied.run
        if run is not None and run.stopped is not None and (before is None or before.stopped is not run.stopped):
            self.worker.stopping.append(run.node_run_id)

    def _note(self, event: ItemFinished | ItemCompleted | DeferralExpired | ItemDeferred, applied: Applied) -> None:
        place = (event.node_run_id, event.index)
        run = self.worker.node_runs.run(PARTITION, event.node_run_id)
        item = (
            None if run is None or event.index >= run.items else self.worker.node_runs.item(PARTITION, run, event.index)
        )
        if item is not None and item.result is not None:
            self.ended[place] = item.reopened
        elif item is not None and item.deferred_until is not None:
            self.deferred[place] = item.reopened
        if isinstance(event, ItemCompleted) and applied.note is Note.APPLIED and item is not None and item.decided:
            self.decided[place] = (item.decided, item.reopened)
        if isinstance(event, ItemFinished) and event.result is Result.CANCELLED and applied.note is Note.APPLIED:
            self._check_soft_end(applied, event)

    def _remember(self, event: Arrival | NodeRunEvent, applied: Applied) -> None:
        """Take note of what is over now: the views are to show it whatever happens."""
        match event:
            case ItemRetry():
                self._over(event.node_run_id, event.index, event.attempt, How.RAISED)
            case ItemDeferred():
                self._over(event.node_run_id, event.index, event.attempt, How.DEFERRED)
            case ItemAgain() if event.ended_at is not None:
                self._over(event.node_run_id, event.index, event.attempt, How.FAILED)
            case ReportAnswered() if applied.run is not None and applied.run.settled is None:
                self.answers.setdefault(event.node_run_id, set()).add((event.report, event.body))
            case ReportAgain() if applied.before is not None:
                self.answers.setdefault(event.node_run_id, set()).add((event.report, applied.before.body))

    def _over(self, node_run_id: str, index: int, attempt: int, how: How) -> None:
        self.calls.setdefault((node_run_id, index), set()).add((attempt, how))

    def _ask(self, applied: Applied) -> None:
        node_runs = self.worker.node_runs
        run = None if applied.run is None else node_runs.run(PARTITION, applied.run.node_run_id)
        if run is None or run.finished:
            return
        for index in applied.touched:
            if index < run.items:
                self._take(run, ask_of_item(run, index, node_runs.item(PARTITION, run, index)))
        self._ask_of_run(run)

    def _start(self, node_run_id: str) -> None:
        node_runs = self.worker.node_runs
        run = node_runs.run(PARTITION, node_run_id)
        if run is None or run.finished:
            return
        for index in range(run.items):
            self._take(run, ask_of_item(run, index, node_runs.item(PARTITION, run, index)))
        self._ask_of_run(run)

    def _ask_of_run(self, run: NodeRun) -> None:
        self._take(run, ask_of_run(run))

    def _take(self, run: NodeRun, ask: ItemAsk | RunAsk) -> None:
        if ask is None:
            return
        key = _key(run.node_run_id, ask)
        if isinstance(ask, Cancel) and key in self.worker.jobs and self.worker.jobs[key].running:
            # At a soft cancel a call goes on, unless its handler says otherwise.
            self.worker.jobs[key].cut |= ask.why is not Stop.SOFT or self._is_cut_at_once(ask.index)
        if key not in self.worker.jobs or not self.worker.jobs[key].running:
            self.worker.jobs[key] = Job(run.node_run_id, ask)

    def _advance(self, job: Job, how: int) -> None:
        run = self.worker.node_runs.run(PARTITION, job.node_run_id)
        require(run is not None, f"{job.node_run_id} is asked for and not there")
        assert run is not None
        if not job.running and not self._still_asked(run, job):
            del self.worker.jobs[_key(job.node_run_id, job.ask)]
            return
        match job.ask:
            case Run(index):
                self._handle(run, job, index, how)
            case AwaitWord(index, until):
                self._send(job, DeferralExpired(node_run_id=run.node_run_id, index=index, until=until), how)
            case Cancel(index):
                self._say("%s item %s is cancelled", run.node_run_id, index)
                self._check_cancel(run, index)
                self._send(job, self._finished(run, index, 0, Result.CANCELLED), how)
            case Tell(index):
                item = self.worker.node_runs.item(PARTITION, run, index)
                attempt = 0 if item is None else item.attempt
                self.port.told.add((run.node_run_id, index, attempt))
                self._send(job, FailureTold(node_run_id=run.node_run_id, index=index, attempt=attempt), how)
            case Report(body):
                self._report(run, job, body, how)
            case EndGrace(since, items):
                self._send(job, GraceOver(node_run_id=run.node_run_id, items=items, since=since), how)

    def _still_asked(self, run: NodeRun, job: Job) -> bool:
        if isinstance(job.ask, Report | EndGrace):
            return ask_of_run(run) == job.ask
        index = job.ask.index
        return isinstance(ask_of_item(run, index, self.worker.node_runs.item(PARTITION, run, index)), type(job.ask))

    def _handle(self, run: NodeRun, job: Job, index: int, how: int) -> None:
        if not job.running:
            item = self.worker.node_runs.item(PARTITION, run, index)
            job.attempt = (0 if item is None else item.attempt) + 1
            job.running = True
            self._check_start(run, index, job.attempt)
            return
        attempt = job.attempt
        self.clock += 1
        if job.cut and how % 4:
            # Else it had ended just before.
            self._send(job, self._finished(run, index, attempt, Result.CANCELLED), how)
            return
        message = self._first_of_message(run, index)
        if how % 4 == 1 and attempt < MAX_ATTEMPTS:
            retry = ItemRetry(
                node_run_id=run.node_run_id,
                index=index,
                message=message,
                attempt=attempt,
                due_at=self.clock,
                error=f"again, at {self.clock}",
                worker="w",
                started_at=self.clock,
                ended_at=self.clock,
                logs=Lines(latest=(Line(at=self.clock, level=LogLevel.INFO, text=LARGE if how > 7 else "short"),)),
            )
            self._send(job, retry, how)
            return
        if how % 8 == 7:
            deferred = ItemDeferred(
                node_run_id=run.node_run_id,
                index=index,
                message=message,
                attempt=attempt,
                until=self.clock + 100,
                worker="w",
                started_at=self.clock,
                at=self.clock,
            )
            self._send(job, deferred, how)
            return
        result = Result.FAILED if how % 4 == 2 else Result.SUCCESS
        self._send(job, self._finished(run, index, attempt, result, LARGE if how % 8 > 3 else ""), how)

    def _finished(self, run: NodeRun, index: int, attempt: int, result: Result, more: str = "") -> ItemFinished:
        succeeded = result is Result.SUCCESS
        return ItemFinished(
            node_run_id=run.node_run_id,
            index=index,
            message=self._first_of_message(run, index),
            attempt=attempt,
            result=result,
            # No two calls of a handler say the same: a report that reads another call's outcome has another body.
            output=f'{{"at": {self.clock}, "more": "{more}"}}' if succeeded else None,
            error=None if succeeded else f"{result} at {self.clock}",
            worker="w",
            started_at=self.clock,
            ended_at=self.clock,
        )

    def _report(self, run: NodeRun, job: Job, kind: Body, how: int) -> None:
        if job.answer is not None:
            self._send(job, job.answer, how)
            return
        ended = self.stopped.get(run.node_run_id) in (Stop.OVER, Stop.ELSEWHERE)
        require(not ended, f"{run.node_run_id} is reported, and Port has ended it")
        settled = self.port.complete(run.node_run_id, kind, run.report, self._body(run))
        self._say("%s reported %s, covering %s: %s", run.node_run_id, kind, run.covered, settled)
        if how % 4 == 3:
            return  # the answer was lost on its way: the report is sent again
        job.running = True
        job.answer = ReportAnswered(
            node_run_id=run.node_run_id, body=kind, settled=settled, report=run.report, at=self.clock
        )

    def _send(self, job: Job, event: NodeRunEvent, how: int) -> None:
        job.running = True
        job.sent = event
        if how // 4 == 3:
            self.outcomes.append(event)
        else:
            self._enter("directly", event)

    def _body(self, run: NodeRun) -> bytes:
        items = list(self.worker.node_runs.items(PARTITION, run))[: run.covered]
        whole = [item.index for item in items] == list(range(run.covered or 0)) and all(item.result for item in items)
        require(whole, f"{run.node_run_id} is reported before all covered items ended")
        return report_body(run, items)

    def _first_of_message(self, run: NodeRun, index: int) -> int:
        for message in self.worker.node_runs.messages(PARTITION, run):
            if message.first <= index < message.first + message.count:
                return message.first
        raise Violation(f"{run.node_run_id} item {index} is of no message")

    # What must hold

    def _check_place(self, arrival: Arrival, applied: Applied) -> None:
        touched = applied.touched
        assert isinstance(touched, range)
        place = self.places.setdefault((arrival.node_run_id, arrival.digest), touched)
        require(place == touched, f"{arrival.digest} of {arrival.node_run_id} moved from {place} to {touched}")

    def _check_start(self, run: NodeRun, index: int, attempt: int) -> None:
        what = f"{run.node_run_id} item {index}"
        self._say("%s starts, attempt %s", what, attempt)
        item = self.worker.node_runs.item(PARTITION, run, index)
        place, again = (run.node_run_id, index), None if item is None else item.reopened
        require(place not in self.ended or self.ended[place] != again, f"{what} is started after its end")
        require(place not in self.deferred or self.deferred[place] != again, f"{what} is started, and is deferred")
        require(run.node_run_id not in self.stopped, f"{what} is started after its cancellation")
        started = (run.node_run_id, index, attempt)
        require(started not in self.worker.started, f"{what} is started twice in one life")
        self.worker.started.add(started)

    @staticmethod
    def _is_cut_at_once(index: int) -> bool:
        """Whether the handler of an item says that its calls are cut off at a soft cancel."""
        return index % 3 == 2

    def _check_cancel(self, run: NodeRun, index: int) -> None:
        item = self.worker.node_runs.item(PARTITION, run, index)
        deferred = item is not None and item.deferred_until is not None
        soft = run.node_run_id not in self.hard and run.stopped is not Stop.REST
        require(not (soft and deferred), f"{run.node_run_id} item {index} is deferred, and is cancelled softly")

    def _check_soft_end(self, applied: Applied, event: ItemFinished) -> None:
        """A soft cancel ends no call that goes on, and nothing that is deferred."""
        run, item = applied.run, applied.item
        assert run is not None
        assert item is not None
        place = (run.node_run_id, event.index)
        if run.node_run_id in self.hard or run.stopped is Stop.REST:
            return
        what = f"{run.node_run_id} item {event.index} is cancelled softly"
        require(not event.attempt or self._is_cut_at_once(event.index), f"{what}, and its call is cut off")
        require(place not in self.deferred or self.deferred[place] != item.reopened, f"{what}, and was deferred")

    def _check_end(self) -> None:
        worker = self.worker
        waiting = [key for key, job in worker.jobs.items()]
        require(not waiting, f"jobs without an end: {waiting}")
        require(not worker.rows.keys(b"o/"), f"open for ever: {worker.rows.keys(b'o/')}")
        for node_run_id in {arrival.node_run_id for arrival in self.scenario.arrivals}:
            run = worker.ledger.run(PARTITION, node_run_id)
            require(run is not None and run.finished, f"{node_run_id} is not finished: {run}")
            assert run is not None
            self._check_messages(run)
            self._check_items(run)
            self._check_report(run)

    def _check_messages(self, run: NodeRun) -> None:
        arrivals = {a.digest: a for a in self.scenario.arrivals if a.node_run_id == run.node_run_id}
        messages = list(self.worker.ledger.messages(PARTITION, run))
        require({m.digest: m.text for m in messages} == {d: a.text for d, a in arrivals.items()}, "a message is lost")
        taken = [index for m in messages for index in range(m.first, m.first + m.count)]
        require(taken == list(range(run.items)), f"{run.node_run_id}: the messages' items are {taken}")
        require(all(m.count == arrivals[m.digest].count for m in messages), "a message has lost items")

    def _check_items(self, run: NodeRun) -> None:
        items = list(self.worker.ledger.items(PARTITION, run))
        require([item.index for item in items if item.result] == list(range(run.items)), f"an item has no end: {items}")
        for item in items:
            word, again = self.decided.get((run.node_run_id, item.index), (None, None))
            kept = word in (None, item.decided) or again != item.reopened
            require(kept, f"an accepted word is lost: {word} of {item}")
            self._check_history(run, item)
        failed = [item.index for item in items if item.result is Result.FAILED]
        counts = Counter(item.result for item in items)
        expected = (counts[Result.SUCCESS], len(failed), counts[Result.CANCELLED])
        require((run.succeeded, run.failed, run.cancelled) == expected, f"wrong counters: {run}")
        covered = run.covered or 0
        require(0 < covered <= run.items, f"{run.node_run_id} covers {covered} of {run.items}")
        late = [item for item in items if item.late]
        untold = [item.index for item in late if (run.node_run_id, item.index, item.attempt) not in self.port.told]
        require(not untold, f"{run.node_run_id}: the ends of {untold}, called again, were not told")
        if late:
            # What was reported stays, whatever came of them since.
            require(run.settled is Settled.REPORTED, f"called again after the report, and it is {run.settled}")
            return
        if run.settled is Settled.COMPLETED:
            require(run.result is Result.SUCCESS, f"{run.node_run_id} says {run.result}, and Port has SUCCESS")
            return
        truth = self._truth(run, [item.result for item in items[:covered] if item.result is not None])
        require(run.result is truth, f"{run.node_run_id} says {run.result}, and it is {truth}")
        told = {(node_run_id, index) for node_run_id, index, _ in self.port.told}
        untold = [index for index in failed if index >= covered and (run.node_run_id, index) not in told]
        require(not untold, f"{run.node_run_id}: late failures {untold} were not told")

    def _check_history(self, run: NodeRun, item: Item) -> None:
        """What is over is remembered once, and in order."""
        known = () if item.earlier is None else item.earlier.calls
        calls, left_out = (
            [(call.attempt, call.how) for call in known],
            0 if item.earlier is None else item.earlier.left_out,
        )
        what = f"{run.node_run_id} item {item.index}: its calls {calls}"
        require(len(calls) <= MOST_KEPT, f"{what} are too many")
        each = {(call.attempt, call.how, call.decided_by) for call in known}
        require(len(each) == len(calls), f"{what} are not one each")
        require(
            [attempt for attempt, _ in calls] == sorted(attempt for attempt, _ in calls), f"{what} are out of order"
        )
        future = item.result is not Result.CANCELLED and any(attempt > item.attempt for attempt, _ in calls)
        require(not future, f"{what} are of the future")
        ends = [call.ended_at or 0.0 for call in known if call.how is not How.FAILED]
        require(ends == sorted(ends), f"{what} ended at {ends}")
        lost = self.calls.get((run.node_run_id, item.index), set()).difference(calls)
        require(len(lost) <= left_out, f"{what}, and {lost} are lost")

    def _truth(self, run: NodeRun, ends: Sequence[Result]) -> Result:
        """Say how a node run whose covered items ended so has ended, by the policy that its first message brought."""
        [policy] = [
            arrival.policy
            for arrival in self.scenario.arrivals
            if self.places.get((arrival.node_run_id, arrival.digest), range(1, 1)).start == 0
            and arrival.node_run_id == run.node_run_id
        ][:1]
        counts = Counter(ends)
        needed = len(ends) if policy is None else max(1, ceil(policy.share * len(ends)))
        if run.stopped is Stop.REST:
            require(
                policy is not None and policy.cancel_rest and counts[Result.FAILED] > 0, f"stopped for nothing: {run}"
            )
            return Result.FAILED
        if counts[Result.CANCELLED]:
            require(run.node_run_id in self.noticed, f"{run.node_run_id} has cancelled items, and was not cancelled")
            return Result.CANCELLED
        return Result.SUCCESS if counts[Result.SUCCESS] >= needed else Result.FAILED

    def _check_report(self, run: NodeRun) -> None:
        answers = [] if run.history is None else [(one.report, one.body) for one in run.history.answers]
        lost = self.answers.get(run.node_run_id, set()).difference(answers)
        require(len(set(answers)) == len(answers) <= MOST_KEPT, f"{run.node_run_id}: its answers {answers}")
        require(not lost, f"{run.node_run_id}: its answers {answers}, and {lost} are lost")
        final = self.port.final.get(run.node_run_id)
        if run.settled in (Settled.CANCELLED, Settled.COMPLETED):
            require(run.node_run_id in self.port.over and final is None, f"{run.node_run_id} is settled as cancelled")
            return
        if run.settled is Settled.REFUSED:
            require(final is None and len(self.scenario.refused[run.node_run_id]) == len(Body), "refused, yet accepted")
            return
        kept = any(item.late for item in self.worker.ledger.items(PARTITION, run)) or final == self._body(run)
        require(run.settled is Settled.REPORTED and final is not None and kept, f"Port has {final!r} for {run}")

    def _say(self, text: str, *values: object) -> None:
        self.trace.append(text % values)


def _key(node_run_id: str, ask: Run | AwaitWord | Cancel | Tell | Report | EndGrace) -> JobKey:
    match ask:
        case Run(index) | Cancel(index):
            return node_run_id, "Run", index
        case AwaitWord(index) | Tell(index):
            return node_run_id, type(ask).__name__, index
        case Report():
            return node_run_id, "Report", 0
        case EndGrace(_, items):
            return node_run_id, "EndGrace", items


def _key_of_event(event: NodeRunEvent) -> JobKey:
    match event:
        case ItemFinished() | ItemRetry() | ItemDeferred():
            return event.node_run_id, "Run", event.index
        case DeferralExpired():
            return event.node_run_id, "AwaitWord", event.index
        case ItemCompleted() | ItemAgain():
            return event.node_run_id, "nobody's", event.index
        case ReportAgain() | ReportStopped():
            return event.node_run_id, "nobody's", 0
        case FailureTold():
            return event.node_run_id, "Tell", event.index
        case RunCancelled():
            return event.node_run_id, "RunCancelled", 0
        case ReportAnswered():
            return event.node_run_id, "Report", 0
        case GraceOver():
            return event.node_run_id, "EndGrace", event.items


_STEPS: Final[Sequence[Callable[[World, int], object]]] = (
    World.work,
    World.route,
    World.outcome,
    World.acknowledge,
    World.work,
    World.arrive,
    World.take_over,
    World.acknowledge,
    World.work,
    World.outcome,
    World.speak,
    World.acknowledge,
    World.work,
    World.commit,
    World.repeat,
    World.crash,
)
