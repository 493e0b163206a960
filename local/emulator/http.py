"""What a call and its answer are to the emulator's own code, apart from the HTTP library."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson
from pydantic import JsonValue


@dataclass(frozen=True, slots=True)
class Request:
    """A call. `name` is its kind (a fault may name it), the ids are what stood in the path, unchecked."""

    name: str
    method: str
    path: str
    query: str
    body: bytes
    authorization: str | None = None
    workflow_run_id: str | None = None
    node_run_id: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; `changed` tells whether the call changed anything that Port would remember."""

    status: int
    body: bytes
    changed: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


def ok(**fields: JsonValue) -> Reply:
    """A 200 in the shape of Port's answers."""
    return Reply(200, orjson.dumps({"ok": True, **fields}))


def refuse(status: int, message: str, headers: Mapping[str, str] | None = None) -> Reply:
    """An error in the shape of Port's answers."""
    body = orjson.dumps({"ok": False, "error": _NAMES.get(status, "error"), "message": message})
    return Reply(status, body, headers=headers or {})


_NAMES = {
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "payload_too_large",
    422: "invalid_request",
    429: "rate_limit_exceeded",
    503: "service_unavailable",
}
