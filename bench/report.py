"""The result: the table, the targets, the machine; for people and as JSON."""

import os
import platform
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import orjson
import psutil
from rich.console import Console
from rich.table import Table

from bench.figures import CALLS, FIRST, THROUGHPUT, Measure, Rounds, Spread, measures, of_subject, p, ratio
from bench.options import Options
from bench.subjects import DURABLE_LOOP, LOOP, WORKER

_WIDTH: Final = 160
_RATIOS: Final = ((WORKER, DURABLE_LOOP), (WORKER, LOOP))


class Page(ABC):
    """A table, what was measured before it, and the targets behind it."""

    @abstractmethod
    def told(self) -> str:
        """Say what was measured, and where."""

    @abstractmethod
    def header(self) -> list[str]:
        """Return the heads of the columns."""

    @abstractmethod
    def rows(self) -> list[list[str]]:
        """Return a row for each figure."""

    @abstractmethod
    def targets(self) -> list[str]:
        """Return a line for each target: what it is, what was measured, and whether that meets it."""

    @abstractmethod
    def to_json(self) -> bytes:
        """Return every figure."""

    def markdown(self) -> str:
        """Return all of it as Markdown."""
        header = self.header()
        lines = [header, ["---", *["---:"] * (len(header) - 1)], *self.rows()]
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        return "\n\n".join([self.told(), table, "\n".join(f"- {line}" for line in self.targets())])

    def show(self) -> None:
        """Print all of it."""
        console = Console(highlight=False, markup=False)
        if not console.is_terminal:
            console.width = _WIDTH
        first, *others = self.header()
        table = Table(first)
        for name in others:
            table.add_column(name, justify="right")
        for row in self.rows():
            table.add_row(*row)
        console.print(self.told(), soft_wrap=True)
        console.print(table)
        for line in self.targets():
            console.print(line, soft_wrap=True)


@dataclass(frozen=True)
class Report(Page):
    """What all runs have shown."""

    options: Options
    rounds: Rounds

    def header(self) -> list[str]:
        """Return the heads of the columns."""
        return ["median (lowest-highest)", *self.options.subjects, *(f"{a} / {b}" for a, b in self._ratios())]

    def rows(self) -> list[list[str]]:
        """Return a row for each figure."""
        return [self._row(one) for one in measures(self.options.rates)]

    def targets(self) -> list[str]:
        """Return a line for each target: what it is, what was measured, and whether that meets it."""
        return [target.line(self) for target in _targets(self.options)]

    def to_json(self) -> bytes:
        """Return every figure of every run."""
        options = {
            name: str(value) if isinstance(value, Path) else value for name, value in asdict(self.options).items()
        }
        report = {"machine": machine(), "options": options, "rounds": self.rounds, "targets": self.targets()}
        return orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)

    def told(self) -> str:
        """Say what was measured, and where."""
        options = self.options
        runs = "1 run" if options.runs == 1 else f"{options.runs} runs"
        rates = ", ".join(map(str, options.rates))
        return (
            f"{machine()}. {runs} of each; a burst of {options.burst:,}; {options.seconds:g} s each at "
            f"{rates} per second; Port's API takes {options.latency_ms} ms; the worker runs on "
            f"`faust --loop {options.worker_loop}`."
        )

    def _ratios(self) -> list[tuple[str, str]]:
        return [pair for pair in _RATIOS if set(pair) <= set(self.options.subjects)]

    def _row(self, one: Measure) -> list[str]:
        title = f"{one.title}, {one.unit}" if one.unit else one.title
        own = [shown(of_subject(self.rounds, subject, one.key), one.decimals) for subject in self.options.subjects]
        ratios = [shown(ratio(self.rounds, *pair, one.key), 2) if one.compared else "" for pair in self._ratios()]
        return [title, *own, *ratios]


@dataclass(frozen=True)
class _Target:
    title: str
    key: str
    sign: str
    limit: float
    under: str | None = None
    """The subject to whose figure the worker's is compared; None: the worker's own figure is meant."""

    def line(self, report: Report) -> str:
        wanted = f"{self.title} {self.sign} {self.limit:g}"
        subjects = {WORKER} | ({self.under} if self.under else set())
        if not subjects <= set(report.options.subjects) or self.key not in report.rounds[0][WORKER]:
            return f"not measured: {wanted}"
        found = self._found(report.rounds)
        return f"{'met' if self._met(found) else 'missed'}: {wanted}: {found:.2f}"

    def _found(self, rounds: Rounds) -> float:
        if self.under is None:
            return of_subject(rounds, WORKER, self.key).median
        return ratio(rounds, WORKER, self.under, self.key).median

    def _met(self, found: float) -> bool:
        compare: dict[str, Callable[[], bool]] = {
            "=": lambda: round(found, 2) == self.limit,
            "≥": lambda: found >= self.limit,
            "≤": lambda: found <= self.limit,
        }
        return compare[self.sign]()


def _targets(options: Options) -> Sequence[_Target]:
    first = f"seconds to the first completion of a burst of {options.burst:,}"
    return (
        _Target("API calls per node run", CALLS, "=", 1.0),
        _Target("throughput, as a multiple of the durable loop's,", THROUGHPUT, "≥", 0.4, DURABLE_LOOP),
        _Target("p99 at 50 per second, as a multiple of the durable loop's,", p(99, 50), "≤", 2.0, DURABLE_LOOP),
        _Target(first, FIRST, "≤", 2.0),
    )


def shown(value: Spread, decimals: int) -> str:
    """Return a cell: the median, and the lowest and the highest where they differ."""
    median, low, high = (f"{number:,.{decimals}f}" for number in (value.median, value.low, value.high))
    return median if low == high else f"{median} ({low}-{high})"


def machine() -> str:
    """Return what this machine is."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    memory = round(psutil.virtual_memory().total / 2**30)
    python = ".".join(map(str, sys.version_info[:3]))
    return f"{os.cpu_count()} cores ({cpu}), {memory} GiB, {platform.system()}, Python {python}"
