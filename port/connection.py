"""How calls leave this machine: which certificates are trusted, and whether a proxy is in between."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp

_LOCALHOST: Final = "localhost"


def tls_context(ca_file: Path | None = None, *, alone: bool = False, strict: bool = True) -> ssl.SSLContext:
    """Return a context that verifies certificates and names of hosts.

    Args:
        ca_file: certificates of CAs, a PEM file.
        alone: whether they stand in place of the system's, where there are any, or beside them.
        strict: whether certificates must keep to the form of RFC 5280 (`ssl.VERIFY_X509_STRICT`), whatever the
            default of this Python is. CAs that companies made themselves often do not.

    Raises:
        OSError: the file cannot be read, or holds no certificates.
    """
    context = ssl.create_default_context(cafile=ca_file if alone else None)
    if ca_file is not None and not alone:
        context.load_verify_locations(cafile=ca_file)
    if strict:
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    else:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def proxy_for(url: str, https_proxy: str, no_proxy: tuple[str, ...]) -> str | None:
    """Return the proxy that a call takes, None for none: for https alone, and never for this very machine.

    Args:
        url: what is called.
        https_proxy: `http://host:port`, possibly with a user; empty: there is no proxy.
        no_proxy: hosts that are called directly, those below them included; `*` for all.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    if not https_proxy or parts.scheme != "https" or _is_here(host):
        return None
    names = [name.lower().lstrip("*").strip(".") if name != "*" else name for name in no_proxy]
    excepted = any(name == "*" or host == name or (name and host.endswith(f".{name}")) for name in names)
    return None if excepted else https_proxy


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == _LOCALHOST


@dataclass(frozen=True)
class Connection:
    """How one service is called."""

    tls: ssl.SSLContext = field(default_factory=tls_context)
    proxy: str | None = field(default=None, repr=False)
    """`http://host:port`; it may hold a password."""

    def session(self, *, limit: int = 100, trace: aiohttp.TraceConfig | None = None) -> aiohttp.ClientSession:
        """Open a session without cookies, with at most `limit` connections. The caller closes it."""
        # Not aiohttp's `trust_env`: it looks the proxy up at each call, in a thread, and takes credentials for the
        # service itself from ~/.netrc, which collide with the token.
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=limit, ssl=self.tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=self.proxy,
            trace_configs=[trace] if trace else None,
        )
