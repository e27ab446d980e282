"""`toolgate keys`: the API keys of a home folder. A running gateway notices within a second.

What is done to a key is put on record by the gateway, at its next start if none runs.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from argparse import ArgumentParser
from contextlib import closing

from gateway.cli import sessions
from gateway.cli.common import Arguments, Verbs, home_of, say, when
from gateway.identity.keys import GROUP, SCOPES, new_key, successor
from gateway.ports import Key
from gateway.stores.outbox import Outbox
from gateway.stores.sqlite import SqliteKeys, State
from gateway.tool import Json
from gateway.units import seconds

_MAX_NAME = 128


def add(verbs: Verbs, common: ArgumentParser) -> None:
    """Adds this verb and `sessions`."""
    keys = verbs.add_parser("keys", help="API keys: create, list, rotate, revoke")
    what = keys.add_subparsers(dest="what", required=True)
    create = what.add_parser("create", parents=[common], help="make a key; it is shown once")
    create.add_argument("--scope", choices=sorted(SCOPES), action="append", help="may be given again (default agent)")
    create.add_argument("--agent", default="dev", help="name of the agent (default dev)")
    create.add_argument("--tenant", default="default")
    create.add_argument("--user", "--person", dest="user", help="person on whose behalf it acts")
    create.add_argument("--group", action="append", help="group of the person, for approvals and rules; several")
    create.add_argument("--expires", metavar="DURATION", help="for example 30d or 12h")
    create.set_defaults(run=create_key)
    what.add_parser("list", parents=[common], help="all keys, never their secrets").set_defaults(run=list_keys)
    rotate = what.add_parser("rotate", parents=[common], help="make a key in the place of another; it is shown once")
    rotate.add_argument("id")
    rotate.add_argument("--grace", metavar="DURATION", default="1h", help="how long the old one is good (default 1h)")
    rotate.set_defaults(run=rotate_key)
    revoke = what.add_parser("revoke", parents=[common], help="refuse a key from now on")
    revoke.add_argument("id")
    revoke.set_defaults(run=revoke_key)
    sessions.add(verbs, common)


def create_key(arguments: Arguments) -> int:
    """Makes a key and shows its secret, once."""
    now = time.time()
    groups = arguments.group or []
    named = (("agent", arguments.agent), ("tenant", arguments.tenant), ("user", arguments.user))
    for flag, name in (*named, *(("group", each) for each in groups)):
        if name is not None and not (0 < len(name) <= _MAX_NAME and name.isprintable() and " " not in name):
            return _wrong(f"--{flag}: a name has 1 to {_MAX_NAME} characters, none of them a space")
    try:
        expires_at = now + seconds(arguments.expires) if arguments.expires else None
    except ValueError as error:
        return _wrong(f"--expires: {error}")
    scope = " ".join(dict.fromkeys([*(arguments.scope or ["agent"]), *(f"{GROUP}{each}" for each in groups)]))
    secret, key = new_key(arguments.agent, arguments.tenant, scope, now, user=arguments.user, expires_at=expires_at)
    with closing(State(home_of(arguments).state)) as state:
        asyncio.run(SqliteKeys(state).add(key))
        Outbox(state).add("admin.key_created", _recorded(key) | {"at": now, "expires_at": expires_at})
    said = f"{secret}\n  id {key.id}, scope {scope}, agent {key.agent}; it is not shown again"
    say(arguments, {"id": key.id, "key": secret} | _key(key), said)
    return 0


def list_keys(arguments: Arguments) -> int:
    """All keys of the home folder."""
    with closing(State(home_of(arguments).state)) as state:
        keys = SqliteKeys(state).all()
    rows = [
        f"{key.id}  {' '.join(sorted(key.scopes)):9} {key.tenant}/{key.agent}{'/' + key.user if key.user else ''}"
        f"  made {when(key.created_at)}  expires {when(key.expires_at)}  revoked {when(key.revoked_at)}"
        for key in keys
    ]
    say(arguments, [_key(key) for key in keys], "\n".join(rows) or "no keys")
    return 0


def rotate_key(arguments: Arguments) -> int:
    """Makes a key of the same caller and scopes; the old one is good for the grace, and no longer."""
    now = time.time()
    try:
        until = now + seconds(arguments.grace)
    except ValueError as error:
        return _wrong(f"--grace: {error}")
    with closing(State(home_of(arguments).state)) as state:
        keys = SqliteKeys(state)
        old = next((key for key in keys.all() if key.id == arguments.id and _in_force(key, now)), None)
        if old is None:
            say(arguments, {"id": arguments.id, "rotated": False}, "no key in force has this id")
            return 1
        until = min(until, old.expires_at or until)
        secret, key = successor(old, now)
        asyncio.run(keys.add(key))
        asyncio.run(keys.expire(old.id, until))
        Outbox(state).add("admin.key_rotated", _recorded(old) | {"at": now, "successor": key.id, "good_until": until})
    said = f"{secret}\n  id {key.id}, in the place of {old.id}, which is good until {when(until)}; not shown again"
    say(arguments, {"id": key.id, "key": secret, "replaces": old.id, "good_until": until} | _key(key), said)
    return 0


def revoke_key(arguments: Arguments) -> int:
    """Revokes a key by its id."""
    now = time.time()
    with closing(State(home_of(arguments).state)) as state:
        keys = SqliteKeys(state)
        found = next((key for key in keys.all() if key.id == arguments.id), None)
        done = found is not None and asyncio.run(keys.revoke(found.id, now))
        if found is not None and done:
            Outbox(state).add("admin.key_revoked", _recorded(found) | {"at": now})
    say(arguments, {"id": arguments.id, "revoked": done}, "revoked" if done else "no key in force has this id")
    return 0 if done else 1


def _in_force(key: Key, now: float) -> bool:
    return key.revoked_at is None and (key.expires_at is None or now < key.expires_at)


def _recorded(key: Key) -> dict[str, Json]:
    """A key as it stands on record, and who did something to it."""
    who: dict[str, Json] = {"authn": "local", "uid": os.getuid()}
    scopes: Json = list(sorted(key.scopes))
    whose: dict[str, Json] = {"agent": key.agent, "user": key.user}
    return {"key": key.id, "tenant": key.tenant, "whose": whose, "scopes": scopes, "who": who}


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


def _wrong(said: str) -> int:
    print(f"toolgate: {said}", file=sys.stderr)
    return 2
