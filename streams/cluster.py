"""How to connect to a Kafka cluster."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import SecretStr

from port.connection import tls_context

Mechanism: TypeAlias = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


class SecurityProtocol(StrEnum):
    """Kafka's `security.protocol`."""

    PLAINTEXT = "PLAINTEXT"
    SSL = "SSL"
    SASL_PLAINTEXT = "SASL_PLAINTEXT"
    SASL_SSL = "SASL_SSL"

    @property
    def tls(self) -> bool:
        """Whether connections are encrypted."""
        return self in (SecurityProtocol.SSL, SecurityProtocol.SASL_SSL)

    @property
    def sasl(self) -> bool:
        """Whether a client names itself with a user name and a password."""
        return self in (SecurityProtocol.SASL_PLAINTEXT, SecurityProtocol.SASL_SSL)


@dataclass(frozen=True)
class Identity:
    """What a cluster says that it is: its id, and the addresses of its brokers."""

    id: str | None
    addresses: frozenset[str]

    @classmethod
    def of(cls, described: Mapping[str, Any], bootstrap: Iterable[str]) -> Identity:
        """Return it from what aiokafka's `describe_cluster` returns, and the addresses that were asked."""
        told = (f"{broker['host']}:{broker['port']}" for broker in described["brokers"])
        return cls(described.get("cluster_id") or None, frozenset(one.lower() for one in (*told, *bootstrap)))

    def same(self, other: Identity) -> bool:
        """Whether the two are certainly one cluster.

        An id that is not known proves nothing, and an equal one not much: clusters that were set up by one recipe may
        have the same. So they must have a broker in common, too. Where one cluster is reached by two listeners no
        address may be the same: then the bridge finds out by its own copies.
        """
        return self.id is not None and self.id == other.id and not self.addresses.isdisjoint(other.addresses)


@dataclass(frozen=True)
class Cluster:
    """A Kafka cluster as its clients see it.

    `settings` is what the names of its settings begin with: `KAFKA` or `SOURCE`.
    """

    settings: str
    brokers: tuple[str, ...]
    protocol: SecurityProtocol
    mechanism: Mechanism
    username: str
    password: SecretStr
    ca_file: Path | None
    strict: bool = True
    """Whether certificates must keep to the form of RFC 5280."""

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return the TLS context, None where the protocol uses none. Raises OSError for a CA file that holds none."""
        if not self.protocol.tls:
            return None
        return tls_context(self.ca_file, alone=True, strict=self.strict)

    def client(self) -> dict[str, object]:
        """Return the keyword arguments that connect an aiokafka client."""
        options: dict[str, object] = {
            "bootstrap_servers": list(self.brokers),
            "security_protocol": self.protocol.value,
            "ssl_context": self.ssl_context(),
        }
        if self.protocol.sasl:
            options |= {
                "sasl_mechanism": self.mechanism,
                "sasl_plain_username": self.username,
                "sasl_plain_password": self.password.get_secret_value(),
            }
        return options

    def wrong(self) -> str | None:
        """Return what is wrong with these settings, as one line that names them; None where they can be used."""
        if self.protocol.sasl and not (self.username and self.password.get_secret_value()):
            names = f"{self.settings}_USERNAME, {self.settings}_PASSWORD"
            return f"{names}: needed with {self.settings}_SECURITY_PROTOCOL={self.protocol}"
        try:
            self.ssl_context()
        except OSError as error:
            return f"{self.settings}_CA_FILE: {self.ca_file} holds no CA certificates: {error}"
        return None
