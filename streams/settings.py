"""The settings, read once at start from the environment or a `.env` file, then frozen."""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from port.connection import Connection, proxy_for, tls_context
from port.ids import is_workflow_run_id
from streams.cluster import Cluster, Mechanism, SecurityProtocol
from streams.durations import seconds
from streams.messages import MAX_ITEMS

LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
WILDCARDS: Final = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - compared, not bound
ENV_FILE: Final = ".env"
Read = TypeVar("Read", bound=BaseSettings)
_SIGNING_KEY_CHARACTERS: Final = 32
SHORTEST_POLL: Final = 5.0
"""Of `CANCEL_POLL_SECONDS`: each look at a workflow run is a call of the organization's rate limit."""
_SET_IT: Final = "set it in the environment or in .env"
_NAME_HANDLERS: Final = f"name the modules with your handlers, like HANDLERS=my_handlers; {_SET_IT}"
_TOPIC_PART: Final = re.compile(r"[A-Za-z0-9._-]{1,200}", re.ASCII)


class SettingsError(Exception):
    """Settings are missing or wrong. The text is one line per variable, and holds no value of a secret."""


class SurplusPartitions(StrEnum):
    """What is done where an own topic has more partitions than `PARTITIONS`."""

    REFUSE = "refuse"
    IGNORE = "ignore"


class UnknownEvents(StrEnum):
    """What is done with a message of ours whose event type has no handler here."""

    FAIL = "fail"
    IGNORE = "ignore"
    HOLD = "hold"


class Signature(StrEnum):
    """Which messages must carry Port's signature."""

    OFF = "off"
    WHEN_PRESENT = "when-present"
    REQUIRED = "required"


