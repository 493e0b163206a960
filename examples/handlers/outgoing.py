"""Calls of HTTP services beyond Port and Kafka, with a guard against being led to a host that nobody meant.

What may be called is in the settings. The address is checked when the connection to it is made, whatever a name
resolved to before.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
from collections.abc import Callable, Mapping
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import Final, TypeAlias

import aiohttp
from aiohttp.abc import AbstractResolver
from pydantic import SecretStr
from pydantic_core import to_json

from agents.contract import Context, Fail, RetryLater
from port.connection import proxy_for, tls_context

from .addresses import IpAddress, never_called, public
from .settings import OutgoingSettings, Rule, host_of, settings

AddressInfo: TypeAlias = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[object, ...]]

_ANSWER_BYTES: Final = 4096
_LONGEST_WAIT: Final = 300.0
_MOST_CALLS: Final = 10
"""Calls of a handler after which a service that asks to be called later has had its chances."""
_AGAIN: Final = frozenset({408, 425, 429})
_CODE: Final = re.compile(r"[a-z_]{1,60}", re.ASCII)


class Unavailable(Exception):
    """A service could not be reached or cannot answer now. The text holds no secret."""


class RefusedAddress(OSError):
    """The address must not be connected to."""


def policy(rule: Rule) -> Callable[[IpAddress], bool]:
    """Return what says whether an address may be connected to."""
    if rule is Rule.ALLOW:
        return lambda address: not never_called(address)
    return lambda address: public(address) and not never_called(address)


class Outgoing:
    """A client for JSON posts to the hosts of the settings. Follows no redirects, keeps no cookies.

    Through a proxy (`HTTPS_PROXY`) it is the proxy that makes the connection: then what the host is for this machine is
    checked before, and refused as it would be without one. A name that only the proxy can resolve is left to it.

    Args:
        allowed: what the settings allow.
        permitted: whether an address may be connected to; by default as `OUTGOING_PRIVATE` says.
        resolver: resolves names; by default the system's.
    """

    def __init__(
        self,
        allowed: OutgoingSettings,
        permitted: Callable[[IpAddress], bool] | None = None,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._allowed = allowed
        self._permitted = permitted or policy(allowed.outgoing_private)
        self._resolver = resolver

    async def post(self, name: str, url: SecretStr, body: Mapping[str, object], ctx: Context) -> int:
        """Post a body as JSON, with the item's idempotency key as the header `Idempotency-Key`; return the status, 2xx.

        Args:
            name: what errors call the service; they show neither URL nor address.
            url: an http(s) URL.
            body: what JSON can hold.
            ctx: of the item that this is for.

        Raises:
            Fail: it may not be called, or has refused this call for good.
            RetryLater: it asks to be called later.
            Unavailable: it cannot be reached, or not now.
        """
        text = url.get_secret_value()
        self._require(name, text)
        headers = {"Content-Type": "application/json", "Idempotency-Key": ctx.idempotency_key}
        proxy = proxy_for(text, self._allowed.https_proxy.get_secret_value(), self._allowed.no_proxy)
        try:
            if proxy is not None:
                await self._require_permitted(text)
            async with (
                self._session(proxy) as session,
                session.post(
                    text, data=to_json(body, inf_nan_mode="null"), headers=headers, allow_redirects=False
                ) as answer,
            ):
                said = await answer.content.read(_ANSWER_BYTES)
                asked = answer.headers.get("Retry-After", "")
                status = answer.status
                # What is left of a long answer is not read.
                answer.close()
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # Their texts can hold the URL: nothing of them is passed on, not even as a cause.
            raise _translated(name, error) from None
        if 200 <= status < 300:
            return status
        raise _refused(name, status, _code(said, text), asked, ctx)

    def _require(self, name: str, url: str) -> None:
        host = host_of(url)
        if host is None or host not in self._allowed.hosts:
            raise Fail(f"{name}: its host is not in OUTGOING_HOSTS")
        if url.lower().startswith("http:") and self._allowed.outgoing_http is Rule.REFUSE:
            raise Fail(f"{name}: http is refused (OUTGOING_HTTP)")

    async def _require_permitted(self, url: str) -> None:
        """Check every address of a host that a proxy will connect to, as far as this machine knows them."""
        host = str(host_of(url))
        try:
            addresses = [ipaddress.ip_address(host)]
        except ValueError:
            addresses = await self._addresses(host)
        if not all(map(self._permitted, addresses)):
            raise RefusedAddress("the address is refused")

    async def _addresses(self, host: str) -> list[IpAddress]:
        try:
            found = await (self._resolver or aiohttp.ThreadedResolver()).resolve(host, 443)
        except OSError:
            return []
        return [ipaddress.ip_address(one["host"]) for one in found]

    def _session(self, proxy: str | None) -> aiohttp.ClientSession:
        # One for each call: every call has a connection of its own, whose address is checked. The proxy's is not: it is
        # a setting, and most often private.
        guard = {} if proxy is not None else {"socket_factory": self._socket, "resolver": self._resolver}
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=tls(self._allowed.outgoing_ca_file, self._allowed.tls_strict),
                **guard,  # type: ignore[arg-type]
            ),
            proxy=proxy,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._allowed.outgoing_timeout),
            headers={"User-Agent": "port-runs"},
            # An answer is looked at as it came: a small one could unpack to a large one.
            auto_decompress=False,
        )

    def _socket(self, info: AddressInfo) -> socket.socket:
        """Called by aiohttp for each address that it is about to connect to, names and plain addresses alike."""
        family, kind, protocol, _, target = info
        if not self._permitted(ipaddress.ip_address(str(target[0]))):
            raise RefusedAddress("the address is refused")
        return socket.socket(family, kind, protocol)


@lru_cache(maxsize=2)
def tls(ca_file: Path | None, strict: bool) -> ssl.SSLContext:
    """Return how certificates are verified: by those of `OUTGOING_CA_FILE`, else by the system's."""
    return tls_context(ca_file, alone=True, strict=strict)


