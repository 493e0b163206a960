"""What a handler knows of the node run that it works for, and what it can do beside its work."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias, TypeVar, cast

from pydantic import JsonValue

from agents.callback_masking import masked_callbacks
from agents.cancelling import Cancellation
from agents.lines import LatestLines
from agents.resources import SESSION, Resource
from port.models import LogLevel
from port.secrets import Decryption, Secret
from streams.durations import seconds

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")
Level: TypeAlias = Literal["DEBUG", "INFO", "WARN", "ERROR"]
"""A level of Port's logs."""

CALLBACK_LIFE: Final = "365d"
"""How long `ctx.callback_url` is good."""

logger = logging.getLogger("handlers")
_LEVELS: Final = {
    LogLevel.DEBUG: logging.DEBUG,
    LogLevel.INFO: logging.INFO,
    LogLevel.WARN: logging.WARNING,
    LogLevel.ERROR: logging.ERROR,
}


class Host(Protocol):
    """What a worker does for the handlers that it calls. Handlers call it from any thread; it never waits."""

    @property
    def resources(self) -> Mapping[Resource[object], object]:
        """What `on_startup` functions have opened, and the session."""

    @property
    def draining(self) -> threading.Event:
        """Set when the worker is told to stop."""

    def log(self, context: Context, level: LogLevel, text: str) -> None:
        """Take a line for the node run's log at Port."""

    def progress(self, context: Context, done: float, total: float | None) -> None:
        """Take note of how far the item is."""

    def callback_url(self, context: Context, life: float) -> str:
        """Return the item's URL for another system. Raises LookupError where `PUBLIC_URL` is not set."""


class Alone:
    """The host of a context that no worker made, as in a test: it tells nobody anything.

    Args:
        resources: what `ctx.resource` and `ctx.session` return.
    """

    def __init__(self, resources: Mapping[Resource[object], object] | None = None) -> None:
        self.resources: Mapping[Resource[object], object] = {} if resources is None else resources
        self.draining = threading.Event()

    def log(self, context: Context, level: LogLevel, text: str) -> None:
        """Do nothing: the line is in the process's log."""

    def progress(self, context: Context, done: float, total: float | None) -> None:
        """Do nothing."""

    def callback_url(self, context: Context, life: float) -> str:
        """Return a URL that leads nowhere: no name ends in `.invalid`."""
        return f"https://port-runs.invalid/callbacks/token-for-{context.idempotency_key}"


_ALONE: Final = Alone()
_FIRST_LINE: Final = threading.Lock()
"""Held where a call may be logging its first line: two threads of it must not keep their lines apart."""
_STEP: Final = 0.25
"""Seconds within which a thread that waits notices that the worker is to stop."""


