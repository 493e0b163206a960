"""Deployments."""

from typing import Literal

from pydantic import BaseModel

from agents import Context, Fail, RetryLater, handles

FROZEN: set[str] = set()
"""Services that must not be deployed."""


class DeploymentRequested(BaseModel):
    """What the workflow asks for."""

    service: str
    version: str
    environment: Literal["staging", "production"] = "staging"


class Deployed(BaseModel):
    """What the nodes after this one find in its output."""

    service: str
    version: str
    environment: str
    key: str


@handles("deployment.requested", concurrency=20, deadline="5m", retries=2)
async def deployment_requested(event: DeploymentRequested, ctx: Context) -> Deployed:
    """Deploy a version of a service."""
    if event.service in FROZEN:
        raise Fail(f"{event.service} is frozen")
    if event.environment == "production" and ctx.attempt == 1:
        raise RetryLater("1s", "production waits for the canary")
    ctx.log("deploying %s %s to %s", event.service, event.version, event.environment)
    return Deployed(**event.model_dump(), key=ctx.idempotency_key)
