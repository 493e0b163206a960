"""From what was seen to figures, and from the figures of several runs to medians, spreads and ratios."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

Figures: TypeAlias = dict[str, float]
"""The figures of one trial, by their keys."""
Rounds: TypeAlias = Sequence[Mapping[str, Figures]]
"""For each run the figures of each subject."""

THROUGHPUT: Final = "throughput"
FIRST: Final = "first"
CALLS: Final = "calls"
MEMORY: Final = "memory"
OTHERS: Final = "others"


@dataclass(frozen=True)
class Measure:
    """A figure: its key, what it is, its unit, and how many decimals of it are shown."""

    key: str
    title: str
    unit: str
    decimals: int = 0
    compared: bool = True
    """Whether one subject's over another's says anything."""


def p(percent: int, rate: int) -> str:
    """Return the key of a percentile of the latency at a rate."""
    return f"p{percent}@{rate}"


def measures(rates: Sequence[int]) -> list[Measure]:
    """Return every figure, in the order in which they are shown."""
    latencies = [
        Measure(p(percent, rate), f"latency at {rate} per second, p{percent}", "ms")
        for rate in rates
        for percent in (50, 99)
    ]
    return [
        Measure(THROUGHPUT, "throughput of the burst", "node runs/s"),
        Measure(FIRST, "first completion of the burst", "s", 2),
        *latencies,
        Measure(CALLS, "API calls per node run", "", 2),
        Measure("cpu", "CPU per 1,000 node runs, burst", "s", 2),
        *(Measure(f"cpu@{rate}", f"CPU per 1,000 node runs, {rate} per second", "s", 2) for rate in rates),
        Measure("broker_cpu", "Kafka's CPU per 1,000 node runs, burst", "s", 2),
        Measure(MEMORY, "memory, peak", "MiB"),
        Measure(OTHERS, "other processes on the machine", "cores busy", 1, compared=False),
    ]


@dataclass(frozen=True)
class Phase:
    """What was seen of a phase: times by node-run id, in seconds since the epoch, and CPU seconds."""

    published: Mapping[str, float]
    completed: Mapping[str, float]
    cpu: float
    broker_cpu: float

    def latencies(self) -> list[float]:
        """Return the seconds from publishing to the arrival of the report at Port."""
        return [self.completed[node_run] - at for node_run, at in self.published.items()]

    def first(self) -> float:
        """Return the seconds from the first publishing to the first completion."""
        return min(self.completed.values()) - min(self.published.values())

    def per_second(self) -> float:
        """Return the node runs per second from the first publishing to the last completion."""
        return len(self.published) / (max(self.completed.values()) - min(self.published.values()))

    def per_thousand(self, seconds: float) -> float:
        """Return seconds for each 1,000 node runs."""
        return 1000 * seconds / len(self.published)


@dataclass(frozen=True)
class Totals:
    """What was seen of all phases together: calls of Port's API, bytes, cores that others kept busy."""

    calls: int
    peak_memory: int
    others: float


def figures_of(burst: Phase, steady: Mapping[int, Phase], totals: Totals) -> Figures:
    """Return the figures of a trial."""
    figures = {
        THROUGHPUT: burst.per_second(),
        FIRST: burst.first(),
        CALLS: totals.calls / sum(len(phase.published) for phase in (burst, *steady.values())),
        "cpu": burst.per_thousand(burst.cpu),
        "broker_cpu": burst.per_thousand(burst.broker_cpu),
        MEMORY: totals.peak_memory / 2**20,
        OTHERS: totals.others,
    }
    for rate, phase in steady.items():
        latencies = phase.latencies()
        figures |= {p(percent, rate): 1000 * percentile(latencies, percent) for percent in (50, 99)}
        figures[f"cpu@{rate}"] = phase.per_thousand(phase.cpu)
    return figures


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the smallest of the values that at least so many per cent of them do not exceed."""
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


@dataclass(frozen=True)
class Spread:
    """The median of several values, and the smallest and the largest."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Return median and spread."""
    return Spread(statistics.median(values), min(values), max(values))


def of_subject(rounds: Rounds, subject: str, key: str) -> Spread:
    """Return a subject's figure over all runs."""
    return spread([figures[subject][key] for figures in rounds])


def ratio(rounds: Rounds, over: str, under: str, key: str) -> Spread:
    """Return by how much a subject's figure exceeds another's: within each run first, then over the runs.

    What slows the machine down for a while so strikes both sides of a ratio.
    """
    return spread([_divided(figures[over][key], figures[under][key]) for figures in rounds])


def _divided(over: float, under: float) -> float:
    # CPU times come in hundredths of a second: a short phase may have taken none.
    return over / under if under else math.inf
