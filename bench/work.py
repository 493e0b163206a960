"""What every subject does with a message: the same next to nothing, so that only what is around it differs."""

from collections.abc import Mapping
from typing import Final

EVENT_TYPE: Final = "bench.deployed"
NEIGHBOUR: Final = "bench.neighbour"
"""An event type whose handler hangs when it is told to."""
NEIGHBOUR_CONCURRENCY: Final = 10
SWITCH: Final = "bench.switch"
"""Tells that handler to hang, or not any more, by the field `free`."""
CONCURRENCY: Final = 100
"""How many node runs a subject has under way, and how many reports: the worker's own default for reports."""


def payload(number: int) -> dict[str, object]:
    """Return the payload of a node run."""
    return {
        "eventType": EVENT_TYPE,
        "service": f"service-{number % 100}",
        "version": "1.4.0",
        "environment": "production",
        "number": number,
    }


def work(event: Mapping[str, object]) -> dict[str, object]:
    """Return the output of a node run."""
    return {"deployed": event["service"], "number": event["number"]}
