"""URLs of internal services, wherever somebody could put one: nothing but what the settings allow is called.

What is called is heard from Python itself, which audits every connection and every look-up of a name in the process;
that it would be heard is shown beside it.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp.abc import ResolveResult
from pydantic import JsonValue, SecretStr, ValidationError

from agents.contract import Deferred, Fail
from examples.handlers.addresses import IpAddress
from examples.handlers.deployments import (
    Deployed,
    DeploymentStarted,
    ServiceDeployed,
    deployment_started,
    service_deployed,
)
from examples.handlers.infrastructure import ProvisionInfrastructure, provision_infrastructure
from examples.handlers.notifications import Notification, notification
from examples.handlers.outgoing import Outgoing, Unavailable
from local.kafka import free_port
from tests.agents.examples import context
from tests.agents.outside import Configure, Names, Web, loopback, serving
from tests.port.outside import proxying

HERE = "127.0.0.1"
INNER = "127.0.0.2"
"""Where a server listens that must not be called, on the port of the one that may."""
INTERNAL = (
    # The inner server, written in all ways.
    "http://127.0.0.2:{}/",
    "HTTP://127.0.0.2:{}/",
    "//127.0.0.2:{}/",
    "http://127.0.0.2.:{}/",
    "http://2130706434:{}/",
    "http://0177.0.0.2:{}/",
    "http://0x7f000002:{}/",
    "http://0x7f.0.0.2:{}/",
    "http://017700000002:{}/",
    "http://127.2:{}/",
    "http://127.0.2:{}/",
    "http://[::ffff:127.0.0.2]:{}/",
    "http://[::ffff:7f00:2]:{}/",
    "http://[0:0:0:0:0:ffff:127.0.0.2]:{}/",
    "http://１２７.０.０.２:{}/",  # noqa: RUF001
    "http://127。0。0。2:{}/",
    # A host that is allowed, and yet not the one that is meant.
    "http://127.0.0.1@127.0.0.2:{}/",
    "http://127.0.0.1:80@127.0.0.2:{}/",
    "http://127.0.0.1%40127.0.0.2:{}/",
    "http://user:127.0.0.1@127.0.0.2:{}/",
    "http://127.0.0.2:{}#@127.0.0.1/",
    "http://127.0.0.2:{}?@127.0.0.1/",
    "http://127.0.0.2:{}\\@127.0.0.1/",
    "http://127.0.0.1\\@127.0.0.2:{}/",
    "http://127.0.0.1\t@127.0.0.2:{}/",
    "http://127.0.0.1\r\nHost: x@127.0.0.2:{}/",
    "http:\\\\127.0.0.2:{}\\",
    "http:/127.0.0.2:{}/",
    "http:127.0.0.2:{}/",
    " http://127.0.0.2:{}/",
    "http://127.0.0.1.evil.invalid:{}/",
    # This machine, by name, and as no address at all.
    "http://[::1]:{}/",
    "http://[::]:{}/",
    "http://0.0.0.0:{}/",
    "http://0:{}/",
    "http://localhost:{}/",
    "http://LOCALHOST.:{}/",
    "http://ip6-localhost:{}/",
    # Where clouds hand out credentials.
    "http://169.254.169.254/latest/meta-data/iam/security-credentials/",
    "http://2852039166/",
    "http://0xa9fea9fe/",
    "http://0251.0376.0251.0376/",
    "http://169.254.43518/",
    "http://[::ffff:169.254.169.254]/",
    "http://[::169.254.169.254]/",
    "http://[64:ff9b::169.254.169.254]/",
    "http://[2002:a9fe:a9fe::]/",
    "http://[::ffff:0:169.254.169.254]/",
    "http://[64:ff9b:1::169.254.169.254]/",
    "http://[2606:4700::5efe:169.254.169.254]/",
    "http://[2606:4700:0:0:200:5efe:a9fe:a9fe]/",
    "http://[2001:0:a9fe:a9fe::1]/",
    "http://[fd00:ec2::254]/",
    "http://[fd20:ce::254]/",
    "http://[fe80::a9fe:a9fe%25eth0]/",
    "http://100.100.100.200/",
    "http://168.63.129.16/",
    "http://192.0.0.192/",
    # Networks inside.
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.0.1/",
    "http://100.64.0.1/",
    "http://[fd12:3456::1]/",
    # What is no HTTP.
    "file:///etc/passwd",
    "gopher://127.0.0.2:{}/_POST",
    "ftp://127.0.0.2:{}/",
    "dict://127.0.0.2:{}/",
    "unix:///var/run/docker.sock",
    "mailto:evil@127.0.0.2",
)
METADATA = INTERNAL[INTERNAL.index("http://169.254.169.254/latest/meta-data/iam/security-credentials/") :][:20]


@dataclass
class Heard:
    """What the process has connected to, and which names it has looked up."""

    connected: list[tuple[object, object]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


_heard: list[Heard] = []


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    if not _heard:
        return
    if event == "socket.connect" and isinstance(address := arguments[1], tuple):
        _heard[-1].connected.append(address[:2])
    if event == "socket.getaddrinfo":
        _heard[-1].names.append(str(arguments[0]))


sys.addaudithook(_hear)


@contextmanager
def hearing() -> Iterator[Heard]:
    _heard.append(Heard())
    try:
        yield _heard[-1]
    finally:
        _heard.pop()


@pytest.fixture
async def inner(hook: Web) -> AsyncIterator[Web]:
    """A server beside the one that may be called; in its way, as shown here, it is reached and heard."""
    async with serving(INNER, hook.port) as one:
        with hearing() as heard:
            allowed = loopback(webhook_url=f"http://0x7f.0.0.2:{one.port}/")
            await Outgoing(allowed).post("it", allowed.webhook_url, {}, context())
        assert len(one.calls) == 1
        assert (heard.connected, heard.names) == ([(INNER, one.port)], ["0x7f.0.0.2"])
        one.calls.clear()
        yield one


async def test_no_payload_leads_elsewhere(hook: Web, inner: Web, configure: Configure) -> None:
    """With private addresses allowed, so that nothing but the settings decides which host it is."""
    configure(WEBHOOK_URL=hook.url, PROVISIONER_URL=hook.url, NOTIFICATION_CHANNELS=json.dumps({"slack": hook.url}))
    with hearing() as heard:
        for text in INTERNAL:
            url = text.format(inner.port)
            fields: dict[str, JsonValue] = {"url": url, "callback": {"url": url}, "WEBHOOK_URL": url, url: [url]}
            await deployment_started(DeploymentStarted(service=url, version=url, environment=url), context(fields))
            data = Deployed(service_id=url, version=url, environment=url)
            await service_deployed(ServiceDeployed(data=data, metadata={"webhook": url}), context(fields))
            await notification(Notification(channel="slack", message=url), context(fields))
            order = ProvisionInfrastructure.model_validate(
                {"parameters": {"cloudProvider": url, "region": url, "instanceType": url}, "callback": {"url": url}}
            )
            assert await provision_infrastructure(order, context(fields)) == Deferred(3600.0)
            with pytest.raises(Fail, match="not configured"):
                await notification(Notification(channel=url, message=url), context(fields))
    assert (len(hook.calls), inner.calls) == (4 * len(INTERNAL), [])
    assert (set(heard.connected), heard.names) == ({(HERE, hook.port)}, [])


@pytest.mark.parametrize("text", INTERNAL)
async def test_another_host_than_the_allowed_ones_is_not_called(hook: Web, inner: Web, text: str) -> None:
    """Private addresses are allowed here, too: the host is what is refused, before its name is looked up."""
    client = Outgoing(loopback(outgoing_hosts=f"{HERE},allowed.example"))
    with hearing() as heard:
        try:
            await client.post("it", SecretStr(text.format(inner.port)), {}, context())
        except (Fail, Unavailable) as refused:
            assert "127" not in str(refused)
    assert inner.calls == []
    # Some are another way to write the host that may be called.
    assert {address for address, _ in heard.connected} <= {HERE}
    assert heard.names == []


@pytest.mark.parametrize("text", INTERNAL)
async def test_an_internal_address_is_not_called_though_its_host_is_allowed(hook: Web, inner: Web, text: str) -> None:
    """By default: the name may be looked up, but no connection is made."""
    with hearing() as heard, pytest.raises((Fail, Unavailable, ValidationError)):
        allowed = loopback(webhook_url=text.format(inner.port), outgoing_private="refuse")
        await Outgoing(allowed).post("it", allowed.webhook_url, {}, context())
    assert (heard.connected, hook.calls, inner.calls) == ([], [], [])


@pytest.mark.parametrize("text", METADATA)
async def test_metadata_is_not_called_even_where_private_addresses_are(text: str) -> None:
    with hearing() as heard, pytest.raises((Fail, Unavailable)):
        allowed = loopback(webhook_url=text)
        await Outgoing(allowed).post("it", allowed.webhook_url, {}, context())
    assert heard.connected == []


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
async def test_no_redirect_leads_elsewhere(hook: Web, inner: Web, status: int) -> None:
    hook.status = status
    allowed = loopback(webhook_url=hook.url)
    with hearing() as heard:
        for text in INTERNAL:
            hook.headers = {"Location": "".join(char for char in text.format(inner.port) if char.isprintable())}
            with pytest.raises(Fail, match="redirects are not followed"):
                await Outgoing(allowed).post("it", allowed.webhook_url, {}, context())
    assert (len(hook.calls), inner.calls) == (len(INTERNAL), [])
    assert (set(heard.connected), heard.names) == ({(HERE, hook.port)}, [])


def here_only(address: IpAddress) -> bool:
    return address == ipaddress.ip_address(HERE)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.2",
        "10.0.0.1",
        "169.254.169.254",
        "::1",
        "::ffff:127.0.0.2",
        "fd00:ec2::254",
        "64:ff9b::a00:1",
        "64:ff9b:1::a00:1",
        "::ffff:0:127.0.0.2",
        "2606:4700::5efe:127.0.0.2",
        "2002:7f00:2::",
    ],
)
async def test_a_name_that_means_an_internal_address(hook: Web, inner: Web, address: str) -> None:
    names = Names(address)
    allowed = loopback(webhook_url=f"http://hooks.example:{inner.port}/", outgoing_private="refuse")
    with hearing() as heard, pytest.raises(Fail, match="private"):
        await Outgoing(allowed, resolver=names).post("it", allowed.webhook_url, {}, context())
    assert (names.asked, heard.connected, inner.calls) == (["hooks.example"], [], [])


class Both(Names):
    """Every name has all of the addresses."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [(await Names(address).resolve(host, port, family))[0] for address in self.addresses]


