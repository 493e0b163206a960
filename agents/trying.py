"""Tries a handler out by hand, in a worker that runs: a dry run.

The handler is called for a payload object that somebody has written, in a place of its own concurrency, with its
deadline, middleware and resources, and does what it does. Nothing of it is in the ledger, in the metrics or at Port,
and nothing waits for a retry or for another system's word. Knows nothing of Faust.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pydantic import JsonValue, SecretStr

from agents.context import Alone, Context, Host
from agents.contract import Handler, Middleware
from agents.execution import Call, Threads, execute
from agents.feeding import Feeder
from agents.patterns import takes
from agents.resources import Resource
from agents.testing import Outcome, outcome_in
from agents.work import ItemWork
from port.models import LogLevel, LogLine
from port.secrets import Decryption, Secret, SecretInputError
from streams.messages import event_type

logger = logging.getLogger(__name__)

PLACE_SECONDS: Final = 5.0
"""How long a dry run waits for a place."""
MOST_SECONDS: Final = 60.0
"""How long one may take, whatever the handler's deadline: somebody waits for it."""
MOST_LINES: Final = 200
_MOST_CHARACTERS: Final = 2_000
_NOWHERE: Final = -1
"""The partition of what is in none."""


class TrialError(Exception):
    """The handler was not called; the text says why, for people."""


@dataclass(frozen=True)
class Tried:
    """How a dry run went. Secret inputs are masked in it."""

    outcome: Outcome
    trace: str | None
    seconds: float
    lines: list[LogLine]
    left_out: int
    """How many further lines there were."""


@dataclass
class _Listener:
    """The host of a dry run: keeps what the handler says, and tells nobody."""

    worker: Host
    lines: list[LogLine] = field(default_factory=list)
    left_out: int = 0
    _nobody: Alone = field(default_factory=Alone)

    @property
    def resources(self) -> Mapping[Resource[object], object]:
        """What the handlers of the worker share."""
        return self.worker.resources

    @property
    def draining(self) -> threading.Event:
        """Set when the worker is told to stop."""
        return self.worker.draining

    def log(self, _context: Context, level: LogLevel, text: str) -> None:
        """Keep a line."""
        if len(self.lines) < MOST_LINES:
            self.lines.append(LogLine(level=level, message=text[:_MOST_CHARACTERS].encode(errors="replace").decode()))
        else:
            self.left_out += 1

    def progress(self, context: Context, done: float, total: float | None) -> None:
        """Do nothing."""

    def callback_url(self, context: Context, life: float) -> str:
        """Return a URL that leads nowhere: nobody waits for that word."""
        return self._nobody.callback_url(context, life)


class _Leniently(Decryption):
    """Takes secret inputs in clear, too, as somebody has written them."""

    def decrypt(self, text: str) -> Secret:
        """Return what a secret input holds, or the text itself."""
        try:
            return super().decrypt(text)
        except SecretInputError:
            return self.remembered(Secret(text))


@dataclass(eq=False)
class _Trial:
    fields: Mapping[str, JsonValue]
    ended: asyncio.Future[Tried]

    def stop(self) -> None:
        if not self.ended.done():
            self.ended.set_exception(TrialError("the worker stops: how the call ended, if it began, is not known"))


class Trials:
    """The dry runs of one handler.

    Args:
        handler: the handler.
        feeder: what hands out its places.
        host: the worker's own.
        client_secrets: what secret inputs are encrypted with: one of these.
        middleware: what runs around its calls.
    """

    def __init__(
        self,
        handler: Handler,
        feeder: Feeder[ItemWork],
        host: Host,
        client_secrets: Sequence[SecretStr],
        middleware: tuple[Middleware, ...] = (),
    ) -> None:
        self._handler = dataclasses.replace(handler, deadline=min(handler.deadline, MOST_SECONDS))
        self._feeder = feeder
        self._host = host
        self._client_secrets = client_secrets
        self._middleware = middleware
        self._trials: dict[ItemWork, _Trial] = {}

    async def run(self, fields: Mapping[str, JsonValue]) -> Tried:
        """Call the handler for a payload object, when a place is free, and return how that went.

        Raises:
            TrialError: it is none of the handler's event types, no place was free in time, or the worker stops.
        """
        named = event_type(fields)
        if named is not None and not takes(self._handler.event_type, named):
            raise TrialError(f"the payload's event type is {named[:80]!r}: this handler is for another one")
        work = ItemWork(_NOWHERE, f"wfnr_dry-run-{secrets.token_hex(8)}", 0, 0, named or self._handler.event_type, 1)
        trial = self._trials[work] = _Trial(fields, asyncio.get_running_loop().create_future())
        self._feeder.add(work)
        try:
            return await self._ended(work, trial)
        finally:
            del self._trials[work]

    async def _ended(self, work: ItemWork, trial: _Trial) -> Tried:
        waiting = asyncio.get_running_loop().call_later(PLACE_SECONDS, self._give_up, work, trial)
        try:
            return await trial.ended
        except asyncio.CancelledError:
            self._feeder.withdraw([work])
            raise
        finally:
            waiting.cancel()

    def _give_up(self, work: ItemWork, trial: _Trial) -> None:
        feeder = self._feeder
        if feeder.withdraw([work]) and not trial.ended.done():
            why = f"no place was free within {PLACE_SECONDS:g} s, so nothing was called"
            trial.ended.set_exception(TrialError(f"{why}: {feeder.taken} calls run, {feeder.waiting} items wait"))

    async def take(self, work: ItemWork, threads: Threads) -> tuple[Call, asyncio.Future[object] | None] | None:
        """Make the call that was asked for, in the place of who calls this.

        Returns the call, and what of it still runs; None where it is no dry run, or nobody waits for it any more.
        """
        trial = self._trials.get(work)
        if trial is None or trial.ended.done():
            return None
        listener = _Listener(self._host)
        call = Call(self._handler, self._context(work, trial, listener), 0, "dry run", self._middleware)
        began = time.monotonic()
        try:
            # With a clock that stands still a retry is due exactly as long after the call as it is to be waited.
            ended = await execute(call, threads, clock=lambda: 0.0)
        except asyncio.CancelledError:
            trial.stop()
            raise
        except Exception as error:
            # What an item would have FAILED with. An exception of an actor ends the worker.
            self._failed(trial, error)
            return None
        try:
            seconds, trace = time.monotonic() - began, getattr(ended.event, "trace", None)
            tried = Tried(outcome_in(ended.event), trace, seconds, listener.lines, listener.left_out)
        except Exception as error:
            self._failed(trial, error)
        else:
            if not trial.ended.done():
                trial.ended.set_result(tried)
        return call, ended.remains

    @staticmethod
    def _failed(trial: _Trial, error: Exception) -> None:
        # No more of it: nothing is masked there.
        logger.error("a dry run failed: %s", type(error).__name__)
        if not trial.ended.done():
            trial.ended.set_exception(TrialError(f"internal error: {type(error).__name__}"))

    def _context(self, work: ItemWork, trial: _Trial, listener: _Listener) -> Context:
        now = time.time()
        return Context(
            node_run_id=work.node_run_id,
            workflow_run_id=None,
            workflow=None,
            node=None,
            event_type=work.event_type or self._handler.event_type,
            index=0,
            attempt=1,
            received_at=now,
            fields=trial.fields,
            decryption=_Leniently(*self._client_secrets),
            deadline_at=now + self._handler.deadline,
            host=listener,
        )

    def stop(self) -> None:
        """Let nobody wait any longer: the worker stops."""
        for trial in self._trials.values():
            trial.stop()
