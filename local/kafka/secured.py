"""Listeners that ask who a client is, beside the plain one: what Kafka's configuration says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

SASL_PLAINTEXT: Final = "SASL_PLAINTEXT"
SASL_SSL: Final = "SASL_SSL"
SCRAM: Final = ("SCRAM-SHA-512", "SCRAM-SHA-256")

_LOGIN_MODULES: Final = "org.apache.kafka.common.security"
_SCRAM_LOGIN: Final = f"{_LOGIN_MODULES}.scram.ScramLoginModule required;"


@dataclass(frozen=True)
class Security:
    """What a secured broker has beside its plain listener, whose clients are administrators.

    There is a SASL_PLAINTEXT listener with SCRAM-SHA-512 and SCRAM-SHA-256, and with PLAIN for `plain_users`, names
    with their passwords. With `certificate`, a PEM file of a PKCS #8 key and its chain, there is a SASL_SSL listener
    with SCRAM-SHA-512 alone, as Port's Kafka has it. Who comes by these two may do what ACLs allow, and nothing else.
    """

    certificate: Path | None = None
    plain_users: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def protocols(self) -> tuple[str, ...]:
        """Return the protocols of the secured listeners, which are their names too."""
        return (SASL_PLAINTEXT, SASL_SSL) if self.certificate else (SASL_PLAINTEXT,)

    def properties(self) -> dict[str, str]:
        """Return the broker's properties for these listeners, without their addresses."""
        properties = {
            "listener.security.protocol.map": ",".join(
                f"{name}:{protocol}"
                for name, protocol in [("PLAINTEXT", "PLAINTEXT"), ("CONTROLLER", "PLAINTEXT")]
                + [(protocol, protocol) for protocol in self.protocols]
            ),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            # Whoever comes by the plain listener, on the loopback interface, and the broker itself.
            "super.users": "User:ANONYMOUS",
        }
        scram = dict.fromkeys(SCRAM, _SCRAM_LOGIN)
        plain = {"PLAIN": _plain_login(self.plain_users)} if self.plain_users else {}
        properties |= _listener(SASL_PLAINTEXT, scram | plain)
        if self.certificate:
            properties |= _listener(SASL_SSL, {SCRAM[0]: _SCRAM_LOGIN})
            properties |= {"ssl.keystore.type": "PEM", "ssl.keystore.location": str(self.certificate)}
        return properties


def _listener(name: str, logins: Mapping[str, str]) -> dict[str, str]:
    """Return a listener's properties; `logins` are its SASL mechanisms, each with its JAAS configuration."""
    prefix = f"listener.name.{name.lower()}"
    configured = {f"{prefix}.{mechanism.lower()}.sasl.jaas.config": login for mechanism, login in logins.items()}
    return {f"{prefix}.sasl.enabled.mechanisms": ",".join(logins)} | configured


def _plain_login(users: Mapping[str, str]) -> str:
    known = " ".join(f'user_{name}="{password}"' for name, password in users.items())
    return f"{_LOGIN_MODULES}.plain.PlainLoginModule required {known};"
