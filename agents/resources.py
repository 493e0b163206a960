"""What all handlers of a worker share: opened when it starts, closed when it has stopped."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

import aiohttp

from agents.places import HandlerError, place_of, within

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
logger = logging.getLogger(__name__)
CLOSE_SECONDS: Final = 5.0
"""What all resources together may take to close."""


@dataclass(frozen=True, eq=False)
class Resource(Generic[T_co]):
    """Something that a worker opens at its start. `ctx.resource(it)` returns what is open."""

    opens: Callable[[], AbstractAsyncContextManager[T_co]] = field(repr=False)
    module: str
    name: str
    """Its function's full name, and where that is."""


_declared: Final[list[Resource[object]]] = []


def on_startup(function: Callable[[], AsyncIterator[T]]) -> Resource[T]:
    """Declare what the worker opens before the first call of a handler, and closes after the last one.

    The function is an async generator that yields once: what comes before the `yield` opens, what comes after it
    closes. In its place stands a `Resource`; `ctx.resource(...)` takes it and returns what was yielded, with its type.
    Resources are opened in the order of their declaration and closed in the opposite one, those alone whose module
    `HANDLERS` names. Where one cannot be opened the worker does not start.

    Raises:
        HandlerError: the function is no async generator.
    """
    where = f"{function.__module__}.{function.__qualname__} ({place_of(function)})"
    if not inspect.isasyncgenfunction(function):
        raise HandlerError(f"{where}: on_startup takes an async generator function: `async def` with one `yield`")
    resource = Resource(asynccontextmanager(function), function.__module__, where)
    _declared.append(resource)
    return resource


def resources_in(modules: tuple[str, ...]) -> list[Resource[object]]:
    """Return the resources declared in modules, and in the modules below them, that have been imported."""
    return [resource for resource in _declared if within(resource.module, modules)]


SESSION: Final[Resource[aiohttp.ClientSession]] = Resource(
    lambda: aiohttp.ClientSession(trust_env=True), __name__, "the HTTP session"
)
"""The session that all handlers share; every worker opens it. It takes the proxies of the environment."""


class OpenResources:
    """The resources of one worker.

    Attributes:
        values: what is open.
    """

    def __init__(self) -> None:
        self._values: dict[Resource[object], object] = {}
        self.values: Mapping[Resource[object], object] = self._values
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def open(self, resources: Iterable[Resource[object]]) -> None:
        """Open them, one after another. Raises HandlerError where one cannot be opened; what is open is closed then."""
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._live(list(resources), opened))
        await asyncio.wait({self._task, opened}, return_when=asyncio.FIRST_COMPLETED)
        if not opened.done():
            await self._task

    async def close(self) -> None:
        """Close them, within CLOSE_SECONDS. What goes wrong is logged."""
        if self._task is None:
            return
        self._closing.set()
        done, _ = await asyncio.wait({self._task}, timeout=CLOSE_SECONDS)
        if not done:
            logger.warning("the resources of the handlers did not close within %g s", CLOSE_SECONDS)
            self._task.cancel()
        elif (error := self._task.exception()) is not None:
            logger.warning("a resource of the handlers failed at its close: %s: %s", type(error).__name__, error)

    async def _live(self, resources: list[Resource[object]], opened: asyncio.Future[None]) -> None:
        # One task opens and closes: some context managers take it ill when another one closes them.
        async with AsyncExitStack() as stack:
            for resource in resources:
                opens = resource.opens()
                try:
                    self._values[resource] = await opens.__aenter__()
                except Exception as error:
                    text = f"{resource.name} cannot be opened: {type(error).__name__}: {error}"
                    raise HandlerError(text) from error
                # Entered by the stack itself, it would be told of the failures of others, and not close as it should.
                stack.push_async_callback(opens.__aexit__, None, None, None)
            opened.set_result(None)
            await self._closing.wait()
