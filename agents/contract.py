"""The handler contract: one function per event type, declared with `handles`."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias, TypeVar, get_type_hints

from pydantic import BaseModel, JsonValue

from port.secrets import Decryption
from streams.durations import seconds

Output: TypeAlias = Mapping[str, object] | BaseModel | None
"""What a handler may return: the item's output; None stands for an empty one. It must be writable as JSON."""
HandlerFunction: TypeAlias = Callable[..., Output] | Callable[..., Awaitable[Output]]
F = TypeVar("F", bound=HandlerFunction)

logger = logging.getLogger("handlers")


class Fail(Exception):
    """Raised by a handler: the item has failed for good. The text becomes the error message that Port shows."""


class RetryLater(Exception):
    """Raised by a handler: call it again after `delay` (`"30s"`, `"5m"`, or seconds), as often as it asks."""

    def __init__(self, delay: str | float, reason: str = "the handler asked to be called again") -> None:
        self.seconds = seconds(delay)
        super().__init__(reason)


class HandlerError(Exception):
    """Handlers are declared wrongly; the text names the function and says what to change."""


@dataclass(frozen=True)
class Context:
    """What a handler may know of the node run that it works for."""

    node_run_id: str
    workflow_run_id: str | None
    workflow: str | None
    """The workflow's identifier, None where the message does not say."""
    node: str | None
    """The node's identifier, likewise."""
    event_type: str
    index: int
    """The item's place in the node run, from 0."""
    attempt: int
    """1 at the first call, one more at each retry. A call repeated after a crash has the same number."""
    received_at: float
    """Kafka's timestamp of the node run's first message, in epoch seconds."""
    fields: Mapping[str, JsonValue] = field(default_factory=dict, repr=False)
    """The item's payload object, as it came."""
    decryption: Decryption | None = field(default=None, repr=False, compare=False)
    """What the `Secret` fields of the handler's model are decrypted with; None where no worker made the context."""

    @property
    def idempotency_key(self) -> str:
        """The same at every call for this item, whatever crashed in between; pass it on to what you call."""
        return f"{self.node_run_id}-{self.index}"

    def log(self, message: str, *args: object) -> None:
        """Write a line to the worker's log, with the ids of the item; `***` stands for secret inputs."""
        if self.decryption is not None and self.decryption.used:
            message, args = "%s", (self.decryption.masked(_formatted(message, args)),)
        logger.info(f"[%s] {message}", self.idempotency_key, *args)  # noqa: G004 - the handler's text is the format


def _formatted(message: str, args: tuple[object, ...]) -> str:
    try:
        return logging.LogRecord("", logging.INFO, "", 0, message, args, None).getMessage()
    except Exception:
        # As with any log line, wrong arguments are no failure of who logs.
        return message


@dataclass(frozen=True)
class Handler:
    """A handler, as declared."""

    event_type: str
    function: Callable[..., object]
    model: type[BaseModel] | None
    """What the payload object is validated as before the call; None: it is handed over as a dict."""
    takes_context: bool
    is_async: bool
    concurrency: int
    deadline: float
    """Seconds after which a call has failed."""
    retries: int
    """How many further calls an exception is worth. `Fail` is final; `RetryLater` is always heeded."""

    @property
    def name(self) -> str:
        """The function's full name."""
        return f"{self.function.__module__}.{self.function.__qualname__}"


_BY_PLACE: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_declared: Final[list[Handler]] = []


def handles(
    event_type: str, *, concurrency: int = 10, deadline: str | float = "5m", retries: int = 0
) -> Callable[[F], F]:
    """Declare the function below as the handler of an event type.

    The function takes the payload object, as the pydantic model that its first parameter is annotated with or else as
    a dict, and may take a `Context` as its second. `async def` runs in the worker's event loop and must not block it;
    a plain `def` runs in a thread. What it returns is the item's output. An exception fails the item, after `retries`
    further calls with growing pauses.

    Args:
        event_type: what the payload says under `eventType`, `event`, `action` or `type`.
        concurrency: how many items of this event type a worker handles at a time.
        deadline: how long one call may take: `"30s"`, `"5m"`, or seconds. An item whose call takes longer has FAILED.
        retries: how often it is called again after an exception other than `Fail`.

    Raises:
        HandlerError: the declaration cannot work; the text says what to change.
    """

    def declare(function: F) -> F:
        _declared.append(_handler(function, event_type, concurrency, deadline, retries))
        return function

    return declare


def _handler(
    function: Callable[..., object], event_type: str, concurrency: int, deadline: str | float, retries: int
) -> Handler:
    where = f"{function.__module__}.{function.__qualname__}"
    if not event_type or concurrency < 1 or retries < 0:
        raise HandlerError(f"{where}: needs an event type, concurrency of 1 or more, retries of 0 or more")
    try:
        limit = seconds(deadline)
    except ValueError as wrong:
        raise HandlerError(f"{where}: deadline: {wrong}") from None
    if limit <= 0:
        raise HandlerError(f"{where}: deadline: must be above 0")
    parameters = list(inspect.signature(function).parameters.values())
    if not 1 <= len(parameters) <= 2 or not all(parameter.kind in _BY_PLACE for parameter in parameters):
        raise HandlerError(f"{where}: must take the event, and may take a Context as its second parameter")
    return Handler(
        event_type=event_type,
        function=function,
        model=_model(function, parameters[0].name, where),
        takes_context=len(parameters) == 2,
        is_async=inspect.iscoroutinefunction(function),
        concurrency=concurrency,
        deadline=limit,
        retries=retries,
    )


def _model(function: Callable[..., object], parameter: str, where: str) -> type[BaseModel] | None:
    try:
        annotation = get_type_hints(function).get(parameter, dict)
    except Exception as error:
        raise HandlerError(f"{where}: its annotations cannot be read: {type(error).__name__}: {error}") from error
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation
    if annotation in (dict, Mapping) or getattr(annotation, "__origin__", None) in (dict, Mapping):
        return None
    raise HandlerError(f"{where}: parameter {parameter} must be a pydantic model or a dict, not {annotation}")


def declared_in(modules: tuple[str, ...]) -> Iterator[Handler]:
    """Yield the handlers declared in modules, and in the modules below them, that have been imported."""
    for handler in _declared:
        name = handler.function.__module__
        if any(name == module or name.startswith(f"{module}.") for module in modules):
            yield handler
