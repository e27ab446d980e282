"""`toolgate sessions`: the sessions of a home folder. A running gateway obeys within a second.

It shows no word of what a person asked for, which is sealed.
"""

from __future__ import annotations

import asyncio
import os
import time
from argparse import ArgumentParser
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from gateway.admission import Amounts
from gateway.cli.common import Arguments, Verbs, home_of, say, settings_of, when
from gateway.model import Refusal, Session
from gateway.reliability.budgets import in_words, session_key
from gateway.settings import BadSettings
from gateway.sharing import shared_sessions
from gateway.stores import redis_counters
from gateway.stores.sessions import MemorySessions
from gateway.stores.sqlite import State
from gateway.stores.sqlite_counters import look_used
from gateway.stores.sqlite_sessions import SqliteSessions


@dataclass(frozen=True, slots=True)
class _Opened:
    """Sessions, what runs their methods, and what is used up by accounts."""

    sessions: MemorySessions
    run: Callable[[Coroutine[Any, Any, Session | None]], Session | None]
    used: Callable[[Sequence[str]], Mapping[str, Amounts]]


def add(verbs: Verbs, common: ArgumentParser) -> None:
    """Adds the verb."""
    what = verbs.add_parser("sessions", help="sessions: list, show, close").add_subparsers(dest="what", required=True)
    for name, command, said in (
        ("list", list_sessions, "all sessions"),
        ("show", show_session, "one session"),
        ("close", close_session, "close a session and those below it"),
    ):
        verb = what.add_parser(name, parents=[common], help=said)
        if name != "list":
            verb.add_argument("id", help="its name, or its uid")
        for whose in ("tenant", "agent", "user"):
            verb.add_argument(f"--{whose}", help=f"of this {whose} only")
        verb.set_defaults(run=command)


def list_sessions(arguments: Arguments) -> int:
    """All sessions of the home folder."""
    with _opened(arguments) as opened:
        _say(arguments, opened, _fitting(opened.sessions, arguments), "no sessions")
    return 0


def show_session(arguments: Arguments) -> int:
    """The sessions of that id; several principals may have given one name."""
    with _opened(arguments) as opened:
        found = [each for each in _fitting(opened.sessions, arguments) if arguments.id in (each.id, each.uid)]
        _say(arguments, opened, found, "no such session")
    return 0 if found else 1


def close_session(arguments: Arguments) -> int:
    """Closes the sessions of that id, and those below them."""
    who = {"authn": "local", "uid": os.getuid()}
    with _opened(arguments) as opened:
        named = [each for each in _fitting(opened.sessions, arguments) if arguments.id in (each.id, each.uid)]
        found = [each for each in named if _state(each) == "open"]
        for each in found:
            opened.run(opened.sessions.close(each.owner, each.id, "revoked", who))
    say(arguments, {"id": arguments.id, "closed": len(found)}, "closed" if found else "no open session has this id")
    return 0 if found else 1


@contextmanager
def _opened(arguments: Arguments) -> Iterator[_Opened]:
    """The sessions, of the home or of all gateways that share a Redis."""
    home, store = home_of(arguments), settings_of(arguments).store
    with closing(State(home.state)) as state, asyncio.Runner() as runner:
        if store in ("sqlite", "memory"):
            yield _Opened(SqliteSessions(state), runner.run, partial(look_used, home.limits))
            return
        stack = AsyncExitStack()
        try:
            sessions, redis = runner.run(shared_sessions(store, stack))
            yield _Opened(sessions, runner.run, lambda keys: runner.run(redis_counters.look_used(redis, keys)))
        except Refusal as refusal:
            raise BadSettings([f"store: {refusal.problem.detail}"]) from None
        finally:
            runner.run(stack.aclose())


def _fitting(sessions: MemorySessions, arguments: Arguments) -> list[Session]:
    wanted = (arguments.tenant, arguments.agent, arguments.user)
    return [
        each
        for each in sorted(sessions.all(), key=lambda session: session.opened_at)
        if all(want in (None, has) for want, has in zip(wanted, each.owner.split("\x1f"), strict=True))
    ]


def _say(arguments: Arguments, opened: _Opened, found: list[Session], none: str) -> None:
    sessions, used = opened.sessions, opened.used([session_key(each) for each in found if each.budget])
    spent = [_spent(each, used) for each in found]
    shown = [_shown(each, sessions, of) for each, of in zip(found, spent, strict=True)]
    rows = [_row(each, sessions, of) for each, of in zip(found, spent, strict=True)]
    say(arguments, shown, "\n".join(rows) or none)


def _spent(session: Session, used: Mapping[str, Amounts]) -> Mapping[str, float]:
    """What is used up of its budget, in the words of a file."""
    return {"calls": 0, "cost": 0.0, **in_words(used.get(session_key(session), {}))} if session.budget else {}


def _shown(session: Session, sessions: MemorySessions, spent: Mapping[str, float]) -> dict[str, object]:
    tenant, agent, user = session.owner.split("\x1f")
    above = sessions.line(session.uid)[1:2]
    return {
        "id": session.id,
        "uid": session.uid,
        "tenant": tenant,
        "agent": agent,
        "user": user or None,
        "state": _state(session),
        "labels": sorted(session.labels),
        "budget": dict(session.budget),
        "used": dict(spent) if session.budget else None,
        "parent": above[0].id if above else None,
        "calls": session.calls,
        "cost": session.cost,
        "opened_at": session.opened_at,
        "expires_at": session.expires_at,
    }


def _row(session: Session, sessions: MemorySessions, spent: Mapping[str, float]) -> str:
    owner = "/".join(part for part in session.owner.split("\x1f") if part)
    above = sessions.line(session.uid)[1:2]
    parts = [session.id, owner, _state(session), f"labels {','.join(sorted(session.labels)) or '-'}"]
    parts += [f"{name} {spent.get(name, 0):g} of {most:g}" for name, most in sorted(session.budget.items())]
    parts += [f"below {each.id}" for each in above]
    return "  ".join([*parts, f"expires {when(session.expires_at)}"])


def _state(session: Session) -> str:
    return "expired" if session.state == "open" and session.expires_at <= time.time() else session.state
