"""How long the worker's event loop stands still: a module of HANDLERS, which looks a hundred times a second."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from agents import on_startup

FILE: Final = Path("stalls")
"""A line for each: when it ended, in epoch seconds, and how long it was. In the folder that the worker starts in."""
LEAST: Final = 0.02
"""Shorter ones are not written, in seconds."""
_TICK: Final = 0.01


@on_startup
async def stalls() -> AsyncIterator[None]:
    """Watch while the worker runs."""
    watching = asyncio.create_task(_watch())
    yield
    watching.cancel()


async def _watch() -> None:
    while True:
        due = time.monotonic() + _TICK
        await asyncio.sleep(_TICK)
        if (late := time.monotonic() - due) >= LEAST:
            _write(f"{time.time():.3f} {late:.4f}\n")


def _write(line: str) -> None:
    with FILE.open("a", encoding="ascii") as out:
        out.write(line)


def longest(file: Path, since: float) -> float:
    """Return the longest that ended after `since` (epoch seconds); 0 where there was none, in seconds."""
    lines = file.read_text(encoding="ascii").splitlines() if file.exists() else []
    seen = (tuple(map(float, line.split())) for line in lines)
    return max((late for at, late in seen if at >= since), default=0.0)
