"""The handler contract: one function per event type, declared with `handles`."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import (
    Any,
    Final,
    Literal,
    Protocol,
    TypeAlias,
    TypeGuard,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

from pydantic import BaseModel, TypeAdapter

from agents.context import Context, Level
from agents.places import HandlerError, caller, place_of, within
from agents.resources import Resource, on_startup
from streams.durations import seconds
from streams.records import ArrayPolicy

__all__ = [
    "Array",
    "CallNext",
    "Context",
    "Deferred",
    "Fail",
    "Handler",
    "HandlerError",
    "HandlerFunction",
    "Level",
    "Middleware",
    "Output",
    "Resource",
    "Retry",
    "RetryLater",
    "declared_in",
    "handles",
    "middleware",
    "middleware_in",
    "on_startup",
]

_SHORTEST_DEFERRAL: Final = 1.0
_LINK: Final = re.compile(r"https?://[^\s/][^\s]{0,1999}", re.ASCII)


@dataclass(frozen=True)
class Deferred:
    """Returned by a handler: the work goes on elsewhere, and another system will say how it ended.

    It says so with a POST to `ctx.callback_url`. Until then the item holds no place of its handler, and waits through
    restarts of workers. An item of which nobody has said anything by the deadline has FAILED.

    Args:
        deadline: `"30m"`, `"2d"`, or seconds, counted from the handler's return; 1 second or more.
        link: where people can watch the work; shown in Port.

    Raises:
        ValueError: a value cannot be.
    """

    deadline: str | float = "1h"
    link: str | None = None

    def __post_init__(self) -> None:
        if self.seconds < _SHORTEST_DEFERRAL:
            raise ValueError(f"Deferred: the deadline must be {_SHORTEST_DEFERRAL:g} s or more")
        if self.link is not None and _LINK.fullmatch(self.link) is None:
            raise ValueError("Deferred: the link must be an http(s) URL of 2,000 characters at most")

    @property
    def seconds(self) -> float:
        """The deadline in seconds."""
        return seconds(self.deadline)


Output: TypeAlias = Mapping[str, object] | BaseModel | Deferred | None
"""What a handler may return: the item's output, which must be writable as JSON; None stands for an empty one. Or
`Deferred`."""
HandlerFunction: TypeAlias = Callable[..., Output] | Callable[..., Awaitable[Output]]
CallNext: TypeAlias = Callable[[], Awaitable[Output]]
Middleware: TypeAlias = Callable[[Context, CallNext], Awaitable[Output]]
CutsOff: TypeAlias = Literal["when over", "at once"]
ArrayNeeds: TypeAlias = "Literal['all', 'any'] | float | Array"
E = TypeVar("E", bound=BaseModel | Mapping[str, object])
R = TypeVar("R", bound=Output | Awaitable[Output])
M = TypeVar("M", bound=Middleware)


class Fail(Exception):
    """Raised by a handler: the item has failed for good.

    Args:
        message: the error message that Port shows.
        output: what stands beside it in the node run's output, as a handler may return it; None for nothing.
    """

    def __init__(self, message: str = "", output: Mapping[str, object] | BaseModel | None = None) -> None:
        self.output = output
        super().__init__(message)


class RetryLater(Exception):
    """Raised by a handler: call it again after `delay` (`"30s"`, `"5m"`, or seconds), as often as it asks."""

    def __init__(self, delay: str | float, reason: str = "the handler asked to be called again") -> None:
        self.seconds = seconds(delay)
        super().__init__(reason)


@dataclass(frozen=True)
class Retry:
    """How often and when a handler is called again after an exception other than `Fail` and `RetryLater`.

    Args:
        attempts: how many calls in all, the first one included.
        first: the pause before the second call: `"1s"`, or seconds. Each further one is twice as long.
        longest: no pause is longer.
        never: exceptions that are final, their subclasses included.

    Raises:
        HandlerError: a value cannot be; the text names the place.
    """

    attempts: int
    first: str | float = 1.0
    longest: str | float = "5m"
    never: tuple[type[Exception], ...] = ()

    def __post_init__(self) -> None:
        try:
            if self.attempts < 1:
                raise ValueError("attempts must be 1 or more")
            if not all(isinstance(one, type) and issubclass(one, Exception) for one in self.never):
                raise ValueError("never takes a tuple of classes of exceptions")
            seconds(self.first), seconds(self.longest)
        except (TypeError, ValueError) as wrong:
            raise HandlerError(f"{caller()}: Retry: {wrong}") from None

    def pause(self, attempt: int) -> float:
        """Return the seconds between this call, counted from 1, and the next."""
        return min(seconds(self.first) * 2.0 ** min(attempt - 1, _MOST_DOUBLINGS), seconds(self.longest))


_MOST_DOUBLINGS: Final = 64


@dataclass(frozen=True)
class Array:
    """How many items of a node run whose payload is an array must succeed.

    Args:
        needed: `"all"`, `"any"` (one), or a share of the items: above 0, up to 1.
        cancel_rest: whether the items that have not ended are cancelled when that cannot be reached any more. None:
            not for `"all"`, and for the others, yes.

    Raises:
        HandlerError: a value cannot be; the text names the place.
    """

    needed: Literal["all", "any"] | float = "all"
    cancel_rest: bool | None = None

    def __post_init__(self) -> None:
        if self.needed in ("all", "any"):
            return
        number = isinstance(self.needed, int | float) and not isinstance(self.needed, bool)
        if not number or not 0 < float(self.needed) <= 1:
            raise HandlerError(f'{caller()}: Array: write "all", "any", or a share above 0, up to 1')

    @property
    def policy(self) -> ArrayPolicy | None:
        """What of it stands in the ledger; None where all must succeed and nothing is cancelled."""
        cancel_rest = self.needed != "all" if self.cancel_rest is None else self.cancel_rest
        share = _SHARES.get(self.needed, self.needed)
        if self.needed == "all" and not cancel_rest:
            return None
        return ArrayPolicy(share=float(share), cancel_rest=cancel_rest)


_SHARES: Final[Mapping[object, float]] = {"all": 1.0, "any": 0.0}


@dataclass(frozen=True)
class Handler:
    """A handler, as declared."""

    event_type: str
    """The event type, or the pattern, that it is declared for. It is the name of the handler's agent and metrics."""
    function: Callable[..., object]
    models: tuple[type[BaseModel], ...]
    """What the payload object is validated as before the call: one of these. None of them: it is handed over as a dict.
    """
    adapter: TypeAdapter[BaseModel] | None = field(repr=False, compare=False)
    """Validates, and chooses among several models by the content; None where there are no models."""
    takes_context: bool
    is_async: bool
    concurrency: int
    deadline: float
    """Seconds after which a call has failed."""
    retry: Retry
    policy: ArrayPolicy | None
    """How many items of an array must succeed, where that is not simply all of them."""
    place: str
    """Where it is declared, as `file:line`."""
    cut_at_once: bool = False
    """Whether a call is cut off when Port begins to cancel its workflow run; else when that is over."""

    @property
    def model(self) -> type[BaseModel] | None:
        """The model, where there is exactly one."""
        return self.models[0] if len(self.models) == 1 else None

    @property
    def retries(self) -> int:
        """How many further calls an exception is worth. `Fail` is final; `RetryLater` is always heeded."""
        return self.retry.attempts - 1

    @property
    def name(self) -> str:
        """The function's full name."""
        return f"{self.function.__module__}.{self.function.__qualname__}"