def client() -> Outgoing:
    """Return a client by the settings."""
    return Outgoing(settings())


def _translated(name: str, error: Exception) -> Exception:
    refused = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(refused, RefusedAddress):
        return Fail(f"{name}: its address is private, or one that must not be called (OUTGOING_PRIVATE)")
    if isinstance(error, aiohttp.InvalidURL | ValueError) and not isinstance(error, ssl.SSLError):
        return Fail(f"{name}: its URL cannot be called")
    if isinstance(error, TimeoutError):
        return Unavailable(f"{name} did not answer in time (OUTGOING_TIMEOUT)")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return Unavailable(f"{name}: the proxy (HTTPS_PROXY) answered {error.status}")
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return Unavailable(f"{name}: the proxy (HTTPS_PROXY) cannot be reached")
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return Unavailable(f"{name}: its certificate is not trusted (OUTGOING_CA_FILE, TLS_STRICT)")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return Unavailable(f"{name}: the name of its host cannot be resolved")
    if isinstance(error, aiohttp.ClientConnectorError):
        return Unavailable(f"{name} cannot be reached")
    return Unavailable(f"{name}: the connection broke")


def _code(said: bytes, url: str) -> str:
    """Return an answer that is one plain word, as Slack's are, to be quoted. An echo of the URL is not."""
    text = said.decode(errors="replace").strip()
    return f": {text}" if _CODE.fullmatch(text) and text not in url else ""


def _refused(name: str, status: int, code: str, asked: str, ctx: Context) -> Exception:
    phrase = HTTPStatus(status).phrase if status in {one.value for one in HTTPStatus} else "an unknown status"
    reason = f"{name} answered {status} ({phrase}){code}"
    if 300 <= status < 400:
        return Fail(f"{reason}; redirects are not followed")
    if status < 500 and status not in _AGAIN:
        return Fail(reason)
    if asked.isascii() and asked.isdigit() and ctx.attempt < _MOST_CALLS:
        return RetryLater(min(float(asked[:9]), _LONGEST_WAIT), reason)
    return Unavailable(reason)
