"""Who may do what on a secured broker: passwords of its users and their rights, by its plain listener.

aiokafka's admin client can do neither, so the requests are made here.
"""

from __future__ import annotations

import hashlib
import secrets
import socket
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from io import BytesIO
from typing import Final

from aiokafka.protocol.admin import (
    CreateAclsRequest_v1,
    CreateAclsResponse_v1,
    DescribeAclsRequest_v1,
    DescribeAclsResponse_v1,
)
from aiokafka.protocol.types import CompactArray, CompactBytes, CompactString, Int8, Int16, Int32, Schema, TaggedFields

from local.kafka.errors import KafkaError

# AlterUserScramCredentials, as Kafka's documentation of its protocol has it.
_ALTER_SCRAM, _ALTER_SCRAM_VERSION = 51, 0
_HASHES: Final = {1: "sha256", 2: "sha512"}
_ITERATIONS: Final = 4096
_ALTER: Final = Schema(
    ("deletions", CompactArray(("name", CompactString()), ("mechanism", Int8), ("tags", TaggedFields))),
    (
        "upsertions",
        CompactArray(
            ("name", CompactString()),
            ("mechanism", Int8),
            ("iterations", Int32),
            ("salt", CompactBytes),
            ("salted_password", CompactBytes),
            ("tags", TaggedFields),
        ),
    ),
    ("tags", TaggedFields),
)
_ALTERED: Final = Schema(
    ("throttle_time_ms", Int32),
    (
        "results",
        CompactArray(("user", CompactString()), ("code", Int16), ("message", CompactString()), ("tags", TaggedFields)),
    ),
    ("tags", TaggedFields),
)
# Kafka's numbers, of resources, patterns, operations and permissions.
_ANY, _ALLOWED, _LITERAL, _PREFIXED = 1, 3, 3, 4


class Resource(IntEnum):
    """What a right is about; the numbers are Kafka's."""

    TOPIC = 2
    GROUP = 3


class Operation(IntEnum):
    """What is allowed; the numbers are Kafka's. Who may read may describe, too."""

    READ = 3
    WRITE = 4
    CREATE = 5
    DESCRIBE = 8


@dataclass(frozen=True)
class Right:
    """Something that a user may do, with the resource of that name or all whose names begin so."""

    resource: Resource
    name: str
    operation: Operation = Operation.READ
    prefix: bool = False

    @property
    def pattern(self) -> int:
        """Return Kafka's number for how `name` is meant."""
        return _PREFIXED if self.prefix else _LITERAL


def set_password(bootstrap: str, user: str, password: str) -> None:
    """Make the user, or change its password: for SCRAM-SHA-512 and SCRAM-SHA-256.

    `bootstrap` is the plain listener. Connections that are open stay so. The broker knows of it a moment later. Raises
    KafkaError where it refuses.
    """
    for mechanism, name in _HASHES.items():  # in requests of their own: one alters a user once
        salt = secrets.token_bytes(16)
        salted = hashlib.pbkdf2_hmac(name, password.encode(), salt, _ITERATIONS)
        body = _ALTER.encode(([], [(user, mechanism, _ITERATIONS, salt, salted, {})], {}))
        # A flexible request: its header ends in tagged fields, of which there are none, and so does its answer's.
        answer = _ask(bootstrap, _ALTER_SCRAM, _ALTER_SCRAM_VERSION, b"\0" + body)
        answer.read(1)
        _, results, _ = _ALTERED.decode(answer)
        _refuse((code, message) for _, code, message, _ in results)


def allow(bootstrap: str, user: str, rights: Iterable[Right], *, within: float = 10.0) -> None:
    """Give a user these rights, beside those that it has, and return when the broker goes by them.

    `bootstrap` is the plain listener. Raises KafkaError where the broker refuses, or after `within` seconds.
    """
    wanted = set(rights)
    creations = [
        (right.resource, right.name, right.pattern, f"User:{user}", "*", right.operation, _ALLOWED) for right in wanted
    ]
    request = CreateAclsRequest_v1(creations)
    answer = _ask(bootstrap, request.API_KEY, request.API_VERSION, request.encode())
    _refuse(CreateAclsResponse_v1.decode(answer).creation_responses)
    deadline = time.monotonic() + within
    while not wanted <= rights_of(bootstrap, user):  # the broker learns of them a moment after the controller
        if time.monotonic() > deadline:
            raise KafkaError(f"The rights of {user} did not reach the broker within {within:g} seconds.")
        time.sleep(0.01)


def rights_of(bootstrap: str, user: str) -> set[Right]:
    """Return what a user may do, of the kinds that are known here. Raises KafkaError where the broker refuses."""
    request = DescribeAclsRequest_v1(_ANY, None, _ANY, f"User:{user}", None, _ANY, _ALLOWED)
    answer = DescribeAclsResponse_v1.decode(_ask(bootstrap, request.API_KEY, request.API_VERSION, request.encode()))
    _refuse([(answer.error_code, answer.error_message)])
    return {
        Right(Resource(resource), name, Operation(operation), prefix=pattern == _PREFIXED)
        for resource, name, pattern, found in answer.resources
        for _, _, operation, _ in found
    }


def _refuse(results: Iterable[tuple[int, str | None]]) -> None:
    for code, message in results:
        if code:
            raise KafkaError(f"Kafka refused it: {message or f'error {code}'}")


def _ask(bootstrap: str, key: int, version: int, body: bytes) -> BytesIO:
    """Send one request, and return what follows on the answer's correlation id."""
    host, _, port = bootstrap.rpartition(":")
    request = struct.pack(">hhih", key, version, 1, 0) + body  # correlation id 1, client id ""
    try:
        with socket.create_connection((host, int(port)), 10.0) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            answers = connection.makefile("rb")
            (size,) = struct.unpack(">i", answers.read(4))
            return BytesIO(answers.read(size)[4:])
    except (OSError, struct.error) as error:
        raise KafkaError(f"Kafka at {bootstrap} did not answer: {error}") from error
