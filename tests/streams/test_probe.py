"""What is said of a cluster that cannot be reached: on real brokers, and on what is none."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from pydantic import SecretStr

from local.kafka import EmbeddedKafka, free_port
from streams.cluster import Cluster, SecurityProtocol
from streams.probe import ProbeError, Problem, probe
from tests.source_kafka import PLAIN_PASSWORD, PLAIN_USER, SourceKafka

PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL = SecurityProtocol
ANONYMOUS = Cluster("KAFKA", (), PLAINTEXT, "SCRAM-SHA-512", "", SecretStr(""), None)
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]


async def wrong(cluster: Cluster, within: float = 5.0) -> tuple[Problem, str]:
    with pytest.raises(ProbeError) as caught:
        await probe(cluster, timeout=within)
    text = str(caught.value)
    assert "\n" not in text
    assert not cluster.password.get_secret_value() or cluster.password.get_secret_value() not in text
    return caught.value.problem, text


def at(cluster: Cluster, *brokers: str) -> Cluster:
    return replace(cluster, brokers=brokers)


@asynccontextmanager
async def listening(talk: Talk) -> AsyncIterator[str]:
    """Something that listens, and is no Kafka."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(100)
            talk(reader, writer)
            await over.wait()
        finally:
            writer.close()

    over = asyncio.Event()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"{host}:{port}"
    finally:
        over.set()
        server.close()
        await server.wait_closed()


