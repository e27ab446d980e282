"""`toolgate serve`: one gateway, from files and settings to a ready line."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import shlex
import signal
import socket
import sys
from argparse import ArgumentParser

import uvloop

from gateway import __version__
from gateway.app import Service, ensure_dev_key, open_service
from gateway.audit.ledger import LedgerLocked
from gateway.audit.recover import TamperedLog
from gateway.cli.common import Arguments, Verbs, settings_of
from gateway.cli.replaying import Asked, serve_replay
from gateway.doors.server import Server, listen
from gateway.replay.isolation import isolate
from gateway.replay.session import Unreplayable
from gateway.settings import BadSettings, Settings
from gateway.specs.yaml import SpecErrors
from sandboxes.model import SandboxUnavailable


def add(verbs: Verbs, common: ArgumentParser) -> None:
    """Adds the verb."""
    verb = verbs.add_parser("serve", parents=[common], help="run the gateway")
    verb.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    verb.add_argument("--port", type=int, help="port to listen on (default 8080; 0 takes a free one)")
    verb.add_argument("--workers", type=int, help="serving processes (only 1 is supported yet)")
    verb.add_argument("--anonymous", action="store_true", default=None, help="serve callers without a key, on loopback")
    verb.add_argument("--specs", help="folder of tool specs")
    verb.add_argument("--policies", help="folder of policies")
    verb.add_argument("--replay", metavar="SESSION", help="answer from the record of this session; nothing executes")
    verb.add_argument("--agent", help="with --replay: whose session, where several have one of that id")
    verb.add_argument("--rerun", action="store_true", help="with --replay: first run its WASM code again, and compare")
    verb.add_argument(
        "--require-isolation",
        action="store_true",
        help="with --replay: do not start where the process cannot have an empty network",
    )
    verb.set_defaults(run=run)


def run(arguments: Arguments) -> int:
    """Serves until told to stop."""
    _require_replay(arguments)
    flags = {name: getattr(arguments, name) for name in ("workers", "anonymous", "specs", "policies")}
    settings = settings_of(arguments, **flags)
    host, port = settings.address
    settings = settings.at(arguments.host or host, port if arguments.port is None else arguments.port)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        with listen(*settings.address) as listening:
            settings = settings.at(*listening.getsockname()[:2])
            if arguments.replay is not None:
                return _replay(settings, listening, arguments)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(_serve(settings, listening, as_json=arguments.json))
    except SpecErrors as error:
        return _cannot(*error.findings)
    except (SandboxUnavailable, LedgerLocked, TamperedLog, Unreplayable) as error:
        return _cannot(error)
    except OSError as error:
        return _cannot(f"cannot listen on {settings.listen}: {error.strerror}")


def _require_replay(arguments: Arguments) -> None:
    """Raises `BadSettings` for what is said of a replay where there is none."""
    named = ("agent", "rerun", "require_isolation")
    given = {f"--{name.replace('_', '-')}": getattr(arguments, name) for name in named}
    if arguments.replay is None and any(given.values()):
        raise BadSettings([f"{name} goes with --replay only" for name, value in given.items() if value])


def _replay(settings: Settings, listening: socket.socket, arguments: Arguments) -> int:
    # Before there is an event loop: the process still has one thread, and every later one is born in there.
    asked = Asked(arguments.replay, arguments.agent, isolate(), arguments.rerun)
    if asked.open is not None and arguments.require_isolation:
        return _cannot(f"this process cannot have an empty network: {asked.open}")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve_replay(settings, listening, asked, as_json=arguments.json))


def _cannot(*findings: object) -> int:
    for finding in findings:
        print(f"toolgate: {finding}", file=sys.stderr)
    return 1


async def _serve(settings: Settings, listening: socket.socket, *, as_json: bool) -> int:
    # Until it can be obeyed: what is not loaded yet is loaded as it is now anyway.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    async with open_service(settings, lambda line: print(line, file=sys.stderr, flush=True)) as service:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, service.live.ask)
        announce = functools.partial(_announce, settings, service, as_json=as_json)
        server = Server(service.app, announce, service.app.leave)
        await server.serve(sockets=[listening])
    return 0


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
    where = f"The key of agent dev is kept in {service.home.credentials}." if key else "Callers need no key."
    if service.loaded.catalogue.find("run_python") is None:
        return [where]
    body = shlex.quote(json.dumps({"arguments": {"code": "print(2 + 2)"}}))
    auth = f" -H 'Authorization: Bearer {key}'" if key else ""
    command = f"curl -s {url}/v1/tools/run_python/call -H 'Content-Type: application/json'{auth} -d {body}"
    return [where, "Try a call:", f"  {command}"]
