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


class Form(StrEnum):
    """How the message of a node is wrapped. Which form Port uses is not documented; each of these is known from it."""

    CONTEXT = "context"
    """`context` with the ids, beside `payload` (Port's pages on external processing)."""
    HEADERS = "headers"
    """Signed: `headers`, `context.runId` with the node run's id, `payload` (Port's agent)."""
    IDENTIFIERS = "identifiers"
    """As `context`, the ids called `…Identifier` (Port's agent, for a while)."""
    ROOT = "root"
    """The ids at the root, beside `payload`."""
    OBJECTS = "objects"
    """`workflowRun` and `workflowNodeRun` as objects, beside `payload`."""
    ACTION = "action"
    """In the frame of an action run, with its `resourceType` (Port's guide for action runs)."""
    SPREAD = "spread"
    """The payload at the root, beside `context`; an array takes a message for each element (a public consumer)."""
    SPREAD_RUN_ID = "spread-run-id"
    """As `spread`, with the node run's id alone, as `context.runId`."""

    @property
    def is_spread(self) -> bool:
        """Whether the payload stands at the root."""
        return self in (Form.SPREAD, Form.SPREAD_RUN_ID)


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

    def message(self, payload: JsonValue, form: Form = Form.CONTEXT) -> dict[str, JsonValue]:
        """Return the message on `<orgId>.runs` with this payload; one of the form `headers` is yet to be signed.

        Raises NodeError for a payload that the form cannot hold: at the root there is only room for an object.
        """
        names: dict[str, JsonValue] = {"workflowIdentifier": self.workflow, "nodeIdentifier": self.node}
        run, node_run = self.workflow_run_id, self.node_run_id
        if form.is_spread:
            if not isinstance(payload, dict):
                raise NodeError(f"the form {form} holds one object only: split the payload")
            ids = {"workflowRunId": run, "nodeRunId": node_run} if form is Form.SPREAD else {"runId": node_run}
            return {**payload, "context": {**ids}}
        wrapping: dict[Form, dict[str, JsonValue]] = {
            Form.CONTEXT: {"context": {"workflowRunId": run, "nodeRunId": node_run, **names}},
            Form.HEADERS: {"headers": {}, "context": {"runId": node_run}},
            Form.IDENTIFIERS: {"context": {"workflowRunIdentifier": run, "nodeRunIdentifier": node_run, **names}},
            Form.ROOT: {"workflowRunId": run, "nodeRunId": node_run, "context": names},
            Form.OBJECTS: {"workflowRun": {"identifier": run}, "workflowNodeRun": {"identifier": node_run}},
            Form.ACTION: {
                "action": self.node,
                "resourceType": "run",
                "status": "TRIGGERED",
                "context": {"workflowRunId": run, "runId": node_run, **names},
            },
        }
        return {**wrapping[form], "payload": payload}


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
