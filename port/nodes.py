"""The Kafka action node of a Port workflow (Port documentation: "Kafka action node")."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from port.errors import NodeError


class OnFailure(StrEnum):
    """Whether the workflow goes on after the node FAILED."""

    TERMINATE = "terminate"
    CONTINUE = "continue"


class KafkaConfig(BaseModel):
    """`config` of the node: what to publish. An array payload is several messages for one node."""

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)

    type: Literal["KAFKA"]
    payload: dict[str, JsonValue] | list[JsonValue]
    on_failure: Annotated[OnFailure, Field(alias="onFailure")] = OnFailure.TERMINATE


class ActionNode(BaseModel):
    """A Kafka action node. `identifier` is unique in its workflow; unknown fields are kept."""

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)

    identifier: Annotated[str, Field(min_length=1)]
    title: str | None = None
    icon: str | None = None
    description: str | None = None
    config: KafkaConfig
    variables: dict[str, JsonValue] | None = None
    links: Annotated[list[JsonValue], Field(max_length=3)] | None = None
    verbose: bool | None = None


@dataclass(frozen=True, slots=True)
class NodeExecution:
    """Where a node runs: what its templates and its message say of that."""

    node_run_id: str
    workflow_run_id: str
    workflow: str
    """The workflow's identifier."""
    node: str
    """The node's identifier."""
    started_at: float
    """Epoch seconds."""

    def template_input(
        self, trigger: JsonValue, outputs: Mapping[str, JsonValue], secrets: Mapping[str, str]
    ) -> dict[str, JsonValue]:
        """Return what jq sees as `.` (Port documentation: "Kafka action node", and the data that templates read).

        `trigger` is what the trigger put out, `outputs` what earlier nodes did, by their identifiers.
        """
        started_at = datetime.fromtimestamp(self.started_at, UTC).isoformat(timespec="milliseconds")
        created_at = started_at.replace("+00:00", "Z")
        by: dict[str, JsonValue] = {"email": "developer@example.com", "firstName": "Dana", "lastName": "Developer"}
        return {
            "outputs": {**outputs, "trigger": trigger},
            "secrets": dict(secrets),
            "workflow": {"identifier": self.workflow, "versionIdentifier": "1"},
            "workflowRun": {
                "identifier": self.workflow_run_id,
                "createdAt": created_at,
                "trigger": {"identifier": "trigger", "by": by},
            },
            "workflowNodeRun": {"identifier": self.node_run_id, "createdAt": created_at},
        }

    def message(self, payload: JsonValue) -> dict[str, JsonValue]:
        """Return the message on `<orgId>.runs` with this payload."""
        context: dict[str, JsonValue] = {
            "workflowRunId": self.workflow_run_id,
            "nodeRunId": self.node_run_id,
            "workflowIdentifier": self.workflow,
            "nodeIdentifier": self.node,
        }
        return {"context": context, "payload": payload}


def parse_node(value: object) -> ActionNode:
    """Read a node from decoded JSON. Raises NodeError naming the first wrong field and what is wrong with it."""
    try:
        return ActionNode.model_validate(value)
    except ValidationError as error:
        raise NodeError(_first_reason(error)) from error


def _first_reason(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "node"
    return f"not a Kafka action node: {field}: {first['msg']}"
