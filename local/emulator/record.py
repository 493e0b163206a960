"""The record of every call to the emulated API: compact in memory, and as JSON lines in a file where asked for."""

import os
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import orjson
from pydantic import JsonValue

from local.emulator.tokens import TOKEN_PREFIX

_KEPT_CALLS: Final = 1_000_000
_KEPT_BYTES: Final = 512 * 1024 * 1024
_TOKEN: Final = re.compile(re.escape(TOKEN_PREFIX).encode() + b"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Call:
    """One call. `status` is None where no answer was sent; `changed` tells whether it changed a node run or a run."""

    seq: int
    time: float
    """Seconds since the epoch, when the call was settled."""
    name: str
    method: str
    path: str
    status: int | None
    raw_body: bytes
    fault: str | None
    changed: bool

    @property
    def body(self) -> JsonValue:
        """The body, decoded; text where it is not JSON, None where there was none."""
        if not self.raw_body:
            return None
        try:
            decoded: JsonValue = orjson.loads(self.raw_body)
        except orjson.JSONDecodeError:
            return self.raw_body.decode("utf-8", "replace")
        return decoded

    def to_json(self) -> bytes:
        """The call as one line of JSON."""
        return orjson.dumps(
            {
                "seq": self.seq,
                "time": self.time,
                "call": self.name,
                "method": self.method,
                "path": self.path,
                "status": self.status,
                "fault": self.fault,
                "changed": self.changed,
                "body": self.body,
            }
        )


class CallRecord:
    """The latest calls, at most a million and 512 MiB of bodies, in order. Without tokens and secrets."""

    def __init__(self, secret: str, file: Path | None = None) -> None:
        """Raises OSError where `file` cannot be appended to."""
        self._secret = secret.encode()
        self._calls: deque[Call] = deque()
        self._bytes = 0
        self._last = 0
        self._file = None if file is None else os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[Call]:
        return iter(tuple(self._calls))

    @property
    def last(self) -> int:
        """The number of the latest call, 0 before the first."""
        return self._last

    def add(
        self,
        time: float,
        name: str,
        method: str,
        path: str,
        status: int | None,
        body: bytes,
        *,
        fault: str | None,
        changed: bool,
    ) -> None:
        """Append one call."""
        self._last += 1
        kept_path = self._masked(path.encode("utf-8", "replace")).decode()
        call = Call(self._last, time, name, method, kept_path, status, self._masked(body), fault, changed)
        self._calls.append(call)
        self._bytes += len(call.raw_body)
        self._forget_the_oldest()
        if self._file is not None:
            os.write(self._file, call.to_json() + b"\n")

    def after(self, seq: int, limit: int = 10_000) -> list[Call]:
        """The kept calls whose number is above `seq`, the oldest first, at most `limit`."""
        if not self._calls:
            return []
        start = max(seq + 1 - self._calls[0].seq, 0)
        if start > len(self._calls) // 2:  # a deque is slow in its middle: come from the nearer end
            wanted = len(self._calls) - start
            return list(reversed(list(islice(reversed(self._calls), max(wanted, 0)))))[:limit]
        return list(islice(self._calls, start, start + limit))

    def named(self, name: str) -> list[Call]:
        """The kept calls of one kind: `report`, `auth`, `logs`, `run`, `cancel`, `credentials`."""
        return [call for call in self._calls if call.name == name]

    def clear(self) -> None:
        """Forget the calls; their numbers go on."""
        self._calls.clear()
        self._bytes = 0

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _masked(self, text: bytes) -> bytes:
        if self._secret in text:
            text = text.replace(self._secret, b"***")
        if TOKEN_PREFIX.encode() in text:
            text = _TOKEN.sub(b"***", text)
        return text

    def _forget_the_oldest(self) -> None:
        while len(self._calls) > _KEPT_CALLS or self._bytes > _KEPT_BYTES:
            self._bytes -= len(self._calls.popleft().raw_body)
