"""Real servers on loopback for the tests of the outbound client: an upstream that counts, a DNS server, a vault.

Nothing here checks anything; every socket is closed when the `async with` block ends.
"""

from __future__ import annotations

import asyncio
import datetime
import ssl
import struct
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.allow import Allow
from gateway.model import Arguments, Failure, Refusal
from gateway.runners.message import Ask
from gateway.runners.net import Egress, Net
from gateway.tool import Fix, HttpBackend, Json, SecretUse, Tool
from gateway.urls import parse_url
from gateway.work import Work

Reply = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]


def http(body: bytes = b"ok", status: str = "200 OK", kind: str = "text/plain", extra: str = "") -> bytes:
    """A whole answer."""
    return f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\n{extra}content-length: {len(body)}\r\n\r\n".encode() + body


class Upstream:
    """Counts connections and whole requests; answers with the replies in turn, the last one for ever."""

    def __init__(
        self, *replies: Reply, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        self.replies: list[Reply] = list(replies) or [http()]
        self.host, self.port, self.tls = host, port, tls
        self.connections = 0
        self.requests: list[bytes] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Upstream:
        self._server = await asyncio.start_server(self._accept, self.host, self.port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                size = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0)
                self.requests.append(head + await reader.readexactly(size))
                reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
                if isinstance(reply, bytes):
                    writer.write(reply)
                else:
                    await reply(writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):  # cancelled when the test is over
            pass
        finally:
            writer.close()


class Canary:
    """Listens on one port of 127.0.0.1 and, where the machine has IPv6, of ::1. Counts who connects."""

    async def __aenter__(self) -> Canary:
        self._four = await Upstream().__aenter__()
        self.port = self._four.port
        self._six = Upstream(host="::1", port=self.port)
        self.has_six = True
        try:
            await self._six.__aenter__()
        except OSError:
            self.has_six = False
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._four.__aexit__()
        if self.has_six:
            await self._six.__aexit__()

    @property
    def connections(self) -> int:
        return self._four.connections + self._six.connections


class Resolver(asyncio.DatagramProtocol):
    """A DNS server. Each name has a list of answers, one per look-up (A and AAAA together), the last one for ever."""

    def __init__(self, table: Mapping[str, Sequence[Sequence[str]]]) -> None:
        self.table = {name: [list(answer) for answer in answers] for name, answers in table.items()}
        self.asked: list[tuple[str, int]] = []

    async def __aenter__(self) -> Resolver:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        self.at = f"127.0.0.1:{self._transport.get_extra_info('sockname')[1]}"
        return self

    async def __aexit__(self, *error: object) -> None:
        self._transport.close()

    def datagram_received(self, datagram: bytes, source: tuple[str, int]) -> None:
        labels, at = [], 12
        while size := datagram[at]:
            labels.append(datagram[at + 1 : at + 1 + size].decode())
            at += 1 + size
        name, kind = ".".join(labels), int.from_bytes(datagram[at + 1 : at + 3], "big")
        lookups = self.table.get(name, [[]])
        turn = sum(asked == (name, kind) for asked in self.asked)
        self.asked.append((name, kind))
        texts = lookups[min(turn, len(lookups) - 1)]
        found = [one for one in map(ip_address, texts) if one.version == (4 if kind == 1 else 6)]
        records = b"".join(
            b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 0, len(one.packed)) + one.packed for one in found
        )
        head = datagram[:2] + struct.pack("!5H", 0x8180, 1, len(found), 0, 0)
        self._transport.sendto(head + datagram[12 : at + 5] + records, source)


class Secrets:
    """A vault that gives what it holds."""

    def __init__(self, **values: str) -> None:
        self.values = values

    async def reveal(self, use: SecretUse, holder: object = None) -> str:
        return self.values[use.name]


class Anything:
    """A schema that takes every value."""

    def check(self, value: Json) -> Sequence[Fix]:
        return ()

    def fill(self, arguments: dict[str, Json]) -> dict[str, Json]:
        return arguments


def ask(url: str, method: str = "GET", *, seconds: float = 10.0, **rest: object) -> Ask:
    """A request that its own host and port allow."""
    parsed = parse_url(url)
    given: dict[str, object] = {"allow": (Allow.fixed(method, parsed),), **rest}
    return Ask(method, parsed, deadline=time.monotonic() + seconds, **given)  # type: ignore[arg-type]  # by keyword


def work(backend: HttpBackend, arguments: Mapping[str, Json], *secrets: SecretUse, seconds: float = 10.0) -> Work:
    """A call of a tool with that backend."""
    tool = Tool("fetch", "1", "sha256:0", "Fetches.", {}, backend, Anything(), secrets=secrets)
    return Work("c_1", tool, Arguments(arguments), "default", time.monotonic() + seconds, time.time(), 0)


def new_net(*networks: str, resolver: str | None = None, ca: str | None = None, **secrets: str) -> Net:
    """A client with a vault that holds `secrets`."""
    return Net(Egress(networks, resolver, ca), Secrets(**secrets))


async def fails(client: Net, what: Ask) -> str:
    """`refused CODE` or `failed CODE`; the request must not succeed."""
    try:
        await client.request(what)
    except Refusal as refusal:
        return f"refused {refusal.problem.code}"
    except Failure as failure:
        return f"failed {failure.problem.code}"
    raise AssertionError("the request succeeded")


def certificate(folder: Path) -> ssl.SSLContext:
    """A self-signed certificate for `up.test` and 127.0.0.1, in `cert.pem`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "up.test")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("up.test"), x509.IPAddress(ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return tls
