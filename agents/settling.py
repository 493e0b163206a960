"""Settles a node run with Port: reports it, waits outages and rate limits out, and tells a lost answer from a refusal.

Knows nothing of Faust.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from itertools import takewhile
from typing import Final, TypeAlias

import stamina

from agents.work import ReportWork, TellWork
from port.client import Answer, AnswerKind, PortClient
from port.models import LogLevel, LogLine, Result, WorkflowRun
from streams.records import Body, ReportAnswered, Settled, Tries, Try
from tables.report import report_body
from tables.rows import NotOwnedError
from tables.state import Item, NodeRun, Stop

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0
LONGEST_ASKED_PAUSE: Final = 300.0
"""No longer pause is heeded, whoever asks for it."""
UNKNOWN_SECONDS: Final = 10.0
"""So long after its message a node run that Port does not know (404) may yet become known: the message may have been
quicker than what Port's API reads from."""
_WAIT: Final = frozenset({AnswerKind.UNAVAILABLE, AnswerKind.UNAUTHORIZED})
_SETTLES_NOTHING: Final = _WAIT | {AnswerKind.RATE_LIMITED}
MOST_TRIES: Final = 5
"""The tries of a report that are remembered each; of the others, how many there were."""
_DISPUTED: Final = frozenset({AnswerKind.CONFLICT, AnswerKind.INVALID})

ToPort: TypeAlias = ReportWork | TellWork


class Found(Enum):
    """What a look at the workflow run says of a node run whose report was answered with 409 or 422."""

    SAME = "it is completed with the same result"
    OTHER = "it is completed with another result"
    CANCELLED = "it is completed with another result, and its workflow run was cancelled"
    OPEN = "it is still open"
    UNKNOWN = "Port does not show it"
    NOWHERE = "it cannot be looked up: its message has no workflow-run id"


