"""Looks at what a worker needs beside Kafka: settings, folder and limits of the machine, its web port, Port's API.

Nothing is changed by that. Kafka is looked at in `streams/kafka_checks.py` and
`streams/source_checks.py`.
"""

from __future__ import annotations

import email.utils
import os
import resource
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from pydantic import SecretStr

from port.client import Answer, AnswerKind, PortClient
from port.connection import Connection, tls_context
from port.errors import PortError
from port.models import KafkaCredentials
from streams.findings import SECONDS, Finding, Say, ok, skipped, step, warning, wrong
from streams.settings import LOOPBACK, Settings, Signature
from streams.unknown_settings import unknown_settings

_EU: Final = "https://api.getport.io"
_US: Final = "https://api.us.getport.io"
_TOKEN_CHARACTERS: Final = 16
_FREE_BYTES: Final = 1 << 30
_FILES: Final = 768
"""Open files that a worker needs whatever its settings are, those of its web views (256) among them."""
_FILES_OF_A_PARTITION: Final = 16
_SKEW_SECONDS: Final = 30.0
_UNTRUSTED: Final = ("self-signed certificate", "self signed certificate", "unable to get")
_NOT_STRICT: Final = (
    "Authority Key Identifier",
    "Subject Key Identifier",
    "key usage",
    "Basic Constraints",
    "critical",
)
"""What OpenSSL says of certificates that are trusted, but not of the form that RFC 5280 asks for."""
_CALL_SECONDS: Final = SECONDS - 2.0


def check_settings(settings: Settings, say: Say) -> None:
    """Show the effective settings, and warn of those that production should not have."""
    source = ",".join(settings.source_brokers) or "on the own cluster"
    own = ",".join(settings.kafka_brokers)
    say(
        ok(
            "settings",
            f"organization {settings.port_org_id}, group {settings.app_id}, Port at {settings.port_api_base_url}, "
            f"Kafka at {own} ({settings.own.protocol}), source {source}",
            **{name.upper(): _shown(value) for name, value in settings} | {"CONSUMER_GROUP": settings.app_id},
        )
    )
    for finding in _warnings(settings):
        say(finding)
    for unknown in unknown_settings(os.environ):
        say(warning(unknown.name, f"in {unknown.place}: is no setting, and has no effect", unknown.remedy))


def _shown(value: object) -> object:
    if isinstance(value, SecretStr):
        return "***" if value.get_secret_value() else ""
    if isinstance(value, tuple):
        return ",".join(str(_shown(part)) for part in value)
    return value if value is None or isinstance(value, int | float) else str(value)


def _warnings(settings: Settings) -> Iterator[Finding]:
    url = urlsplit(settings.port_api_base_url)
    if url.scheme == "http" and url.hostname not in LOOPBACK:
        yield warning("PORT_API_BASE_URL", "secret and token travel unencrypted", "write https://")
    if 0 < len(settings.web_token.get_secret_value()) < _TOKEN_CHARACTERS:
        long = "set a random value of 32 characters, such as `openssl rand -hex 16` gives"
        yield warning("WEB_TOKEN", f"shorter than {_TOKEN_CHARACTERS} characters: it can be guessed", long)
    if settings.signature is Signature.OFF:
        yield warning(
            "SIGNATURE",
            "off: whoever may write to the topic can start handlers",
            "set when-present, or required where every message carries a signature",
        )
    if settings.source_from_port and not settings.app_id.startswith(f"{settings.port_org_id}."):
        yield warning(
            "CONSUMER_GROUP",
            f"{settings.app_id} does not begin with {settings.port_org_id}.",
            "Port's Kafka takes groups that do, or that are named like the Kafka user; leave it empty for "
            f"{settings.port_org_id}.port-runs",
        )


def check_machine(settings: Settings, say: Say) -> None:
    """Look at DATA_DIR, the free space of its disk, and the limit of open files. Creates nothing."""
    folder = settings.data_dir.absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        say(wrong("DATA_DIR", f"{there} is no folder", "set DATA_DIR to a folder, or to one that can be created"))
    elif not os.access(there, os.R_OK | os.W_OK | os.X_OK):
        owner = "give it to the user that the worker runs as, or set another DATA_DIR"
        say(wrong("DATA_DIR", f"{there} may not be written to", owner))
    else:
        say(ok("DATA_DIR", f"{folder} can be written to" if there == folder else f"{folder} can be created"))
    _check_space(there, say)
    _check_files(settings, say)


