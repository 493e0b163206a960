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
    print(f"port-runs: stopped: {why}", file=sys.stderr, flush=True)  # noqa: T201
    os._exit(status)
