"""The settings of these handlers: where they forward, notify, and what they may call."""

from __future__ import annotations

from email.headerregistry import Address
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Final
from urllib.parse import unquote

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    FilePath,
    Json,
    SecretStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from yarl import URL

from agents.contract import HandlerError
from streams.settings import ENV_FILE, Duration, Names, ProxyUrl, SettingsError, read

MAILTO: Final = "mailto:"
_CHANNELS: Final = TypeAdapter(Json[dict[Annotated[str, Field(min_length=1)], Annotated[str, Field(min_length=1)]]])
_FORM: Final = 'write a JSON object of channel and address, like {"slack": "https://…", "email": "mailto:team@…"}'


class Rule(StrEnum):
    """Whether something is allowed."""

    ALLOW = "allow"
    REFUSE = "refuse"


class SmtpSecurity(StrEnum):
    """How the connection to the mail server is protected."""

    STARTTLS = "starttls"
    TLS = "tls"
    NONE = "none"


def host_of(url: str) -> str | None:
    """Return the host of a URL, in lower case and without a dot at its end; None where it is no http(s) URL."""
    try:
        parsed = URL(url)
    except ValueError:
        return None
    if parsed.scheme not in ("http", "https") or not parsed.raw_host:
        return None
    return parsed.raw_host.lower().rstrip(".")


def recipients(address: str) -> tuple[str, ...]:
    """Return the addresses of a `mailto:` URL: plain ones, separated by commas.

    Raises:
        ValueError: one of them is no address; the text quotes none.
    """
    return tuple(_mail_address(unquote(part)) for part in address.removeprefix(MAILTO).split(","))


def _mail_address(text: str) -> str:
    # What the e-mail package takes for an address may hold quoted blanks and the like, which nobody needs.
    plain = text.isascii() and text.isprintable() and not set(text) & set(' ,;:<>()[]"\\?&')
    try:
        address = Address(addr_spec=text) if plain else None
    except (ValueError, IndexError):
        address = None
    if address is None or not address.username or not address.domain:
        raise ValueError("write plain mail addresses, like team@example.com")
    return text


def _hosts(value: tuple[str, ...]) -> tuple[str, ...]:
    if any(host_of(f"https://{host}/") != host.lower() for host in value):
        raise ValueError("write names of hosts, separated by commas, without https:// and without a port")
    return tuple(host.lower() for host in value)


def _http_url(value: SecretStr) -> SecretStr:
    if value.get_secret_value() and host_of(value.get_secret_value()) is None:
        raise ValueError("write an https URL")
    return value


def _channels(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return _CHANNELS.validate_python(value)
    except ValidationError:
        # pydantic's own text names what the value holds.
        raise ValueError(_FORM) from None


def _addresses(value: dict[str, SecretStr]) -> dict[str, SecretStr]:
    for channel, secret in value.items():
        address = secret.get_secret_value()
        if address.startswith(MAILTO):
            recipients(address)
        elif host_of(address) is None:
            raise ValueError(f"{channel}: write an https URL, or mailto: and addresses")
    return value


class OutgoingSettings(BaseSettings):
    """Every setting of these handlers; the variable is the field's name in capitals. Durations are in seconds."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_file=ENV_FILE,
        env_file_encoding="utf-8",
        # Compose files pass on variables that are not set as empty ones.
        env_ignore_empty=True,
        extra="ignore",
        hide_input_in_errors=True,
    )

    webhook_url: Annotated[SecretStr, AfterValidator(_http_url)] = SecretStr("")
    provisioner_url: Annotated[SecretStr, AfterValidator(_http_url)] = SecretStr("")
    provisioner_deadline: Annotated[Duration, Field(ge=1)] = 3600.0
    # The worker's own setting, which checks it. The provisioner calls back there.
    public_url: str = ""
    notification_channels: Annotated[
        dict[str, SecretStr], NoDecode, BeforeValidator(_channels), AfterValidator(_addresses)
    ] = {}

    outgoing_hosts: Annotated[Names, AfterValidator(_hosts)] = ()
    outgoing_http: Rule = Rule.REFUSE
    outgoing_private: Rule = Rule.REFUSE
    outgoing_timeout: Annotated[Duration, Field(gt=0)] = 10.0
    outgoing_ca_file: FilePath | None = None
    # The worker's own settings, too.
    tls_strict: bool = True
    https_proxy: ProxyUrl = SecretStr("")
    no_proxy: Names = ()

    smtp_host: str = ""
    smtp_port: int = Field(default=587, ge=1, le=65535)
    smtp_security: SmtpSecurity = SmtpSecurity.STARTTLS
    smtp_username: str = ""
    smtp_password: SecretStr = SecretStr("")
    smtp_from: Annotated[str, AfterValidator(lambda value: value and _mail_address(value))] = ""

    @model_validator(mode="after")
    def _consistent(self) -> OutgoingSettings:
        for name, url in self._urls():
            if url.startswith("http:") and self.outgoing_http is Rule.REFUSE:
                raise ValueError(f"{name}: is http, which OUTGOING_HTTP=allow allows")
            if self.outgoing_hosts and host_of(url) not in self.outgoing_hosts:
                raise ValueError(f"OUTGOING_HOSTS: does not hold the host of {name}")
        if self.provisioner_url.get_secret_value() and not self.public_url:
            raise ValueError("PUBLIC_URL: needed by PROVISIONER_URL, for the provisioner to call back")
        if self._sends_mail and not (self.smtp_host and self.smtp_from):
            raise ValueError("SMTP_HOST, SMTP_FROM: needed by NOTIFICATION_CHANNELS, where an address is mailto:")
        if bool(self.smtp_username) != bool(self.smtp_password.get_secret_value()):
            raise ValueError("SMTP_USERNAME, SMTP_PASSWORD: needed both, or none")
        if self.smtp_username and self.smtp_security is SmtpSecurity.NONE:
            raise ValueError("SMTP_SECURITY: none would send SMTP_PASSWORD in clear")
        return self

    @property
    def hosts(self) -> frozenset[str]:
        """The hosts that may be called: `OUTGOING_HOSTS`, else those of the URLs in the settings."""
        return frozenset(self.outgoing_hosts or filter(None, (host_of(url) for _, url in self._urls())))

    @property
    def _sends_mail(self) -> bool:
        return any(address.get_secret_value().startswith(MAILTO) for address in self.notification_channels.values())

    def _urls(self) -> list[tuple[str, str]]:
        channels = ((f"NOTIFICATION_CHANNELS: {name}", url) for name, url in self.notification_channels.items())
        named = [("WEBHOOK_URL", self.webhook_url), ("PROVISIONER_URL", self.provisioner_url), *channels]
        urls = [(name, secret.get_secret_value()) for name, secret in named]
        return [(name, url) for name, url in urls if url and not url.startswith(MAILTO)]


@lru_cache(maxsize=1)
def settings() -> OutgoingSettings:
    """Return the settings, read once from the environment and `.env`.

    Raises:
        HandlerError: a value is wrong; one line per variable, naming it.
    """
    try:
        return read(OutgoingSettings)
    except SettingsError as wrong:
        raise HandlerError(str(wrong)) from None
