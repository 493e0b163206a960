"""The emulator's memory between its lives: JSON lines that are only ever appended to."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import orjson

from local.emulator.validation import Body, Invalid, parse_object


class JournalError(Exception):
    """The journal cannot be used: held by another emulator, or not readable. One line, for people."""


class Journal:
    """`node-runs.jsonl` in a folder that one emulator at a time holds. What is appended survives a killed process."""

    def __init__(self, folder: Path) -> None:
        """Raises JournalError where the folder cannot be written or is in use."""
        self._path = folder / "node-runs.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            raise JournalError(f"cannot use {self._path}: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise JournalError(f"{self._path} is in use by another emulator") from error

    def replay(self) -> Iterator[Body]:
        """The lines in order. A last one that a crash cut off is removed. Raises JournalError for any other bad one."""
        complete = 0
        with self._path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    break
                yield self._parsed(line, number)
                complete += len(line)
        os.ftruncate(self._file, complete)

    def append(self, line: Body) -> None:
        """Add one line."""
        os.write(self._file, orjson.dumps(line) + b"\n")

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._file)

    def _parsed(self, line: bytes, number: int) -> Body:
        try:
            return parse_object(line)
        except Invalid as error:
            raise JournalError(f"{self._path}, line {number}: {error}") from error
