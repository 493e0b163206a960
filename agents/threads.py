"""Threads for handlers that are plain functions."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class DaemonThreads(Executor):
    """A new thread for each call; how many there are at a time is its user's business.

    They do not keep the process from ending, as the threads of `ThreadPoolExecutor` do: a handler may hang for ever.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start the call."""
        future: Future[T] = Future()
        call = partial(fn, *args, **kwargs)
        threading.Thread(target=_run, args=(future, call), name=self._name, daemon=True).start()
        return future


def _run(future: Future[T], call: Callable[[], T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as error:  # whoever waits is told, whatever it is
        future.set_exception(error)
    else:
        future.set_result(result)
