"""The command line of the benchmark."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.subjects import SUBJECTS

_EPILOG: Final = """\
With make, options go into BENCH_ARGS. All of it takes about half an hour; a first impression, about two minutes:
  make bench BENCH_ARGS="--runs 1 --burst 5000 --seconds 10 --subjects worker,durable-loop"
docs/benchmarks.md says what is measured and how to read it.
"""


@dataclass(frozen=True)
class Options:
    """What was asked for."""

    runs: int
    burst: int
    rates: tuple[int, ...]
    seconds: float
    warm_up: int
    latency_ms: int
    partitions: int
    subjects: tuple[str, ...]
    worker_loop: str
    fairness: bool
    views: int
    markdown: bool
    json: Path | None
    profile: Path | None
    data_dir: Path
    follow_parent: bool = False


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Return the options; argparse ends the process, with status 2, where they are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=(
            "Measures one worker, and beside it two hand-written loops of aiokafka and aiohttp, plain and with durable "
            "state, on a Kafka and an emulator of Port that it starts itself."
        ),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_amounts(parser)
    _add_others(parser)
    return Options(**vars(parser.parse_args(arguments)))


def _add_amounts(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("how much").add_argument
    add("--runs", type=_number(1), default=5, metavar="N", help="runs of each subject (%(default)s)")
    add("--burst", type=_number(1), default=20_000, metavar="N", help="node runs of the burst (%(default)s)")
    rates = "node runs per second at which latency is measured (50,100)"
    add("--rates", type=_rates, default=(50, 100), metavar="N,…", help=rates)
    add("--seconds", type=_seconds, default=30.0, metavar="S", help="how long, at each rate (%(default)g)")
    add("--warm-up", type=_number(1), default=500, metavar="N", help="node runs before it counts (%(default)s)")
    latency = "what every call of Port's API takes at least, in milliseconds (%(default)s)"
    add("--latency-ms", type=_number(0), default=50, metavar="MS", help=latency)
    add("--partitions", type=_number(1), default=1, metavar="N", help="partitions of <orgId>.runs (%(default)s)")


def _add_others(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("who, and what of it is shown").add_argument
    add("--subjects", type=_subjects, default=SUBJECTS, metavar="NAME,…", help=f"of {','.join(SUBJECTS)} (all)")
    worker_loop = "event loop of the worker, as in `faust --loop` (%(default)s); the other loops run on uvloop"
    add("--worker-loop", choices=("aio", "uvloop"), default="aio", help=worker_loop)
    fairness = "measure instead whether an event type that hangs slows another: at the first of --rates, on the worker"
    add("--fairness", action="store_true", help=fairness)
    views = "measure instead the web views and the recovery of a worker with N finished node runs behind it"
    add("--views", type=_number(1), default=0, metavar="N", help=views)
    add("--markdown", action="store_true", help="print the result as Markdown")
    add("--json", type=Path, metavar="FILE", help="write all figures of all runs to FILE")
    profile = "write a flame graph of each burst to DIR with py-spy, which must be installed; it slows the subject down"
    add("--profile", type=Path, metavar="DIR", help=profile)
    folder = "where data and logs stand meanwhile; kept where it fails (%(default)s)"
    add("--data-dir", type=Path, default=Path(".data/bench"), metavar="DIR", help=folder)
    add("--follow-parent", action="store_true", help="end when the parent process is interrupted or gone, as make is")


def _number(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a number from {least}")
        return int(text)

    return number


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 86_400:
        raise argparse.ArgumentTypeError("must be a number of seconds above 0")
    return seconds


def _rates(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(_number(1)(part) for part in text.split(",")))


def _subjects(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    if unknown := [name for name in names if name not in SUBJECTS]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: there are only {', '.join(SUBJECTS)}")
    return names
