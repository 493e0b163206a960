"""How the views do with much behind them: `make bench BENCH_ARGS="--views 1000000"`.

Finished node runs are written into the changelog as the ledger would have, while no worker is there. Then a worker with
an empty disk recovers them, counts them, and is asked for pages; and another one starts on its disk.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeAlias

import aiohttp
import orjson
from yarl import URL

from bench import stalls
from bench.errors import BenchError
from bench.figures import percentile
from bench.options import Options
from bench.program import Neighbours, Program, Usage
from bench.report import Page, machine
from bench.screen import Screen
from bench.subjects import WORKER, command
from bench.trial import Place, create_topics, emulator
from local.kafka.net import LOOPBACK
from local.seed import seed

PAGE_SECONDS: Final = 0.3
"""What a page may take: 95 of 100."""
STALL_SECONDS: Final = 0.1
"""How long the event loop may stand still at a time."""
ROUNDS: Final = 20
"""How often each page is asked for in a run."""
_EMPTY: Final = "empty disk"
_KEPT: Final = "disk kept"
_STARTS_SECONDS: Final = 1800.0
_POLL_SECONDS: Final = 0.2
_PARTITIONS: Final = 8
_CHANGELOG: Final = "port-runs-ledger-changelog"
_MIB: Final = 2**20

Seconds: TypeAlias = dict[str, list[float]]
"""How long each answer took, by the name of what was asked for."""


def asked(now: datetime) -> Mapping[str, URL]:
    """Return the pages that are asked for, by name; `local.seed` says what there is to be found."""
    lists: dict[str, dict[str, str]] = {
        "node runs": {},
        "node runs of a state": {"state": "reported"},
        "node runs of an event type": {"eventType": "notification"},
        "node runs of a workflow": {"workflow": "workflow-7"},
        "node runs of a node": {"text": "node-3"},
        "node runs by the beginning of an id": {"text": "wfnr_0a"},
        "node runs called more than once": {"repeated": "1"},
        "node runs of a type and a workflow": {"eventType": "notification", "workflow": "workflow-7"},
        "node runs of an hour, half a month ago": {
            "since": (now - timedelta(days=15)).isoformat(),
            "until": (now - timedelta(days=15, hours=-1)).isoformat(),
        },
        "node runs that are not there": {"eventType": "notification", "workflow": "no-such-workflow"},
    }
    pages = {"overview": URL("/"), "failures": URL("/failures")}
    return pages | {name: URL("/node-runs").with_query(query) for name, query in lists.items()}


@dataclass(frozen=True)
class Start:
    """A start of the worker; seconds from the start of the process, and bytes."""

    ready: float
    """Until `/readyz` says so."""
    counted: float
    """Until all node runs are in the overview, and the index has caught up."""
    stall: float
    """The longest that the event loop stood still from being ready until then."""
    memory: int
    """The most that was resident until then."""


async def measure_views(options: Options, place: Place, screen: Screen) -> "ViewsReport":
    """Return what was measured. Raises BenchError where the worker ends, or does not show what was written."""
    await create_topics(place, 1)
    with contextlib.ExitStack() as programs:
        programs.enter_context(emulator(place))
        async with _worker(options, place, place.folder / "first"):
            pass  # It makes the topics.
        neighbours = Neighbours()
        screen.line(f"writing {options.views:,} finished node runs")
        await seed(place.kafka.bootstrap, f"{place.organization}.{_CHANGELOG}", options.views, _PARTITIONS)
        starts, seconds = {}, Seconds()
        async with _worker(options, place, place.folder / "data") as views:
            starts[_EMPTY] = await views.counted(options.views, screen, _EMPTY)
            since = time.time()
            screen.line("asking for pages")
            await views.ask(options.runs * ROUNDS, seconds)
            stall, memory = views.longest_stall(since), views.memory
        async with _worker(options, place, place.folder / "data") as views:
            starts[_KEPT] = await views.counted(options.views, screen, _KEPT)
        others = neighbours.cores()
    return ViewsReport(options, starts, seconds, stall, memory, others)


@contextlib.asynccontextmanager
async def _worker(options: Options, place: Place, data: Path) -> "AsyncIterator[Views]":
    settings = place.environment() | {
        "DATA_DIR": str(data),
        "PARTITIONS": str(_PARTITIONS),
        "HANDLERS": "bench.handlers,bench.stalls",
    }
    url = URL.build(scheme="http", host=LOOPBACK, port=int(settings["WEB_PORT"]))
    began = time.monotonic()
    with Program(WORKER, command(WORKER, options.worker_loop), settings, place.folder) as program:
        async with aiohttp.ClientSession(url) as session:
            views = Views(program, session, began, place.folder / stalls.FILE)
            await views.until(views.is_ready)
            yield views
        await asyncio.to_thread(program.stop)


class Views:
    """Asks a worker that was started at `began` (monotonic) for its views.

    Attributes:
        memory: the most that it had resident at a look, in bytes.
    """

    def __init__(self, program: Program, session: aiohttp.ClientSession, began: float, stalls_file: Path) -> None:
        self.memory = 0
        self._program = program
        self._session = session
        self._began = began
        self._ready_after = 0.0
        self._stalls = stalls_file
        self._usage = Usage(program.pid)

    async def is_ready(self) -> bool:
        """Return whether the worker is ready."""
        with contextlib.suppress(aiohttp.ClientConnectionError):
            async with self._session.get("/readyz") as answer:
                self._ready_after = time.monotonic() - self._began
                return answer.status == 200
        return False

    async def counted(self, count: int, screen: Screen, name: str) -> Start:
        """Wait until the worker shows so many node runs."""
        since = time.time()
        screen.begin(name)

        async def all_there() -> bool:
            shown = await self._json("/api/node-runs?limit=1")
            number = sum(shown["counts"].values())
            screen.progress("counting", number, count)
            return bool(number >= count and (await self._json("/api/search?limit=1"))["nodeRuns"])

        await self.until(all_there)
        return Start(
            ready=self._ready_after,
            counted=time.monotonic() - self._began,
            stall=self.longest_stall(since),
            memory=self.memory,
        )

    def longest_stall(self, since: float) -> float:
        """Return the longest stall of the event loop since then (epoch seconds), in seconds."""
        return stalls.longest(self._stalls, since)

    async def ask(self, rounds: int, seconds: Seconds) -> None:
        """Ask for each page so often, one after the other. Raises BenchError where one does not come."""
        for _ in range(rounds):
            for name, url in asked(datetime.now(UTC)).items():
                began = time.monotonic()
                async with self._session.get(url) as answer:
                    text = await answer.text()
                seconds.setdefault(name, []).append(time.monotonic() - began)
                if answer.status != 200:
                    raise BenchError(f"{url} was answered with {answer.status}: {text[:300]}")
            self._look()

    async def until(self, reached: Callable[[], Awaitable[bool]]) -> None:
        """Wait for something. Raises BenchError where the worker ends or it takes too long."""
        while not await reached():
            self._program.check()
            self._look()
            if time.monotonic() - self._began > _STARTS_SECONDS:
                raise BenchError(f"the worker takes longer than {_STARTS_SECONDS:g} s. {self._program.last_lines()}")
            await asyncio.sleep(_POLL_SECONDS)
        self._look()

    def _look(self) -> None:
        self.memory = max(self.memory, self._usage.memory())

    async def _json(self, url: str) -> Any:
        async with self._session.get(url) as answer:
            return orjson.loads(await answer.read())


@dataclass(frozen=True)
class ViewsReport(Page):
    """What was measured."""

    options: Options
    starts: Mapping[str, Start]
    seconds: Seconds
    stall: float
    """The longest that the event loop stood still while pages were asked for, in seconds."""
    memory: int
    """The most that the worker had resident, in bytes."""
    others: float
    """How many cores were busy with none of this."""

    def told(self) -> str:
        """Say what was measured, and where."""
        starts = "; ".join(
            f"{name}: ready after {one.ready:.1f} s, all counted and in the index after {one.counted:.1f} s, meanwhile "
            f"the event loop stood still for {1000 * one.stall:.0f} ms at most, {one.memory / _MIB:,.0f} MiB"
            for name, one in self.starts.items()
        )
        return (
            f"{machine()}. {self.options.views:,} finished node runs, one worker with {_PARTITIONS} partitions. "
            f"{starts}. Then each page {self.options.runs * ROUNDS} times, one after the other; the event loop stood "
            f"still for {1000 * self.stall:.0f} ms at most, memory {self.memory / _MIB:,.0f} MiB. Other processes on "
            f"the machine kept {self.others:.1f} cores busy."
        )

    def header(self) -> list[str]:
        """Return the heads of the columns."""
        return ["page", "p50, ms", "p95, ms", "slowest, ms"]

    def rows(self) -> list[list[str]]:
        """Return a row for each page."""
        return [
            [name, *(f"{1000 * percentile(took, percent):.0f}" for percent in (50, 95, 100))]
            for name, took in self.seconds.items()
        ]

    def targets(self) -> list[str]:
        """Return whether each target is met."""
        slowest = max(percentile(took, 95) for took in self.seconds.values())
        stall = max(self.stall, *(one.stall for one in self.starts.values()))
        return [
            _target("p95 of the slowest page, ms", 1000 * slowest, 1000 * PAGE_SECONDS),
            _target("event loop stands still at most, ms", 1000 * stall, 1000 * STALL_SECONDS),
        ]

    def to_json(self) -> bytes:
        """Return every figure."""
        options = {name: str(one) if isinstance(one, Path) else one for name, one in asdict(self.options).items()}
        starts = {name: asdict(one) for name, one in self.starts.items()}
        report = {
            "machine": machine(),
            "options": options,
            "starts": starts,
            "seconds": self.seconds,
            "stall": self.stall,
            "memory": self.memory,
            "targets": self.targets(),
        }
        return orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _target(title: str, found: float, limit: float) -> str:
    return f"{'met' if found <= limit else 'missed'}: {title} ≤ {limit:g}: {found:.0f}"
