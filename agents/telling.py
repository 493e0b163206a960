"""What handlers have to say to Port while they run: lines for the node run's log, and how far they are.

All of it is best effort, and bounded. Nothing is done for an item that says nothing. Knows nothing of Faust.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol, TypeAlias
from weakref import WeakValueDictionary

from agents.callbacks import Callbacks
from agents.context import Context
from agents.lines import LatestLines
from agents.resources import Resource
from agents.work import LinesWork
from port.client import Answer, AnswerKind
from port.models import LogLevel, LogLine, NodeRunUpdate, Status
from streams.records import Lines

logger = logging.getLogger(__name__)
LINES_SECONDS: Final = 5.0
"""How long the lines of an item are gathered while it runs."""
MAX_LINES: Final = 200
"""Lines of an item in that time; what is more is counted, and the count told."""
MAX_LINE_CHARACTERS: Final = 2_000
MAX_CALL_CHARACTERS: Final = 150_000
"""In one call: written as JSON a character takes up to six bytes, and Port takes 1 MiB."""
MAX_WAITING: Final = 20_000
"""Lines in this worker's memory that Port has not taken."""
PROGRESS_SECONDS = 30.0
"""Between two words of an item's progress, and before the first."""
MAX_UPDATES: Final = 5
"""Words of progress on their way to Port at a time. Where there are more, an item's next turn is its next chance."""
MAX_LINKING: Final = 5_000
"""Node runs whose links wait for their turn to be told; beyond it Port is not told any."""
_MOST_LINKED: Final = 100_000
_CUT: Final = "… (cut)"

Key: TypeAlias = tuple[str, int]
"""Node-run id and index of an item."""


class Told(Protocol):
    """The node run that Port is told something of."""

    @property
    def node_run_id(self) -> str:
        """Its id."""

    @property
    def workflow_run_id(self) -> str | None:
        """Its workflow run's id, where the message says it."""


Update: TypeAlias = Callable[[Told, bytes, Callable[[], None]], Awaitable[Answer]]


class TooLateError(Exception):
    """The item has ended: its progress is not told any more."""


@dataclass(frozen=True)
class Progress:
    """How far an item is."""

    done: float
    total: float | None


@dataclass
class _Buffer:
    lines: list[LogLine] = field(default_factory=list)
    left_out: int = 0
    timer: asyncio.TimerHandle | None = None


@dataclass
class _Links:
    """The links of a node run, on their way to Port."""

    task: asyncio.Task[None] | None = None
    sent: bool = False


@dataclass
class _Told:
    """What is told of an item's progress."""

    context: Context
    now: Progress
    told: Progress | None = None
    timer: asyncio.TimerHandle | None = None
    task: asyncio.Task[None] | None = None
    sent: bool = False
    """Whether the call of the task may have reached Port."""
    over: bool = False
    """Whether nothing more is told."""


