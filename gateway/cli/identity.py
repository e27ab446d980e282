"""`toolgate keys` and `toolgate sessions`: the state of a home folder. A running gateway notices within a second."""

from __future__ import annotations

import asyncio
import sys
import time
from argparse import ArgumentParser

from gateway.cli.common import Arguments, Verbs, home_of, say, when
from gateway.identity.keys import SCOPES, new_key
from gateway.model import Session
from gateway.ports import Key
from gateway.stores.sqlite import SqliteKeys, State
from gateway.stores.sqlite_sessions import SqliteSessions
from gateway.units import seconds

_MAX_NAME = 128


def add(verbs: Verbs, common: ArgumentParser) -> None:
    """Adds both verbs."""
    keys = verbs.add_parser("keys", help="API keys: create, list, revoke").add_subparsers(dest="what", required=True)
    create = keys.add_parser("create", parents=[common], help="make a key; it is shown once")
    create.add_argument("--scope", choices=sorted(SCOPES), default="agent")
    create.add_argument("--agent", default="dev", help="name of the agent (default dev)")
    create.add_argument("--tenant", default="default")
    create.add_argument("--user", "--person", dest="user", help="person on whose behalf it acts")
    create.add_argument("--expires", metavar="DURATION", help="for example 30d or 12h")
    create.set_defaults(run=create_key)
    keys.add_parser("list", parents=[common], help="all keys, never their secrets").set_defaults(run=list_keys)
    revoke = keys.add_parser("revoke", parents=[common], help="refuse a key from now on")
    revoke.add_argument("id")
    revoke.set_defaults(run=revoke_key)

    sessions = verbs.add_parser("sessions", help="sessions: list, show, close").add_subparsers(
        dest="what", required=True
    )
    sessions.add_parser("list", parents=[common], help="all sessions").set_defaults(run=list_sessions)
    for name, command, said in (("show", show_session, "one session"), ("close", close_session, "close a session")):
        verb = sessions.add_parser(name, parents=[common], help=said)
        verb.add_argument("id")
        verb.set_defaults(run=command)


def create_key(arguments: Arguments) -> int:
    """Makes a key and shows its secret, once."""
    state = State(home_of(arguments).state)
    now = time.time()
    for flag, name in (("agent", arguments.agent), ("tenant", arguments.tenant), ("user", arguments.user)):
        if name is not None and not (0 < len(name) <= _MAX_NAME and name.isprintable() and " " not in name):
            print(f"toolgate: --{flag}: a name has 1 to {_MAX_NAME} characters, none of them a space", file=sys.stderr)
            return 2
    try:
        expires_at = now + seconds(arguments.expires) if arguments.expires else None
    except ValueError as error:
        print(f"toolgate: --expires: {error}", file=sys.stderr)
        return 2
    secret, key = new_key(
        arguments.agent, arguments.tenant, arguments.scope, now, user=arguments.user, expires_at=expires_at
    )
    asyncio.run(SqliteKeys(state).add(key))
    said = f"{secret}\n  id {key.id}, scope {arguments.scope}, agent {key.agent}; it is not shown again"
    say(arguments, {"id": key.id, "key": secret} | _key(key), said)
    return 0


def list_keys(arguments: Arguments) -> int:
    """All keys of the home folder."""
    keys = SqliteKeys(State(home_of(arguments).state)).all()
    rows = [
        f"{key.id}  {' '.join(sorted(key.scopes)):9} {key.tenant}/{key.agent}{'/' + key.user if key.user else ''}"
        f"  made {when(key.created_at)}  expires {when(key.expires_at)}  revoked {when(key.revoked_at)}"
        for key in keys
    ]
    say(arguments, [_key(key) for key in keys], "\n".join(rows) or "no keys")
    return 0


def revoke_key(arguments: Arguments) -> int:
    """Revokes a key by its id."""
    done = asyncio.run(SqliteKeys(State(home_of(arguments).state)).revoke(arguments.id, time.time()))
    say(arguments, {"id": arguments.id, "revoked": done}, "revoked" if done else "no key in force has this id")
    return 0 if done else 1


def list_sessions(arguments: Arguments) -> int:
    """All sessions of the home folder."""
    found = SqliteSessions(State(home_of(arguments).state)).all()
    say(arguments, [_session(each) for each in found], "\n".join(_row(each) for each in found) or "no sessions")
    return 0


def show_session(arguments: Arguments) -> int:
    """The sessions of that id; several principals may have given one name."""
    found = [each for each in SqliteSessions(State(home_of(arguments).state)).all() if each.id == arguments.id]
    say(arguments, [_session(each) for each in found], "\n".join(_row(each) for each in found) or "no such session")
    return 0 if found else 1


def close_session(arguments: Arguments) -> int:
    """Closes the sessions of that id."""
    sessions = SqliteSessions(State(home_of(arguments).state))
    found = [each for each in sessions.all() if each.id == arguments.id and each.state == "open"]
    for each in found:
        asyncio.run(sessions.close(each.owner, each.id))
    say(arguments, {"id": arguments.id, "closed": len(found)}, "closed" if found else "no open session has this id")
    return 0 if found else 1


def _key(key: Key) -> dict[str, object]:
    return {
        "id": key.id,
        "scopes": sorted(key.scopes),
        "agent": key.agent,
        "tenant": key.tenant,
        "user": key.user,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
    }


def _session(session: Session) -> dict[str, object]:
    tenant, agent, user = session.owner.split("\x1f")
    return {
        "id": session.id,
        "tenant": tenant,
        "agent": agent,
        "user": user or None,
        "state": session.state,
        "labels": sorted(session.labels),
        "calls": session.calls,
        "cost": session.cost,
        "opened_at": session.opened_at,
        "expires_at": session.expires_at,
    }


def _row(session: Session) -> str:
    owner = "/".join(part for part in session.owner.split("\x1f") if part)
    labels = ",".join(sorted(session.labels)) or "-"
    return f"{session.id}  {owner}  {session.state}  labels {labels}  expires {when(session.expires_at)}"
