"""Notifications."""

from datetime import UTC, datetime

from pydantic import BaseModel

from agents import Context, handles


class Notification(BaseModel):
    """`{"type": "notification", "channel": "slack", "message"}`; an array of them is several items of one node run."""

    channel: str
    message: str


@handles("notification", concurrency=50, deadline="1m", retries=3)
async def notification(event: Notification, ctx: Context) -> dict[str, object]:
    """Say what would be sent where."""
    return {"processedAt": datetime.now(UTC), "received": ctx.fields}
