"""What another system needs to say how an item ended: a signed URL for one item, and the word that it then says.

The token in the URL is all that the other system has to show. It names the node run, the item and when it expires, is
signed (itsdangerous, HMAC-SHA256) and good for this organization alone. Knows nothing of Faust.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from itsdangerous import BadData, Signer, URLSafeSerializer
from pydantic import JsonValue, SecretStr, TypeAdapter, ValidationError

from agents.callback_masking import masked_callbacks
from port.ids import is_node_run_id
from port.models import LogLine, Result
from streams.records import By, ItemCompleted

PATH: Final = "/callbacks/"
_SALT: Final = "port-runs callback "
_KEY_BYTES: Final = 32
_MOST_TOKEN_CHARACTERS: Final = 2_000
_EVENT_TYPE_CHARACTERS: Final = 200


@dataclass(frozen=True)
class Ticket:
    """What a token says: which item its holder may complete."""

    node_run_id: str
    index: int
    event_type: str
    expires_at: int
    """In epoch seconds."""


_PAYLOAD: Final = TypeAdapter(tuple[str, int, str, int])


def derived_key(client_secret: SecretStr, organization: str) -> SecretStr:
    """Return the key that signs where `SIGNING_KEY` is not set: the same in all workers of the organization."""
    hkdf = HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=organization.encode(), info=b"port-runs SIGNING_KEY")
    return SecretStr(hkdf.derive(client_secret.get_secret_value().encode()).hex())


class Callbacks:
    """Makes the URLs of callbacks, and reads their tokens.

    Args:
        keys: the first one signs, all are accepted.
        organization: tokens of another one are not accepted.
        public_url: where other systems reach this application; empty where they do not.
        clock: the epoch seconds.
    """

    def __init__(
        self, keys: Sequence[SecretStr], organization: str, public_url: str, clock: Callable[[], float] = time.time
    ) -> None:
        how = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
        serializers = [
            URLSafeSerializer(key.get_secret_value(), salt=_SALT + organization, signer_kwargs=how) for key in keys
        ]
        self._serializer = serializers[0]
        self._signers: list[Signer] = [serializer.make_signer(serializer.salt) for serializer in serializers]
        self._public_url = public_url
        self._clock = clock

    def url(self, node_run_id: str, index: int, event_type: str, life: float) -> str:
        """Return the URL whose POST completes an item; it is good for `life` seconds.

        Raises:
            LookupError: `PUBLIC_URL` is not set.
        """
        if not self._public_url:
            raise LookupError("ctx.callback_url needs the setting PUBLIC_URL: where other systems reach this worker")
        ticket = (node_run_id, index, event_type[:_EVENT_TYPE_CHARACTERS], int(self._clock() + life))
        token = self._serializer.dumps(ticket)
        return f"{self._public_url}{PATH}{token if isinstance(token, str) else token.decode()}"

    def page(self, node_run_id: str) -> str | None:
        """Return the address of a node run's page; None where nobody outside reaches it."""
        return f"{self._public_url}/node-runs/{node_run_id}" if self._public_url else None

    def read(self, token: str) -> Ticket | None:
        """Return what a token says; None where it is not ours, was changed in any way, or has expired."""
        value, _, _ = token.rpartition(".")
        if not value or len(token) > _MOST_TOKEN_CHARACTERS or not token.isascii():
            return None
        # Signed again and compared as text: base64 has several writings of the same bytes, and only ours is right.
        matches = [hmac.compare_digest(signer.sign(value), token.encode()) for signer in self._signers]
        if not any(matches):
            return None
        try:
            ticket = Ticket(*_PAYLOAD.validate_python(tuple(self._serializer.load_payload(value.encode()))))
        except (BadData, ValidationError, TypeError):
            return None
        return ticket if ticket.expires_at > self._clock() and is_node_run_id(ticket.node_run_id) else None


def word(
    node_run_id: str,
    index: int,
    result: Result,
    by: By,
    *,
    output: dict[str, JsonValue] | None = None,
    error: str | None = None,
    logs: Sequence[LogLine] = (),
    event_type: str | None = None,
) -> ItemCompleted:
    """Return the event that says how an item ended; equal result, output and error give the same digest."""
    said = json.dumps([result.value, output or {}, error], sort_keys=True, separators=(",", ":"))
    return ItemCompleted(
        node_run_id=node_run_id,
        index=index,
        event_type=event_type,
        result=result,
        output=None if output is None else masked_callbacks(json.dumps(output, ensure_ascii=False, allow_nan=False)),
        error=None if error is None else masked_callbacks(error),
        digest=hashlib.sha256(said.encode()).hexdigest(),
        logs=tuple(line.model_copy(update={"message": masked_callbacks(line.message)}) for line in logs),
        by=by,
        at=time.time(),
    )
