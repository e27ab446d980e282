"""The one outbound client, for HTTP and bare deliveries, and the only file of the gateway that opens a socket outward.

A request is one parsed `Url`. It leaves only when an allow-list entry permits it (and one of each list that policy
adds) and *every* address its name resolves to may be dialled; the connection goes to a checked address, so a name that
resolves differently a moment later changes nothing. One request is sent at most once. Cookies, netrc and what the
environment says of proxies are not looked at.

It never says which address a name resolved to, never sends a secret to a host the secret is not meant for, and never
follows a redirect unless asked. `Refusal` (`egress_denied`, `upstream_unreachable`): nothing was sent. `Failure`
(`timeout`, `upstream_error`, `output_invalid`, `output_too_large`): it may have been.
"""

import asyncio
import socket
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import ExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from ipaddress import IPv4Address

from gateway.allow import Allow
from gateway.globs import host_fits
from gateway.model import Failure, Refusal
from gateway.ports import Vault
from gateway.problems import problem, refuse
from gateway.runners.addresses import Address, Networks, parse_address, plain
from gateway.runners.http1 import Connection, Exchange, Reached
from gateway.runners.message import (
    MAX_REDIRECTS,
    Answer,
    Ask,
    Headers,
    check_type,
    media_type,
    permitted,
    redirected,
    request_bytes,
)
from gateway.runners.names import Datagrams, endpoint
from gateway.runners.pool import Key, Origin, Pool
from gateway.runners.proxy import tunnel
from gateway.urls import Url, parse_url

CONNECT_SECONDS = 2.0
RESOLVE_SECONDS = 2.0
MAX_SAID = 64 * 1024  # bytes that are read of who has nothing to say, while its end is waited for
MAX_ADDRESSES = 16
MAX_TRIED = 3
MAX_ROUTES = 4096
NOWHERE = IPv4Address(0)  # stands for whatever a proxy finds behind a name
_CHECK = "It may have happened all the same; check first."
_DENIED = "The host's address is not one that may be dialled."


@dataclass(frozen=True, slots=True)
class Egress:
    """Where the gateway may dial. `networks`: CIDRs that may be private. `resolver`: `address:port` of a DNS server.

    `ca` is a file of certificates to trust besides the system's. `client_cert` is a PEM file with a certificate and its
    key, shown to `client_cert_hosts` that ask for one. `proxy` (`http://host:port`) is gone through by CONNECT: to the
    address that was checked, or with `proxy_resolves` to the name, and then nobody here has checked any.
    `own_addresses` are (address, port) pairs on which the gateway listens; they are refused always. `keep` is how many
    seconds a checked resolution may be used again.
    """

    networks: Collection[str] = ()
    resolver: str | None = None
    ca: str | None = None
    client_cert: str | None = None
    client_cert_hosts: Collection[str] = ()
    proxy: str | None = None
    proxy_resolves: bool = False
    own_addresses: Collection[tuple[str, int]] = ()
    keep: float = 10.0


@dataclass(slots=True)
class _Sent:
    """A request on its way: who carries it, what comes back, when it is over."""

    key: Key
    connection: Connection
    exchange: Exchange
    timer: asyncio.TimerHandle