def _check_space(there: Path, say: Say) -> None:
    free = shutil.disk_usage(there).free
    found = f"{free / (1 << 30):.1f} GiB are free at {there}"
    if free < _FREE_BYTES:
        say(warning("disk space", found, "free some, or set DATA_DIR to another disk: the local stores grow"))
    else:
        say(ok("disk space", found))


def _check_files(settings: Settings, say: Say) -> None:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _FILES + settings.report_concurrency + _FILES_OF_A_PARTITION * settings.partitions
    unlimited = limit == resource.RLIM_INFINITY
    found = "no limit" if unlimited else f"{limit} at most; {needed} are enough for these settings"
    if limit < needed and not unlimited:
        say(warning("open files", found, f"raise the limit: ulimit -n {needed}, or LimitNOFILE in systemd"))
    else:
        say(ok("open files", found))


async def check_web(settings: Settings, say: Say) -> None:
    """Look whether the web views can listen, or a worker does there already."""
    host, port = settings.web_host, settings.web_port
    where = f"{host}:{port}"
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        async with step("web", say, "set another WEB_PORT, or end what listens there"):
            if await _is_worker(host, port):
                say(ok("web", f"a worker answers at {where} already; a second one here needs a WEB_PORT of its own"))
                return
            reason = os.strerror(error.errno) if error.errno else str(error)
            remedy = "set WEB_HOST and WEB_PORT to an address of this machine that is free"
            say(wrong("web", f"cannot listen on {where}: {reason}", remedy))
        return
    reach = "from this machine alone" if host in LOOPBACK else "from other machines"
    token = ", with WEB_TOKEN" if settings.web_token.get_secret_value() else ""
    say(ok("web", f"{where} is free; the views can be seen {reach}{token}"))


async def _is_worker(host: str, port: int) -> bool:
    asked = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - it is compared, not listened on
    base = f"http://[{asked}]:{port}" if ":" in asked else f"http://{asked}:{port}"
    timeout = aiohttp.ClientTimeout(total=2.0)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"{base}/healthz") as lives:
            said = await lives.text()
            # One that is stuck is a worker, too.
            return said == "ok\n" if lives.status == 200 else lives.status == 503 and said.startswith("stuck: ")
    except (aiohttp.ClientError, TimeoutError, UnicodeDecodeError):
        return False


class _Dates:
    """Notes how far Port's clock is ahead of this one, by the first answer."""

    def __init__(self) -> None:
        self.ahead: float | None = None
        self.trace = aiohttp.TraceConfig()
        self.trace.on_request_end.append(self._note)

    async def _note(
        self, session: aiohttp.ClientSession, _: SimpleNamespace, ended: aiohttp.TraceRequestEndParams
    ) -> None:
        try:
            told = email.utils.parsedate_to_datetime(ended.response.headers.get("Date", "")).timestamp()
        except ValueError:
            return
        self.ahead = told - time.time() if self.ahead is None else self.ahead


async def check_port(settings: Settings, say: Say) -> KafkaCredentials | None:
    """Look whether Port's API answers and takes the credentials.

    Returns how to reach Port's Kafka where the settings ask for that, and Port tells it.
    """
    dates, url = _Dates(), settings.port_api_base_url
    client = (url, settings.port_client_id, settings.client_secrets[0])
    wanted = "source credentials" if settings.source_from_port else None
    connection = settings.port_connection
    for finding in _of_connection(settings, connection):
        say(finding)
    async with (
        connection.session(trace=dates.trace) as session,
        PortClient(*client, session, _CALL_SECONDS) as port,
    ):
        answer = await port.log_in()
        say(_of_log_in(answer, url))
        _check_clock(dates.ahead, say)
        if wanted is None:
            return None
        if answer.kind is not AnswerKind.ACCEPTED:
            say(skipped(wanted, "they come from Port's API"))
            return None
        return await _credentials(port, wanted, say)


