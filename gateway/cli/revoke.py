"""`toolgate revoke`: the kill switch of a home folder. A running gateway obeys it within a second."""

from __future__ import annotations

import os
import sys
import time
from argparse import ArgumentParser
from contextlib import closing

from gateway.audit.text import printable
from gateway.cli.common import Arguments, Verbs, home_of, say, when
from gateway.identity.revocations import WHOSE, Revocation, Revocations, new_revocation
from gateway.stores.sqlite import State
from gateway.tool import Json

_LONGEST = {"why": 1000, "name": 256}
_SAID = {
    "token": "credential of this id: `principal.token_id` of a record, or the id of an API key",
    "agent": "every credential of this agent, and of agents that act through it",
    "user": "every credential of this person",
    "tenant": "every credential of this tenant",
    "issuer": "every token of this issuer",
}


def add(verbs: Verbs, common: ArgumentParser) -> None:
    """Adds the verb."""
    verb = verbs.add_parser("revoke", parents=[common], help="refuse credentials, until that is lifted")
    for name in WHOSE:
        verb.add_argument(f"--{name}", help=_SAID[name])
    verb.add_argument("--earlier-only", action="store_true", help="only tokens issued before now; not API keys")
    verb.add_argument("--why", help="reason, which stands on record in plain")
    verb.add_argument("--list", action="store_true", help="what is revoked, and what was")
    verb.add_argument("--lift", metavar="ID", help="let in again what a revocation refuses")
    verb.set_defaults(run=run)


def run(arguments: Arguments) -> int:
    """Revokes, lists or lifts. Exit 1 when there is nothing to lift, 2 when not understood."""
    whose = {name: getattr(arguments, name) for name in WHOSE if getattr(arguments, name) is not None}
    if bool(whose) + arguments.list + (arguments.lift is not None) != 1:
        return _wrong(f"say whose credentials to refuse ({', '.join(f'--{name}' for name in WHOSE)}), --list or --lift")
    with closing(State(home_of(arguments).state)) as state:
        revocations = Revocations(state)
        if arguments.list:
            return _list(arguments, revocations)
        if arguments.lift is not None:
            return _lift(arguments, revocations)
        return _revoke(arguments, revocations, whose)


def _revoke(arguments: Arguments, revocations: Revocations, whose: dict[str, str]) -> int:
    if not all(0 < len(name) <= _LONGEST["name"] and name.isprintable() for name in whose.values()):
        return _wrong(f"a name has 1 to {_LONGEST['name']} characters that can be printed")
    if any(name != name.strip() for name in whose.values()):
        return _wrong("no name begins or ends with a space: that would refuse nobody")
    if not arguments.why or len(arguments.why) > _LONGEST["why"] or not arguments.why.isprintable():
        return _wrong(f"--why has 1 to {_LONGEST['why']} characters that can be printed")
    made = new_revocation(whose, arguments.why, _who(), time.time(), arguments.earlier_only)
    revocations.add(made)
    say(
        arguments,
        _shown(made),
        f"{made.id}: refused from now on; `toolgate revoke --lift {made.id}` lets them in again",
    )
    return 0


def _lift(arguments: Arguments, revocations: Revocations) -> int:
    done = revocations.lift(arguments.lift, _who(), time.time())
    say(arguments, {"id": arguments.lift, "lifted": done}, "lifted" if done else "no revocation in force has this id")
    return 0 if done else 1


def _list(arguments: Arguments, revocations: Revocations) -> int:
    found = revocations.all()
    say(arguments, [_shown(each) for each in found], "\n".join(map(_row, found)) or "nothing was revoked")
    return 0


def _row(made: Revocation) -> str:
    whose = " ".join(f"{name} {value}" for name, value in made.whose.items())
    until = f"  lifted {when(made.lifted_at)}" if made.lifted_at is not None else ""
    only = "  tokens issued before only" if made.earlier_only else ""
    return f"{made.id}  {whose}  since {when(made.at)}{until}{only}  {made.why}"


def _shown(made: Revocation) -> dict[str, object]:
    return {
        "id": made.id,
        "whose": dict(made.whose),
        "at": made.at,
        "earlier_only": made.earlier_only,
        "why": made.why,
        "who": dict(made.who),
        "lifted_at": made.lifted_at,
    }


def _who() -> dict[str, Json]:
    return {"authn": "local", "uid": os.getuid()}


def _wrong(said: str) -> int:
    print(f"toolgate: {printable(said)}", file=sys.stderr)
    return 2
