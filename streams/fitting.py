"""Writes what a topic may refuse, in the largest form that it takes: no single record holds up those behind it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from aiokafka.errors import (
    CorruptRecordException,
    InvalidTimestampError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
)

from streams.producers import InvalidRecordError
from streams.records import DeadLetter

Headers: TypeAlias = Sequence[tuple[str, bytes]]

REFUSALS: Final = (
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    InvalidTimestampError,
    CorruptRecordException,
    PolicyViolationError,
    InvalidRecordError,
    # A key or a header that aiokafka cannot write.
    TypeError,
    ValueError,
    AssertionError,
)
"""What says that a record is not taken, and not that the cluster is away or the user may not write."""
_SMALLEST: Final = 256
_LARGEST_KEY: Final = 65_536
_LETTER_BYTES: Final = 16_384
"""Room for the headers of a dead letter, and what Kafka adds to a record."""
_REASON_CHARACTERS: Final = 1000


class NothingFitsError(Exception):
    """A topic takes not even the smallest form of a record; the text says what its broker answers."""


@dataclass(frozen=True)
class Form:
    """A record as it may be written, or what is kept of it."""

    key: bytes | None
    value: bytes | None
    headers: Headers


Send: TypeAlias = Callable[[Form], Awaitable[object]]
"""Returns when the broker has it."""


async def write_largest(send: Send, forms: Iterable[Form]) -> Form:
    """Write the first form that is taken, and return it.

    Raises:
        NothingFitsError: none is.
    """
    refused = ""
    for form in forms:
        try:
            await send(form)
        except REFUSALS as error:
            refused = why_refused(error)
        else:
            return form
    raise NothingFitsError(refused)


def why_refused(error: BaseException) -> str:
    """Return a refusal in a few words."""
    # The text of aiokafka's own check holds the whole record.
    return (
        type(error).__name__
        if isinstance(error, MessageSizeTooLargeError)
        else f"{type(error).__name__}: {error}"[:200]
    )


def sizes(length: int, most: int) -> Iterator[int]:
    """Yield how many bytes of so many to keep: `most` at first, then ever fewer."""
    size = min(length // 2, most) if length <= most else most
    while size >= _SMALLEST:
        yield size
        size //= 2


def letter_forms(letter: DeadLetter, key: bytes | None, raw: bytes | None, most: int) -> Iterator[Form]:
    """Yield a dead letter whole, then with ever less of its record; at last only where that stood, and why.

    Args:
        letter: what its headers say.
        key: the record's key.
        raw: its value.
        most: `max.message.bytes` of the topic of dead letters, as it is created.
    """
    reason = letter.reason[:_REASON_CHARACTERS]
    place = f"{letter.source.partition}/{letter.source.offset}".encode()
    if len(key or b"") > _LARGEST_KEY:
        reason, key = f"{reason}; its key of {len(key or b''):,} bytes is left out", None
    room = most - _LETTER_BYTES - len(key or b"")
    size = len(raw or b"")

    def form(kept_key: bytes | None, value: bytes | None, said: str) -> Form:
        return Form(kept_key, value, list(letter.model_copy(update={"reason": said}).headers.items()))

    # A compacted topic takes no record without a key.
    keys = (place,) if key == place else (key, place)
    if size <= room:
        yield from (form(one, raw, reason) for one in keys)
    for kept in sizes(size, room):
        said = f"{reason}; the first {kept:,} of its {size:,} bytes are kept"
        yield from (form(one, (raw or b"")[:kept], said) for one in keys)
    yield form(place, b"", f"{reason[:200]}; none of its {size:,} bytes are kept: the topic takes no more")
