"""Says why a Kafka cluster cannot be reached, in one line that names the settings.

aiokafka's clients say "Unable to bootstrap" whatever the reason is, and only log the rest. So each broker is spoken to
here as their bootstrap does it, and where that fails a second look tells what the broker expects instead.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from enum import Enum, auto
from typing import Final, NamedTuple

from aiokafka.conn import AIOKafkaConnection, create_conn, get_ip_port_afi
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.admin import SaslHandShakeRequest
from aiokafka.protocol.metadata import MetadataRequest

from streams.cluster import Cluster, SecurityProtocol

_PLAIN: Final = "PLAINTEXT"
_TLS: Final = "SSL"
_OTHER_HOST: Final = frozenset({62, 64})
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""
_OTHER_TIME: Final = frozenset({9, 10})
"""OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."""
_NOT_KAFKA: Final = (KafkaError, OSError, EOFError, ValueError, KeyError, AssertionError, OverflowError)
"""What aiokafka raises when a connection breaks, or something other than Kafka answers."""


class Problem(Enum):
    """What stands between a client and a cluster."""

    SETTINGS = auto()
    """The settings contradict each other, or the CA file cannot be read."""
    UNREACHABLE = auto()
    """Nothing listens there, the host name is unknown, there is no answer in time, or it is no Kafka."""
    TLS = auto()
    """One side speaks TLS and the other does not, or they share no version of it."""
    CERTIFICATE = auto()
    """The broker's certificate is not trusted, has expired, or is another host's."""
    SASL = auto()
    """One side wants a user name and the other does not."""
    MECHANISM = auto()
    """The broker does not offer the SASL mechanism."""
    CREDENTIALS = auto()
    """The broker refuses user name and password."""


class ProbeError(Exception):
    """A cluster cannot be reached. The text is one line: what is wrong, and what to do; it holds no secret."""

    def __init__(self, problem: Problem, text: str) -> None:
        super().__init__(text)
        self.problem = problem


async def probe(cluster: Cluster, *, timeout: float = 10.0) -> None:  # noqa: ASYNC109
    """Connect to the cluster's brokers, of which there is one at least, one after another, until one lets us in.

    It takes `timeout` seconds at most; a broker that does not answer leaves the others their share of them.

    Raises:
        ProbeError: none did. Of several reasons it is one that has more to say than that a broker is unreachable.
    """
    if wrong := cluster.wrong():
        raise ProbeError(Problem.SETTINGS, wrong)
    end = asyncio.get_running_loop().time() + timeout
    failed: list[ProbeError] = []
    for tried, broker in enumerate(cluster.brokers):
        share = (end - asyncio.get_running_loop().time()) / (len(cluster.brokers) - tried)
        try:
            await _Broker.of(cluster, broker).probe(max(share, 0.0))
        except ProbeError as error:
            failed.append(error)
        else:
            return
    raise min(failed, key=lambda error: error.problem is Problem.UNREACHABLE)


class _Broker(NamedTuple):
    """One broker of a cluster, by its address."""

    cluster: Cluster
    name: str
    host: str
    port: int

    @classmethod
    def of(cls, cluster: Cluster, name: str) -> _Broker:
        host, port, _ = get_ip_port_afi(name)
        return cls(cluster, name, host, port)

    async def probe(self, seconds: float) -> None:
        """Connect, or raise ProbeError after `seconds` at most."""
        try:
            async with asyncio.timeout(seconds):
                await self._connect()
        except TimeoutError:
            raise self._silent() from None

    async def _connect(self) -> None:
        try:
            connection = await self._open(self.cluster.protocol.value)
        except _NOT_KAFKA as error:
            raise await self._reason(error) from None
        try:
            # Without a user name a broker that wants one answers the versions it knows, and no more than that.
            await connection.send(MetadataRequest([]))
        except KafkaError as error:
            raise (await self._broken(error) if self.cluster.protocol.sasl else self._nameless()) from None
        finally:
            await connection.close()

    async def _open(self, protocol: str) -> AIOKafkaConnection:
        options = self.cluster.client()
        del options["bootstrap_servers"]
        options["security_protocol"] = protocol
        return await create_conn(self.host, self.port, **options)

    async def _reason(self, error: BaseException) -> ProbeError:
        """Return what an error of the connection says, after a second look where it says too little."""
        match error:
            case ssl.SSLCertVerificationError():
                return self._certificate(error)
            case TimeoutError():
                return self._silent()
            case socket.gaierror() | UnicodeError():
                return self._unreachable(f"the host name of {self.name} is unknown; check it, and the name service")
            case OverflowError():
                return self._unreachable(f"{self.name} has a port above 65535; check it")
            case UnsupportedSaslMechanismError():
                return await self._mechanism()
            case IllegalSaslStateError():
                without = _counterpart(self.cluster.protocol, sasl=False)
                return self._problem(
                    Problem.SASL,
                    "SECURITY_PROTOCOL",
                    f"{self.name} knows no user names on this port; set {without}, or give the port of its SASL "
                    f"listener in {self._setting('BROKERS')}",
                )
            case SaslAuthenticationFailed():
                return self._problem(
                    Problem.CREDENTIALS,
                    f"USERNAME, {self._setting('PASSWORD')}",
                    f"{self.name} refuses them with {self.cluster.mechanism}; check both, and the mechanism",
                )
            case OSError() if not isinstance(error, ConnectionResetError | BrokenPipeError | ssl.SSLError):
                reason = os.strerror(error.errno) if error.errno else str(error)
                return self._unreachable(f"nothing listens at {self.name} ({reason}); check address and broker")
        return await self._broken(error)

    def _nameless(self) -> ProbeError:
        return self._problem(
            Problem.SASL,
            "SECURITY_PROTOCOL",
            f"{self.name} wants a user name; set {_counterpart(self.cluster.protocol, sasl=True)}, "
            f"{self._setting('USERNAME')} and {self._setting('PASSWORD')}",
        )

    async def _mechanism(self) -> ProbeError:
        """Return what it offers instead of the mechanism."""
        try:
            connection = await self._open(_TLS if self.cluster.protocol.tls else _PLAIN)
            try:
                offered = (await connection.send(SaslHandShakeRequest(self.cluster.mechanism))).enabled_mechanisms
            finally:
                await connection.close()
        except _NOT_KAFKA:
            offered = []
        known = f"; it offers {', '.join(sorted(offered))}" if offered else ""
        return self._problem(
            Problem.MECHANISM,
            "SASL_MECHANISM",
            f"{self.name} does not take {self.cluster.mechanism}{known}; set one that it takes",
        )

    async def _broken(self, error: BaseException) -> ProbeError:
        """Return what a connection that broke off comes from: TLS on one side alone, or no Kafka at all."""
        protocol = self.cluster.protocol
        if not protocol.tls and await self._speaks_tls():
            return self._problem(
                Problem.TLS,
                "SECURITY_PROTOCOL",
                f"{self.name} speaks TLS alone; set {_counterpart(protocol, tls=True)}",
            )
        if protocol.tls and await self._speaks_plainly():
            return self._problem(
                Problem.TLS,
                "SECURITY_PROTOCOL",
                f"{self.name} speaks no TLS; give the port of its TLS listener in {self._setting('BROKERS')}, or, on a "
                f"network that is trusted, set {_counterpart(protocol, tls=False)}",
            )
        if isinstance(error, ssl.SSLError):
            reason = error.reason or "no reason given"
            return self._problem(
                Problem.TLS, "SECURITY_PROTOCOL", f"TLS with {self.name} failed: {reason}; check the port"
            )
        return self._unreachable(f"{self.name} breaks off the connection; check that it is Kafka, and the broker's log")

    async def _speaks_tls(self) -> bool:
        # Whom it belongs to does not matter: nothing is sent.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            _, writer = await asyncio.open_connection(self.host, self.port, ssl=context)
        except OSError:
            return False
        writer.transport.abort()
        return True

    async def _speaks_plainly(self) -> bool:
        try:
            connection = await self._open(_PLAIN)
        except _NOT_KAFKA:
            return False
        await connection.close()
        return True

    def _certificate(self, error: ssl.SSLCertVerificationError) -> ProbeError:
        if error.verify_code in _OTHER_HOST:
            text = f"the certificate of {self.name} is for another host; write a name that stands in it"
            return self._problem(Problem.CERTIFICATE, "BROKERS", text)
        if error.verify_code in _OTHER_TIME:
            text = f"{error.verify_message} at {self.name}; renew the broker's certificate, or set this machine's clock"
            return self._problem(Problem.CERTIFICATE, "BROKERS", text)
        trusted = "the PEM file of the CA that signed it"
        text = f"the certificate of {self.name} is not trusted ({error.verify_message}); set {trusted}"
        return self._problem(Problem.CERTIFICATE, "CA_FILE", text)

    def _silent(self) -> ProbeError:
        return self._unreachable(f"{self.name} did not answer in time; check the address, the broker and firewalls")

    def _unreachable(self, text: str) -> ProbeError:
        return self._problem(Problem.UNREACHABLE, "BROKERS", text)

    def _problem(self, problem: Problem, setting: str, text: str) -> ProbeError:
        return ProbeError(problem, f"{self._setting(setting)}: {text}")

    def _setting(self, name: str) -> str:
        return f"{self.cluster.settings}_{name}"


def _counterpart(protocol: SecurityProtocol, *, tls: bool | None = None, sasl: bool | None = None) -> SecurityProtocol:
    """Return the protocol that has or lacks TLS or SASL as said, and is else the same."""
    wanted = (protocol.tls if tls is None else tls, protocol.sasl if sasl is None else sasl)
    return next(other for other in SecurityProtocol if (other.tls, other.sasl) == wanted)
