"""Requests for infrastructure."""

from pydantic import BaseModel, ConfigDict, Field

from agents import Context, Deferred, Fail, handles

from .outgoing import client
from .settings import settings

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
async def provision_infrastructure(event: ProvisionInfrastructure, ctx: Context) -> Deferred:
    """Hand the request over to the provisioner, which says at the callback how it ended."""
    allowed = settings()
    if not allowed.provisioner_url.get_secret_value():
        raise Fail("PROVISIONER_URL is not set, so nothing was provisioned: set it for the worker")
    # In place of the message's own: whoever writes a message does not say whom the provisioner calls.
    order = {**ctx.fields, "callback": {"url": ctx.callback_url}}
    await client().post(_PROVISIONER, allowed.provisioner_url, order, ctx)
    return Deferred(deadline=allowed.provisioner_deadline)
