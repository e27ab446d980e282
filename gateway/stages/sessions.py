"""Sessions begin and end on record: whoever opens, extends or ends one does it here. It never decides about a call.

What the person asked for is content, encrypted in the record; whose session it is, and its bounds, stand in plain.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from gateway.lifetimes import SPEAKER, Change, Opening
from gateway.model import Principal, Session
from gateway.ports import Clock, Ids, Ledger, Line, Sessions
from gateway.problems import refuse
from gateway.reliability.budgets import beyond, unfit
from gateway.tool import Json

DEEPEST = 8  # sessions above one another
TURNS = 256  # of what a person asks for in one session


async def open_asked(
    principal: Principal, asked: Opening, sessions: Sessions, ledger: Ledger, clock: Clock, ids: Ids
) -> Session:
    """A new session of the caller's own, below its `parent`: with its labels, within its budget, and no longer.

    Raises:
        Refusal: `insufficient_scope`, `malformed`, `not_found` for the parent, those of `Ledger.check`.
    """
    if principal.session is not None:
        raise refuse("insufficient_scope", "This token is for one session, and opens no others.")
    _may_speak(principal, asked.request)
    said = unfit(asked.budget)
    if said is not None:
        raise refuse("malformed", f"budget: {said}.")
    now = clock.now()
    above = await _above(principal, asked, sessions, now)
    fresh = Session(
        id=ids.new("s_"),
        uid=ids.new("u_"),
        owner=principal.key,
        opened_at=now,
        expires_at=min([now + asked.ttl, *(each.expires_at for each in above)]),
        labels=asked.labels.union(*(each.labels for each in above)),
        budget=dict(asked.budget),
        request=() if asked.request is None else (asked.request,),
        parent=above[0].uid if above else None,
    )
    return await open_session(fresh, principal, sessions, ledger)


async def _above(principal: Principal, asked: Opening, sessions: Sessions, now: float) -> Sequence[Session]:
    """The sessions above a new one, nearest first."""
    if asked.parent is None:
        return ()
    parent = await sessions.seek(principal.key, asked.parent)
    if parent is None or parent.state == "closed" or parent.expires_at <= now:
        raise refuse("not_found", "parent: there is no open session of that id.")
    above = sessions.line(parent.uid)
    if len(above) >= DEEPEST:
        raise refuse("malformed", f"parent: at most {DEEPEST} sessions stand above one another.")
    said = beyond(asked.budget, above)
    if said is not None:
        raise refuse("malformed", f"budget: {said}.")
    return above


async def open_session(fresh: Session, principal: Principal, sessions: Sessions, ledger: Ledger) -> Session:
    """Keeps a session and puts it on record, or gives the one that is open under its name already.

    Both or neither, also when the caller goes away meanwhile.
    """
    return await asyncio.shield(asyncio.ensure_future(_opened(fresh, principal, sessions, ledger)))


async def _opened(fresh: Session, principal: Principal, sessions: Sessions, ledger: Ledger) -> Session:
    kept = await sessions.open(fresh)
    if kept.uid == fresh.uid:
        who = {"authn": principal.authn, "token_id": principal.token_id}
        await _record([Change("opened", kept, who=who)], sessions, ledger)
    return kept


async def add_request(
    session: Session, principal: Principal, words: str, sessions: Sessions, ledger: Ledger, now: float
) -> Session:
    """One more turn of what the person asked for, on record before it counts.

    Raises `Refusal`: `insufficient_scope`, `session_closed`, `malformed` when there are too many, and those of
    `Ledger.check`.
    """
    _may_speak(principal, words)
    if session.state == "closed" or session.expires_at <= now:
        raise refuse("session_closed", "This session is closed, or has expired.")
    if len(session.request) >= TURNS:
        raise refuse("malformed", f"A session has at most {TURNS} requests.")
    fields = _whose(session) | {"who": {"authn": principal.authn, "token_id": principal.token_id}}
    fields["turn"] = len(session.request)
    await ledger.append(Line("session.request", fields, {"request": words}, session.uid, principal.tenant))
    asked = await sessions.ask(session, words)
    if asked is None:
        raise refuse("session_closed", "This session was closed meanwhile.")
    return asked


async def end_session(
    session: Session, who: Mapping[str, Json] | None, sessions: Sessions, ledger: Ledger, now: float
) -> Session:
    """Closes a session and all below it, on record; `who` is the operator who does it, None for its own caller.

    No call of theirs is admitted once this returns, nor if it raises the refusals of `Ledger.check`.
    """
    closed = await sessions.close(session.owner, session.id, "closed" if who is None else "revoked", who)
    await record_changes(sessions, ledger, now)
    ledger.checkpoint()
    return session if closed is None else closed


async def record_changes(sessions: Sessions, ledger: Ledger, now: float) -> None:
    """Puts on record what has happened to sessions, by whichever process, and is not yet: also that they expired.

    Raises the refusals of `Ledger.check`; what was not written is written the next time.
    """
    changes = sessions.changes(now)
    if changes:
        await _record(changes, sessions, ledger)


async def _record(changes: Sequence[Change], sessions: Sessions, ledger: Ledger) -> None:
    written = 0
    try:
        for change in changes:
            await ledger.append(_line(change, sessions))
            written += 1
    finally:
        sessions.put_back(changes[written:])
        await sessions.recorded(changes[:written])


def _line(change: Change, sessions: Sessions) -> Line:
    session = change.session
    fields = _whose(session)
    if change.who is not None:
        fields["who"] = dict(change.who)
    if change.kind == "closed":
        fields |= {"calls": session.calls, "cost": session.cost, "why": change.why}
        return Line("session.closed", fields)
    above = sessions.line(session.uid)[1:2]
    fields |= {
        "labels": session.labels,
        "budget": dict(session.budget),
        "ttl": session.expires_at - session.opened_at,
        "parent": above[0].id if above else None,
    }
    if not session.request:
        return Line("session.opened", fields)
    content: Json = {"request": list(session.request)}
    return Line("session.opened", fields, content, session.uid, session.owner.split("\x1f")[0])


def _whose(session: Session) -> dict[str, Json]:
    tenant, agent, user = session.owner.split("\x1f")
    return {
        "session_id": session.id,
        "uid": session.uid,
        "tenant": tenant,
        "principal": {"agent": agent, "user": user or None},
        "opened_at": session.opened_at,
    }


def _may_speak(principal: Principal, words: str | None) -> None:
    if words is not None and SPEAKER not in principal.scopes:
        raise refuse("insufficient_scope", f"Saying what the person asked for needs the scope {SPEAKER}.")
