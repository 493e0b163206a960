"""What the demo shows: live on a terminal, plain lines elsewhere."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text


@dataclass
class Row:
    """A node run on the screen."""

    node: str
    event_types: str
    node_run_id: str
    state: str = "waiting"
    result: str = ""
    milliseconds: int | None = None

    def cells(self) -> tuple[str, ...]:
        """The row as texts, in the order of the table's columns."""
        took = "" if self.milliseconds is None else str(self.milliseconds)
        return self.node, self.event_types, self.node_run_id, self.state, self.result, took

    def line(self) -> str:
        """The row as one line of a log."""
        ending = "" if self.milliseconds is None else f" {self.result} after {self.milliseconds} ms"
        return f"{self.node} ({self.event_types}) {self.node_run_id}: {self.state}{ending}"


class Screen:
    """Standard output. Only one of a step and a table is shown at a time."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, markup=False, soft_wrap=True)
        self._status = self._console.status("", spinner="line")
        self._live: Live | None = None
        self._latest = ""
        self._shown: dict[str, str] = {}

    def step(self, text: str) -> None:
        """Say what is going on."""
        self._latest = text
        if not self._console.is_terminal:
            self._console.print(text)
            return
        self._status.update(Text(text))
        self._status.start()

    def line(self, text: str) -> None:
        """Say something that stays."""
        if self._console.is_terminal or text != self._latest:
            self._console.print(text)

    def done(self, text: str) -> None:
        """Say that the latest step is over, and how."""
        self._status.stop()
        self.line(text)

    def fail(self, text: str) -> None:
        """Say on standard error what went wrong."""
        self._status.stop()
        sys.stdout.flush()
        sys.stderr.write(f"demo: {text}\n")

    @contextmanager
    def table(self) -> Iterator[None]:
        """Show node runs, by `show_rows`, until the end of the block."""
        self._status.stop()
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console) as self._live:
            yield

    def show_rows(self, rows: Sequence[Row]) -> None:
        """Show the node runs as they are now."""
        if self._live is not None:
            self._live.update(_table(rows))
            return
        for row in rows:
            if self._shown.get(row.node_run_id) != row.line():
                self._shown[row.node_run_id] = row.line()
                self._console.print(row.line())


def _table(rows: Sequence[Row]) -> Table:
    table = Table("node", "event type", "node run", "state", "result")
    table.add_column("ms", justify="right")
    for row in rows:
        style = "yellow" if row.state == "waiting" else "green" if row.result == "SUCCESS" else "red"
        table.add_row(*(Text(cell) for cell in row.cells()), style=style)
    return table