async def test_a_name_with_an_internal_address_among_others(hook: Web, inner: Web) -> None:
    allowed = loopback(webhook_url=f"http://hooks.example:{hook.port}/")
    for addresses in ((INNER, HERE), (HERE, INNER)):
        with hearing() as heard:
            client = Outgoing(allowed, permitted=here_only, resolver=Both(*addresses))
            assert await client.post("it", allowed.webhook_url, {}, context()) == 200
        assert heard.connected == [(HERE, hook.port)]
    with hearing() as heard, pytest.raises(Fail, match="private"):
        client = Outgoing(allowed, permitted=here_only, resolver=Both(INNER, "::1"))
        await client.post("it", allowed.webhook_url, {}, context())
    assert (heard.connected, inner.calls) == ([], [])


@pytest.mark.parametrize(
    ("host", "address", "goes"),
    [
        ("hooks.example", "8.8.8.8", True),
        ("hooks.example", None, True),
        ("hooks.example", "10.0.0.1", False),
        ("hooks.example", "64:ff9b:1::169.254.169.254", False),
        ("169.254.169.254", None, False),
        ("10.0.0.1", None, False),
        ("[::ffff:0:10.0.0.1]", None, False),
    ],
)
async def test_through_a_proxy_the_host_is_checked_before(host: str, address: str | None, goes: bool) -> None:
    """What only the proxy can resolve is left to it; the proxy itself may be private."""
    async with proxying(free_port()) as proxy:
        proxied = {"https_proxy": proxy.url, "outgoing_private": "refuse", "webhook_url": f"https://{host}/x"}
        allowed = loopback(**proxied)
        client = Outgoing(allowed, resolver=Names(address) if address else Nowhere())
        with pytest.raises(Unavailable if goes else Fail):
            await client.post("it", allowed.webhook_url, {}, context())
        assert proxy.asked == ([f"{host}:443"] if goes else [])


