"""The signature of a message: `"v1," + base64(HMAC-SHA256(client secret, f"{timestamp}.{body}"))`.

`body` is the message without the two fields of its `headers`, as compact JSON; the emptied `headers` object stays.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Final

from pydantic import JsonValue, SecretStr

SIGNATURE_HEADER: Final = "X-Port-Signature"
TIMESTAMP_HEADER: Final = "X-Port-Timestamp"


def _signature(body: str, timestamp: str, secret: SecretStr) -> str:
    signed = f"{timestamp}.{body}".encode("utf-8", "surrogatepass")
    digest = hmac.new(secret.get_secret_value().encode(), signed, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def _without_signature(message: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    headers = message.get("headers")
    if not isinstance(headers, dict):
        return dict(message)
    kept = {name: value for name, value in headers.items() if name not in (SIGNATURE_HEADER, TIMESTAMP_HEADER)}
    return {**message, "headers": kept}


def sign(message: Mapping[str, JsonValue], timestamp: str, secret: SecretStr) -> dict[str, JsonValue]:
    """Return a copy of `message` whose `headers` carry timestamp and signature; the order of its fields is kept."""
    headers = message.get("headers")
    bare = _without_signature({**message, "headers": headers if isinstance(headers, dict) else {}})
    signature = _signature(json.dumps(bare, separators=(",", ":"), ensure_ascii=False), timestamp, secret)
    kept = bare["headers"] if isinstance(bare["headers"], dict) else {}
    return {**bare, "headers": {**kept, SIGNATURE_HEADER: signature, TIMESTAMP_HEADER: timestamp}}


def is_signed(message: Mapping[str, JsonValue]) -> bool:
    """Whether the message carries one of the two headers, so that it claims to be signed."""
    headers = message.get("headers")
    return isinstance(headers, dict) and (SIGNATURE_HEADER in headers or TIMESTAMP_HEADER in headers)


def verify(message: Mapping[str, JsonValue], secret: SecretStr) -> bool:
    """Whether the message's signature is right; False where it has none. Never raises, leaves `message` as it is.

    Both ways to write non-ASCII text in JSON are tried, as the sender's is not documented.
    """
    headers = message.get("headers")
    if not isinstance(headers, dict):
        return False
    signature, timestamp = headers.get(SIGNATURE_HEADER), headers.get(TIMESTAMP_HEADER)
    if not isinstance(signature, str) or not isinstance(timestamp, str | int):
        return False
    bare = _without_signature(message)
    given = signature.encode("utf-8", "surrogatepass")
    bodies = (json.dumps(bare, separators=(",", ":"), ensure_ascii=ascii_only) for ascii_only in (False, True))
    return any(hmac.compare_digest(_signature(body, str(timestamp), secret).encode(), given) for body in bodies)
