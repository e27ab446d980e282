"""Revocations as they are kept: by any process, until lifted, each on record once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gateway.identity.claims import verified
from gateway.identity.issuers import Issuer
from gateway.identity.revocations import InForce, Revocations, Shown, new_revocation
from gateway.model import Position, Principal, Refusal
from gateway.ports import Line
from gateway.problems import refuse
from gateway.stores.memory import MemoryLedger
from gateway.stores.sqlite import State

WHO = {"authn": "local", "uid": 7}
BOT = Shown(Principal("bot", "default", "ann", token_id="t-1"), "https://idp.example.com", 10.0)


class Full(MemoryLedger):
    """A ledger without room for a line."""

    room = False

    async def append(self, line: Line) -> Position:
        if not self.room:
            raise refuse("audit_unavailable", "full")
        return await super().append(line)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    """An open `state.db`."""
    with closing(State(tmp_path / "state.db")) as opened:
        yield opened


def refuses(current: InForce, shown: Shown = BOT) -> bool:
    """Is it refused?"""
    try:
        current.check(shown)
    except Refusal:
        return True
    return False


def test_what_is_revoked_survives_and_reaches_other_processes(state: State) -> None:
    """One writes, another one reads, and it is there after a restart."""
    one, other = Revocations(state), Revocations(state)
    one.add(new_revocation({"agent": "bot"}, "lost", WHO, 20.0, False))
    assert (refuses(one.current), refuses(other.current)) == (True, False)
    other.refresh()
    assert refuses(other.current)
    assert refuses(Revocations(state).current)
    assert Revocations(state).all() == one.all()


def test_what_is_lifted_is_let_in_again_and_stays_listed(state: State) -> None:
    """Once: what is not in force cannot be lifted."""
    made = Revocations(state)
    made.add(new_revocation({"token": "t-1"}, "leaked", WHO, 20.0, False))
    (kept,) = made.all()
    assert refuses(made.current)
    assert made.lift(kept.id, WHO, 30.0)
    assert not refuses(made.current)
    assert not made.lift(kept.id, WHO, 31.0)
    assert not made.lift("r_unknown", WHO, 31.0)
    assert [each.lifted_at for each in made.all()] == [30.0]


def test_a_look_that_finds_nothing_new_changes_nothing(state: State) -> None:
    """So that what was checked already is not checked again."""
    made = Revocations(state)
    made.add(new_revocation({"agent": "x"}, "lost", WHO, 20.0, False))
    before = made.current
    made.refresh()
    assert made.current is before


def test_a_revocation_means_somebody() -> None:
    """One that names nobody, or by a name that is none, is not made: it would refuse everybody."""
    for whose in ({}, {"group": "x"}):
        with pytest.raises(ValueError, match="whose"):
            new_revocation(whose, "why", WHO, 0.0, False)


def test_an_agent_that_others_act_through_is_off_with_them() -> None:
    """A chain of actors is as good as the worst of them."""
    off = new_revocation({"agent": "planner"}, "gone wild", WHO, 20.0, False)
    assert off.meets(Shown(Principal("worker", "default", "ann", actors=("worker", "planner"))))
    assert not off.meets(Shown(Principal("worker", "default", "ann", actors=("worker",))))


def test_each_is_on_record_once(state: State) -> None:
    """That it was made, by whom and why; and that it was lifted. The process that writes the ledger does it."""
    made, ledger = Revocations(state), MemoryLedger()
    made.add(new_revocation({"user": "ann", "tenant": "acme"}, "left", WHO, 20.0, True))
    for _ in range(3):
        asyncio.run(made.record(ledger))
    (kept,) = made.all()
    made.lift(kept.id, WHO, 30.0)
    for _ in range(3):
        asyncio.run(made.record(ledger))
        made.refresh()
    assert [line.type for line in ledger.lines] == ["admin.revoked", "admin.lifted"]
    revoked, lifted = (dict(line.fields) for line in ledger.lines)
    named = {"revocation": kept.id, "whose": {"user": "ann", "tenant": "acme"}, "tenant": "acme"}
    assert revoked == {**named, "at": 20.0, "earlier_only": True, "why": "left", "who": WHO}
    assert lifted == {**named, "at": 30.0, "who": WHO}


def test_what_could_not_be_recorded_is_recorded_later(state: State) -> None:
    """It is in force all the same."""
    made, ledger = Revocations(state), Full()
    made.add(new_revocation({"agent": "bot"}, "lost", WHO, 20.0, False))
    with pytest.raises(Refusal):
        asyncio.run(made.record(ledger))
    assert refuses(made.current)
    ledger.room = True
    asyncio.run(made.record(ledger))
    assert [line.type for line in ledger.lines] == ["admin.revoked"]


def test_a_token_that_does_not_say_since_when_it_is_counts_as_earlier() -> None:
    """However late it is looked at: nobody knows that it is newer than the revocation."""
    issuer = Issuer("https://idp.example.com", "https://idp.example.com/keys", ("gateway",))
    claims = {"sub": "ann", "client_id": "bot", "aud": "gateway", "exp": 2000}
    only_earlier = new_revocation({"user": "ann"}, "left", WHO, 500.0, True)
    for more, meant in (({}, True), ({"iat": 499}, True), ({"iat": 501}, False)):
        found = verified(claims | more, issuer, "t_1", 1000.0)
        assert only_earlier.meets(Shown(found.principal, found.issuer, found.issued_at)) is meant
