"""The Kafka action node of a Port workflow (Port documentation: "Kafka action node")."""

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
