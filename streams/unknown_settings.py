"""Names in the environment, or in `.env`, that look like settings of a worker and are none: misspelt, most likely."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dotenv import dotenv_values

from streams.settings import ENV_FILE, Settings

_PREFIXES: Final = (
    "KAFKA_",
    "SOURCE_",
    "PORT_",
    "WEB_",
    "HANDLER",
    "REPORT_",
    "UNKNOWN_EVENT",
    "SIGNING_",
    "CONSUMER_GROUP",
    "CANCEL_POLL",
    "DRAIN_",
    "API_CALLS",
    "REPLICATION_",
)
_CLOSE: Final = 0.86
_OTHERS: Final = re.compile(
    # Links that Kubernetes and Docker write for services called so: KAFKA_PORT_9092_TCP_ADDR, WEB_SERVICE_HOST.
    r"\w+_(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?|ENV_\w+|NAME)"
    # Kafka's own scripts and images.
    r"|KAFKA_(HOME|VERSION|OPTS|HEAP_OPTS|JVM_\w+|JMX_\w+|LOG4J_\w+|GC_\w+|DEBUG\w*|CFG_\w+|KRAFT_\w+|NODE_ID|BROKER_ID"
    r"|BROKER_RACK|PROCESS_ROLES|LISTENER\w*|ADVERTISED_\w+|CONTROLLER_\w+|INTER_\w+|ZOOKEEPER_\w+|OFFSETS_\w+"
    r"|TRANSACTION_\w+|GROUP_(?!ID)\w+|AUTO_\w+|DEFAULT_\w+|NUM_\w+|LOG_\w+|MIN_\w+|MESSAGE_\w+|DELETE_\w+|SHARE_\w+"
    r"|CLUSTERS_\w+|REST_\w+|CONNECT_\w+)"
    # Builds, process managers, and Port's other tools.
    r"|SOURCE_(DATE_EPOCH|COMMIT|BRANCH|VERSION|REPOSITORY\w*)|WEB_(CONCURRENCY|MEMORY|BROWSER|ROOT|DOCUMENT_ROOT)"
    r"|PORT_(BASE_URL|BETA_FEATURES_ENABLED|AGENT_\w+)"
)
_LINK: Final = re.compile(r"(tcp|udp|sctp)://", re.IGNORECASE)


@dataclass(frozen=True)
class UnknownSetting:
    """A name that looks like a setting and is none. Its value is nobody's business."""

    name: str
    place: str
    """Where it stands."""
    meant: str | None
    """The setting that may have been meant."""

    @property
    def remedy(self) -> str:
        """What to do."""
        if self.meant is not None:
            return f"{self.meant} may be meant"
        return "correct its name, or remove it; the settings are listed in the README"

    def __str__(self) -> str:
        return f"{self.name} in {self.place} is no setting, and has no effect: {self.remedy}"


def unknown_settings(environment: Mapping[str, str], file: Path | None = None) -> list[UnknownSetting]:
    """Return the names that look like settings and are none, each once.

    Args:
        environment: of the process.
        file: as `.env` is read; by default that of the working directory. One that cannot be read counts as empty.
    """
    path = Path(ENV_FILE) if file is None else file
    found: dict[str, UnknownSetting] = {}
    for place, values in (("the environment", environment), (str(path), _in_file(path))):
        for unknown in _unknown(values, place):
            found.setdefault(unknown.name.upper(), unknown)
    return sorted(found.values(), key=lambda one: one.name)


def _in_file(path: Path) -> Mapping[str, str]:
    try:
        return {name: value or "" for name, value in dotenv_values(path, encoding="utf-8").items()}
    except (OSError, UnicodeDecodeError):
        return {}


def _unknown(values: Mapping[str, str], place: str) -> Iterator[UnknownSetting]:
    known = [name.upper() for name in Settings.model_fields]
    for name, value in values.items():
        plain = name.upper()
        if plain in known or _OTHERS.fullmatch(plain) or _LINK.match(value):
            continue
        close = difflib.get_close_matches(plain, known, 1, _CLOSE)
        if close or plain.startswith(_PREFIXES):
            yield UnknownSetting(
                name, place, next(iter(close or difflib.get_close_matches(plain, known, 1, 0.7)), None)
            )