class Declare(Protocol):
    """What `handles(...)` returns: it takes the function, and returns it as it is."""

    @overload
    def __call__(self, function: Callable[[E], R], /) -> Callable[[E], R]: ...

    @overload
    def __call__(self, function: Callable[[E, Context], R], /) -> Callable[[E, Context], R]: ...


_BY_PLACE: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_declared: Final[list[Handler]] = []
_middleware: Final[list[Middleware]] = []


def handles(
    event_type: str,
    *,
    concurrency: int = 10,
    deadline: str | float = "5m",
    retries: int | Retry = 0,
    array: ArrayNeeds = "all",
    cancel: CutsOff = "when over",
) -> Declare:
    """Declare the function below as the handler of an event type.

    The function takes the payload object, as the pydantic model that its first parameter is annotated with, as the one
    of several models (`A | B`) that fits it, or else as a dict, and may take a `Context` as its second. `async def`
    runs in the worker's event loop and must not block it; a plain `def` runs in a thread, in at most `concurrency` of
    them at a time. What it returns is the item's output. An exception fails the item, after `retries` further calls
    with growing pauses.

    Args:
        event_type: what the payload says under `eventType`, `event`, `action` or `type`; or a pattern, where `*`
            stands for any characters. A handler for exactly the event type comes before all patterns, then the pattern
            with the most characters before its first `*`.
        concurrency: how many items of this event type a worker handles at a time.
        deadline: how long one call may take: `"30s"`, `"5m"`, or seconds. An item whose call takes longer has FAILED.
        retries: how often it is called again after an exception other than `Fail`; or a `Retry`, which has the pauses,
            too, and exceptions that are final.
        array: how many items must succeed where the payload is an array: `"all"`, `"any"`, or a share of them; or an
            `Array`, which says, too, whether the rest is cancelled. The handler of an array's first item decides.
        cancel: when a call is cut off whose workflow run is cancelled at Port: `"when over"`, when Port has ended the
            workflow run or the node run; until then `ctx.cancelled` tells the call, and what it returns counts. Or
            `"at once"`, when Port begins to cancel it.

    Raises:
        HandlerError: the declaration cannot work; the text names the function and its place, and says what to change.
    """

    def declare(function: Callable[..., object]) -> Callable[..., object]:
        handler = _handler(function, event_type, concurrency, deadline, retries)
        if cancel not in get_args(CutsOff):
            raise HandlerError(f'{_named(function)}: cancel: write "when over" or "at once"')
        _declared.append(replace(handler, policy=needs.policy, cut_at_once=cancel == "at once"))
        return function

    needs = array if isinstance(array, Array) else Array(array)
    # Which of the forms it is given, mypy cannot follow.
    return declare  # type: ignore[return-value]