class _NotNowError(Exception):
    """Port cannot be reached, or asks to wait."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"Port: {answer.kind.value}: {answer.reason}")
        self.answer = answer


@dataclass
class _Tried:
    """The tries of a report that settled nothing."""

    count: int = 0
    latest: deque[Try] = field(default_factory=lambda: deque(maxlen=MOST_TRIES))

    def shown(self) -> Tries:
        return Tries(count=self.count, latest=tuple(self.latest))


class Settler:
    """Calls Port for the reporter.

    Args:
        port: the client.
        is_here: tells whether this worker still works for a partition. Asked before each call, and again when its turn
            has come.
        clock: the epoch seconds of the answers.

    Its methods wait until Port answers for good, as long as that takes, and raise NotOwnedError when the partition is
    gone.
    """

    def __init__(
        self, port: PortClient, is_here: Callable[[int], bool], clock: Callable[[], float] = time.time
    ) -> None:
        self._port = port
        self._is_here = is_here
        self._clock = clock
        self._pause_ends = float("-inf")
        self.answers = 0
        """How many answers there were, good ones and others."""
        self._tried: dict[str, _Tried] = {}
        """Of the reports that are on their way, and were answered by nothing that settles them."""
        self._other_results: dict[str, str] = {}
        """Port's own results of node runs whose reports said something else, and are being settled."""

    def tries_of(self, node_run_id: str) -> Tries | None:
        """Return the tries so far of a report that is on its way; None where there was none."""
        tried = self._tried.get(node_run_id)
        return None if tried is None else tried.shown()

    @property
    def pausing(self) -> bool:
        """Whether a pause may go on: one that Port has asked for, or one before the next try."""
        return time.monotonic() < self._pause_ends

    async def report(self, work: ReportWork, run: NodeRun, items: Iterable[Item]) -> ReportAnswered:
        """Complete a node run whose report is frozen; `items` are its items in order, read up to the covered ones."""
        covered = run.covered or 0
        body = report_body(run, takewhile(lambda item: item.index < covered, items))
        before = partial(self._check, work.partition)

        async def send() -> Answer:
            answer = await self._port.report(run.node_run_id, run.workflow_run_id, body, before)
            if answer.kind is AnswerKind.NOT_FOUND and self._may_become_known(run):
                answer = replace(answer, kind=AnswerKind.UNAVAILABLE)
            if answer.kind in _SETTLES_NOTHING:
                self._note(run.node_run_id, answer)
            return answer

        try:
            answer = await self._until_answered(work, send)
            settled, reason = await self._settled(work, run, answer)
        finally:
            tried = self._tried.pop(run.node_run_id, None)
            port_result = self._other_results.pop(run.node_run_id, None)
        return ReportAnswered(
            v=2 if settled is Settled.CANCELLED or run.report else 1,
            node_run_id=run.node_run_id,
            body=work.body,
            settled=settled,
            report=run.report,
            status=answer.status,
            reason=reason,
            port_result=port_result,
            at=self._clock(),
            tries=None if tried is None else tried.shown(),
        )

    def _note(self, node_run_id: str, answer: Answer) -> None:
        tried = self._tried.setdefault(node_run_id, _Tried())
        tried.count += 1
        tried.latest.append(Try(at=self._clock(), status=answer.status))

    async def tell(self, work: TellWork, run: NodeRun, item: Item) -> Answer:
        """Write how an item ended after the report into the node run's log."""
        failed = item.result is Result.FAILED
        how = f"failed after the report: {item.error}" if failed else "was called again by hand, and succeeded"
        text = f"item {item.index} ({item.event_type or 'no event type'}) {how}"
        line = LogLine(level=LogLevel.ERROR if failed else LogLevel.INFO, message=text)
        before = partial(self._check, work.partition)
        return await self._until_answered(work, lambda: self._port.append_logs(run.node_run_id, [line], before))

    def _may_become_known(self, run: NodeRun) -> bool:
        # A time to come is no time to wait for: producers set what they like.
        return 0 <= self._clock() - run.received_at < UNKNOWN_SECONDS

    async def _until_answered(self, work: ToPort, call: Callable[[], Awaitable[Answer]]) -> Answer:
        answer = await self._once(work, call)
        # Only now: what makes the pauses costs half as much as a call.
        return await self._again(work, call, answer) if answer.kind in _WAIT else answer

    async def _once(self, work: ToPort, call: Callable[[], Awaitable[Answer]]) -> Answer:
        self._check(work.partition)
        answer = await call()
        self.answers += 1
        while answer.kind is AnswerKind.RATE_LIMITED:
            # The client has all its calls wait for as long as Port asks.
            self._check(work.partition)
            answer = await call()
            self.answers += 1
        return answer

    def _check(self, partition: int) -> None:
        if not self._is_here(partition):
            raise NotOwnedError(f"partition {partition} is gone")

    async def _again(self, work: ToPort, call: Callable[[], Awaitable[Answer]], first: Answer) -> Answer:
        known: Answer | None = first
        async for attempt in stamina.retry_context(
            on=self._pause,
            attempts=None,
            timeout=None,
            wait_initial=FIRST_PAUSE,
            wait_max=LONGEST_PAUSE,
            wait_jitter=1.0,
        ):
            with attempt:
                answer, known = known or await self._once(work, call), None
                if answer.kind in _WAIT:
                    raise _NotNowError(answer)
                return answer
        raise AssertionError("unreachable: attempts are not limited")  # pragma: no cover

    def _pause(self, error: Exception) -> bool | float:
        pause = _pause(error)
        longest = LONGEST_PAUSE + 1.0 if isinstance(pause, bool) else pause
        self._pause_ends = max(self._pause_ends, time.monotonic() + longest)
        return pause

    async def _settled(self, work: ReportWork, run: NodeRun, answer: Answer) -> tuple[Settled, str]:
        if answer.kind is AnswerKind.ACCEPTED:
            return Settled.REPORTED, ""
        if answer.kind is AnswerKind.TOO_LARGE:
            return _output_refused(work), answer.reason
        if answer.kind not in _DISPUTED:
            return Settled.REFUSED, answer.reason
        found = await self._look(work, run)
        if found is Found.SAME:
            return Settled.REPORTED, ""
        if found is Found.CANCELLED:
            return Settled.CANCELLED, f"{answer.reason}; {found.value}"
        # Still open: it is the body that Port does not take.
        refused = found is Found.OPEN and answer.kind is AnswerKind.INVALID
        return _output_refused(work) if refused else Settled.REFUSED, f"{answer.reason}; {found.value}"

    async def _look(self, work: ReportWork, run: NodeRun) -> Found:
        """Look the node run up at Port: a lost answer to an earlier report shows as the same result there."""
        workflow_run_id = run.workflow_run_id
        if workflow_run_id is None:
            return Found.NOWHERE
        found: list[WorkflowRun] = []
        before = partial(self._check, work.partition)

        async def look() -> Answer:
            answer = await self._port.get_run(workflow_run_id, before)
            if isinstance(answer, Answer):
                return answer
            found.append(answer)
            return Answer(AnswerKind.ACCEPTED, 200, "")

        await self._until_answered(work, look)
        node = next((node for one in found if (node := one.node_run(run.node_run_id)) is not None), None)
        if node is None:
            return Found.UNKNOWN
        if node.result is None:
            return Found.OPEN
        if node.result == run.result:
            return Found.SAME
        self._other_results[run.node_run_id] = node.result
        # The report was not heard, and nothing is wrong with that.
        cancelled = run.stopped in (Stop.SOFT, Stop.RUN) or found[0].is_cancelled or node.result == Result.CANCELLED
        return Found.CANCELLED if cancelled else Found.OTHER


def _pause(error: Exception) -> bool | float:
    if not isinstance(error, _NotNowError):
        return False
    asked = error.answer.retry_after
    # Port may ask for no pause at all ("Retry-After: 0"): heeded, that would be a loop without one.
    if asked is None or asked < FIRST_PAUSE:
        return True
    # Spread, so that those who were told the same do not come back all at once.
    return min(asked, LONGEST_ASKED_PAUSE) * random.uniform(1.0, 1.1)  # noqa: S311


def _output_refused(work: ReportWork) -> Settled:
    return Settled.OUTPUT_REFUSED if work.body is Body.FULL else Settled.REFUSED
