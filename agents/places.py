"""Where in the code something is declared, for errors that name the place."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final

_OWN: Final = {__name__, "agents.contract", "agents.resources"}


class HandlerError(Exception):
    """What a handlers module declares cannot work; the text names the place and says what to change."""


def place_of(function: Callable[..., object]) -> str:
    """Return where a function is, as `file:line`; of another callable, where it is declared."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return caller() if code is None else _place(code.co_filename, code.co_firstlineno)


def caller() -> str:
    """Return, as `file:line`, from where this package's contract was called."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") in _OWN:
        frame = frame.f_back
    return "an unknown place" if frame is None else _place(frame.f_code.co_filename, frame.f_lineno)


def last_place(trace: TracebackType | None, modules: tuple[str, ...]) -> str | None:
    """Return the innermost place of a traceback that is in one of these modules, or below; None where there is none."""
    found = None
    while trace is not None:
        if within(str(trace.tb_frame.f_globals.get("__name__")), modules):
            found = _place(trace.tb_frame.f_code.co_filename, trace.tb_lineno)
        trace = trace.tb_next
    return found


def within(name: str, modules: tuple[str, ...]) -> bool:
    """Whether a module is one of these, or below one."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _place(file: str, line: int) -> str:
    path, here = Path(file), Path.cwd()
    return f"{path.relative_to(here) if path.is_relative_to(here) else path}:{line}"
