"""The one Faust schema of the application: bytes on the wire, a typed value in the stream, never an exception.

Faust acknowledges, and so loses, a message whose decoding raises. Here whatever cannot be read becomes a `Bad` value
that keeps the raw bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import faust
from faust.types import AppT, CodecArg
from faust.types.core import OpenHeadersArg
from faust.types.tuples import Message as KafkaMessage

from streams.exits import stop_process
from streams.messages import Bad
from streams.records import NewerFormatError, UnreadableError

V = TypeVar("V")


class TypedSchema(faust.Schema[Any, Any], Generic[V]):
    """Keys as bytes; values through one decode function, `Bad` where it raises `UnreadableError`."""

    def __init__(self, decode: Callable[[bytes | None], V]) -> None:
        super().__init__(key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
        self._decode = decode

    def loads_value(
        self,
        app: AppT,
        message: KafkaMessage,
        *,
        loads: Callable[..., object] | None = None,
        serializer: CodecArg = None,
    ) -> V | Bad:
        """Return the message's value; called by Faust once for each message."""
        return self.value_of(message.value, f"{message.topic}, partition {message.partition}, offset {message.offset}")

    def value_of(self, raw: bytes | None, where: str) -> V | Bad:
        """Return the value in the bytes. A record of a newer format ends the process with status 70."""
        try:
            return self._decode(raw)
        except UnreadableError as wrong:
            return Bad(raw, str(wrong))
        except NewerFormatError as newer:
            stop_process(f"{where}: {newer}; upgrade this worker")

    def dumps_value(
        self, app: AppT, value: object, *, serializer: CodecArg = None, headers: OpenHeadersArg
    ) -> tuple[object, OpenHeadersArg]:
        """Return the bytes of a record; bytes and None pass as they are."""
        return (value.encode() if hasattr(value, "encode") else value), headers
