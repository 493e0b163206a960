"""Who is measured when: all subjects in each run, in another order each time."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from bench.figures import FIRST, THROUGHPUT, Figures
from bench.options import Options
from bench.screen import Screen

Trial: TypeAlias = Callable[[str, str], Awaitable[Figures]]
"""Measures a subject, the first argument, once; the second is a name for this trial among all."""


async def measure(options: Options, trial: Trial, screen: Screen) -> list[dict[str, Figures]]:
    """Return the figures of each subject for each run. Raises what a trial raises."""
    rounds = []
    for number in range(options.runs):
        figures: dict[str, Figures] = {}
        for subject in rotated(options.subjects, number):
            title = f"run {number + 1} of {options.runs}, {subject}"
            screen.begin(title)
            figures[subject] = await trial(subject, f"{subject}-{number + 1}")
            screen.line(f"{title}: {_in_short(figures[subject])}")
        rounds.append(figures)
    return rounds


def rotated(subjects: Sequence[str], by: int) -> Sequence[str]:
    """Return the subjects beginning with another one: who comes first has the others' caches to fill."""
    start = by % len(subjects)
    return [*subjects[start:], *subjects[:start]]


def _in_short(figures: Figures) -> str:
    latencies = [f"{key} {value:.0f} ms" for key, value in figures.items() if key.startswith("p")]
    return ", ".join([f"{figures[THROUGHPUT]:.0f} per second", f"first after {figures[FIRST]:.2f} s", *latencies])