def _parts(value: SecretStr) -> list[str]:
    return [part.strip() for part in value.get_secret_value().split(",") if part.strip()]


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _modules(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise ValueError(_NAME_HANDLERS)
    return value


def _topic_part(value: str) -> str:
    if _TOPIC_PART.fullmatch(value) is None:
        raise ValueError("use letters, digits, '.', '_' and '-' only: it becomes part of Kafka topic names")
    return value


def _is_broker(value: str) -> bool:
    found = re.fullmatch(r"[^\s/,]+:(\d{1,5})", value, re.ASCII)
    return found is not None and 0 < int(found[1]) < 65536


def _url(value: str) -> str:
    if not re.fullmatch(r"https?://[^/?#\s]+", value.rstrip("/")):
        raise ValueError("write http(s)://host without a path")
    return value.rstrip("/")


def _proxy(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not text:
        return value
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        right = False
    if not right or parts.path not in ("", "/") or parts.query or re.search(r"\s", url):
        raise ValueError("write http://host:port, with user:password@ before the host where the proxy wants them")
    return SecretStr(url.rstrip("/"))


def _start(value: object) -> object:
    """`earliest`, `latest`, or a time with its offset from UTC."""
    if not isinstance(value, str) or value in ("earliest", "latest"):
        return value
    try:
        start = datetime.fromisoformat(value)
    except ValueError:
        start = None
    if start is None or start.tzinfo is None:
        raise ValueError("write earliest, latest, or an ISO time with its offset, like 2026-01-31T08:00:00Z")
    return start


TopicPart = Annotated[str, AfterValidator(_topic_part)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Duration = Annotated[float, BeforeValidator(seconds)]
ProxyUrl = Annotated[SecretStr, AfterValidator(_proxy)]
Start = Annotated[Literal["earliest", "latest"] | datetime, BeforeValidator(_start)]

FROM_PORT: Final = ("port",)
"""`SOURCE_BROKERS` where brokers and credentials come from Port's API."""


def _web_url(value: str) -> str:
    if value and not re.fullmatch(r"https?://[^/?#@\s]+/?", value, re.ASCII):
        raise ValueError("write http(s)://host:port of this worker, without a path")
    return value.rstrip("/")


def _public_url(value: str) -> str:
    if not re.fullmatch(r"(https?://[^/?#@\s]+(/[A-Za-z0-9._~/-]*)?)?", value, re.ASCII):
        raise ValueError("write http(s)://host, with a path where a proxy wants one, and no query")
    return value.rstrip("/")


def _require_certificates(file: Path) -> None:
    try:
        tls_context(file)
    except OSError as error:
        raise ValueError(f"PORT_CA_FILE: {file} holds no CA certificates: {error}") from None


NO_LINK: Final = "off"
RUN_ID: Final = "{workflowRunId}"
"""Stands in `PORT_RUN_URL` for the id of a workflow run."""
_RUN_URL: Final = r"https?://[^/?#@\s{}]+[/?#][^\s{}\"'<>]*\{workflowRunId\}[^\s{}\"'<>]*"
_RUN_URLS: Final = {
    f"https://api.{domain}": f"https://app.{domain}/organization/run?runId={RUN_ID}"
    for domain in ("getport.io", "us.getport.io", "port.io", "us.port.io")
}
"""By `PORT_API_BASE_URL`, as Port documents it for runs of actions."""


def _run_url(value: str) -> str:
    if value and value != NO_LINK and not re.fullmatch(_RUN_URL, value, re.ASCII):
        raise ValueError(f"write http(s)://host/… with {RUN_ID} once behind the host, or {NO_LINK} for no link")
    return value


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
    port_run_url: Annotated[str, AfterValidator(_run_url)] = ""
    port_ca_file: Path | None = None
    tls_strict: bool = True
    https_proxy: ProxyUrl = SecretStr("")
    no_proxy: Names = ()

    kafka_brokers: Names = ("127.0.0.1:9092",)
    kafka_security_protocol: SecurityProtocol = SecurityProtocol.PLAINTEXT
    kafka_sasl_mechanism: Mechanism = "SCRAM-SHA-512"
    kafka_username: str = ""
    kafka_password: SecretStr = SecretStr("")
    kafka_ca_file: Path | None = None

    source_brokers: Names = ()
    source_security_protocol: SecurityProtocol = SecurityProtocol.SASL_SSL
    source_sasl_mechanism: Mechanism = "SCRAM-SHA-512"
    source_username: str = ""
    source_password: SecretStr = SecretStr("")
    source_ca_file: Path | None = None
    source_start: Start = "earliest"

    consumer_group: TopicPart | None = None
    signature: Signature = Signature.WHEN_PRESENT
    handlers: Annotated[Names, AfterValidator(_modules)]
    unknown_events: UnknownEvents = UnknownEvents.FAIL
    workflows: Names = ()
    nodes: Names = ()
    unknown_events_hold: Duration = 86_400.0
    partitions: int = Field(default=8, ge=1, le=1000)
    surplus_partitions: SurplusPartitions = SurplusPartitions.REFUSE
    replication_factor: int | None = Field(default=None, ge=1, le=15)
    max_open: int = Field(default=200_000, ge=1)
    max_items: int = Field(default=MAX_ITEMS, ge=1)
    report_concurrency: int = Field(default=100, ge=1, le=10_000)
    report_grace: Duration = 0.0
    api_calls_per_second: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    cancel_poll_seconds: Duration = 60.0
    drain_seconds: Duration = 30.0

    data_dir: Path = Path(".data")
    web_host: str = "127.0.0.1"
    web_port: int = Field(default=6066, ge=1, le=65535)
    web_url: Annotated[str, AfterValidator(_web_url)] = ""
    web_token: SecretStr = SecretStr("")
    web_read_token: SecretStr = SecretStr("")
    web_test_messages: bool = False
    public_url: Annotated[str, AfterValidator(_public_url)] = ""
    signing_key: SecretStr = SecretStr("")

    @field_validator("kafka_brokers", "source_brokers")
    @classmethod
    def _brokers(cls, value: tuple[str, ...], field: ValidationInfo) -> tuple[str, ...]:
        if field.field_name == "source_brokers" and value in ((), FROM_PORT):
            return value
        if not value or not all(map(_is_broker, value)):
            raise ValueError("write host:port, several separated by commas")
        return value

    @field_validator("signing_key")
    @classmethod
    def _signing_key(cls, value: SecretStr) -> SecretStr:
        keys = _parts(value)
        if (value.get_secret_value() and not keys) or any(len(key) < _SIGNING_KEY_CHARACTERS for key in keys):
            raise ValueError(
                f"each key needs {_SIGNING_KEY_CHARACTERS} characters or more; several are separated by commas, the "
                "newest first"
            )
        return value

    @field_validator("port_client_secret")
    @classmethod
    def _client_secret(cls, value: SecretStr) -> SecretStr:
        if not _parts(value):
            raise ValueError("write the client secret; during a rotation the new one, a comma, and the old one")
        return value

    @field_validator("cancel_poll_seconds")
    @classmethod
    def _seldom(cls, value: float) -> float:
        if 0 < value < SHORTEST_POLL:
            raise ValueError(f"write {SHORTEST_POLL:g}s or more, or 0 for never")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.web_host not in LOOPBACK and not self.web_token.get_secret_value():
            raise ValueError("WEB_TOKEN: needed to listen beyond loopback, as WEB_HOST asks; set a long random value")
        read_token = self.web_read_token.get_secret_value()
        if read_token and read_token == self.web_token.get_secret_value():
            raise ValueError("WEB_READ_TOKEN: must be another one than WEB_TOKEN")
        if read_token and not self.web_token.get_secret_value():
            raise ValueError("WEB_READ_TOKEN: needs WEB_TOKEN; without it everybody on the machine may do everything")
        if common := sorted(set(self.kafka_brokers) & set(self.source_brokers)):
            raise ValueError(f"SOURCE_BROKERS: {common[0]} is one of KAFKA_BROKERS too; leave it empty for one cluster")
        clusters = [self.own, *([self.source] if self.source and not self.source_from_port else [])]
        for wrong in filter(None, (cluster.wrong() for cluster in clusters)):
            raise ValueError(wrong)
        if self.port_ca_file is not None:
            _require_certificates(self.port_ca_file)
        return self

    @property
    def client_secrets(self) -> tuple[SecretStr, ...]:
        """The client secrets, the newest first: Port's API is called with that one; all hold for what Port has made."""
        return tuple(map(SecretStr, _parts(self.port_client_secret)))

    @property
    def signing_keys(self) -> tuple[SecretStr, ...]:
        """The keys of callbacks: the first one signs, all are accepted; none where `SIGNING_KEY` is not set."""
        return tuple(map(SecretStr, _parts(self.signing_key)))

    @property
    def port_connection(self) -> Connection:
        """How Port's API is called."""
        proxy = proxy_for(self.port_api_base_url, self.https_proxy.get_secret_value(), self.no_proxy)
        return Connection(tls_context(self.port_ca_file, strict=self.tls_strict), proxy)

    def run_url(self, workflow_run_id: str | None) -> str | None:
        """Return where people look at a workflow run at Port; None where that, or the run, is not known."""
        template = self.port_run_url or _RUN_URLS.get(self.port_api_base_url, NO_LINK)
        if template == NO_LINK or workflow_run_id is None or not is_workflow_run_id(workflow_run_id):
            return None
        return template.replace(RUN_ID, workflow_run_id)

    @property
    def app_id(self) -> str:
        """The Faust app id and Kafka consumer group: `CONSUMER_GROUP`, else `<orgId>.port-runs`."""
        return self.consumer_group or f"{self.port_org_id}.port-runs"

    @property
    def ignores_surplus(self) -> bool:
        """Whether partitions of the own topics beyond `PARTITIONS` are left unused."""
        return self.surplus_partitions is SurplusPartitions.IGNORE

    @property
    def own(self) -> Cluster:
        """The own cluster, where all state is."""
        return Cluster(
            "KAFKA",
            self.kafka_brokers,
            self.kafka_security_protocol,
            self.kafka_sasl_mechanism,
            self.kafka_username,
            self.kafka_password,
            self.kafka_ca_file,
            self.tls_strict,
        )

    @property
    def source(self) -> Cluster | None:
        """The cluster that `<orgId>.runs` is copied from; None where that topic is on the own cluster.

        Where `source_from_port`, brokers and credentials are still to be asked for.
        """
        if not self.source_brokers:
            return None
        return Cluster(
            "SOURCE",
            () if self.source_from_port else self.source_brokers,
            self.source_security_protocol,
            self.source_sasl_mechanism,
            self.source_username,
            self.source_password,
            self.source_ca_file,
            self.tls_strict,
        )

    @property
    def source_from_port(self) -> bool:
        """Whether brokers and credentials of the source come from Port's API."""
        return self.source_brokers == FROM_PORT

    @property
    def source_name(self) -> str:
        """What the cluster with `<orgId>.runs` is called where a message's coordinates are written down."""
        return (self.source_brokers or self.kafka_brokers)[0]


def _line(location: tuple[int | str, ...], kind: str, message: str) -> str:
    if not location:
        return message.removeprefix("Value error, ")
    name = str(location[0]).upper()
    if kind == "missing":
        return f"{name}: missing; {_NAME_HANDLERS if name == 'HANDLERS' else _SET_IT}"
    return f"{name}: {message.removeprefix('Value error, ')}"


def read(settings: type[Read]) -> Read:
    """Read settings from the environment and `.env` in the working directory.

    Raises:
        SettingsError: a value is missing or wrong; one line per variable, naming it.
    """
    try:
        return settings()
    except (UnicodeDecodeError, OSError) as wrong:
        raise SettingsError(f"{ENV_FILE}: cannot be read: {wrong}") from None
    except ValidationError as wrong:
        lines = [_line(error["loc"], error["type"], error["msg"]) for error in wrong.errors(include_input=False)]
        raise SettingsError("\n".join(lines)) from None


def load() -> Settings:
    """Read the settings of a worker, as `read` does."""
    return read(Settings)
