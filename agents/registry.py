"""Finds the handlers that the setting HANDLERS names."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path

from agents.contract import Handler, HandlerError, declared_in


def load_handlers(modules: tuple[str, ...]) -> Mapping[str, Handler]:
    """Import the modules and return their handlers by event type.

    Raises:
        HandlerError: a module cannot be imported, declares no handler, or two handlers take the same event type.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    for module in modules:
        _import(module)
    found: dict[str, Handler] = {}
    for handler in declared_in(modules):
        other = found.setdefault(handler.event_type, handler)
        if other is not handler:
            raise HandlerError(f"HANDLERS: {other.name} and {handler.name} both handle {handler.event_type!r}")
    if not found:
        raise HandlerError(f"HANDLERS: no handler is declared in {', '.join(modules)}; use @handles(...)")
    return found


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except HandlerError:
        raise
    except Exception as error:
        raise HandlerError(f"HANDLERS: {module} cannot be imported: {type(error).__name__}: {error}") from error
