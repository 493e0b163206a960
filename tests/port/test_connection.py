"""Port's API behind a company's proxy, and known by a company's CA."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme
from pydantic import SecretStr

from local.kafka import free_port
from port.client import Answer, AnswerKind, PortClient
from port.connection import Connection, proxy_for, tls_context
from tests.port.outside import HOST, proxying, serving_https

PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("url", "no_proxy", "proxied"),
    [
        ("https://api.getport.io", (), True),
        ("https://api.getport.io", ("port.io", "evilgetport.io", "api.getport.io.example"), True),
        ("https://api.getport.io", ("api.getport.io",), False),
        ("https://API.GetPort.io.", ("Getport.IO",), False),
        ("https://api.getport.io", (".getport.io",), False),
        ("https://api.getport.io", ("*.getport.io",), False),
        ("https://api.getport.io", ("*",), False),
        ("https://10.0.0.1", ("10.0.0.1",), False),
        ("http://api.getport.io", (), False),
        ("https://localhost:8090", (), False),
        ("https://127.0.0.1:8090", (), False),
        ("https://[::1]:8090", (), False),
    ],
)
def test_what_goes_through_a_proxy(url: str, no_proxy: tuple[str, ...], proxied: bool) -> None:
    assert proxy_for(url, PROXY, no_proxy) == (PROXY if proxied else None)
    assert proxy_for(url, "", no_proxy) is None


async def log_in(connection: Connection, host: str = HOST) -> Answer:
    async with PortClient(f"https://{host}", "id", SecretStr("s" * 32), timeout=5, connection=connection) as client:
        return await client.log_in()


async def test_the_api_is_called_through_the_proxy_and_known_by_the_companys_ca(tmp_path: Path) -> None:
    async with serving_https(tmp_path) as target, proxying(target, "user:pa55") as proxy:
        tls = tls_context(tmp_path / "ca.pem")
        answer = await log_in(Connection(tls, proxy.url.replace("//", "//user:pa55@")))
        assert answer.kind is AnswerKind.ACCEPTED, answer.reason
        assert proxy.asked == [f"{HOST}:443"]

        refused = await log_in(Connection(tls, proxy.url))
        assert (refused.kind, refused.maybe_arrived) == (AnswerKind.UNAVAILABLE, False)
        assert "the proxy (HTTPS_PROXY) answered 407" in refused.reason

        unknown = await log_in(Connection(tls_context(), proxy.url.replace("//", "//user:pa55@")))
        assert "CERTIFICATE_VERIFY_FAILED" in unknown.reason


async def test_a_proxy_that_is_not_there_is_named() -> None:
    answer = await log_in(Connection(proxy=f"http://user:pa55@127.0.0.1:{free_port()}"))
    assert (answer.kind, answer.maybe_arrived) == (AnswerKind.UNAVAILABLE, False)
    assert "the proxy (HTTPS_PROXY)" in answer.reason
    assert "pa55" not in answer.reason


async def test_an_old_ca_is_taken_where_strictness_is_off_and_still_verifies(tmp_path: Path) -> None:
    async with serving_https(tmp_path, old=True) as target, proxying(target) as proxy:
        refused = await log_in(Connection(tls_context(tmp_path / "ca.pem"), proxy.url))
        assert "CERTIFICATE_VERIFY_FAILED" in refused.reason
        relaxed = tls_context(tmp_path / "ca.pem", strict=False)
        assert (await log_in(Connection(relaxed, proxy.url))).kind is AnswerKind.ACCEPTED
        # It is still verified: by whom it was issued, and for which name.
        unknown = await log_in(Connection(tls_context(strict=False), proxy.url))
        another = await log_in(Connection(relaxed, proxy.url), "another.port.example")
        assert "CERTIFICATE_VERIFY_FAILED" in unknown.reason
        assert "mismatch" in another.reason


def test_what_is_trusted(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    system = tls_context().cert_store_stats()["x509_ca"]
    assert tls_context(tmp_path / "ca.pem").cert_store_stats()["x509_ca"] == system + 1
    assert tls_context(tmp_path / "ca.pem", alone=True).cert_store_stats()["x509_ca"] == 1
    for context in (tls_context(), tls_context(strict=False)):
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    with pytest.raises(OSError, match="No such file"):
        tls_context(tmp_path / "nothing.pem")
