"""The Faust app. Building it is all this module does; `faust -A streams.app worker` runs it."""

from __future__ import annotations

import sys

from streams.settings import SettingsError, load
from streams.worker import Worker

try:
    settings = load()
except SettingsError as wrong:
    sys.stderr.write(f"{wrong}\n")
    raise SystemExit(2) from None

app = Worker(
    settings,
    autodiscover=[
        "agents.router",
        "agents.ledger",
        "agents.running",
        "agents.reporter",
        "agents.check",
        "agents.commands",
        "agents.operating",
        "web.views",
    ],
)
