"""`toolgate serve`: one gateway, from files and settings to a ready line."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import shlex
import signal
import socket
import sys
from argparse import ArgumentParser
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway import __version__
from gateway.app import Service, ensure_dev_key, open_service
from gateway.audit.ledger import LedgerLocked
from gateway.audit.recover import TamperedLog
from gateway.cli.common import Arguments, Verbs, settings_of
from gateway.settings import Settings
from gateway.specs.yaml import SpecErrors
from sandboxes.model import SandboxUnavailable

_BACKLOG = 2048
_KEEP_ALIVE = 15  # seconds an idle connection is kept
_HEAD_SECONDS = 5.0  # a head has to arrive within
_HEAD_BYTES = 64 * 1024  # of an unfinished head, beyond the piece it began in; the door has the exact limits
_CONNECTIONS = 2048
_DRAIN = 10  # seconds running calls have to end when the gateway is told to stop


def add(verbs: Verbs, common: ArgumentParser) -> None:
    """Adds the verb."""
    verb = verbs.add_parser("serve", parents=[common], help="run the gateway")
    verb.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    verb.add_argument("--port", type=int, help="port to listen on (default 8080; 0 takes a free one)")
    verb.add_argument("--workers", type=int, help="serving processes (only 1 is supported yet)")
    verb.add_argument("--anonymous", action="store_true", default=None, help="serve callers without a key, on loopback")
    verb.add_argument("--specs", help="folder of tool specs")
    verb.add_argument("--policies", help="folder of policies")
    verb.set_defaults(run=run)


def run(arguments: Arguments) -> int:
    """Serves until told to stop."""
    flags = {name: getattr(arguments, name) for name in ("workers", "anonymous", "specs", "policies")}
    settings = settings_of(arguments, **flags)
    host, port = settings.address
    settings = settings.at(arguments.host or host, port if arguments.port is None else arguments.port)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        with _listen(*settings.address) as listening, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            settings = settings.at(*listening.getsockname()[:2])
            return runner.run(_serve(settings, listening, as_json=arguments.json))
    except SpecErrors as error:
        return _cannot(*error.findings)
    except (SandboxUnavailable, LedgerLocked, TamperedLog) as error:
        return _cannot(error)
    except OSError as error:
        return _cannot(f"cannot listen on {settings.listen}: {error.strerror}")


def _cannot(*findings: object) -> int:
    for finding in findings:
        print(f"toolgate: {finding}", file=sys.stderr)
    return 1


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=_BACKLOG)


async def _serve(settings: Settings, listening: socket.socket, *, as_json: bool) -> int:
    async with open_service(settings, lambda line: print(line, file=sys.stderr, flush=True)) as service:
        config = uvicorn.Config(
            service.app,
            http=_Bounded,
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=_DRAIN,
        )
        await _Announced(config, lambda: _announce(settings, service, as_json=as_json)).serve(sockets=[listening])
    return 0


class _Bounded(HttpToolsProtocol):
    """A connection that is bounded before there is a request: its head by size and time, and their number.

    What the door could say about a head comes too late: until it is complete, all of it is kept.
    """

    _in_head, _head_bytes = True, 0
    _head_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # always a stream
        super().connection_made(transport)
        if len(self.connections) > _CONNECTIONS:
            transport.abort()
        else:
            self._head_due = self.loop.call_later(_HEAD_SECONDS, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._relax()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if not self._in_head:
            self._relax()
        elif self._head_bytes > _HEAD_BYTES:
            self.transport.abort()
        elif self._head_due is None:
            self._head_due = self.loop.call_later(_HEAD_SECONDS, self.transport.abort)

    def _relax(self) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # not a trailer: those come behind the body, where no proxy looks for a header
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        if not self.url.startswith((b"/", b"*")) and not self._is_for_host():
            raise ValueError("the target names another host than Host does")  # uvicorn answers 400
        super().on_headers_complete()

    def _is_for_host(self) -> bool:
        authority = self.url.partition(b"://")[2].partition(b"/")[0].partition(b"?")[0]
        return [value.lower() for name, value in self.headers if name == b"host"] == [authority.lower()]


class _Announced(uvicorn.Server):
    """A server that says so as soon as it answers, and comes back when it is told to stop."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], Awaitable[None]]) -> None:
        super().__init__(config)
        self._announce = announce

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ends by itself on a signal. (The base class raises it again, before the ledger could be closed.)"""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        _settle_memory()
        await self._announce()


def _settle_memory() -> None:
    """Sets aside what lives as long as the process, so that looking for garbage does not go through it on every call.

    A call leaves hardly any cycles behind; with the default thresholds, looking for them costs 5 to 8 % of its time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 50, 100)


async def _announce(settings: Settings, service: Service, *, as_json: bool) -> None:
    url = f"http://{settings.listen}"
    key = None if settings.anonymous else await ensure_dev_key(service.home, url)
    tools = [tool.name for tool in service.loaded.catalogue.all()]
    if as_json:
        print(json.dumps({"ready": True, "url": url, "mcp": f"{url}/mcp", "tools": tools}), flush=True)
        return
    print(f"toolgate {__version__} ready on {url}  MCP at {url}/mcp  tools: {', '.join(tools)}", flush=True)
    for line in _first_steps(url, key, service):
        print(line, flush=True)


def _first_steps(url: str, key: str | None, service: Service) -> list[str]:
    if "run_python" not in {tool.name for tool in service.loaded.catalogue.all()}:
        return []
    body = shlex.quote(json.dumps({"arguments": {"code": "print(2 + 2)"}}))
    auth = f" -H 'Authorization: Bearer {key}'" if key else ""
    command = f"curl -s {url}/v1/tools/run_python/call -H 'Content-Type: application/json'{auth} -d {body}"
    where = f"The key of agent dev is kept in {service.home.credentials}." if key else "Callers need no key."
    return [where, "Try a call:", f"  {command}"]
