"""What a look at the installation finds: a status, what was found, and what to do about it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias

SECONDS: Final = 10.0
"""How long one check may take."""


class Status(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARNING = "warning"
    """It works; for production something should be done."""
    WRONG = "wrong"
    """It does not work, or loses messages."""
    SKIPPED = "skipped"
    """Not looked at, because of what was found before."""


@dataclass(frozen=True)
class Finding:
    """What came of one check; no secret is in it. `details` is for programs, of JSON's types."""

    name: str
    status: Status
    found: str
    remedy: str = ""
    """What to do; empty where there is nothing to do."""
    details: Mapping[str, object] = field(default_factory=dict)


Say: TypeAlias = Callable[[Finding], None]
"""Takes the findings one by one, as they come."""


def ok(name: str, found: str, **details: object) -> Finding:
    """Return a finding that asks for nothing."""
    return Finding(name, Status.OK, found, details=details)


def warning(name: str, found: str, remedy: str) -> Finding:
    """Return a finding of what works, and should be done otherwise."""
    return Finding(name, Status.WARNING, found, remedy)


def wrong(name: str, found: str, remedy: str) -> Finding:
    """Return a finding of what does not work."""
    return Finding(name, Status.WRONG, found, remedy)


def skipped(name: str, because: str) -> Finding:
    """Return what stands for a check that could not be made."""
    return Finding(name, Status.SKIPPED, f"not looked at: {because}")


@contextlib.asynccontextmanager
async def step(name: str, say: Say, remedy: str, seconds: float = SECONDS) -> AsyncIterator[None]:
    """Limit the block's time. What it raises becomes a finding that something is wrong, with this remedy."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        say(wrong(name, f"no answer within {seconds:g} seconds", remedy))
    except Exception as error:  # one check that fails must not keep the others from being made
        say(wrong(name, f"{type(error).__name__}: {error}".removesuffix(": "), remedy))


def counted(number: int, what: str) -> str:
    """Return the number with its noun: `1 broker`, `3 brokers`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
