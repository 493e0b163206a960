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
    fresh: bool = False
    """Whether it has just come; not where it was taken over, or is called again."""


@dataclass(frozen=True, eq=False)
class ReportWork:
    """Complete a node run at Port."""

    partition: int
    node_run_id: str
    body: Body
    taken_over: bool = False
    """Whether an earlier owner may have sent it: of its tries nothing is known."""

    @property
    def key(self) -> tuple[str, int]:
        """The same for every try of the report of a node run."""
        return self.node_run_id, -1


@dataclass(frozen=True, eq=False)
class TellWork:
    """Write the failure of a late item into its node run's log."""

    partition: int
    node_run_id: str
    index: int

    @property
    def key(self) -> tuple[str, int]:
        """The same for every try to tell of this item."""
        return self.node_run_id, self.index


@dataclass(frozen=True, eq=False)
class LinesWork:
    """Write what handlers have logged into a node run's log."""

    node_run_id: str
    partition: int = -1
    """None: lines are told by the worker that has them, wherever the partition is."""
