"""Mails by SMTP."""

from __future__ import annotations

from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate

import aiosmtplib

from agents.contract import Context, Fail

from .outgoing import Unavailable, tls
from .settings import OutgoingSettings, SmtpSecurity

_NAME = "the mail server (SMTP_HOST)"
_SUBJECT_CHARACTERS = 100


def mail(sender: str, to: tuple[str, ...], text: str, ctx: Context) -> EmailMessage:
    """Return a plain mail. Its subject is the beginning of the text's first line; no text adds a header."""
    message = EmailMessage(policy=SMTP)
    message["From"] = sender
    message["To"] = ", ".join(to)
    message["Subject"] = subject(text)
    message["Date"] = formatdate()
    # The same at every attempt, so that whoever gets a mail twice can tell.
    message["Message-ID"] = f"<{ctx.idempotency_key}@{sender.rpartition('@')[2]}>"
    message.set_content(text.encode(errors="replace").decode())
    return message


def subject(text: str) -> str:
    """Return the first line with anything in it, without control characters, cut at 100 characters."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    return "".join(char if char.isprintable() else " " for char in first).strip()[:_SUBJECT_CHARACTERS]


async def send(message: EmailMessage, to: tuple[str, ...], settings: OutgoingSettings) -> None:
    """Hand a mail over to the server of the settings.

    Raises:
        Fail: the server has refused it for good, for one of the recipients at least.
        Unavailable: it cannot be reached, or not now.
    """
    password = settings.smtp_password.get_secret_value()
    client = aiosmtplib.SMTP(
        hostname=settings.smtp_host,
        port=settings.smtp_port,
        username=settings.smtp_username or None,
        password=password or None,
        use_tls=settings.smtp_security is SmtpSecurity.TLS,
        start_tls=settings.smtp_security is SmtpSecurity.STARTTLS,
        tls_context=None
        if settings.smtp_security is SmtpSecurity.NONE
        else tls(settings.outgoing_ca_file, settings.tls_strict),
        timeout=settings.outgoing_timeout,
    )
    try:
        async with client:
            refused, _ = await client.send_message(message, sender=settings.smtp_from, recipients=to)
    except (aiosmtplib.SMTPException, OSError, ValueError) as error:
        # Their texts can quote addresses and what the server says of credentials.
        raise _translated(error) from None
    if refused:
        raise Fail(f"{_NAME} refused {len(refused)} of {len(to)} recipients; the others have the mail")


def _translated(error: Exception) -> Exception:
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
        codes = [one.code for one in error.recipients]
        return _answered(min(codes, default=0), "refused every recipient")
    if isinstance(error, aiosmtplib.SMTPAuthenticationError):
        return _answered(error.code, "refused SMTP_USERNAME and SMTP_PASSWORD")
    if isinstance(error, aiosmtplib.SMTPResponseException):
        return _answered(error.code, "refused the mail")
    # The base class itself is raised where the server has no STARTTLS.
    if type(error) is aiosmtplib.SMTPException or isinstance(error, aiosmtplib.SMTPNotSupported | ValueError):
        return Fail(f"{_NAME} does not offer what SMTP_SECURITY or SMTP_USERNAME asks for")
    if isinstance(error, TimeoutError):
        return Unavailable(f"{_NAME} did not answer in time (OUTGOING_TIMEOUT)")
    return Unavailable(f"{_NAME} cannot be reached, or the connection broke")


def _answered(code: int, what: str) -> Exception:
    text = f"{_NAME} {what} ({code})"
    return Fail(text) if code >= 500 else Unavailable(text)
