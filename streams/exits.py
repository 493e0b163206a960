"""How a worker ends itself when going on could lose or falsify state."""

from __future__ import annotations

import os
import sys
from typing import Final, NoReturn

RESTART: Final = 70
"""Exit status (`EX_SOFTWARE` of sysexits.h): the process is to be started again, with backoff."""
WRONG_SETTING: Final = 2
"""Exit status: a setting is wrong, and starting again does not help."""


def stop_process(why: str, status: int = RESTART) -> NoReturn:
    """End the process at once with the exit status and one line on standard error.

    No clean-up runs: what is not acknowledged is left to be read again after the restart.
    """
    # Not `sys.stderr`: Faust may have put its log there. Its spinner hides the cursor of a terminal.
    stderr = sys.__stderr__
    if stderr is not None:
        shown = "\x1b[?25h" if stderr.isatty() else ""
        stderr.write(f"{shown}port-runs: stopped: {why}\n")
        stderr.flush()
    os._exit(status)
