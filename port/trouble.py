"""What is wrong between us and Port's API, in words, with what to do about it."""

import logging
import ssl
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import aiohttp

logger = logging.getLogger(__name__)

TOLD_AFTER: Final = 3
"""So many calls fail one after the other before that is told in the log: a single one may have to do with its body."""
TOLD_EVERY: Final = 60.0
"""Seconds between two lines on the same trouble, where it comes and goes."""


class TroubleKind(StrEnum):
    """What is wrong."""

    CREDENTIALS = "credentials"
    """Port refuses the client id and secret, or the token that it has just given for them."""
    RIGHTS = "rights"
    """Port takes the credentials, and answers 403."""
    ERRORS = "errors"
    """Port answers 5xx or 408."""
    NOT_PORT = "not port"
    """What answers is not Port's API."""
    CERTIFICATE = "certificate"
    """The certificate of Port's API is not trusted."""
    TLS = "tls"
    """TLS fails otherwise."""
    NAME = "name"
    """The host name is unknown."""
    NO_ANSWER = "no answer"
    """Nothing listens there, or no answer comes in time."""


_WHAT: Final = {
    TroubleKind.CREDENTIALS: "Port refuses our credentials",
    TroubleKind.RIGHTS: "Port refuses what we ask, though it takes our credentials",
    TroubleKind.ERRORS: "Port's API answers with errors",
    TroubleKind.NOT_PORT: "What answers in the place of Port's API is not Port's API",
    TroubleKind.CERTIFICATE: "The certificate of Port's API is not trusted",
    TroubleKind.TLS: "TLS with Port's API fails",
    TroubleKind.NAME: "The host name of Port's API is unknown",
    TroubleKind.NO_ANSWER: "Port's API does not answer",
}
TO_DO: Final = {
    TroubleKind.CREDENTIALS: "Check PORT_CLIENT_ID and PORT_CLIENT_SECRET, and that PORT_API_BASE_URL is that of their "
    "region, then restart the workers. Reports wait meanwhile.",
    TroubleKind.RIGHTS: "Check what the credentials may do in Port. Reports wait meanwhile.",
    TroubleKind.ERRORS: "Wait until Port is well again: reports wait, and go out then.",
    TroubleKind.NOT_PORT: "Check PORT_API_BASE_URL, and whether a proxy answers in its place.",
    TroubleKind.CERTIFICATE: "Where a proxy of yours opens TLS, give its CA in PORT_CA_FILE; else check this machine's "
    "clock, and the host name in PORT_API_BASE_URL. `check` says more. Reports wait meanwhile.",
    TroubleKind.TLS: "Check scheme, host and port in PORT_API_BASE_URL, and whether a proxy is in between.",
    TroubleKind.NAME: "Check PORT_API_BASE_URL, and the name service of this machine.",
    TroubleKind.NO_ANSWER: "Check PORT_API_BASE_URL, and that this machine reaches it: firewall, proxy. Reports wait, "
    "and go out when it answers.",
}


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong, since when (epoch seconds), and what Port said, or why no answer came."""

    kind: TroubleKind
    since: float
    reason: str

    @property
    def said(self) -> str:
        """It in sentences, with what to do."""
        return f"{_WHAT[self.kind]} ({self.reason}). {TO_DO[self.kind]}"


def trouble_of_status(status: int) -> TroubleKind | None:
    """Return what an answer with this status shows; None where it shows nothing wrong with all calls."""
    if status == 403:
        return TroubleKind.RIGHTS
    if status == 408 or status >= 500:
        return TroubleKind.ERRORS
    return TroubleKind.NOT_PORT if 300 <= status < 400 else None


def trouble_of_error(error: BaseException) -> TroubleKind:
    """Return why no answer came."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        return TroubleKind.CERTIFICATE
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return TroubleKind.NAME
    return TroubleKind.TLS if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError) else TroubleKind.NO_ANSWER


class Troubles:
    """Follows what is wrong, call by call, and tells it once in the log: an ERROR for what waits for a person."""

    def __init__(self) -> None:
        self._now: Trouble | None = None
        self._failed = 0
        self._at_login = False
        self._told: TroubleKind | None = None
        self._told_at: dict[TroubleKind, float] = {}

    @property
    def now(self) -> Trouble | None:
        """What is wrong; None where the last call was well. A 403 counts when it comes again and again."""
        alone = self._now is not None and self._now.kind is TroubleKind.RIGHTS and self._failed < TOLD_AFTER
        return None if alone else self._now

    def well(self) -> None:
        """Take note of a call that Port has answered well."""
        if self._told is not None and self._now is not None:
            logger.info("Port's API is well again, after %.0f s", time.time() - self._now.since)
        self._now, self._failed, self._told = None, 0, None

    def let_in(self) -> None:
        """Take note that Port has given a token: what kept us from that is over, and no more is."""
        if self._at_login:
            self.well()

    def wrong(self, kind: TroubleKind, reason: str, *, at_login: bool) -> None:
        """Take note of a call that failed, and why; whether it was one for a token."""
        self._at_login = at_login
        since = time.time() if self._now is None else self._now.since
        self._failed += 1
        self._now = Trouble(kind, since, reason)
        final = kind in (TroubleKind.CREDENTIALS, TroubleKind.CERTIFICATE)
        if self._told is kind or (self._failed < TOLD_AFTER and not final):
            return
        self._told, now = kind, time.monotonic()
        if now - self._told_at.get(kind, float("-inf")) >= TOLD_EVERY:
            self._told_at[kind] = now
            logger.log(logging.ERROR if final else logging.WARNING, "%s", self._now.said)
