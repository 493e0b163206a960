"""Settles a node run with Port: reports it, and tells a lost answer from a refusal.

It makes one try at a time and says when the next one is due; who calls it waits for that elsewhere, so that a report
that Port fails at keeps no other one waiting. Knows nothing of Faust.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import partial
from itertools import takewhile
from typing import Final, NamedTuple, TypeAlias

from agents.retries import Lane
from agents.tries import Tried
from agents.work import ReportWork, TellWork
from port.budget import Urgency
from port.client import Answer, AnswerKind, PortClient
from port.models import LogLevel, LogLine, Result
from port.routes import Route, Routes
from streams.records import Body, ReportAnswered, Settled, Tries
from tables.report import report_body
from tables.rows import NotOwnedError
from tables.state import Item, NodeRun, Stop

logger = logging.getLogger(__name__)

_WAIT: Final = frozenset({AnswerKind.UNAVAILABLE, AnswerKind.UNAUTHORIZED})
_SETTLES_NOTHING: Final = _WAIT | {AnswerKind.RATE_LIMITED}
_DISPUTED: Final = frozenset({AnswerKind.CONFLICT, AnswerKind.INVALID})
_GUESSED: Final = "not sent: the form of the message is a guess, and FAILED may be wrong"
_MOST_DOUBTS: Final = 20
"""While no report was taken yet, so many that are answered with 404 try the other route at once. Then they wait."""

ToPort: TypeAlias = ReportWork | TellWork


class Found(Enum):
    """What a look at the workflow run says of a node run whose report was not simply taken."""

    SAME = "it is completed with the same result"
    OTHER = "it is completed with another result"
    CANCELLED = "it is completed with another result, and its workflow run was cancelled"
    OPEN = "it is still open"
    UNKNOWN = "Port does not show it"
    NOWHERE = "it cannot be looked up: its message has no workflow-run id"


@dataclass(frozen=True)
class Later:
    """Port has not answered for good: try again in so many seconds."""

    seconds: float


class Parked(NamedTuple):
    """A report that Port fails at while it takes others."""

    partition: int
    node_run_id: str
    since: float
    """In epoch seconds."""
    answer: Answer
    """The latest."""


class Settler:
    """Calls Port for the reporter.

    Args:
        port: the client.
        is_here: tells whether this worker still works for a partition. Asked before each call, and again when its turn
            has come.
        clock: the epoch seconds of the answers.
        draw: draws a pause between two.
        monotonic: the seconds by which a node run is waited for that Port does not know yet.

    A try raises NotOwnedError when the partition is gone.
    """

    def __init__(
        self,
        port: PortClient,
        is_here: Callable[[int], bool],
        clock: Callable[[], float] = time.time,
        draw: Callable[[float, float], float] = random.uniform,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._port = port
        self._is_here = is_here
        self._clock = clock
        self._draw = draw
        self._monotonic = monotonic
        self.routes = Routes()
        """Which route to node runs works."""
        self._doubts = 0
        self.answers = 0
        """How many answers there were, good ones and others."""
        self._taken = {ReportWork: 0, TellWork: 0}
        """How many pieces of each kind Port has answered for good, one way or the other."""
        self._tried: dict[tuple[str, int], Tried] = {}
        """Of what is on its way, and was answered by nothing that settles it."""
        self._other_results: dict[str, str] = {}
        """Port's own results of node runs whose reports said something else, and are being settled."""

    def tries_of(self, node_run_id: str) -> Tries | None:
        """Return the tries so far of a report that is on its way; None where there was none."""
        tried = self._tried.get((node_run_id, -1))
        return None if tried is None or not tried.count else tried.shown()

    def parked(self) -> Iterator[Parked]:
        """Yield the reports that are parked."""
        for (node_run_id, index), tried in list(self._tried.items()):
            if index < 0 and tried.parked_at is not None and tried.answer is not None:
                yield Parked(tried.partition, node_run_id, tried.parked_at, tried.answer)

    def forget(self, key: tuple[str, int]) -> None:
        """Forget the tries of a piece that is not tried again."""
        self._tried.pop(key, None)

    def drop(self, partition: int) -> None:
        """Forget those of a partition that is gone."""
        for key in [key for key, tried in self._tried.items() if tried.partition == partition]:
            del self._tried[key]

    def lane_of(self, work: ToPort) -> Lane:
        """Tell how a piece goes out whose time has come."""
        tried = self._tried.get(work.key)
        if tried is None or tried.answer is None:
            return Lane.FIRST
        if tried.unknown:
            # By the route that has turned out to work meanwhile it was not asked for yet.
            return Lane.FIRST if self.routes.proven and self.routes.first not in tried.routes else Lane.SELDOM
        return Lane.FIRST if tried.answer.kind is AnswerKind.RATE_LIMITED else Lane.AGAIN

    def unknown_since(self, work: ToPort) -> float:
        """Return the monotonic time of the first 404 to a report."""
        tried = self._tried.get(work.key)
        return 0.0 if tried is None else tried.unknown_since

    def _urgency(self, work: ToPort) -> Urgency:
        lane, tried = self.lane_of(work), self._tried.get(work.key)
        # Port was away for all, and is back: then it waits as a new one does.
        over = tried is not None and tried.own == 0 and self._taken[type(work)] > tried.taken
        return Urgency.FIRST if lane is Lane.AGAIN and over else _URGENCIES[lane]

    async def report(self, work: ReportWork, run: NodeRun, items: Iterable[Item]) -> ReportAnswered | Later:
        """Try once to complete a node run whose report is frozen.

        `items` are its items in order; they are read up to the covered ones.
        """
        status = None
        try:
            outcome = await self._doubted(work, run)
            if outcome is None:
                answer = self._disputed(work) or await self._send(work, run, items)
                outcome, status = await self._judged(work, run, answer), answer.status
        except NotOwnedError:
            self.forget(work.key)
            raise
        if isinstance(outcome, Later):
            return outcome
        settled, reason = outcome
        tries = self.tries_of(run.node_run_id)
        self.forget(work.key)
        port_result = self._other_results.pop(run.node_run_id, None)
        return ReportAnswered(
            v=2 if settled is Settled.CANCELLED or run.report else 1,
            node_run_id=run.node_run_id,
            body=work.body,
            settled=settled,
            report=run.report,
            status=status,
            reason=reason,
            port_result=port_result,
            at=self._clock(),
            tries=tries,
        )

    async def tell(self, work: TellWork, run: NodeRun, item: Item) -> Answer | Later:
        """Try once to write how an item ended after the report into the node run's log."""
        failed = item.result is Result.FAILED
        how = f"failed after the report: {item.error}" if failed else "was called again by hand, and succeeded"
        text = f"item {item.index} ({item.event_type or 'no event type'}) {how}"
        line = LogLine(level=LogLevel.ERROR if failed else LogLevel.INFO, message=text)
        self._check(work.partition)
        answer = await self._port.append_logs(run.node_run_id, [line], partial(self._check, work.partition))
        self._heard(work, answer)
        if answer.kind in _SETTLES_NOTHING:
            return self._failed(work, answer)
        self.forget(work.key)
        return answer

    async def update(self, run_id: str | None, node_run_id: str, body: bytes, before: Callable[[], None]) -> Answer:
        """Tell how far a node run is, by the route that works; once."""
        for route in self.routes.usable(run_id):
            by = run_id if route is Route.BY_RUN else None
            answer = await self._port.report(node_run_id, by, body, before, Urgency.LAST)
            if answer.kind is AnswerKind.ACCEPTED and run_id is not None:
                self.routes.works(route)
            if answer.kind is not AnswerKind.NOT_FOUND or self.routes.proven:
                break
        return answer

    # Before a try.

    async def _doubted(self, work: ReportWork, run: NodeRun) -> tuple[Settled, str] | Later | None:
        """Look at the node run before FAILED is reported on a guess of its message's form; None: it may be sent.

        Only a node run that Port shows as open is told that it has failed. Else the report is not sent, and is kept as
        a refused one: a person decides.
        """
        if not run.guessed or run.result is not Result.FAILED:
            return None
        found = await self._look(work, run)
        if isinstance(found, Answer):
            return self._failed(work, found)
        if found is Found.OPEN:
            return None
        answer = Answer(AnswerKind.NOT_FOUND, None, _GUESSED)
        if found is not Found.UNKNOWN:
            return _after_a_look(work, answer, found)
        self._entry(work).miss(Route.BY_RUN, self._monotonic())
        wait = self._tried[work.key].look_in((Route.BY_RUN,), self._monotonic())
        if wait is None:
            return Settled.REFUSED, f"{_GUESSED}; {found.value}"
        self._note(work, answer)
        return Later(wait)

    # One try.

    async def _send(self, work: ReportWork, run: NodeRun, items: Iterable[Item]) -> Answer:
        covered = run.covered or 0
        body = report_body(run, takewhile(lambda item: item.index < covered, items))
        usable = self.routes.usable(run.workflow_run_id)
        while True:
            tried = self._tried.get(work.key)
            route = usable[0] if tried is None or not tried.unknown else tried.next_route(usable, self._monotonic())
            urgency = self._urgency(work)
            self._check(work.partition)
            by = run.workflow_run_id if route is Route.BY_RUN else None
            answer = await self._port.report(run.node_run_id, by, body, partial(self._check, work.partition), urgency)
            self._heard(work, answer)
            if answer.kind is not AnswerKind.NOT_FOUND:
                if len(usable) > 1 and answer.kind not in _SETTLES_NOTHING:
                    self.routes.works(route)
                return answer
            self._entry(work).miss(route, self._monotonic())
            usable = self.routes.usable(run.workflow_run_id)
            if not self._is_worth_another(work, usable):
                return answer
            self._note(work, answer)

    def _is_worth_another(self, work: ReportWork, usable: tuple[Route, ...]) -> bool:
        """Whether a report that was answered with 404 is sent at once by the other route.

        Where one is known to work it was that one already, most likely, and Port does not know the node run: then the
        other one may wait.
        """
        if self._tried[work.key].routes.issuperset(usable):
            return False
        if self.routes.proven:
            return self.routes.first not in self._tried[work.key].routes
        self._doubts += 1
        return self._doubts <= _MOST_DOUBTS

    def _check(self, partition: int) -> None:
        if not self._is_here(partition):
            raise NotOwnedError(f"partition {partition} is gone")

    def _heard(self, work: ToPort, answer: Answer) -> None:
        self.answers += 1
        if answer.kind not in _SETTLES_NOTHING and answer.kind is not AnswerKind.NOT_FOUND:
            self._taken[type(work)] += 1

    def _entry(self, work: ToPort) -> Tried:
        arrived = isinstance(work, ReportWork) and work.taken_over
        return self._tried.setdefault(work.key, Tried(work.partition, arrived))

    def _note(self, work: ToPort, answer: Answer) -> Tried:
        tried = self._entry(work)
        tried.note(answer, self._clock())
        return tried

    # What is made of its answer.

    async def _judged(self, work: ReportWork, run: NodeRun, answer: Answer) -> tuple[Settled, str] | Later:
        if answer.kind is AnswerKind.ACCEPTED:
            return Settled.REPORTED, ""
        if answer.kind in _SETTLES_NOTHING:
            return self._failed(work, answer)
        if answer.kind is AnswerKind.NOT_FOUND:
            return self._missed(work, run, answer)
        if answer.kind not in _DISPUTED and not self._may_have_arrived(work):
            return _output_refused(work), answer.reason
        found = await self._look(work, run)
        if isinstance(found, Answer):
            later = self._failed(work, found)
            self._tried[work.key].disputed = answer
            return later
        return _after_a_look(work, answer, found)

    def _missed(self, work: ReportWork, run: NodeRun, answer: Answer) -> tuple[Settled, str] | Later:
        wait = self._tried[work.key].look_in(self.routes.usable(run.workflow_run_id), self._monotonic())
        if wait is None:
            return Settled.REFUSED, answer.reason
        self._note(work, answer)
        return Later(wait)

    def _failed(self, work: ToPort, answer: Answer) -> Later:
        tried = self._note(work, answer)
        if answer.kind is AnswerKind.RATE_LIMITED:
            # The client has all its calls wait for as long as Port asks.
            return Later(0.0)
        if tried.fail(self._taken[type(work)], self._clock()) and isinstance(work, ReportWork):
            logger.warning(
                "the report of %s is parked: Port takes others, and fails at this one (%s); it is sent again with "
                "pauses up to 15 minutes, see /stuck",
                work.node_run_id,
                answer.reason,
            )
        return Later(self._draw(*tried.pause))

    def _disputed(self, work: ReportWork) -> Answer | None:
        tried = self._tried.get(work.key)
        return None if tried is None else tried.disputed

    def _may_have_arrived(self, work: ReportWork) -> bool:
        """Whether an earlier try of this body may have arrived though Port did not say so: no other may follow then."""
        tried = self._tried.get(work.key)
        return work.taken_over if tried is None else tried.arrived

    async def _look(self, work: ReportWork, run: NodeRun) -> Found | Answer:
        """Look the node run up at Port: a lost answer to an earlier report shows as the same result there.

        Returns the answer where the look failed.
        """
        if run.workflow_run_id is None:
            return Found.NOWHERE
        self._check(work.partition)
        urgency = self._urgency(work)
        found = await self._port.get_run(run.workflow_run_id, partial(self._check, work.partition), urgency)
        self.answers += 1
        if isinstance(found, Answer):
            return found if found.kind in _SETTLES_NOTHING else Found.UNKNOWN
        node = found.node_run(run.node_run_id)
        if node is None:
            return Found.UNKNOWN
        if node.result is None:
            return Found.OPEN
        if node.result == run.result:
            return Found.SAME
        self._other_results[run.node_run_id] = node.result
        # The report was not heard, and nothing is wrong with that.
        cancelled = run.stopped in (Stop.SOFT, Stop.RUN) or found.is_cancelled or node.result == Result.CANCELLED
        return Found.CANCELLED if cancelled else Found.OTHER


_URGENCIES: Final = {Lane.FIRST: Urgency.FIRST, Lane.AGAIN: Urgency.AGAIN, Lane.SELDOM: Urgency.POLL}


def _after_a_look(work: ReportWork, answer: Answer, found: Found) -> tuple[Settled, str]:
    if found is Found.SAME:
        return Settled.REPORTED, ""
    reason = f"{answer.reason}; {found.value}"
    if found is Found.CANCELLED:
        return Settled.CANCELLED, reason
    # Still open: it is the body that Port does not take.
    refused = found is Found.OPEN and answer.kind is not AnswerKind.CONFLICT
    return _output_refused(work) if refused else Settled.REFUSED, reason


def _output_refused(work: ReportWork) -> Settled:
    return Settled.OUTPUT_REFUSED if work.body is Body.FULL else Settled.REFUSED
