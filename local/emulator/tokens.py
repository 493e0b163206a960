"""Access tokens as Port gives them: one active token per credential, the same again until it expires or is revoked."""

import hmac
import secrets
from collections.abc import Callable
from typing import Final

from pydantic import SecretStr

TOKEN_PREFIX: Final = "emulator-token-"  # noqa: S105 - how tokens begin, so that none slips into the record


class Tokens:
    """The one credential of the emulated organization and its active token. `seconds` is how long a token lives."""

    def __init__(self, client_id: str, client_secret: SecretStr, seconds: float, clock: Callable[[], float]) -> None:
        self._client_id = client_id
        self._client_secret = client_secret
        self._seconds = seconds
        self._clock = clock
        self._token: str | None = None
        self._expires_at = 0.0

    def issue(self, client_id: object, client_secret: object) -> tuple[str, int] | None:
        """The active token and the whole seconds that it has left; None for wrong credentials."""
        if not isinstance(client_id, str) or not isinstance(client_secret, str):
            return None
        right_secret = _equal(client_secret, self._client_secret.get_secret_value())
        if not (_equal(client_id, self._client_id) and right_secret):
            return None
        now = self._clock()
        if self._token is None or now >= self._expires_at:
            self._token = TOKEN_PREFIX + secrets.token_urlsafe(24)
            self._expires_at = now + self._seconds
        return self._token, int(self._expires_at - now)

    def accepts(self, authorization: str | None) -> bool:
        """Whether the `Authorization` header carries the active token."""
        if authorization is None or self._token is None or self._clock() >= self._expires_at:
            return False
        return _equal(authorization, f"Bearer {self._token}")

    def revoke(self) -> None:
        """End the active token: calls with it get 401, the next who asks gets another one."""
        self._token = None


def _equal(given: str, right: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), right.encode())