class Streamed:
    """An answer whose head is here and whose body is read piece by piece."""

    def __init__(self, sent: _Sent) -> None:
        self.status = sent.exchange.status
        self.headers = sent.exchange.headers
        self.content_type = media_type(self.headers)[0]
        self._sent = sent

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises Failure at the deadline, over the cap, or when the connection breaks."""
        exchange = self._sent.exchange
        while True:
            await exchange.wait(Reached.PIECE)
            chunk = exchange.take()
            if not chunk:
                return
            self._sent.connection.resume()
            yield chunk


class Net:
    """The client. One per gateway: it holds the warm connections and the one TLS configuration."""

    def __init__(self, egress: Egress, vault: Vault, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Raises ValueError for a network, resolver, proxy or address that is none, OSError for an unreadable file."""
        self._networks = Networks.of(egress.networks, egress.own_addresses)
        self._resolver = None if egress.resolver is None else endpoint(egress.resolver)
        self._keep = egress.keep
        self._vault = vault
        self._monotonic = monotonic
        self._proxy = None if egress.proxy is None else parse_url(egress.proxy)
        self._by_name = self._proxy is not None and egress.proxy_resolves
        self._tls = self._known_by = _tls(egress.ca)
        self._known_to = egress.client_cert_hosts
        if egress.client_cert is not None:
            self._known_by = _tls(egress.ca)
            self._known_by.load_cert_chain(egress.client_cert)
        self._routes: dict[tuple[str, int, Address | None], tuple[float, tuple[Address, ...]]] = {}
        self._pool = Pool()
        self._busy: Counter[Origin] = Counter()

    async def request(self, ask: Ask, follow: int = 0) -> Answer:
        """One request, one whole answer; at most `follow` (0 to 3) redirects, each of them checked like the first."""
        answer = await self._once(ask)
        for _ in range(min(follow, MAX_REDIRECTS)):
            following = redirected(ask, answer)
            if following is None:
                break
            ask = following
            try:
                answer = await self._once(ask)
            except Refusal as refusal:  # the first request was sent
                raise Failure(refusal.problem) from None
        return answer

    @asynccontextmanager
    async def stream(self, ask: Ask) -> AsyncIterator[Streamed]:
        """One request, its answer read piece by piece. Leaving early cuts the connection."""
        sent = await self._send(ask, streamed=True)
        try:
            await sent.exchange.wait(Reached.HEAD)
            check_type(ask, sent.exchange.status, sent.exchange.headers, empty=sent.exchange.status in (202, 204))
            yield Streamed(sent)
        finally:
            self._done(sent)

    async def is_warm(self, ask: Ask) -> bool:
        """Is a connection open to where this would go? If not, whoever answers there may be somebody new."""
        origin = _origin(ask.url, await self._credentials(ask))
        return self._busy[origin] > 0 or self._pool.holds(origin)

    async def deliver(self, url: Url, octets: bytes, seconds: float) -> None:
        """Octets to host and port of `url` over TCP, for a protocol without an answer; nothing of HTTP is said.

        Returns once the other side has read all and closed in turn. Raises as a request does.
        """
        addresses = await self._route(url, Allow.fixed("POST", url))
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(seconds):
                opened = await self._reach_one(addresses[:MAX_TRIED], url)
                with closing(opened):
                    await loop.sock_sendall(opened, octets)
                    opened.shutdown(socket.SHUT_WR)
                    said = 0
                    while fresh := await loop.sock_recv(opened, 4096):
                        said += len(fresh)
                        if said > MAX_SAID:
                            raise Failure(problem("output_too_large", "The other side had more to say than to read."))
        except TimeoutError:
            raise Failure(problem("timeout", "The other side did not read all and close in time.")) from None
        except OSError as error:
            raise Failure(problem("upstream_error", f"The connection broke: {error.strerror}.")) from None

    async def close(self) -> None:
        """Cut the idle connections; those in use are cut when their call is over."""
        self._pool.close()

    # ── one request ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _once(self, ask: Ask) -> Answer:
        sent = await self._send(ask)
        exchange = sent.exchange
        try:
            await exchange.wait(Reached.END)
        finally:
            self._done(sent)
        body = exchange.take()
        check_type(ask, exchange.status, exchange.headers, empty=not body)
        return Answer(exchange.status, exchange.headers, body, media_type(exchange.headers)[0])

    async def _send(self, ask: Ask, *, streamed: bool = False) -> _Sent:
        url = ask.url
        entry = permitted(ask)
        credentials = await self._credentials(ask)
        request = request_bytes(ask, credentials)
        addresses = await self._route(url, entry)
        key, connection = await self._connection(_origin(url, credentials), addresses, ask)
        if any(use.varies == "session" for use in ask.secrets):
            await self._unchanged(ask, credentials, connection)
        remaining = ask.deadline - self._monotonic()
        if remaining <= 0:
            connection.close()
            raise refuse("upstream_unreachable", "There was no time left to send the request.")
        exchange = Exchange(ask.max_bytes, head_only=ask.method == "HEAD", streamed=streamed)
        connection.start(exchange, request)
        self._busy[key[0]] += 1
        timer = asyncio.get_running_loop().call_later(remaining, _expire, connection, exchange)
        return _Sent(key, connection, exchange, timer)

    async def _credentials(self, ask: Ask) -> Headers:
        for use in ask.secrets:
            if not any(host_fits(pattern, ask.url.host) for pattern in use.hosts):
                raise refuse("egress_denied", f"The credential {use.name} is not meant for this host.")
        revealed = [(use, await self._vault.reveal(use, ask.holder)) for use in ask.secrets]
        return tuple((use.header, use.template.replace("{}", value)) for use, value in revealed)

    async def _unchanged(self, ask: Ask, credentials: Headers, connection: Connection) -> None:
        """Resolving and dialling took their time, and an account may have been disconnected meanwhile."""
        try:
            if await self._credentials(ask) == credentials:
                return
        except Refusal:
            connection.close()
            raise
        connection.close()
        raise refuse("upstream_unreachable", "The credential changed while the upstream was connected to.")

    def _done(self, sent: _Sent) -> None:
        sent.timer.cancel()
        self._busy[sent.key[0]] -= 1
        if not self._busy[sent.key[0]]:
            del self._busy[sent.key[0]]
        self._pool.give(sent.key, sent.connection)

    # ── where to ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _route(self, url: Url, entry: Allow) -> tuple[Address, ...]:
        """The addresses of the host, every one of them checked."""
        key = (url.host, url.port, entry.address)
        known = self._routes.get(key)
        if known is not None and known[0] > self._monotonic():
            return known[1]
        if self._by_name and url.address is None:
            return (NOWHERE,)
        found = (plain(url.address),) if url.address is not None else await self._resolve(url.host)
        literal = None if entry.address is None else plain(entry.address)
        allowed = all(self._networks.allows(address, url.port, literal=literal) for address in found)
        if len(found) > MAX_ADDRESSES or not allowed:
            raise refuse("egress_denied", _DENIED)
        if len(self._routes) >= MAX_ROUTES:
            self._routes.clear()
        self._routes[key] = (self._monotonic() + self._keep, found)
        return found

    async def _resolve(self, host: str) -> tuple[Address, ...]:
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                found = await (self._system(host) if self._resolver is None else self._ask_resolver(host))
        except OSError:  # TimeoutError and gaierror too
            found = []
        if not found:
            raise refuse("upstream_unreachable", "The host's name could not be resolved.")
        return tuple(dict.fromkeys(map(plain, found)))

    async def _system(self, host: str) -> list[Address]:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        addresses = [parse_address(str(sockaddr[0])) for *_, sockaddr in found]
        if None in addresses:
            raise refuse("egress_denied", _DENIED)
        return [address for address in addresses if address is not None]

    async def _ask_resolver(self, host: str) -> list[Address]:
        loop = asyncio.get_running_loop()
        transport, datagrams = await loop.create_datagram_endpoint(lambda: Datagrams(host), remote_addr=self._resolver)
        try:
            return await datagrams.addresses()
        finally:
            transport.close()

    # ── connections ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _connection(self, origin: Origin, addresses: tuple[Address, ...], ask: Ask) -> tuple[Key, Connection]:
        """A warm connection to one of the addresses, or a new one."""
        for address in addresses:
            connection = self._pool.take((origin, address))
            if connection is not None:
                return (origin, address), connection
        seconds = min(CONNECT_SECONDS, ask.deadline - self._monotonic())
        try:
            async with asyncio.timeout(seconds):
                return await self._dial_one(origin, addresses[:MAX_TRIED], ask.url)
        except TimeoutError:
            raise refuse("upstream_unreachable", "The upstream could not be connected to in time.") from None

    async def _dial_one(self, origin: Origin, addresses: tuple[Address, ...], url: Url) -> tuple[Key, Connection]:
        for address in addresses:
            try:
                return (origin, address), await self._dial(address, url)
            except TimeoutError:
                raise
            except OSError:  # SSLError too; nothing was sent, so the next address may be tried
                continue
        raise refuse("upstream_unreachable", "The upstream could not be connected to.")

    async def _dial(self, address: Address, url: Url) -> Connection:
        loop = asyncio.get_running_loop()
        with ExitStack() as undo:
            opened = undo.enter_context(closing(await self._reach(address, url)))
            tls = self._tls_to(url.host) if url.scheme == "https" else None
            name = url.host if tls is not None else None
            _, connection = await loop.create_connection(Connection, sock=opened, ssl=tls, server_hostname=name)
            undo.pop_all()
            return connection

    async def _reach_one(self, addresses: tuple[Address, ...], url: Url) -> socket.socket:
        for address in addresses:
            try:
                return await self._reach(address, url)
            except TimeoutError:
                raise
            except OSError:
                continue
        raise refuse("upstream_unreachable", "The upstream could not be connected to.")

    async def _reach(self, address: Address, url: Url) -> socket.socket:
        """A socket that is connected to a checked address, through the proxy where there is one."""
        loop = asyncio.get_running_loop()
        target, port = (address, url.port) if self._proxy is None else await self._at_proxy(self._proxy)
        family = socket.AF_INET if isinstance(target, IPv4Address) else socket.AF_INET6
        with ExitStack() as undo:
            opened = socket.socket(family, socket.SOCK_STREAM)
            undo.callback(opened.close)
            opened.setblocking(False)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(opened, (str(target), port))
            peer = parse_address(opened.getpeername()[0])
            ours = opened.getsockname()[0] == opened.getpeername()[0]
            if peer != target or self._networks.is_own(target, port, this_machine=ours):
                raise refuse("egress_denied", _DENIED)
            if self._proxy is not None:
                await tunnel(opened, _authority(url.host if self._by_name else str(address), url.port))
            undo.pop_all()
            return opened

    async def _at_proxy(self, proxy: Url) -> tuple[Address, int]:
        """Where the proxy is. An operator named it, so its address may be any but our own."""
        found = (plain(proxy.address),) if proxy.address is not None else await self._resolve(proxy.host)
        return found[0], proxy.port

    def _tls_to(self, host: str) -> ssl.SSLContext:
        return self._known_by if any(host_fits(pattern, host) for pattern in self._known_to) else self._tls


def _tls(ca: str | None) -> ssl.SSLContext:
    found = ssl.create_default_context()
    if ca is not None:
        found.load_verify_locations(ca)
    return found


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _origin(url: Url, credentials: Headers) -> Origin:
    return url.scheme, url.host, url.port, credentials


def _expire(connection: Connection, exchange: Exchange) -> None:
    exchange.fail(problem("timeout", "The upstream did not answer in time.", advice=_CHECK))
    connection.close()
