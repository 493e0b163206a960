"""How an emulator is started."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from local.emulator.faults import RateLimit
from port.nodes import Form

_CLIENT_SECRET = SecretStr("emulator-secret")
_KAFKA_PASSWORD = SecretStr("emulator-password")


@dataclass(frozen=True, slots=True)
class EmulatorConfig:
    """The settings of one emulator. Each has a default that suits a test in the same process."""

    host: str = "127.0.0.1"
    port: int = 0
    """0 takes any free one."""
    org_id: str = "demo"
    client_id: str = "emulator-client"
    client_secret: SecretStr = _CLIENT_SECRET
    kafka: str | None = None
    """`host:port,…` of the cluster that workflows publish on, None to publish nothing."""
    kafka_advertised: str | None = None
    """The brokers in the answer to `GET /v1/kafka-credentials`, where they are not those of `kafka`: a cluster has
    other addresses for its customers than for itself."""
    kafka_username: str = "emulator"
    kafka_password: SecretStr = _KAFKA_PASSWORD
    topic_partitions: int | None = None
    """Create `<org_id>.runs` with so many partitions where it is missing; None to leave that to others."""
    form: Form = Form.CONTEXT
    """How messages are wrapped that do not say so themselves."""
    token_seconds: float = 10_800
    identical_status: int = 409
    """The answer to the same completion again: 409, or 200."""
    accept_unknown: bool = False
    """Create an unknown node run at its first report."""
    rate_limit: RateLimit | None = None
    """In force whenever no fault sets another one."""
    record_file: Path | None = None
    state_dir: Path | None = None
    clock: Callable[[], float] = time.time
    """Seconds since the epoch."""

    @property
    def topic(self) -> str:
        """The topic that workflows publish on."""
        return f"{self.org_id}.runs"
