"""Requests for infrastructure."""

from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field

from agents import Context, Deferred, handles

_PROVISIONER = "the provisioner (PROVISIONER_URL)"


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


@handles("provision-infrastructure", concurrency=10, deadline="5m", retries=5)
async def provision_infrastructure(event: ProvisionInfrastructure, ctx: Context) -> dict[str, object] | Deferred:
    """Hand the request over to the provisioner, which says at the callback how it ended."""
    from agents.handlers.outgoing import client
    from agents.handlers.settings import settings

    allowed = settings()
    if not allowed.provisioner_url.get_secret_value():
        return {"processedAt": datetime.now(UTC), "received": ctx.fields}
    # In place of the message's own: whoever writes a message does not say whom the provisioner calls.
    order = {**ctx.fields, "callback": {"url": ctx.callback_url}}
    await client().post(_PROVISIONER, allowed.provisioner_url, order, ctx)
    return Deferred(deadline=allowed.provisioner_deadline)
