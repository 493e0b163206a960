"""What is seen while it runs, on standard error: live on a terminal, a line for each phase elsewhere."""

from rich.console import Console
from rich.text import Text


class Screen:
    """Standard error."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self._status = self._console.status("", spinner="line")
        self._trial = ""

    def line(self, text: str) -> None:
        """Say something that stays."""
        self._console.print(text)

    def begin(self, trial: str) -> None:
        """A trial begins."""
        self._trial = trial
        self._show("starts")

    def progress(self, phase: str, done: int, count: int) -> None:
        """Say how far a phase is."""
        if done < count:
            self._show(f"{phase}: {done:,} of {count:,} node runs")
        else:
            self.line(f"{self._trial}, {phase}: {count:,} node runs")

    def end(self) -> None:
        """Nothing more is going on."""
        self._status.stop()

    def _show(self, text: str) -> None:
        if self._console.is_terminal:
            self._status.update(Text(f"{self._trial}, {text}"))
            self._status.start()
