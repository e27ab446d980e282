"""The composition root: the only place where concrete things are made and put together. It holds no rule of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from gateway import __version__
from gateway.accounts import Connecting
from gateway.audit.heads import Heads
from gateway.audit.ledger import open_ledger
from gateway.audit.search import Search
from gateway.audit.shard import Tuning
from gateway.audit.writer import Writer
from gateway.backends import offers, open_backends
from gateway.callers import authority_of, resource_of
from gateway.credentials import Credentials, open_credentials
from gateway.doors.admin import admin_app
from gateway.doors.edge import Edge
from gateway.doors.mcp import McpDoor
from gateway.doors.rest import CallRoute
from gateway.failing import resilience_of, state_of
from gateway.fresh import Fresh
from gateway.heads import make_sink
from gateway.history import History
from gateway.home import BadHome, Home
from gateway.identity.keys import digest_of, new_key
from gateway.identity.revocations import Revocations
from gateway.identity.vault import SecretVault, local_vault
from gateway.ledger_ports import Upkeep
from gateway.live import Live
from gateway.loading import Loaded, load_folders, require_tests
from gateway.model import Refusal
from gateway.notices import notices_of, untold
from gateway.pipeline import Gate
from gateway.ports import Ledger, Runner, Vault
from gateway.reliability.cache import ResultCache
from gateway.retention import expire_always, keeping
from gateway.runners.fetch import FetchRunner
from gateway.runners.http import HttpRunner
from gateway.runners.mcp import McpRunner
from gateway.runners.net import Egress, Net
from gateway.runners.sandboxed import SandboxRunner
from gateway.screening import Screener, bundled
from gateway.settings import BadSettings, Settings
from gateway.storage import Sessions, Storage, open_storage
from gateway.stores.artifacts import FileArtifacts
from gateway.stores.sqlite import SqliteArtifactRows, SqliteKeys, SqlitePins, State
from gateway.tool import Backend, FetchBackend, HttpBackend, Json, McpBackend, SandboxBackend
from gateway.upkeep import LedgerUpkeep
from gateway.wanted import Past

log = logging.getLogger("toolgate")
_SWEEP = 600.0  # seconds between two looks for artifacts that have expired
Progress = Callable[[str], None]


class SystemClock:
    """The machine's time."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)

    def __init__(self) -> None:
        self._began = time.time() - time.monotonic()

    def steady(self) -> float:
        return self._began + time.monotonic()


class RandomIds:
    """Identifiers from the system's random source, drawn many at a time.

    Each system call gives up the interpreter lock, which wakes the ledger's thread for nothing.
    """

    def __init__(self) -> None:
        self._pool = b""
        self._next = 0

    def new(self, prefix: str) -> str:
        return prefix + self._take(16).hex()

    def seed(self) -> int:
        return int.from_bytes(self._take(8)) >> 1

    def _take(self, octets: int) -> bytes:
        if self._next + octets > len(self._pool):
            self._pool, self._next = os.urandom(4096), 0
        self._next += octets
        return self._pool[self._next - octets : self._next]


@dataclass(frozen=True, slots=True)
class Service:
    """A gateway that is up: its pipeline, its doors as one ASGI application, and what it serves."""

    gate: Gate
    app: Edge
    loaded: Loaded
    live: Live
    home: Home


@asynccontextmanager
async def open_service(settings: Settings, progress: Progress) -> AsyncIterator[Service]:
    """Makes a gateway out of files and settings; takes everything down in reverse order.

    Raises:
        SpecErrors: specs or policies are wrong, or a policy fails its own tests. BadSettings, BadHome,
        SandboxUnavailable, LedgerLocked, TamperedLog: what is needed to serve at all is not there.
    """
    loaded = _loaded(settings)
    vault, home = local_vault(os.environ), Home(settings.home)
    home.make()
    clock, ids = SystemClock(), RandomIds()
    async with AsyncExitStack() as stack:
        state = stack.enter_context(contextlib.closing(State(home.state)))
        keys, revocations = known = SqliteKeys(state), Revocations(state)
        net = _net(settings, vault, stack)
        credentials = open_credentials(vault, settings, home, state, net)
        ledger, heads = await _ledger(home, settings, net, stack, progress)
        storage = await open_storage(settings, home, state, known, ledger.contents, clock, progress, stack)
        connecting = _grants(credentials, ledger, storage.sessions, clock, ids, stack)
        _tell(_remarks(loaded, vault, settings), progress)
        screener, artifacts = Screener(bundled(), vault.issued), await asyncio.to_thread(_open_artifacts, home, state)
        history = _history(home, storage, clock, progress)
        live = _live(settings, loaded, home, ledger, screener, history, progress)
        gate = Gate(
            authority=authority_of(settings, keys, revocations, net, clock),
            sessions=storage.sessions,
            catalogue=loaded.catalogue,
            bundles=live,
            counters=storage.counters,
            claims=storage.counters,
            approvals=storage.approvals,
            runners=await _runners(settings, loaded, net, SqlitePins(state), stack, progress),
            screener=screener,
            ledger=ledger,
            outcomes=storage.outcomes,
            artifacts=artifacts,
            clock=clock,
            ids=ids,
            bounds=settings.limits.bounds,
            resilience=(resilience := resilience_of(clock)),
            notices=notices_of(settings, net, vault, clock, stack),
        )
        await put_in_force(live, home)
        upkeep = _upkeep(home, ledger, settings, history, storage, resilience.cache, stack)
        _beside(stack, live.watch(), history.watch(), Fresh(state, known, storage, gate).watch())
        _beside(stack, _keep_swept(artifacts), *storage.loops())
        past = stack.enter_context(contextlib.closing(Search(home.path)))
        states = (heads.state, live.state, storage.state)
        doors = doors_of(gate, states, upkeep, past, settings, connecting, storage.secret)
        yield Service(gate, doors, loaded, live, home)


