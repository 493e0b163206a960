"""Notifications, by Slack and by mail."""

from datetime import UTC, datetime

from pydantic import BaseModel, SecretStr

from agents import Context, Fail, handles

from .mail import mail, send
from .outgoing import client
from .settings import MAILTO, recipients, settings

_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


class Notification(BaseModel):
    """`{"type": "notification", "channel": "slack", "message"}`; an array of them is several items of one node run."""

    channel: str
    message: str


@handles("notification", concurrency=50, deadline="1m", retries=5)
async def notification(event: Notification, ctx: Context) -> dict[str, object]:
    """Send the message to the address of its channel."""
    channels = settings().notification_channels
    if not channels:
        raise Fail("NOTIFICATION_CHANNELS is not set, so nothing was sent: set it for the worker")
    if (secret := channels.get(event.channel)) is None:
        raise Fail(f"the channel {event.channel[:100]!r} is not configured (NOTIFICATION_CHANNELS)")
    return {"processedAt": datetime.now(UTC), "received": ctx.fields, "sentBy": await _sent(event, secret, ctx)}


async def _sent(event: Notification, to: SecretStr, ctx: Context) -> str:
    """Send by mail where the address is one of mail, else to a webhook like Slack's; return which it was."""
    address = to.get_secret_value()
    if not address.startswith(MAILTO):
        name = f"the channel {event.channel!r} (NOTIFICATION_CHANNELS)"
        await client().post(name, to, {"text": slack_text(event.message)}, ctx)
        return "slack"
    allowed, mailboxes = settings(), recipients(address)
    await send(mail(allowed.smtp_from, mailboxes, event.message, ctx), mailboxes, allowed)
    return "email"


def slack_text(message: str) -> str:
    """Return a message with Slack's three special characters escaped: no text calls everybody, or hides a link."""
    return "".join(_ESCAPES.get(char, char) for char in message)
