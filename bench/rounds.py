"""Who is measured when: all subjects in each run, in another order each time."""

from collections.abc import Sequence
from pathlib import Path

from bench.figures import FIRST, THROUGHPUT, Figures
from bench.options import Options
from bench.screen import Screen
from bench.trial import new_place, run_trial
from local.kafka import EmbeddedKafka


async def measure(options: Options, kafka: EmbeddedKafka, folder: Path, screen: Screen) -> list[dict[str, Figures]]:
    """Return the figures of each subject for each run. Raises BenchError where one of them fails."""
    rounds = []
    for number in range(options.runs):
        figures: dict[str, Figures] = {}
        for subject in rotated(options.subjects, number):
            trial = f"run {number + 1} of {options.runs}, {subject}"
            screen.begin(trial)
            place = new_place(kafka, folder / f"{subject}-{number + 1}")
            figures[subject] = await run_trial(subject, options, place, screen)
            screen.line(f"{trial}: {_in_short(figures[subject])}")
        rounds.append(figures)
    return rounds


def rotated(subjects: Sequence[str], by: int) -> Sequence[str]:
    """Return the subjects beginning with another one: who comes first has the others' caches to fill."""
    start = by % len(subjects)
    return [*subjects[start:], *subjects[:start]]


def _in_short(figures: Figures) -> str:
    latencies = [f"{key} {value:.0f} ms" for key, value in figures.items() if key.startswith("p")]
    return ", ".join([f"{figures[THROUGHPUT]:.0f} per second", f"first after {figures[FIRST]:.2f} s", *latencies])
