"""The worker's handler."""

from agents import handles
from bench.work import CONCURRENCY, EVENT_TYPE, work


@handles(EVENT_TYPE, concurrency=CONCURRENCY)
async def deployed(event: dict[str, object]) -> dict[str, object]:
    """Do the work."""
    return work(event)