def _loaded(settings: Settings) -> Loaded:
    loaded = load_folders(settings.folder("tool_specs"), settings.folder("policies"), offers(settings.sandboxes))
    require_tests(loaded.bundle)
    return loaded


def _history(home: Home, storage: Storage, clock: SystemClock, progress: Progress) -> History:
    history = History(home.path, storage.counters, clock, progress)
    storage.remembers(history.everything)
    return history


def _live(
    settings: Settings,
    loaded: Loaded,
    home: Home,
    ledger: Writer,
    screener: Screener,
    history: History,
    progress: Progress,
) -> Live:
    folders, version = (settings.folder("policies"), settings.candidate), screener.rules.version
    return Live(loaded, *folders, home, ledger, version, say=progress, prepare=history.prepare)


def _upkeep(
    home: Home,
    ledger: Writer,
    settings: Settings,
    history: History,
    storage: Storage,
    cache: ResultCache,
    stack: AsyncExitStack,
) -> LedgerUpkeep:
    """What erases content: when it is asked to, and what has expired."""

    def erased(uids: Collection[str]) -> None:
        storage.erased(uids)
        cache.erased(uids)

    kept_for = keeping(settings.audit.retain, storage.in_use)
    upkeep = LedgerUpkeep(home.path, ledger, kept_for, history.resolved, erased, storage.counters)
    _beside(stack, expire_always(upkeep, settings.audit.retain))
    return upkeep


def _tell(remarks: Iterator[str], progress: Progress) -> None:
    for line in remarks:
        progress(f"toolgate: {line}")


def _remarks(loaded: Loaded, vault: SecretVault, settings: Settings) -> Iterator[str]:
    """What keeps nothing from being served, but an operator wants to hear before an agent does."""
    yield from map(str, loaded.findings)
    if settings.address[0] in ("0.0.0.0", "::") and not settings.hosts:
        yield f"hosts: nobody calls this server {settings.address[0]}; name the hosts clients use, or all are refused"
    tools = [(tool.source, use) for tool in loaded.catalogue.all() for use in tool.secrets]
    servers = [(f"server {server.name}", use) for server in loaded.servers.values() for use in server.secrets]
    for place, use in tools + servers:
        if (reason := vault.look(use)) is not None:
            yield f"{place}: the credential {use.name} cannot be used, nor the tools that need it: {reason}"
    if (reason := untold(settings, vault)) is not None:
        yield f"approvals.secret cannot be used, so the webhook is told of no call that waits: {reason}"


def tuning_of(settings: Settings) -> Tuning:
    """How the ledger is written, as the settings say."""
    return Tuning(segment=settings.audit.segment, checkpoint_every=settings.audit.checkpoint_interval)


def ledger_of(home: Home, tuning: Tuning) -> Writer:
    """The ledger of a home. Raises `BadHome` when it cannot be opened, and what `open_ledger` says of its shard."""
    try:
        return open_ledger(home.path, tuning=tuning)
    except (OSError, ValueError) as error:
        raise BadHome(f"{home.audit}: the audit log cannot be opened: {error}") from error


async def _ledger(
    home: Home, settings: Settings, net: Net, stack: AsyncExitStack, progress: Progress
) -> tuple[Writer, Heads]:
    """The ledger, and what brings its heads elsewhere: also the last one, which is signed when the ledger is closed."""
    ledger = await asyncio.to_thread(ledger_of, home, tuning_of(settings))
    heads = Heads(home.path, [make_sink(target, net) for target in settings.audit.publish], progress)
    await stack.enter_async_context(heads)
    stack.push_async_callback(ledger.close)
    return ledger, heads


def _open_artifacts(home: Home, state: State) -> FileArtifacts:
    """After the ledger, whose lock keeps a second gateway from sweeping what this one writes."""
    try:
        return FileArtifacts(home.artifacts, SqliteArtifactRows(state))
    except OSError as error:
        raise BadHome(f"{home.artifacts}: cannot be used: {error}") from error


