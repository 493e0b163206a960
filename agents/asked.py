"""What people can ask for by hand, and what became of it. Knows nothing of Faust."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TypeAlias

from streams.records import Action, ItemAgain, ItemCompleted, ReportAgain, ReportStopped, RunCancelled
from tables.state import Note

AskedEvent: TypeAlias = ItemAgain | ItemCompleted | ReportAgain | ReportStopped | RunCancelled


@dataclass(frozen=True)
class Became:
    """What became of a request, as the ledger says."""

    note: Note
    why: str = ""


def new_action(who: str) -> Action:
    """Return a new request of somebody."""
    return Action(id=secrets.token_hex(8), who=who)
