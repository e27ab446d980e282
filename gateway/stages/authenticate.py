"""Stage 1: from a credential and a session name to a `Caller`. It never decides what the caller may do."""

from __future__ import annotations

from gateway.model import SESSION_TTL, Caller, Parent, Principal, Refusal, Session
from gateway.ports import Authority, Clock, Ids, Ledger, Sessions
from gateway.problems import problem, refuse
from gateway.stages.sessions import open_session

DEFAULT_SESSION = "default"
_NAME = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
_OPENED_BY_US = "s_"


async def authenticate(
    credential: str | None,
    session_id: str | None,
    parent: Parent | None,
    authority: Authority,
    sessions: Sessions,
    clock: Clock,
    ids: Ids,
    ledger: Ledger,
) -> Caller:
    """The caller behind `credential`, in the session it names, or in its own default session.

    A nested call has the caller of its `parent`, as things are now: not if the key was revoked or the session closed
    meanwhile, and with the labels that the session has got since.

    A session name of the caller's own is opened on first use. An id we gave out (`s_…`) that is unknown, closed,
    expired or somebody else's is `session_closed`, with the same words for each, so that ids cannot be probed. The
    default session is opened anew once it has expired, but not while it is closed: who closes it means it, and its
    labels are not shed that way.

    Raises:
        Refusal: `unauthenticated`; with the principal, who is known by then: `session_closed`, or `malformed` for a
        name outside `[A-Za-z0-9._-]{1,128}`.
    """
    if parent is not None:
        return await _again(credential, parent, authority, sessions, clock)
    principal = await authority.identify(credential)
    try:
        named = _own(principal, session_id)
        await sessions.seek(principal.key, named or DEFAULT_SESSION)
        session = _known(principal, named, sessions, clock)
        if session is None:
            now = clock.now()
            fresh = Session(named or DEFAULT_SESSION, ids.new("u_"), principal.key, now, now + SESSION_TTL)
            session = await open_session(fresh, principal, sessions, ledger)
        return Caller(principal, session)
    except Refusal as refusal:
        raise Refusal(refusal.problem, principal) from None


def suppose(principal: Principal, session: Session) -> Caller:
    """A caller whom nobody authenticated, to ask what policy would say of it. Nothing is ever run for it."""
    return Caller(principal, session)


async def _again(
    credential: str | None, parent: Parent, authority: Authority, sessions: Sessions, clock: Clock
) -> Caller:
    known = parent.intent.call.caller
    try:
        principal = await authority.identify(credential)
    except Refusal as refusal:
        raise Refusal(refusal.problem, known.principal) from None
    if principal.key != known.principal.key:
        raise Refusal(problem("unauthenticated", "The key is somebody else's by now."), known.principal)
    session = sessions.find(principal.key, known.session.id)
    same = session is not None and session.uid == known.session.uid
    if session is None or not same or session.state != "open" or session.expires_at <= clock.now():
        raise Refusal(problem("session_closed", "The session was closed, or expired, meanwhile."), principal)
    return Caller(principal, session)


def _own(principal: Principal, session_id: str | None) -> str | None:
    """The session that is meant: the one that the credential is bound to goes before what a header says."""
    if principal.session is None or session_id == principal.session:
        return session_id
    if session_id is not None:
        raise refuse("session_closed", "This token is for another session.")
    return principal.session


def _known(principal: Principal, session_id: str | None, sessions: Sessions, clock: Clock) -> Session | None:
    """The session that is open under that name; None where it is to be opened."""
    name = session_id or DEFAULT_SESSION
    found = sessions.find(principal.key, name)
    if found is not None and found.state == "open" and clock.now() < found.expires_at:
        return found
    if session_id is not None or (found is not None and found.state == "closed" and clock.now() < found.expires_at):
        _must_be_new(name, found)
    return None


def _must_be_new(name: str, found: Session | None) -> None:
    if len(name) > 128 or not _NAME.issuperset(name):
        raise refuse("malformed", "Toolgate-Session must be 1 to 128 of the characters A-Z a-z 0-9 . _ -")
    if found is not None or name.startswith(_OPENED_BY_US):
        raise refuse("session_closed", "This session is closed, has expired, or is not one of yours.")
