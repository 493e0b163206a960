"""Deployment events, in the two shapes that Port's documentation shows."""

from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field

from agents import Context, Fail, handles

from .outgoing import client
from .settings import settings

_WEBHOOK = "the webhook (WEBHOOK_URL)"


class DeploymentStarted(BaseModel):
    """`{"eventType": "deployment.started", "service", "version", "environment", "timestamp"}`."""

    service: str
    version: str
    environment: str
    timestamp: datetime | None = None


@handles("deployment.started", concurrency=20, deadline="5m", retries=5)
async def deployment_started(event: DeploymentStarted, ctx: Context) -> dict[str, object]:
    """Forward what is deployed to the webhook."""
    return await _forwarded(ctx)


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


@handles("service.deployed", concurrency=20, deadline="5m", retries=5)
async def service_deployed(event: ServiceDeployed, ctx: Context) -> dict[str, object]:
    """Forward what was deployed to the webhook."""
    return await _forwarded(ctx)


async def _forwarded(ctx: Context) -> dict[str, object]:
    """Post the payload object as it came to the webhook."""
    url = settings().webhook_url
    if not url.get_secret_value():
        raise Fail("WEBHOOK_URL is not set, so nothing was forwarded: set it for the worker")
    status = await client().post(_WEBHOOK, url, ctx.fields, ctx)
    return {"processedAt": datetime.now(UTC), "received": ctx.fields, "forwarded": {"status": status}}
