"""The settings, read once at start from the environment or a `.env` file, then frozen."""

from __future__ import annotations

import re
import ssl
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from streams.durations import seconds

LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
ENV_FILE: Final = ".env"
_TOPIC_PART: Final = re.compile(r"[A-Za-z0-9._-]{1,200}", re.ASCII)


class SettingsError(Exception):
    """Settings are missing or wrong. The text is one line per variable, and holds no value of a secret."""


class UnknownEvents(StrEnum):
    """What is done with a message of ours whose event type has no handler here."""

    FAIL = "fail"
    IGNORE = "ignore"


class SecurityProtocol(StrEnum):
    """Kafka's `security.protocol`."""

    PLAINTEXT = "PLAINTEXT"
    SSL = "SSL"
    SASL_PLAINTEXT = "SASL_PLAINTEXT"
    SASL_SSL = "SASL_SSL"


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _topic_part(value: str) -> str:
    if _TOPIC_PART.fullmatch(value) is None:
        raise ValueError("use letters, digits, '.', '_' and '-' only: it becomes part of Kafka topic names")
    return value


def _url(value: str) -> str:
    if not re.fullmatch(r"https?://[^/?#\s]+", value.rstrip("/")):
        raise ValueError("write http(s)://host without a path")
    return value.rstrip("/")


TopicPart = Annotated[str, AfterValidator(_topic_part)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Duration = Annotated[float, BeforeValidator(seconds)]


class Settings(BaseSettings):
    """Every setting of a worker; the variable is the field's name in capitals. Durations are in seconds."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_file=ENV_FILE,
        env_file_encoding="utf-8",
        # Compose files pass on variables that are not set as empty ones.
        env_ignore_empty=True,
        extra="ignore",
        hide_input_in_errors=True,
    )

    port_org_id: TopicPart
    port_client_id: str = Field(min_length=1)
    port_client_secret: SecretStr = Field(min_length=1)
    port_api_base_url: Annotated[str, AfterValidator(_url)] = "https://api.getport.io"

    kafka_brokers: Names = ("127.0.0.1:9092",)
    kafka_security_protocol: SecurityProtocol = SecurityProtocol.PLAINTEXT
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    kafka_username: str = ""
    kafka_password: SecretStr = SecretStr("")
    kafka_ca_file: Path | None = None

    consumer_group: TopicPart | None = None
    handlers: Names = ("agents.handlers",)
    unknown_events: UnknownEvents = UnknownEvents.FAIL
    partitions: int = Field(default=8, ge=1, le=1000)
    replication_factor: int | None = Field(default=None, ge=1, le=15)
    max_open: int = Field(default=200_000, ge=1)
    report_concurrency: int = Field(default=100, ge=1, le=10_000)
    report_grace: Duration = 0.0
    drain_seconds: Duration = 30.0

    data_dir: Path = Path(".data")
    web_host: str = "127.0.0.1"
    web_port: int = Field(default=6066, ge=1, le=65535)
    web_token: SecretStr = SecretStr("")

    @field_validator("kafka_brokers")
    @classmethod
    def _brokers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or not all(re.fullmatch(r"[^\s/,]+:\d{1,5}", broker) for broker in value):
            raise ValueError("write host:port, several separated by commas")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.web_host not in LOOPBACK and not self.web_token.get_secret_value():
            raise ValueError("WEB_TOKEN: needed to listen beyond loopback, as WEB_HOST asks; set a long random value")
        protocol = self.kafka_security_protocol
        if "SASL" in protocol and not (self.kafka_username and self.kafka_password.get_secret_value()):
            raise ValueError(f"KAFKA_USERNAME, KAFKA_PASSWORD: needed with KAFKA_SECURITY_PROTOCOL={protocol}")
        try:
            self.ssl_context()
        except OSError as wrong:
            raise ValueError(f"KAFKA_CA_FILE: {self.kafka_ca_file} holds no CA certificates: {wrong}") from None
        return self

    @property
    def app_id(self) -> str:
        """The Faust app id and Kafka consumer group: `CONSUMER_GROUP`, else `<orgId>.port-runs`."""
        return self.consumer_group or f"{self.port_org_id}.port-runs"

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return the TLS context of the own cluster, None where it is not used."""
        if "SSL" not in self.kafka_security_protocol.replace("SASL", ""):
            return None
        return ssl.create_default_context(cafile=str(self.kafka_ca_file) if self.kafka_ca_file else None)

    def kafka_client(self) -> dict[str, object]:
        """Return the keyword arguments that connect an aiokafka client to the own cluster."""
        options: dict[str, object] = {
            "bootstrap_servers": list(self.kafka_brokers),
            "security_protocol": self.kafka_security_protocol.value,
            "ssl_context": self.ssl_context(),
        }
        if "SASL" in self.kafka_security_protocol:
            options |= {
                "sasl_mechanism": self.kafka_sasl_mechanism,
                "sasl_plain_username": self.kafka_username,
                "sasl_plain_password": self.kafka_password.get_secret_value(),
            }
        return options


def _line(location: tuple[int | str, ...], kind: str, message: str) -> str:
    if not location:
        return message.removeprefix("Value error, ")
    name = str(location[0]).upper()
    if kind == "missing":
        return f"{name}: missing; set it in the environment or in .env"
    return f"{name}: {message.removeprefix('Value error, ')}"


def load() -> Settings:
    """Read the settings from the environment and `.env` in the working directory.

    Raises:
        SettingsError: a value is missing or wrong; one line per variable, naming it.
    """
    try:
        return Settings()
    except (UnicodeDecodeError, OSError) as wrong:
        raise SettingsError(f"{ENV_FILE}: cannot be read: {wrong}") from None
    except ValidationError as wrong:
        lines = [_line(error["loc"], error["type"], error["msg"]) for error in wrong.errors(include_input=False)]
        raise SettingsError("\n".join(lines)) from None