def silence(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None: ...


def http(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    writer.close()


class TestItLetsUsIn:
    async def test_without_a_name(self, kafka: EmbeddedKafka) -> None:
        await probe(at(ANONYMOUS, kafka.bootstrap))

    @pytest.mark.parametrize("protocol", [SASL_PLAINTEXT, SASL_SSL])
    async def test_with_scram(self, source: SourceKafka, protocol: SecurityProtocol) -> None:
        await probe(source.cluster(protocol))

    async def test_with_plain(self, source: SourceKafka) -> None:
        await probe(source.cluster(mechanism="PLAIN", username=PLAIN_USER, password=PLAIN_PASSWORD))

    async def test_by_the_second_broker(self, source: SourceKafka) -> None:
        await probe(at(source.cluster(), f"127.0.0.1:{free_port()}", source.bootstrap))

    async def test_by_the_second_broker_where_the_first_is_silent(self, source: SourceKafka) -> None:
        async with listening(silence) as silent:
            await probe(at(source.cluster(), silent, source.bootstrap), timeout=2.0)


class TestUnreachable:
    @pytest.mark.parametrize("protocol", list(SecurityProtocol))
    async def test_nothing_listens(self, source: SourceKafka, protocol: SecurityProtocol) -> None:
        broker = f"127.0.0.1:{free_port()}"
        assert await wrong(at(source.cluster(protocol), broker)) == (
            Problem.UNREACHABLE,
            f"SOURCE_BROKERS: nothing listens at {broker} (Connection refused); check address and broker",
        )

    @pytest.mark.parametrize("name", ["no-such-host.invalid", "a..b", "a" * 70 + ".invalid"])
    async def test_the_name_is_unknown(self, name: str) -> None:
        assert await wrong(at(ANONYMOUS, f"{name}:9092")) == (
            Problem.UNREACHABLE,
            f"KAFKA_BROKERS: the host name of {name}:9092 is unknown; check it, and the name service",
        )

    async def test_there_is_no_such_port(self) -> None:
        problem, text = await wrong(at(ANONYMOUS, "127.0.0.1:99999"))
        assert problem is Problem.UNREACHABLE
        assert text == "KAFKA_BROKERS: 127.0.0.1:99999 has a port above 65535; check it"

    @pytest.mark.parametrize("protocol", [PLAINTEXT, SSL])
    async def test_it_says_nothing(self, protocol: SecurityProtocol) -> None:
        async with listening(silence) as silent:
            began = time.monotonic()
            problem, text = await wrong(at(replace(ANONYMOUS, protocol=protocol), silent, silent), within=0.5)
            assert time.monotonic() - began < 2.0
        assert problem is Problem.UNREACHABLE
        assert text == f"KAFKA_BROKERS: {silent} did not answer in time; check the address, the broker and firewalls"

    async def test_the_broker_stands_still(self, source: SourceKafka) -> None:
        source.pause()
        problem, text = await wrong(source.cluster(), within=0.5)
        assert problem is Problem.UNREACHABLE
        assert "did not answer in time" in text

    async def test_it_is_no_kafka(self) -> None:
        async with listening(http) as server:
            assert await wrong(at(ANONYMOUS, server)) == (
                Problem.UNREACHABLE,
                f"KAFKA_BROKERS: {server} breaks off the connection; check that it is Kafka, and the broker's log",
            )


class TestTLS:
    @pytest.mark.parametrize(("protocol", "instead"), [(PLAINTEXT, SSL), (SASL_PLAINTEXT, SASL_SSL)])
    async def test_the_broker_speaks_nothing_else(
        self, source: SourceKafka, protocol: SecurityProtocol, instead: SecurityProtocol
    ) -> None:
        broker = source.tls_bootstrap
        assert await wrong(at(source.cluster(protocol), broker)) == (
            Problem.TLS,
            f"SOURCE_SECURITY_PROTOCOL: {broker} speaks TLS alone; set {instead}",
        )

    @pytest.mark.parametrize(("protocol", "instead"), [(SSL, PLAINTEXT), (SASL_SSL, SASL_PLAINTEXT)])
    async def test_the_broker_does_not_speak_it(
        self, source: SourceKafka, protocol: SecurityProtocol, instead: SecurityProtocol
    ) -> None:
        broker = source.bootstrap
        assert await wrong(at(source.cluster(protocol), broker)) == (
            Problem.TLS,
            f"SOURCE_SECURITY_PROTOCOL: {broker} speaks no TLS; give the port of its TLS listener in SOURCE_BROKERS, "
            f"or, on a network that is trusted, set {instead}",
        )

    async def test_what_answers_is_no_kafka(self) -> None:
        async with listening(http) as server:
            problem, text = await wrong(at(replace(ANONYMOUS, protocol=SSL), server))
        assert problem is Problem.TLS
        assert text.startswith(f"KAFKA_SECURITY_PROTOCOL: TLS with {server} failed: ")


class TestCertificate:
    async def test_its_ca_is_unknown(self, source: SourceKafka) -> None:
        problem, text = await wrong(replace(source.cluster(SASL_SSL), ca_file=None))
        assert problem is Problem.CERTIFICATE
        assert text == (
            f"SOURCE_CA_FILE: the certificate of {source.tls_bootstrap} is not trusted (unable to get local issuer "
            "certificate); set the PEM file of the CA that signed it"
        )

    async def test_it_is_for_another_host(self, source: SourceKafka) -> None:
        broker = source.tls_bootstrap.replace("127.0.0.1", "localhost")
        assert await wrong(at(source.cluster(SASL_SSL), broker)) == (
            Problem.CERTIFICATE,
            f"SOURCE_BROKERS: the certificate of {broker} is for another host; write a name that stands in it",
        )

    async def test_it_has_expired(self, tmp_path: Path) -> None:
        ca = trustme.CA()
        ca.cert_pem.write_to_path(tmp_path / "ca.pem")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert("127.0.0.1", not_after=datetime.now(UTC) - timedelta(days=1)).configure_cert(context)
        server = await asyncio.start_server(silence, "127.0.0.1", 0, ssl=context)
        try:
            host, port = server.sockets[0].getsockname()
            trusting = replace(ANONYMOUS, protocol=SSL, ca_file=tmp_path / "ca.pem")
            assert await wrong(at(trusting, f"{host}:{port}")) == (
                Problem.CERTIFICATE,
                f"KAFKA_BROKERS: certificate has expired at {host}:{port}; renew the broker's certificate, or set "
                "this machine's clock",
            )
        finally:
            server.close()

    async def test_the_ca_file_is_gone(self, source: SourceKafka, tmp_path: Path) -> None:
        problem, text = await wrong(replace(source.cluster(SASL_SSL), ca_file=tmp_path / "gone.pem"))
        assert problem is Problem.SETTINGS
        assert text.startswith(f"SOURCE_CA_FILE: {tmp_path / 'gone.pem'} holds no CA certificates")


class TestWhoWeAre:
    @pytest.mark.parametrize("protocol", [PLAINTEXT, SSL])
    async def test_the_broker_wants_to_know(self, source: SourceKafka, protocol: SecurityProtocol) -> None:
        broker = source.tls_bootstrap if protocol.tls else source.bootstrap
        assert await wrong(source.cluster(protocol)) == (
            Problem.SASL,
            f"SOURCE_SECURITY_PROTOCOL: {broker} wants a user name; set SASL_{protocol}, SOURCE_USERNAME and "
            "SOURCE_PASSWORD",
        )

    async def test_the_broker_does_not_ask(self, source: SourceKafka) -> None:
        broker = source.admin_bootstrap
        assert await wrong(at(source.cluster(), broker)) == (
            Problem.SASL,
            f"SOURCE_SECURITY_PROTOCOL: {broker} knows no user names on this port; set PLAINTEXT, or give the port of "
            "its SASL listener in SOURCE_BROKERS",
        )

    async def test_the_mechanism_is_not_offered(self, source: SourceKafka) -> None:
        assert await wrong(source.cluster(SASL_SSL, mechanism="PLAIN")) == (
            Problem.MECHANISM,
            f"SOURCE_SASL_MECHANISM: {source.tls_bootstrap} does not take PLAIN; it offers SCRAM-SHA-512; set one "
            "that it takes",
        )

    @pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"])
    @pytest.mark.parametrize("which", ["username", "password"])
    async def test_they_are_refused(self, source: SourceKafka, mechanism: str, which: str) -> None:
        refused = replace(source.cluster(), mechanism=mechanism)  # type: ignore[arg-type]
        refused = replace(refused, username="nobody") if which == "username" else refused
        refused = replace(refused, password=SecretStr("not-the-pa55word")) if which == "password" else refused
        assert await wrong(refused) == (
            Problem.CREDENTIALS,
            f"SOURCE_USERNAME, SOURCE_PASSWORD: {source.bootstrap} refuses them with {mechanism}; check both, and the "
            "mechanism",
        )

    async def test_a_refusal_says_more_than_an_absence(self, source: SourceKafka) -> None:
        away = f"127.0.0.1:{free_port()}"
        problem, _ = await wrong(at(source.cluster(password="no"), away, source.bootstrap, away))
        assert problem is Problem.CREDENTIALS

    async def test_after_a_rotation_the_new_password_is_needed(self, source: SourceKafka) -> None:
        before = source.cluster()
        source.rotate("an0ther")
        assert (await wrong(before))[0] is Problem.CREDENTIALS
        await probe(source.cluster())
