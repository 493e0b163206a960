"""The pieces of work that a state can ask for."""

from __future__ import annotations

from dataclasses import dataclass

from streams.records import Body


@dataclass(frozen=True, eq=False)
class ItemWork:
    """Call the handler of an item."""

    partition: int
    node_run_id: str
    index: int
    message: int
    """The index of the first item of its message."""
    event_type: str | None
    attempt: int
    """1 at the first call."""


@dataclass(frozen=True, eq=False)
class ReportWork:
    """Complete a node run at Port."""

    partition: int
    node_run_id: str
    body: Body


@dataclass(frozen=True, eq=False)
class TellWork:
    """Write the failure of a late item into its node run's log."""

    partition: int
    node_run_id: str
    index: int


@dataclass(frozen=True, eq=False)
class LinesWork:
    """Write what handlers have logged into a node run's log."""

    node_run_id: str
    partition: int = -1
    """None: lines are told by the worker that has them, wherever the partition is."""
