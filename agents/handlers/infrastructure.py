"""Requests for infrastructure."""

from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field

from agents import Context, handles


class Parameters(BaseModel):
    """What to provision. A template renders `count` as text or as a number: both are read."""

    cloud_provider: str = Field(alias="cloudProvider")
    region: str
    instance_type: str = Field(alias="instanceType")
    count: int = Field(default=1, ge=1)


class ProvisionInfrastructure(BaseModel):
    """`{"action": "provision-infrastructure", "parameters": {…}, "callback": {…}}`."""

    model_config = ConfigDict(extra="allow")
    parameters: Parameters


@handles("provision-infrastructure", concurrency=10, deadline="30m")
async def provision_infrastructure(event: ProvisionInfrastructure, ctx: Context) -> dict[str, object]:
    """Say what is asked for."""
    return {"processedAt": datetime.now(UTC), "received": ctx.fields}
