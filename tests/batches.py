"""Batches as hardly a producer writes them: the names of their headers are any bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aiokafka import AIOKafkaProducer
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from faust.types import TP

NO_UTF_8: Final = b"\xc3(\xff"
NONE, GZIP = 0, 1


class AnyName(str):
    """The name of a header."""

    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return super().encode(encoding, "surrogateescape")


@dataclass(frozen=True)
class Unsent:
    """A record of a batch."""

    value: bytes | None
    name: bytes = b"a"
    """That of its one header."""

    @property
    def headers(self) -> list[tuple[str, bytes | None]]:
        return [(AnyName(self.name.decode(errors="surrogateescape")), b"1")]


def _builder(compression: int) -> _DefaultRecordBatchBuilderPy:
    return _DefaultRecordBatchBuilderPy(2, compression, 0, -1, -1, 0, 4 * 1024 * 1024)


def batch(records: Sequence[Unsent], start: int = 0, compression: int = NONE) -> bytes:
    """Return a batch as the broker hands it out; its first record has the offset `start`."""
    builder = _builder(compression)
    for delta, one in enumerate(records):
        builder.append(delta, 1000 + delta, b"k", one.value, one.headers)
    # The CRC leaves the offset out.
    return start.to_bytes(8, "big") + bytes(builder.build())[8:]


async def send_batch(producer: AIOKafkaProducer, tp: TP, records: Sequence[Unsent], compression: int = NONE) -> int:
    """Write records in one batch; returns the offset of the first one."""
    unsent = producer.create_batch()
    # The compiled one takes no other text for a name than what UTF-8 can hold.
    unsent._builder = _builder(compression)
    for one in records:
        unsent.append(timestamp=None, key=b"k", value=one.value, headers=one.headers)
    sent = await producer.send_batch(unsent, tp.topic, partition=tp.partition)
    return int((await sent).offset)
