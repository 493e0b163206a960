"""What goes to Port's API and comes back from it, typed.

Sources: Port API reference, "Update a workflow node run", "Add logs to a workflow node run", "Get a workflow run",
"Create an access token", "Get your organization's Kafka credentials".
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, JsonValue, SecretStr, model_validator


class Status(StrEnum):
    """Where a node run stands, as a report may say it."""

    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"


class Result(StrEnum):
    """How a completed node run ended."""

    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class LogLevel(StrEnum):
    """Levels of a line in a node run's log."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARN = "WARN"
    ERROR = "ERROR"


class _Sent(BaseModel):
    """A body we send: nothing that Port does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class _Received(BaseModel):
    """A body Port sends: fields we do not know are kept, never an error."""

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)


class LogLine(_Sent):
    """One line of a node run's log."""

    level: LogLevel = LogLevel.INFO
    message: str


class NodeRunUpdate(_Sent):
    """The body of a report. `result` is there exactly when `status` is COMPLETED; `output` is an object.

    A failed node's output carries `{"error": {"message": "…"}}` for the nodes after it.
    """

    status: Status
    result: Result | None = None
    output: dict[str, JsonValue] | None = None
    links: Sequence[JsonValue] | None = None
    external_run_id: Annotated[str | None, Field(alias="externalRunId")] = None

    @model_validator(mode="after")
    def _result_exactly_when_completed(self) -> Self:
        if (self.status is Status.COMPLETED) != (self.result is not None):
            raise ValueError("result is required with COMPLETED and forbidden with IN_PROGRESS")
        return self

    def to_json(self) -> bytes:
        """The body as JSON, the same bytes for equal updates; absent fields are left out."""
        return self.model_dump_json(by_alias=True, exclude_none=True).encode()


class NodeRun(_Received):
    """A node run as it stands in a workflow run. Status and result are plain strings: Port may have more of them."""

    identifier: str = ""
    status: str | None = None
    result: str | None = None
    output: JsonValue = None

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.result is not None or self.status == Status.COMPLETED


class WorkflowRun(_Received):
    """A workflow run. `status` is `IN_PROGRESS`, `CANCELLING`, `COMPLETED` or one that Port adds later."""

    identifier: str
    status: str | None = None
    result: str | None = None
    node_runs: Annotated[
        list[NodeRun], Field(validation_alias=AliasChoices("nodeRuns", "node_runs"), serialization_alias="nodeRuns")
    ] = []

    @model_validator(mode="before")
    @classmethod
    def _unwrap(cls, value: object) -> object:
        """Port's answers stand under a name beside `ok`; take the run itself where it does."""
        if isinstance(value, dict) and "identifier" not in value:
            for name in ("run", "workflowRun"):
                if isinstance(value.get(name), dict):
                    return value[name]
        return value

    @property
    def is_cancelled(self) -> bool:
        """Whether it was cancelled, whatever of it still runs."""
        return self.status in ("CANCELLING", "CANCELLED") or self.result == Result.CANCELLED

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.result is not None or self.status in ("COMPLETED", "CANCELLED")

    def node_run(self, node_run_id: str) -> NodeRun | None:
        """The node run with this id, or None where the run has none."""
        return next((node for node in self.node_runs if node.identifier == node_run_id), None)


class AccessToken(_Received):
    """A bearer token. `expires_in` is in seconds from the moment of the answer; Port's tokens live 3 hours."""

    access_token: Annotated[SecretStr, Field(alias="accessToken", min_length=1)]
    expires_in: Annotated[float, Field(alias="expiresIn", allow_inf_nan=False)]


class KafkaCredentials(_Received):
    """How to reach Port's Kafka (`SASL_SSL`, `SCRAM-SHA-512`). `brokers` are `host:port`."""

    brokers: Annotated[list[str], Field(min_length=1)]
    username: str
    password: SecretStr


class KafkaCredentialsAnswer(_Received):
    """The envelope of `GET /v1/kafka-credentials`."""

    credentials: KafkaCredentials