class Nowhere(Names):
    """Resolves nothing."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        raise OSError("Name or service not known")


async def test_a_host_of_no_proxy_is_called_directly(hook: Web) -> None:
    allowed = loopback(
        https_proxy="http://127.0.0.1:1", no_proxy="hooks.example", webhook_url="https://hooks.example/x"
    )
    with pytest.raises(Fail, match="private"):
        await Outgoing(allowed, permitted=lambda _: False, resolver=Names(HERE)).post(
            "it", allowed.webhook_url, {}, context()
        )


async def test_a_name_that_is_resolved_anew_leads_nowhere_else(hook: Web, inner: Web) -> None:
    """It means 127.0.0.1 at first, and 127.0.0.2 from then on: what is checked is what is connected to."""
    names = Names(HERE, INNER)
    allowed = loopback(webhook_url=f"http://rebinding.example:{hook.port}/")
    client = Outgoing(allowed, permitted=here_only, resolver=names)
    with hearing() as heard:
        assert await client.post("it", allowed.webhook_url, {}, context()) == 200
        assert len(names.asked) == 1, "between the check and the connection nothing is looked up"
        with pytest.raises(Fail, match="private"):
            await client.post("it", allowed.webhook_url, {}, context())
    assert (heard.connected, len(hook.calls), inner.calls) == ([(HERE, hook.port)], 1, [])
