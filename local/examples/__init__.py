"""The four payload shapes of Port's documentation as action nodes with their input.

Each file is a body for `POST /emulator/node-runs`.
"""

import json
from importlib.resources import files
from typing import Final

from pydantic import JsonValue

NAMES: Final = ("deployment-started", "service-deployed", "provision-infrastructure", "notifications")


def load_example(name: str) -> dict[str, JsonValue]:
    """The example of that name, one of `NAMES`. Raises KeyError for another one."""
    if name not in NAMES:
        raise KeyError(name)
    example: dict[str, JsonValue] = json.loads(files(__name__).joinpath(f"{name}.json").read_text(encoding="utf-8"))
    return example


def load_examples() -> dict[str, dict[str, JsonValue]]:
    """All examples by name, in the order of Port's documentation."""
    return {name: load_example(name) for name in NAMES}
