"""`toolgate serve --replay SESSION`: a recorded session, served again until told to stop, and what came of it."""

from __future__ import annotations

import functools
import json
import signal
import socket
import sys
from dataclasses import dataclass

from gateway import __version__
from gateway.audit.text import printable
from gateway.cli import rerun
from gateway.cli.reading import on_record
from gateway.doors.server import Server
from gateway.replay.opened import ReplayService, open_replay
from gateway.replay.session import Unreplayable
from gateway.rerun.run import Rerun
from gateway.settings import Settings


@dataclass(frozen=True, slots=True)
class Asked:
    """Which session to replay, and what became of the wish for an empty network: `open` says why there is none.

    `rerun`: its code is run again first, in sandboxes that are gone before anything is served.
    """

    session: str
    agent: str | None
    open: str | None
    rerun: bool = False


async def serve_replay(settings: Settings, listening: socket.socket, asked: Asked, *, as_json: bool) -> int:
    """Serves until told to stop. Exit 0 when the session was replayed whole and nothing of it was otherwise, else 1."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a replay goes by the policies it began with
    async with open_replay(settings, asked.session, asked.agent, _say) as service:
        session = service.replay.session
        on_record(settings.home, "serve", {"replay": session.session.uid}, len(session.calls))
        again = await _again(settings, service) if asked.rerun else []
        announce = functools.partial(_announce, settings, service, asked, as_json=as_json)
        server = Server(service.app, announce, service.app.leave)
        await server.serve(sockets=[listening])
    report = service.replay.report
    if as_json:
        whole = {"replayed": report.to_json()} | ({"rerun": rerun.as_json(again)} if asked.rerun else {})
        print(json.dumps(whole), flush=True)
    else:
        run_again = rerun.lines(again) if asked.rerun else ()
        print("\n".join(map(printable, (*report.lines(), *run_again))), flush=True)
    return 0 if report.ok and not any(each.verdict == "different" for each in again) else 1


async def _again(settings: Settings, service: ReplayService) -> list[Rerun]:
    wanted = [call.id for call in service.replay.session.calls]
    try:
        return await rerun.run_again(settings.home, settings, service.loaded, wanted)
    except (OSError, ValueError) as error:
        raise Unreplayable(f"{settings.home}: its code cannot be run again: {error}") from error


def _say(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)


async def _announce(settings: Settings, service: ReplayService, asked: Asked, *, as_json: bool) -> None:
    url, session = f"http://{settings.listen}", service.replay.session
    tools = [tool.name for tool in service.loaded.catalogue.all()]
    if as_json:
        about = {
            "session": session.session.id,
            "uid": session.session.uid,
            "agent": session.principal.agent,
            "calls": len(session.calls),
            "home": str(service.home.path),
            "isolated": asked.open is None,
        }
        ready = {"ready": True, "url": url, "mcp": f"{url}/mcp", "tools": tools, "key": service.key, "replay": about}
        print(json.dumps(ready), flush=True)
        return
    calls = f"{len(session.calls)} call{'s' if len(session.calls) != 1 else ''}"
    network = "an empty network" if asked.open is None else f"the host's network ({asked.open})"
    print(f"toolgate {__version__} ready on {url}  MCP at {url}/mcp  tools: {', '.join(tools)}")
    print(f"Replays {calls} of session {session.session.id} of agent {session.principal.agent}, in {network}.")
    print(f"Callers use a key of that agent, or: {service.key}", flush=True)
