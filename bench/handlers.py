"""The worker's handlers."""

import asyncio
from typing import Final

from agents import handles
from bench.work import CONCURRENCY, EVENT_TYPE, NEIGHBOUR, NEIGHBOUR_CONCURRENCY, SWITCH, work

_free: Final = asyncio.Event()


@handles(EVENT_TYPE, concurrency=CONCURRENCY)
async def deployed(event: dict[str, object]) -> dict[str, object]:
    """Do the work."""
    return work(event)


@handles(NEIGHBOUR, concurrency=NEIGHBOUR_CONCURRENCY, deadline="1h")
async def neighbour(event: dict[str, object]) -> dict[str, object]:
    """Do the work, but hang while it is told to."""
    await _free.wait()
    return work(event)


@handles(SWITCH, concurrency=1)
async def switch(event: dict[str, object]) -> dict[str, object]:
    """Let the neighbour hang, or not any more."""
    if event["free"]:
        _free.set()
    else:
        _free.clear()
    return work(event)
