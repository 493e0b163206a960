"""How large the tests of survival are: small in `make test`, as large as what is promised in `make soak`."""

import os
import sys
from dataclasses import dataclass
from typing import Final

VARIABLE: Final = "PORT_RUNS_TEST_SCALE"


@dataclass(frozen=True)
class Scale:
    """Sizes; times in seconds, rates in node runs per second."""

    fresh_starts: int
    crashes: int
    crash_rate: float
    storm_rounds: int
    storm_rate: float
    drain_rounds: int
    drain_rate: float
    handler: float
    """How long handlers run that outlast a rebalance."""
    frozen: float
    outage: float
    """In each of the ways in which Port can be away, one after the other."""
    outage_rate: float
    backlog: int
    max_open: int
    deferred: int
    """Deferred node runs that are open while a deadline passes."""


SMALL: Final = Scale(
    fresh_starts=4,
    crashes=1,
    crash_rate=20,
    storm_rounds=1,
    storm_rate=100,
    drain_rounds=2,
    drain_rate=20,
    handler=10,
    frozen=20,
    outage=10,
    outage_rate=20,
    backlog=6000,
    max_open=200,
    deferred=2000,
)
FULL: Final = Scale(
    fresh_starts=10,
    crashes=10,
    crash_rate=20,
    storm_rounds=10,
    storm_rate=600,
    drain_rounds=10,
    drain_rate=100,
    handler=20,
    frozen=40,
    outage=20,
    outage_rate=40,
    backlog=300_000,
    max_open=20_000,
    deferred=100_000,
)
SCALE: Final = {"small": SMALL, "full": FULL}[os.environ.get(VARIABLE, "small")]


def say(text: str) -> None:
    """Say how far a long test is; shown by `pytest -s`, and where the test fails."""
    sys.stdout.write(f"  {text}\n")
    sys.stdout.flush()