@dataclass(frozen=True)
class Context:
    """What a handler may know of the node run that it works for, and what it can do beside its work."""

    node_run_id: str
    workflow_run_id: str | None
    workflow: str | None
    """The workflow's identifier, None where the message does not say."""
    node: str | None
    """The node's identifier, likewise."""
    event_type: str
    """The item's event type, also where a pattern has matched it."""
    index: int
    """The item's place in the node run, from 0."""
    attempt: int
    """1 at the first call, one more at each retry. A call repeated after a crash has the same number."""
    received_at: float
    """Kafka's timestamp of the node run's first message, in epoch seconds."""
    fields: Mapping[str, JsonValue] = field(default_factory=dict, repr=False)
    """The item's payload object, as it came."""
    decryption: Decryption | None = field(default=None, repr=False, compare=False)
    """What the `Secret` fields of the handler's model are decrypted with; None where no worker made the context."""
    deadline_at: float = math.inf
    """When this call has failed if it still runs, in epoch seconds; infinite where no worker made the context."""
    cancellation: Cancellation = field(default_factory=Cancellation, repr=False, compare=False)
    """The worker's own: how it is told that the call is cancelled."""
    host: Host = field(default=_ALONE, repr=False, compare=False)
    """The worker's own: what stands behind the methods."""

    @cached_property
    def lines(self) -> LatestLines:
        """The worker's own: what the call has logged. It is there from the first line on."""
        return LatestLines()

    @property
    def has_logged(self) -> bool:
        """The worker's own: whether the call has logged anything."""
        return "lines" in self.__dict__

    @property
    def idempotency_key(self) -> str:
        """The same at every call for this item, whatever crashed in between; pass it on to what you call."""
        return f"{self.node_run_id}-{self.index}"

    @property
    def seconds_left(self) -> float:
        """The seconds until the deadline; 0 when it has passed."""
        return max(0.0, self.deadline_at - time.time())

    @property
    def cancelled(self) -> bool:
        """Whether the item is cancelled: its workflow run is, or enough other items of an array have failed.

        Where Port lets what runs end, the call goes on, and what it returns counts; one that raises `RetryLater` is not
        called again, and the item ends as cancelled. It ends so, too, where the call is cut off, whatever that returns.
        """
        return self.cancellation.is_set

    @property
    def should_stop(self) -> bool:
        """Whether to come to an end: the deadline has passed, the item is cancelled, or the worker is told to stop.

        Costs little to ask. A thread cannot be stopped from outside. A coroutine is cancelled at its deadline, and when
        it is cut off.
        """
        return self.host.draining.is_set() or self.cancelled or time.time() >= self.deadline_at

    def wait(self, seconds: float) -> bool:
        """Wait, in a plain `def` handler, for so long or until it should stop; returns `should_stop`."""
        until = time.monotonic() + min(seconds, self.seconds_left)
        while not self.should_stop and (left := until - time.monotonic()) > 0:
            # In short steps: a thread can wait for one event only, and this is about two.
            self.cancellation.wait(min(left, _STEP))
        return self.should_stop

    @property
    def session(self) -> aiohttp.ClientSession:
        """The HTTP session that all `async def` handlers of the worker share. Do not close it.

        Raises:
            LookupError: no worker made the context, and it was given none.
        """
        return self.resource(SESSION)

    def resource(self, of: Resource[T]) -> T:
        """Return what an `on_startup` function has opened.

        Raises:
            LookupError: it is not open: `HANDLERS` does not name its module, or no worker made the context.
        """
        try:
            return cast("T", self.host.resources[of])
        except KeyError:
            raise LookupError(f"{of.name} is not open: HANDLERS does not name its module, or no worker runs") from None

    @property
    def callback_url(self) -> str:
        """The URL with which another system says how this item ended; for a handler that returns `Deferred`.

        It is a secret: who has it can complete the item. It is good for a year, which outlasts what it is for: the
        first call decides, and the deadline of `Deferred` ends the waiting. Ask for a shorter life, or a longer one,
        with `callback_url_for`.

        Raises:
            LookupError: `PUBLIC_URL` is not set.
        """
        return self.callback_url_for(CALLBACK_LIFE)

    def callback_url_for(self, life: str | float) -> str:
        """Return `callback_url` with another life: `"2h"`, `"30d"`, or seconds.

        Raises:
            LookupError: `PUBLIC_URL` is not set.
            ValueError: that is no duration.
        """
        url = self.host.callback_url(self, seconds(life))
        if self.decryption is not None:
            # Logged or put out by itself it is a secret, too.
            self.decryption.remembered(Secret(url.rpartition("/")[2]))
        return url

    def log(self, message: str, *args: object, level: LogLevel | Level = LogLevel.INFO) -> None:
        """Write a line into the node run's log at Port, and the worker's; `***` stands for secret inputs.

        Lines are sent in one call when the item has ended, every few seconds while it runs long. They are best effort:
        a line can be lost with its worker, or left out where there are too many; the report never waits for them. The
        latest lines of the call stand in the web views, too.

        Raises:
            ValueError: there is no such level.
        """
        level = LogLevel(level)
        text = _formatted(message, args)
        if self.decryption is not None:
            text = self.decryption.masked(text)
        text = masked_callbacks(text)
        logger.log(_LEVELS[level], "[%s] %s", self.idempotency_key, text)
        if not self.has_logged:
            with _FIRST_LINE:
                _ = self.lines
        self.lines.add(level, text)
        self.host.log(self, level, text)

    def progress(self, done: float, total: float | None = None) -> None:
        """Say how far the item is: `done` of `total`, in whatever unit.

        Port is told only where the work runs long: 30 seconds after the first word of it, then every 30 seconds.

        Raises:
            ValueError: a number is negative, infinite or none.
        """
        if not all(0 <= number < math.inf for number in (done, 0 if total is None else total)):
            raise ValueError("progress takes numbers that are neither negative nor infinite")
        self.host.progress(self, done, total)


def _formatted(message: str, args: tuple[object, ...]) -> str:
    try:
        return logging.LogRecord("", logging.INFO, "", 0, message, args, None).getMessage()
    except Exception:
        # As with any log line, wrong arguments are no failure of who logs.
        return message