def middleware(function: M) -> M:
    """Declare what runs around every call of every handler: an `async def` that takes the context and `call_next`.

    `await call_next()` calls what comes next, in the end the handler, and returns its output. What the function
    returns is the item's output in its place; what it raises counts as the handler's. The first declared is the
    outermost. It counts where its module is one that `HANDLERS` names, or below one.

    Raises:
        HandlerError: the function is no `async def` with these two parameters.
    """
    if not _is_middleware(function):
        raise HandlerError(f"{_named(function)}: middleware is an `async def` that takes the context and call_next")
    _middleware.append(function)
    return function


def _is_middleware(function: Callable[..., object]) -> bool:
    return inspect.iscoroutinefunction(function) and len(inspect.signature(function).parameters) == 2


def _named(function: Callable[..., object]) -> str:
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{function.__module__}.{name} ({place_of(function)})"


def _handler(
    function: Callable[..., object], event_type: str, concurrency: int, deadline: str | float, retries: int | Retry
) -> Handler:
    where = _named(function)
    if not inspect.isfunction(inspect.unwrap(function)):
        raise HandlerError(f"{where}: handles takes a function")
    limit, retry = _limits(where, event_type, concurrency, deadline, retries)
    parameters = list(inspect.signature(function).parameters.values())
    if not 1 <= len(parameters) <= 2 or not all(parameter.kind in _BY_PLACE for parameter in parameters):
        raise HandlerError(f"{where}: must take the event, and may take a Context as its second parameter")
    hints = _hints(function, where)
    if len(parameters) == 2 and not _may_be_context(hints.get(parameters[1].name, Context)):
        raise HandlerError(f"{where}: its second parameter, {parameters[1].name}, must be a Context")
    models, adapter = _models(hints.get(parameters[0].name, dict), parameters[0].name, where)
    return Handler(
        event_type=event_type,
        function=function,
        models=models,
        adapter=adapter,
        takes_context=len(parameters) == 2,
        is_async=inspect.iscoroutinefunction(function),
        concurrency=concurrency,
        deadline=limit,
        retry=retry,
        policy=None,
        place=place_of(function),
    )


def _limits(
    where: str, event_type: str, concurrency: int, deadline: str | float, retries: int | Retry
) -> tuple[float, Retry]:
    if not event_type or concurrency < 1 or (isinstance(retries, int) and retries < 0):
        raise HandlerError(f"{where}: needs an event type, concurrency of 1 or more, retries of 0 or more")
    try:
        limit = seconds(deadline)
    except ValueError as wrong:
        raise HandlerError(f"{where}: deadline: {wrong}") from None
    if limit <= 0:
        raise HandlerError(f"{where}: deadline: must be above 0")
    return limit, Retry(retries + 1) if isinstance(retries, int) else retries


def _hints(function: Callable[..., object], where: str) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except Exception as error:
        raise HandlerError(f"{where}: its annotations cannot be read: {type(error).__name__}: {error}") from error


def _may_be_context(annotation: object) -> bool:
    plain = _plain(annotation)
    members = get_args(plain) if get_origin(plain) in (Union, types.UnionType) else (plain,)
    return any(member in (Context, object, Any) for member in members)


def _plain(annotation: object) -> object:
    """Return an annotation without what `Annotated` adds to it."""
    return _plain(get_args(annotation)[0]) if hasattr(annotation, "__metadata__") else annotation


def _models(
    annotation: Any, parameter: str, where: str
) -> tuple[tuple[type[BaseModel], ...], TypeAdapter[BaseModel] | None]:
    plain = _plain(annotation)
    if plain in (dict, Mapping) or get_origin(plain) in (dict, Mapping):
        return (), None
    members = get_args(plain) if get_origin(plain) in (Union, types.UnionType) else (plain,)
    models = tuple(member for member in map(_plain, members) if _is_model(member))
    if len(models) != len(members):
        raise HandlerError(
            f"{where}: parameter {parameter} must be a pydantic model, a union of models, or a dict, not {plain}"
        )
    try:
        return models, TypeAdapter(annotation)
    except Exception as error:
        raise HandlerError(f"{where}: parameter {parameter}: {type(error).__name__}: {error}") from error


def _is_model(annotation: object) -> TypeGuard[type[BaseModel]]:
    return inspect.isclass(annotation) and issubclass(annotation, BaseModel)


def declared_in(modules: tuple[str, ...]) -> Iterator[Handler]:
    """Yield the handlers declared in modules, and in the modules below them, that have been imported."""
    return (handler for handler in _declared if within(handler.function.__module__, modules))


def middleware_in(modules: tuple[str, ...]) -> tuple[Middleware, ...]:
    """Return the middleware declared there likewise, in the order of its declaration."""
    return tuple(function for function in _middleware if within(function.__module__, modules))
