"""Redis over TLS, as Debian builds it: who signed its certificate decides, and whom it names."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.stores.redis import address_of
from gateway.stores.resp import Link, Unanswered
from tests.redisserver import RedisServer


@contextmanager
def over_tls(server: RedisServer, folder: Path) -> Iterator[int]:
    """The port where the server speaks TLS, with a certificate for 127.0.0.1 that `folder / ca.pem` signed."""
    _certify(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with redis.Redis(unix_socket_path=server.path) as client:
        files = {f"tls-{name}-file": str(folder / f"{name}.pem") for name in ("cert", "key")}
        words = [word for pair in files.items() for word in pair]
        client.config_set("tls-port", port, *words, "tls-auth-clients", "no")
        try:
            yield port
        finally:
            client.config_set("tls-port", 0)


def _certify(folder: Path) -> None:
    """A throw-away CA, and a certificate of it."""
    ca, ours = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a CA")]), datetime.datetime.now(datetime.UTC)

    def signed(name: x509.Name, key: ec.EllipticCurvePrivateKey, *more: x509.ExtensionType) -> x509.Certificate:
        made = x509.CertificateBuilder(issuer, name, key.public_key(), x509.random_serial_number())
        made = made.not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
        made = made.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.public_key()), critical=False)
        made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        for each in more:
            made = made.add_extension(each, critical=True)
        return made.sign(ca, hashes.SHA256())

    no = {"digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"}
    usage = x509.KeyUsage(
        **dict.fromkeys(no | {"encipher_only", "decipher_only"}, False), key_cert_sign=True, crl_sign=True
    )
    root = signed(issuer, ca, x509.BasicConstraints(ca=True, path_length=None), usage)
    whom = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    leaf = signed(x509.Name([]), ours, whom)
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / "ca.pem").write_bytes(root.public_bytes(pem))
    (folder / "cert.pem").write_bytes(leaf.public_bytes(pem))
    (folder / "key.pem").write_bytes(ours.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))


def test_the_ca_of_the_url_alone_is_trusted(redis_server: RedisServer, tmp_path: Path) -> None:
    """What it signed for this host is spoken to; without it, and under a name that the certificate has not, nothing is
    said."""

    async def asked(url: str) -> object:
        link = Link(address_of(url))
        link.open()
        try:
            return await link.ask("PING")
        finally:
            await link.close()

    with over_tls(redis_server, tmp_path) as port:
        trusted = f"ca={tmp_path}/ca.pem&deadline=5"
        assert asyncio.run(asked(f"rediss://127.0.0.1:{port}/0?{trusted}")) == b"PONG"
        for url in (f"rediss://127.0.0.1:{port}/0?deadline=5", f"rediss://localhost:{port}/0?{trusted}"):
            with pytest.raises(Unanswered, match="away"):
                asyncio.run(asked(url))