async def put_in_force(live: Live, home: Home) -> None:
    """The policy that was loaded, in force and on record. Raises `BadHome`."""
    try:
        await live.start()
    except OSError as error:
        raise BadHome(f"{home.path}: the policy cannot be put in force: {error}") from error


async def _runners(
    settings: Settings, loaded: Loaded, net: Net, pins: SqlitePins, stack: AsyncExitStack, progress: Progress
) -> Mapping[type[Backend], Runner]:
    """A runner for each kind of backend; a sandbox is started only when a tool needs it."""
    runners: dict[type[Backend], Runner] = {HttpBackend: HttpRunner(net), FetchBackend: FetchRunner(net)}
    mcp = McpRunner(net, loaded.servers, pins)
    stack.push_async_callback(mcp.close)
    runners[McpBackend] = mcp
    runners[SandboxBackend] = SandboxRunner(
        await open_backends(settings.sandboxes, loaded.catalogue.all(), stack, progress)
    )
    return runners


def _net(settings: Settings, vault: Vault, stack: AsyncExitStack) -> Net:
    egress = settings.egress
    ca = str(egress.ca) if egress.ca else None
    try:
        made = Egress(
            networks=egress.networks,
            resolver=egress.resolver,
            ca=ca,
            client_cert=str(egress.client_cert) if egress.client_cert else None,
            client_cert_hosts=egress.client_cert_hosts,
            proxy=egress.proxy,
            proxy_resolves=egress.proxy_resolves,
            own_addresses=[settings.address],
        )
        net = Net(made, vault)
    except (ValueError, OSError) as error:
        raise BadSettings([f"egress: {error}"]) from error
    stack.push_async_callback(net.close)
    return net


def _grants(
    credentials: Credentials,
    ledger: Ledger,
    sessions: Sessions,
    clock: SystemClock,
    ids: RandomIds,
    stack: AsyncExitStack,
) -> Connecting:
    """Tokens from providers, for calls; ended, as far as that goes, while the ledger is still open."""
    granted = credentials.granted(ledger, sessions, clock, ids)
    sessions.on_close = granted.leases.look
    stack.push_async_callback(granted.leases.close)
    _beside(stack, granted.leases.watch(), granted.connections.watch())
    return granted.connector


def doors_of(
    gate: Gate,
    states: Sequence[Callable[[], Mapping[str, Json]]],
    upkeep: Upkeep,
    past: Past,
    settings: Settings,
    connecting: Connecting | None = None,
    secret: bytes | None = None,
) -> Edge:
    """Every door over one gate. `states` are what `/readyz` says besides whether the ledger can be written, `secret`
    what signs questions to clients."""

    def ready() -> Mapping[str, Json]:
        audit = "ok"
        try:
            gate.ledger.check()
        except Refusal as refusal:
            audit = refusal.problem.code
        said = {name: value for state in states for name, value in state().items()}
        return {"audit": audit, **state_of(gate.resilience), **said}

    host, port = settings.address
    names = {host, "localhost", "127.0.0.1", "[::1]"} if settings.on_loopback else {host}
    names |= {name.lower() for name in settings.hosts}
    hosts = frozenset(names | {f"{name}:{port}" for name in names})
    resource = resource_of(settings)
    admin = admin_app(gate, ready, upkeep, past, resource, connecting if settings.connects else None)
    return Edge(
        CallRoute(gate), McpDoor(gate, __version__, secret=secret), admin, hosts, resource, settings.limits.inflight
    )


async def _keep_swept(artifacts: FileArtifacts) -> None:
    """Removes artifacts that have expired."""
    while True:
        await asyncio.sleep(_SWEEP)
        try:
            await artifacts.sweep()
        except OSError:
            log.exception("artifacts that expired could not be removed")


def _beside(stack: AsyncExitStack, *loops: Coroutine[None, None, None]) -> None:
    """Runs loops until everything is taken down."""
    for loop in loops:
        stack.push_async_callback(_stop, asyncio.create_task(loop))


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})


async def ensure_dev_key(home: Home, url: str) -> str:
    """The local agent's key: the one in `dev-credentials.json` while it is in force, else a fresh one."""
    with contextlib.closing(State(home.state)) as state:
        keys = SqliteKeys(state)
        known = home.read_credentials()
        secret = known[1] if known and _in_force(keys, known[1]) else ""
        if not secret:
            secret, key = new_key("dev", "default", "agent", time.time())
            await keys.add(key)
    home.write_credentials(url, secret)
    return secret


def _in_force(keys: SqliteKeys, secret: str) -> bool:
    key = keys.find(digest_of(secret))
    return key is not None and key.revoked_at is None and (key.expires_at or time.time() + 1) > time.time()
