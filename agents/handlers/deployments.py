"""Deployment events, in the two shapes that Port's documentation shows."""

from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field

from agents import Context, handles


class DeploymentStarted(BaseModel):
    """`{"eventType": "deployment.started", "service", "version", "environment", "timestamp"}`."""

    service: str
    version: str
    environment: str
    timestamp: datetime | None = None


@handles("deployment.started", concurrency=20, deadline="5m")
async def deployment_started(event: DeploymentStarted, ctx: Context) -> dict[str, object]:
    """Say what is deployed and where."""
    return {"processedAt": datetime.now(UTC), "received": ctx.fields}


class Deployed(BaseModel):
    """What a deployed service is."""

    model_config = ConfigDict(populate_by_name=True)
    service_id: str = Field(alias="serviceId")
    version: str
    environment: str


class ServiceDeployed(BaseModel):
    """`{"event": "service.deployed", "data": {"serviceId", "version", "environment"}, "metadata": {"timestamp"}}`."""

    data: Deployed
    metadata: dict[str, object] = {}


@handles("service.deployed", concurrency=20, deadline="5m")
async def service_deployed(event: ServiceDeployed, ctx: Context) -> dict[str, object]:
    """Say what was deployed and where."""
    return {"processedAt": datetime.now(UTC), "received": ctx.fields}
