"""Finds the handlers that the setting HANDLERS names."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Final

from agents.contract import Handler, HandlerError, declared_in
from agents.patterns import is_pattern, matches, overlap, rank
from agents.places import last_place, within

_ADVICE: Final = "; modules are looked for in the folder that the worker starts in, and on PYTHONPATH"


class Handlers(Mapping[str, Handler]):
    """Handlers by what each is declared for: an event type, or a pattern.

    Raises:
        HandlerError: an item could belong to two of them.
    """

    def __init__(self, handlers: Iterable[Handler]) -> None:
        self._declared: dict[str, Handler] = {}
        for handler in handlers:
            other = self._declared.setdefault(handler.event_type, handler)
            if other is not handler:
                raise HandlerError(f"HANDLERS: {_both(other, handler)} both handle {handler.event_type!r}")
        patterns = [handler for handler in self._declared.values() if is_pattern(handler.event_type)]
        for one, other in combinations(patterns, 2):
            if rank(one.event_type) == rank(other.event_type) and overlap(one.event_type, other.event_type):
                raise HandlerError(
                    f"HANDLERS: {_both(one, other)} can match the same event type, and have as much before their `*`: "
                    f"{one.event_type!r}, {other.event_type!r}"
                )
        self._patterns = sorted(patterns, key=lambda handler: rank(handler.event_type), reverse=True)

    def __getitem__(self, declared_for: str) -> Handler:
        return self._declared[declared_for]

    def __iter__(self) -> Iterator[str]:
        return iter(self._declared)

    def __len__(self) -> int:
        return len(self._declared)

    def find(self, event_type: str) -> Handler | None:
        """Return the handler of an event type: the one for exactly it, else of the pattern with the longest start."""
        if (exact := self._declared.get(event_type)) is not None:
            return exact
        return next((handler for handler in self._patterns if matches(handler.event_type, event_type)), None)


def _both(one: Handler, other: Handler) -> str:
    return f"{one.name} ({one.place}) and {other.name} ({other.place})"


def load_handlers(modules: tuple[str, ...]) -> Handlers:
    """Import the modules and return their handlers.

    Raises:
        HandlerError: a module cannot be imported, declares no handler, or two handlers take the same event type.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    for module in modules:
        _import(module, modules)
    found = Handlers(declared_in(modules))
    if not found:
        raise HandlerError(f"HANDLERS: no handler is declared in {', '.join(modules)}; use @handles(...)")
    return found


def _import(module: str, modules: tuple[str, ...]) -> None:
    try:
        importlib.import_module(module)
    except HandlerError:
        raise
    except Exception as error:
        place = last_place(error.__traceback__, modules)
        where = module if place is None else f"{module} ({place})"
        advice = _ADVICE if isinstance(error, ModuleNotFoundError) and within(module, (str(error.name),)) else ""
        raise HandlerError(f"HANDLERS: {where} cannot be imported: {type(error).__name__}: {error}{advice}") from error
