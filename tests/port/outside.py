"""A company's network, on loopback: a proxy that resolves names itself, and services known by the company's own CA."""

from __future__ import annotations

import asyncio
import base64
import datetime
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from local.kafka import free_port

HOST = "api.port.example"
"""A name that nobody but the proxy can resolve."""


@dataclass
class Proxy:
    """Takes CONNECT, and leads every name to one port of this machine."""

    target: int
    user: str = ""
    port: int = field(default_factory=free_port)
    asked: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.asked.append(head.split()[1])
        wanted = f"Basic {base64.b64encode(self.user.encode()).decode()}"
        if self.user and wanted not in head:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        else:
            await self._tunnel(reader, writer)
        writer.close()

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            return
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(_pump(reader, there[1]), _pump(there[0], writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while piece := await reader.read(65_536):
            writer.write(piece)
            await writer.drain()
        writer.close()
    except OSError:
        writer.close()


@asynccontextmanager
async def proxying(target: int, user: str = "") -> AsyncIterator[Proxy]:
    proxy = Proxy(target, user)
    server = await asyncio.start_server(proxy.handle, "127.0.0.1", proxy.port)
    try:
        yield proxy
    finally:
        server.close()


@asynccontextmanager
async def serving_https(folder: Path, *, old: bool = False) -> AsyncIterator[int]:
    """Serve a token for `HOST`, by a certificate of the CA in `ca.pem`; yields the port."""
    application = web.Application()

    async def token(_: web.Request) -> web.Response:
        return web.json_response({"ok": True, "accessToken": "t", "expiresIn": 3600, "tokenType": "Bearer"})

    application.router.add_post("/{path:.*}", token)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(folder, old=old))
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context).start()
    try:
        yield port
    finally:
        await runner.cleanup()


def certificate(folder: Path, *, old: bool) -> Path:
    """Write `ca.pem`, and return a file with a certificate of that CA and its key.

    An old CA is as companies made them with a few lines of openssl: without key identifiers and key usage.
    """
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "The company's CA")])
    root = _builder(name, name, ca_key).add_extension(x509.BasicConstraints(ca=True, path_length=None), not old)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
    leaf = _builder(subject, name, key).add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), False)
    if not old:
        usage = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False)
        usage |= {"digital_signature": True, "key_cert_sign": True, "crl_sign": True}
        root = root.add_extension(x509.KeyUsage(**usage, encipher_only=False, decipher_only=False), True)
        root = root.add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), False)
        leaf = leaf.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), False)
        leaf = leaf.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(root.sign(ca_key, hashes.SHA256()).public_bytes(pem))
    plain = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = folder / "server.pem"
    file.write_bytes(plain + leaf.sign(ca_key, hashes.SHA256()).public_bytes(pem))
    return file


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
    )