class Telling:
    """Takes what handlers say, from any thread, and has it told to Port.

    Args:
        resources: what the handlers of this worker share.
        callbacks: makes the URLs for other systems.

    The agents set `add`, which takes a piece of work for the agent that sends lines, and `update`, which sends a body
    with status IN_PROGRESS: it calls what it is given immediately before it sends anything; what that raises ends it,
    unsent.
    """

    add: Callable[[LinesWork], None]
    update: Update

    def __init__(self, resources: Mapping[Resource[object], object], callbacks: Callbacks) -> None:
        self.resources = resources
        self._callbacks = callbacks
        self.draining = threading.Event()
        self._lock = threading.Lock()
        self._buffers: dict[Key, _Buffer] = {}
        self._lines: dict[str, list[LogLine]] = {}
        self._latest: WeakValueDictionary[Key, LatestLines] = WeakValueDictionary()
        """What the calls that are being made have logged: each call has its own, as long as there is the call."""
        self._progress: dict[Key, _Told] = {}
        self._muted: set[Key] = set()
        self._waiting = 0
        self._updates = 0
        self._links: dict[str, _Links] = {}
        self._linked: OrderedDict[str, None] = OrderedDict()
        """The node runs whose links were told last."""
        self._turns = asyncio.Semaphore(MAX_UPDATES)
        self._loop: asyncio.AbstractEventLoop | None = None

    def begin(self) -> None:
        """Take note of the event loop. Called before any handler is."""
        self._loop = asyncio.get_running_loop()

    def progress_of(self, node_run_id: str, index: int) -> Progress | None:
        """Return how far an item that runs here has said to be."""
        told = self._progress.get((node_run_id, index))
        return None if told is None else told.now

    def lines_of(self, node_run_id: str, index: int) -> Lines | None:
        """Return the latest lines of an item that runs here; None where it has logged nothing."""
        latest = self._latest.get((node_run_id, index))
        return None if latest is None else latest.kept()

    def log(self, context: Context, level: LogLevel, text: str) -> None:
        """Take a line. Called from any thread."""
        key = _key(context)
        text = _cut(text)
        # A lone surrogate could not be written as UTF-8.
        line = LogLine(level=level, message=text.encode(errors="replace").decode())
        with self._lock:
            if context.has_logged and key not in self._muted:
                self._latest[key] = context.lines
            buffer = self._buffers.get(key)
            first = buffer is None
            if buffer is None:
                buffer = self._buffers[key] = _Buffer()
            if len(buffer.lines) < MAX_LINES and self._waiting < MAX_WAITING:
                buffer.lines.append(line)
                self._waiting += 1
            else:
                buffer.left_out += 1
        if first:
            self._call(partial(self._gather, key, buffer))

    def progress(self, context: Context, done: float, total: float | None) -> None:
        """Take note of how far an item is. Called from any thread."""
        key, now = _key(context), Progress(done, total)
        with self._lock:
            if key in self._muted:
                return
            told = self._progress.get(key)
            first = told is None
            if told is None:
                told = self._progress[key] = _Told(context, now)
            told.now = now
        if first:
            self._call(partial(self._watch, key, told))

    def callback_url(self, context: Context, life: float) -> str:
        """Return the item's URL for another system. Called from any thread."""
        return self._callbacks.url(context.node_run_id, context.index, context.event_type, life)

    def say(self, node_run_id: str, lines: Iterable[LogLine]) -> None:
        """Take lines that another system has for a node run's log."""
        taken = [LogLine(level=line.level, message=_cut(line.message)) for line in lines]
        with self._lock:
            taken = taken[: max(0, MAX_WAITING - self._waiting)]
            self._waiting += len(taken)
        if taken:
            self._hand_on(node_run_id, taken)

    def deferred(self, run: Told, link: str | None) -> None:
        """Have Port told, once for a node run, where people can watch its work: at `link`, and on our page."""
        links = [one for one in (link, self._callbacks.page(run.node_run_id)) if one is not None]
        if not links or run.node_run_id in self._linked or len(self._links) >= MAX_LINKING:
            return
        self._linked[run.node_run_id] = None
        if len(self._linked) > _MOST_LINKED:
            self._linked.popitem(last=False)
        body = NodeRunUpdate(status=Status.IN_PROGRESS, links=links).to_json()
        told = self._links[run.node_run_id] = _Links()
        told.task = asyncio.get_running_loop().create_task(self._tell_links(run, body, told))

    async def _tell_links(self, run: Told, body: bytes, told: _Links) -> None:
        def before() -> None:
            told.sent = True

        try:
            async with self._turns:
                answer = await self.update(run, body, before)
            if answer.kind is not AnswerKind.ACCEPTED:
                logger.info("Port takes no links for %s: %s %s", run.node_run_id, answer.status, answer.reason)
        except Exception as error:
            # The partition has gone, or the node run is reported.
            logger.debug("the links of %s are not told: %s: %s", run.node_run_id, type(error).__name__, error)
        finally:
            self._links.pop(run.node_run_id, None)

    async def quiet(self, node_run_id: str) -> None:
        """Return when no links of a node run are on their way: they could overtake its report."""
        told = self._links.get(node_run_id)
        if told is None or told.task is None:
            return
        if not told.sent:
            told.task.cancel()
        await asyncio.wait({told.task})
        # A task that was cancelled before it began has not done that itself.
        self._links.pop(node_run_id, None)

    def _call(self, function: Callable[[], None]) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function)

    def _gather(self, key: Key, buffer: _Buffer) -> None:
        if self._buffers.get(key) is buffer:
            buffer.timer = asyncio.get_running_loop().call_later(LINES_SECONDS, self._flush, key)

    def _flush(self, key: Key) -> None:
        with self._lock:
            buffer = self._buffers.pop(key, None)
        if buffer is None:
            return
        if buffer.timer is not None:
            buffer.timer.cancel()
        if buffer.left_out:
            self._say_left_out(key, buffer)
        if not buffer.lines:
            return
        self._hand_on(key[0], buffer.lines)

    def _hand_on(self, node_run_id: str, lines: list[LogLine]) -> None:
        gathered = self._lines.get(node_run_id)
        if gathered is None:
            self._lines[node_run_id] = lines
            self.add(LinesWork(node_run_id))
        else:
            gathered += lines

    def _say_left_out(self, key: Key, buffer: _Buffer) -> None:
        text = f"{buffer.left_out:,} further lines of item {key[1]} are left out: only the worker's log has them"
        logger.warning("%s: %s", key[0], text)
        if self._waiting < MAX_WAITING + MAX_LINES:
            buffer.lines.append(LogLine(level=LogLevel.WARN, message=text))
            with self._lock:
                self._waiting += 1

    def take(self, node_run_id: str) -> list[LogLine]:
        """Return the lines for a node run's log that one call can hold, and forget them; none are left when empty."""
        waiting = self._lines.get(node_run_id, [])
        count, characters = 0, 0
        while count < len(waiting) and (characters := characters + len(waiting[count].message)) <= MAX_CALL_CHARACTERS:
            count += 1
        taken, left = waiting[:count], waiting[count:]
        if left:
            self._lines[node_run_id] = left
        else:
            self._lines.pop(node_run_id, None)
        with self._lock:
            self._waiting -= len(taken)
        return taken

    @property
    def said(self) -> bool:
        """Whether any item has said anything that is kept here."""
        return bool(self._buffers or self._progress)

    async def ended(self, context: Context, *, goes_on: bool = False) -> None:
        """Have the item's last lines told, and its progress no more. Called when its call has ended.

        Returns when no word of progress is on its way: one could overtake the report. `goes_on` says that a thread of
        the call still runs: it is not listened to until `forget`.
        """
        key = _key(context)
        with self._lock:
            if goes_on:
                self._muted.add(key)
            told = self._progress.pop(key, None)
            self._latest.pop(key, None)
        self._flush(key)
        if told is None:
            return
        told.over = True
        if told.timer is not None:
            told.timer.cancel()
        if told.task is None or told.task.done():
            return
        if not told.sent:
            told.task.cancel()
        await asyncio.wait({told.task})

    def forget(self, context: Context) -> None:
        """Called when what went on after the call has ended, too."""
        self._muted.discard(_key(context))
        self._flush(_key(context))

    def _watch(self, key: Key, told: _Told) -> None:
        if not told.over:
            told.timer = asyncio.get_running_loop().call_later(PROGRESS_SECONDS, self._turn, key, told)

    def _turn(self, key: Key, told: _Told) -> None:
        """Tell Port how far an item is, where that has changed since."""
        idle = told.task is None or told.task.done()
        if told.now != told.told and idle and self._updates < MAX_UPDATES:
            told.sent = False
            told.task = asyncio.get_running_loop().create_task(self._tell(key, told, told.now))
        self._watch(key, told)

    async def _tell(self, key: Key, told: _Told, now: Progress) -> None:
        def before() -> None:
            if told.over:
                raise TooLateError
            told.sent = True

        self._updates += 1
        try:
            answer = await self.update(told.context, _body(key[1], now), before)
        except TooLateError:
            return
        except Exception as error:
            # The partition has gone, or the item is reported: whoever goes on with it tells what there is to tell.
            logger.debug("the progress of %s is not told: %s: %s", key[0], type(error).__name__, error)
            return
        finally:
            self._updates -= 1
        told.told = now
        if answer.kind in (AnswerKind.CONFLICT, AnswerKind.INVALID, AnswerKind.NOT_FOUND):
            logger.info("Port takes no progress for %s: %s %s", key[0], answer.status, answer.reason)
            told.over = True


def _cut(text: str) -> str:
    return text if len(text) <= MAX_LINE_CHARACTERS else text[: MAX_LINE_CHARACTERS - len(_CUT)] + _CUT


def _key(context: Context) -> Key:
    return context.node_run_id, context.index


def _body(index: int, now: Progress) -> bytes:
    progress: dict[str, float | int | None] = {"item": index, "done": now.done, "total": now.total}
    return NodeRunUpdate(status=Status.IN_PROGRESS, output={"progress": {**progress}}).to_json()