def _of_connection(settings: Settings, connection: Connection) -> Iterator[Finding]:
    """Say how Port's API is called: through which proxy, and by which certificates it is known."""
    if connection.proxy is not None:
        proxy = urlsplit(connection.proxy)
        yield ok("HTTPS_PROXY", f"Port's API is called through the proxy at {proxy.hostname}:{proxy.port or 80}")
    elif settings.https_proxy.get_secret_value():
        host = urlsplit(settings.port_api_base_url).hostname
        yield ok("HTTPS_PROXY", f"Port's API is called directly: {host} is in NO_PROXY, this machine, or no https")
    else:
        yield ok("HTTPS_PROXY", "not set: Port's API is called directly")
    yield ok("PORT_CA_FILE", _certificates(settings, connection))
    if settings.tls_strict:
        yield ok("TLS_STRICT", "on: certificates must keep to the form of RFC 5280")
    else:
        advice = "have the CA issued anew, with key usage and key identifiers, then leave TLS_STRICT out"
        yield warning("TLS_STRICT", "off: certificates are verified, but may lack what RFC 5280 asks for", advice)


def _certificates(settings: Settings, connection: Connection) -> str:
    if settings.port_ca_file is None:
        return "not set: Port's API is known by the system's CA certificates"
    system = tls_context().cert_store_stats()["x509_ca"]
    more = connection.tls.cert_store_stats()["x509_ca"] - system
    return f"{settings.port_ca_file}: {more} CA certificates beside the system's {system}"


def _advice(reason: str) -> str:
    """Return what to do where there was no answer, by what the error says."""
    if any(words in reason for words in _UNTRUSTED):
        return "put the certificate of the CA that signed it, your proxy's say, into a file and set PORT_CA_FILE to it"
    if "CERTIFICATE_VERIFY_FAILED" in reason and any(words in reason for words in _NOT_STRICT):
        return "have the CA issued anew; until then set TLS_STRICT=off, which still verifies certificates"
    if "HTTPS_PROXY" in reason:
        return "check HTTPS_PROXY, and whether the proxy lets this machine through to Port's API; or set NO_PROXY"
    return "check PORT_API_BASE_URL, and that this machine reaches it: firewall, proxy, name service"


def _of_log_in(answer: Answer, url: str) -> Finding:
    if answer.kind is AnswerKind.ACCEPTED:
        return ok("port", f"{url} takes the credentials")
    reason = answer.reason.removeprefix("no access token: ")
    if answer.kind is AnswerKind.RATE_LIMITED:
        return warning("port", f"{url}: {reason}", "wait: the organization's tools make too many calls together")
    if answer.kind is AnswerKind.UNAVAILABLE:
        reach = _advice(reason)
        if answer.status is not None:
            reach = "check that PORT_API_BASE_URL is that of Port's API; if so, wait until Port is well again"
        return wrong("port", f"{url} cannot be used: {reason}", reach)
    if answer.status == 404:
        return wrong("port", f"{url} is not Port's API: {reason}", f"set PORT_API_BASE_URL: {_EU}, or {_US}")
    others = [region for region in (_EU, _US) if region != url]
    return wrong(
        "port",
        f"these credentials are refused at {url}: {reason}",
        "check PORT_CLIENT_ID and PORT_CLIENT_SECRET; they hold in one region alone: "
        f"try PORT_API_BASE_URL={' or '.join(others)}",
    )


def _check_clock(ahead: float | None, say: Say) -> None:
    if ahead is None:
        say(skipped("clock", "Port's API did not say its time"))
    elif abs(ahead) > _SKEW_SECONDS:
        found = f"this machine's clock is {abs(ahead):.0f} seconds {'behind' if ahead > 0 else 'ahead of'} Port's"
        say(warning("clock", found, "have it set by NTP: ages, SOURCE_START and rate limits go by it"))
    else:
        say(ok("clock", "agrees with Port's"))


async def _credentials(port: PortClient, name: str, say: Say) -> KafkaCredentials | None:
    refused = "ask Port to enable Kafka for the organization, or set SOURCE_BROKERS and its credentials yourself"
    async with step(name, say, refused):
        try:
            given = await port.kafka_credentials(attempts=1)
        except PortError as error:
            say(wrong(name, f"Port does not give those of its Kafka: {error}", refused))
        else:
            say(ok(name, f"from Port: user {given.username} at {','.join(given.brokers)}"))
            return given
    return None
