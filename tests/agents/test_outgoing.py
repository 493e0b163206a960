"""Outgoing calls, the handlers that make them, and mails, against real servers on loopback."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiosmtpd.smtp import SMTP, Envelope
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from agents.contract import Deferred, Fail, HandlerError, RetryLater
from agents.testing import call_handler
from examples.handlers.deployments import (
    Deployed,
    DeploymentStarted,
    ServiceDeployed,
    deployment_started,
    service_deployed,
)
from examples.handlers.infrastructure import ProvisionInfrastructure, provision_infrastructure
from examples.handlers.mail import subject
from examples.handlers.notifications import Notification, notification
from examples.handlers.outgoing import Outgoing, Unavailable
from examples.handlers.settings import OutgoingSettings, settings
from local.kafka import free_port
from tests.agents.examples import context
from tests.agents.outside import SECRET, Configure, Web, loopback

ROOT = Path(__file__).parents[2]


async def post(allowed: OutgoingSettings, *, attempt: int = 1) -> int:
    return await Outgoing(allowed).post("the webhook", allowed.webhook_url, {"a": 1}, context(attempt=attempt))


async def test_a_deployment_is_forwarded_as_it_came(hook: Web, configure: Configure) -> None:
    configure(WEBHOOK_URL=hook.url)
    fields: dict[str, JsonValue] = {
        "eventType": "deployment.started",
        "service": "s",
        "version": "1",
        "environment": "e",
        "more": [1],
    }
    started = DeploymentStarted(service="s", version="1", environment="e")
    output = await deployment_started(started, context(fields))
    deployed = ServiceDeployed(data=Deployed(service_id="s", version="1", environment="e"))
    await service_deployed(deployed, context({"event": "service.deployed"}, index=1))
    assert output["forwarded"] == {"status": 200}
    assert [call[2] for call in hook.calls] == [fields, {"event": "service.deployed"}]
    assert [call[1]["Idempotency-Key"] for call in hook.calls] == ["wfnr_a-0", "wfnr_a-1"]


async def test_a_provisioner_gets_the_order_with_the_callback_in_place_of_the_messages_own(
    hook: Web, configure: Configure
) -> None:
    configure(PROVISIONER_URL=hook.url, PROVISIONER_DEADLINE="2h")
    parameters: JsonValue = {"cloudProvider": "aws", "region": "r", "instanceType": "t", "count": "3"}
    order: dict[str, JsonValue] = {"action": "provision-infrastructure", "parameters": parameters}
    its_own: dict[str, JsonValue] = {"callback": {"url": "http://169.254.169.254/", "headers": {"a": "b"}}}
    event = ProvisionInfrastructure.model_validate(order)
    ended = await provision_infrastructure(event, context(order | its_own))
    assert ended == Deferred(deadline=7200.0)
    assert hook.calls[0][2] == order | {"callback": {"url": context().callback_url}}
    hook.status = 503
    with pytest.raises(Unavailable, match=r"the provisioner \(PROVISIONER_URL\) answered 503"):
        await provision_infrastructure(event, context(order))


@pytest.mark.parametrize(
    ("handler", "fields", "setting"),
    [
        (deployment_started, {"service": "s", "version": "1", "environment": "e"}, "WEBHOOK_URL"),
        (service_deployed, {"data": {"serviceId": "s", "version": "1", "environment": "e"}}, "WEBHOOK_URL"),
        (
            provision_infrastructure,
            {"parameters": {"cloudProvider": "aws", "region": "r", "instanceType": "t"}},
            "PROVISIONER_URL",
        ),
        (notification, {"channel": "slack", "message": "m"}, "NOTIFICATION_CHANNELS"),
    ],
)
async def test_without_a_target_an_item_fails_and_names_the_setting(
    configure: Configure, handler: Callable[..., object], fields: dict[str, JsonValue], setting: str
) -> None:
    """A success that did nothing would tell Port that a deployment has happened."""
    configure()
    outcome = await call_handler(handler, fields)
    assert outcome.result == "FAILED"
    assert str(outcome.error).startswith(f"{setting} is not set")


@pytest.mark.parametrize(
    ("status", "headers", "error", "said"),
    [
        (400, {}, Fail, "answered 400 (Bad Request)"),
        (404, {}, Fail, "answered 404"),
        (302, {"Location": "http://127.0.0.1:1/"}, Fail, "redirects are not followed"),
        (429, {}, Unavailable, "answered 429"),
        (429, {"Retry-After": "7"}, RetryLater, "answered 429"),
        (503, {}, Unavailable, "answered 503"),
        (599, {}, Unavailable, "answered 599"),
    ],
)
async def test_what_an_answer_means(
    hook: Web, status: int, headers: dict[str, str], error: type[Exception], said: str
) -> None:
    hook.status, hook.headers, hook.text = status, headers, f"no such hook: {SECRET}"
    with pytest.raises(error) as caught:
        await post(loopback(webhook_url=hook.url))
    assert said in str(caught.value)
    assert SECRET not in str(caught.value)
    assert len(hook.calls) == 1
    if isinstance(caught.value, RetryLater):
        assert caught.value.seconds == 7


async def test_who_asks_for_ever_is_not_heeded_for_ever(hook: Web) -> None:
    hook.status, hook.headers = 429, {"Retry-After": "1"}
    with pytest.raises(Unavailable):
        await post(loopback(webhook_url=hook.url), attempt=10)


async def test_a_code_of_slacks_is_quoted(hook: Web) -> None:
    hook.status, hook.text = 404, "channel_not_found"
    with pytest.raises(Fail, match=r": channel_not_found$"):
        await post(loopback(webhook_url=hook.url))


async def test_an_answer_that_does_not_come_or_nobody_there(hook: Web) -> None:
    hook.hangs = True
    with pytest.raises(Unavailable, match="in time"):
        await post(loopback(webhook_url=hook.url, outgoing_timeout="200ms"))
    with pytest.raises(Unavailable, match="cannot be reached") as caught:
        await post(loopback(webhook_url=f"http://127.0.0.1:{free_port()}/{SECRET}"))
    assert SECRET not in str(caught.value)


async def test_an_endless_answer_is_cut_off(hook: Web) -> None:
    hook.text = "x" * 30_000_000
    assert await post(loopback(webhook_url=hook.url)) == 200


async def test_slack(hook: Web, configure: Configure) -> None:
    configure(NOTIFICATION_CHANNELS=json.dumps({"slack": hook.url}))
    output = await notification(Notification(channel="slack", message="<!channel> a & b"), context())
    assert hook.calls[0][2] == {"text": "&lt;!channel&gt; a &amp; b"}
    assert output["sentBy"] == "slack"


@dataclass
class Post:
    """What a mail server has taken."""

    port: int = field(default_factory=free_port)
    mails: list[Envelope] = field(default_factory=list)
    answer: str = "250 OK"

    async def handle_DATA(self, server: object, session: object, envelope: Envelope) -> str:  # noqa: N802, RUF100
        if self.answer.startswith("250"):
            self.mails.append(envelope)
        return self.answer


@asynccontextmanager
async def post_office(**options: object) -> AsyncIterator[Post]:
    one = Post()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(one, loop=loop, **options), "127.0.0.1", one.port)  # type: ignore[arg-type]
    try:
        yield one
    finally:
        server.close()
        await server.wait_closed()


def mail_settings(office: Post, **more: str) -> dict[str, str]:
    return {
        "NOTIFICATION_CHANNELS": '{"email": "mailto:team@example.com,ops@example.com"}',
        "SMTP_HOST": "127.0.0.1",
        "SMTP_PORT": str(office.port),
        "SMTP_SECURITY": "none",
        "SMTP_FROM": "port@example.com",
    } | more


async def test_a_mail_whose_text_adds_no_header(configure: Configure) -> None:
    async with post_office() as office:
        configure(**mail_settings(office))
        text = "Läuft\r\nBcc: evil@example.com\r\n\r\n.\r\nbody"
        await notification(Notification(channel="email", message=text), context())
    [taken] = office.mails
    assert taken.rcpt_tos == ["team@example.com", "ops@example.com"]
    assert isinstance(taken.content, bytes)
    headers = taken.content.partition(b"\r\n\r\n")[0].decode()
    assert "evil" not in headers
    assert "Message-ID: <wfnr_a-0@example.com>" in headers


@given(st.text())
def test_a_subject_is_one_line(text: str) -> None:
    assert subject(text).isprintable()
    assert len(subject(text)) <= 100


@pytest.mark.parametrize(("answer", "error"), [("554 no", Fail), ("451 later", Unavailable)])
async def test_what_a_mail_server_refuses(configure: Configure, answer: str, error: type[Exception]) -> None:
    async with post_office() as office:
        office.answer = answer
        configure(**mail_settings(office))
        with pytest.raises(error, match=rf"refused the mail \({answer[:3]}\)"):
            await notification(Notification(channel="email", message="m"), context())


async def test_no_mail_server(configure: Configure) -> None:
    configure(**mail_settings(Post()))
    with pytest.raises(Unavailable, match="cannot be reached"):
        await notification(Notification(channel="email", message="m"), context())


async def test_a_server_without_starttls_gets_no_mail(configure: Configure) -> None:
    async with post_office() as office:
        configure(**mail_settings(office, SMTP_SECURITY="starttls"))
        with pytest.raises((Fail, Unavailable), match="SMTP_SECURITY"):
            await notification(Notification(channel="email", message="m"), context())
        assert office.mails == []


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"WEBHOOK_URL": "http://a.example/x", "OUTGOING_HTTP": "refuse"}, "WEBHOOK_URL: is http"),
        ({"WEBHOOK_URL": "https://a.example/x", "OUTGOING_HOSTS": "b.example"}, "OUTGOING_HOSTS: does not hold"),
        ({"OUTGOING_HOSTS": "https://b.example"}, "OUTGOING_HOSTS: write names of hosts"),
        ({"NOTIFICATION_CHANNELS": f'{{"slack": "{SECRET}"}}'}, "NOTIFICATION_CHANNELS: slack: write"),
        ({"NOTIFICATION_CHANNELS": f"{SECRET}"}, "NOTIFICATION_CHANNELS: write a JSON object"),
        ({"NOTIFICATION_CHANNELS": '{"email": "mailto:a@b.example"}'}, "SMTP_HOST, SMTP_FROM: needed"),
        ({"NOTIFICATION_CHANNELS": r'{"email": "mailto:a@b.c\nBcc: d@e.f"}'}, "write plain mail addresses"),
        ({"SMTP_USERNAME": "me"}, "SMTP_USERNAME, SMTP_PASSWORD"),
        ({"SMTP_USERNAME": "me", "SMTP_PASSWORD": SECRET, "SMTP_SECURITY": "none"}, "in clear"),
    ],
)
def test_wrong_settings_are_one_line_without_the_value(configure: Configure, values: dict[str, str], told: str) -> None:
    configure(**values)
    with pytest.raises(HandlerError) as caught:
        settings()
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_worker_does_not_start_with_them(tmp_path: Path) -> None:
    """Where HANDLERS names these handlers; else they are nobody's business."""
    worker = {"PORT_ORG_ID": "org", "PORT_CLIENT_ID": "c", "PORT_CLIENT_SECRET": "s", "WEBHOOK_URL": f"ftp://{SECRET}"}
    (tmp_path / "mine.py").write_text("from agents import handles\n\n@handles('a')\ndef a(event: dict): ...\n")

    def started(handlers: str) -> tuple[int, str]:
        command = [sys.executable, "-c", "import agents.shared"]
        environment = worker | {"HANDLERS": handlers, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        return done.returncode, done.stderr

    assert started("mine,examples.handlers") == (2, "WEBHOOK_URL: write an https URL\n")
    assert started("mine") == (0, "")
    worker |= {"WEBHOOK_URL": "", "PROVISIONER_URL": "https://provisioner.example.com/"}
    told = "PUBLIC_URL: needed by PROVISIONER_URL, for the provisioner to call back\n"
    assert started("examples.handlers") == (2, told)


def test_the_table_of_the_page_holds_each_setting_with_its_default() -> None:
    page = (ROOT / "docs" / "handlers.md").read_text()
    table = page.partition("\n## The example handlers\n")[2].partition("\n## ")[0]
    told = dict(re.findall(r"^\| `([A-Z_]+)` \| (.*?) \|", table, re.MULTILINE))
    words = {
        "3600.0": "1h",
        "": "empty",
        "{}": "empty",
        "()": "empty",
        "None": "the system's",
        "10.0": "10s",
        "True": "on",
    }
    defaults = {name.upper(): str(field.default) for name, field in OutgoingSettings.model_fields.items()}
    assert told == {name: words.get(text, text) for name, text in defaults.items()}
