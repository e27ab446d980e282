"""The kill switch: whose credentials are refused, whatever they are and whoever issued them, until that is lifted.

Kept in `state.db`, so that the command line can write it while a gateway runs, which looks twice a second. It ends no
call that runs already, deletes nothing, and knows no secret.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gateway.model import Principal
from gateway.ports import Ledger, Line
from gateway.problems import refuse
from gateway.tool import Json

WHOSE = ("token", "agent", "user", "tenant", "issuer")
_COLUMNS = "id, token, agent, user, tenant, issuer, at, earlier_only, why, who, lifted_at, lifted_by, recorded"
_SELECT = f"SELECT {_COLUMNS} FROM revocations ORDER BY at, id"
_INSERT = f"INSERT INTO revocations ({_COLUMNS}) VALUES ({', '.join('?' * 13)})"
_LIFT = """
ON CONFLICT (id) DO UPDATE SET
  recorded = CASE WHEN revocations.lifted_at IS NULL AND excluded.lifted_at IS NOT NULL AND revocations.recorded = 1
    THEN 2 ELSE revocations.recorded END,
  lifted_by = CASE WHEN revocations.lifted_at IS NULL THEN excluded.lifted_by ELSE revocations.lifted_by END,
  lifted_at = COALESCE(revocations.lifted_at, excluded.lifted_at)
"""


class Rows(Protocol):
    """The open `state.db` (`stores/sqlite.State`)."""

    def read(self, sql: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]: ...
    def write(self, sql: str, values: Sequence[object]) -> int: ...


@dataclass(frozen=True, slots=True)
class Shown:
    """A credential as it was recognised, for what is revoked to be compared with. Times are unix seconds.

    `issuer` and `issued_at` are those of a token; an API key has neither.
    """

    principal: Principal
    issuer: str | None = None
    issued_at: float | None = None


@dataclass(frozen=True, slots=True)
class Revocation:
    """Refuses every credential to which all of `whose` applies, from `at` on, until it is lifted.

    `whose` is by the names in `WHOSE`; `token` is the id of a token or of an API key, as records name it.
    `earlier_only` refuses only tokens that were issued before `at`, so that whoever signs in again is let in; API keys
    have no such moment and are left alone. `recorded` counts which of its records are written: that it was made, that
    it was lifted.
    """

    id: str
    whose: Mapping[str, str]
    at: float
    why: str
    who: Mapping[str, Json]
    earlier_only: bool = False
    lifted_at: float | None = None
    lifted_by: Mapping[str, Json] | None = None
    recorded: int = 0

    def meets(self, shown: Shown) -> bool:
        """Does it refuse this credential?"""
        who = shown.principal
        if self.earlier_only and (shown.issued_at is None or shown.issued_at >= self.at):
            return False
        has = {"token": who.token_id, "agent": who.agent, "user": who.user, "tenant": who.tenant}
        has["issuer"] = shown.issuer
        # Whoever acts through an agent that is switched off is switched off with it.
        return all(
            has[name] == value or (name == "agent" and value in who.actors) for name, value in self.whose.items()
        )


def new_revocation(whose: Mapping[str, str], why: str, who: Mapping[str, Json], at: float, earlier: bool) -> Revocation:
    """A fresh one. Raises ValueError unless `whose` names something, and nothing but what is in `WHOSE`."""
    if not whose or not set(whose) <= set(WHOSE):
        raise ValueError(f"a revocation says whose credentials it refuses: {', '.join(WHOSE)}")
    return Revocation("r_" + secrets.token_hex(8), dict(whose), at, why, who, earlier)


@dataclass(frozen=True, slots=True)
class InForce:
    """What is revoked at one moment. Another moment is another object, by which a cache knows what it has checked."""

    tokens: frozenset[str] = frozenset()  # those revoked by nothing but their id: many, and found at once
    others: tuple[Revocation, ...] = field(default=())

    def check(self, shown: Shown) -> None:
        """Raises `Refusal(unauthenticated)` for a revoked credential."""
        if shown.principal.token_id in self.tokens or any(each.meets(shown) for each in self.others):
            raise refuse("unauthenticated", "This credential was revoked.")


class Revocations:
    """All of them, read from memory on the call path."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._all: tuple[Revocation, ...] = ()
        self.current = InForce()
        self.refresh()

    def refresh(self) -> None:
        """Takes over what any process wrote. Blocks."""
        found = tuple(map(_revocation, self._rows.read(_SELECT)))
        if found != self._all:
            self._all = found
            held = [each for each in found if each.lifted_at is None]
            alone = {each.id for each in held if set(each.whose) == {"token"} and not each.earlier_only}
            tokens = frozenset(each.whose["token"] for each in held if each.id in alone)
            self.current = InForce(tokens, tuple(each for each in held if each.id not in alone))

    def all(self) -> Sequence[Revocation]:
        """All that were ever made, oldest first."""
        return self._all

    def add(self, made: Revocation) -> None:
        """Keeps a new one, durably. Blocks."""
        self._rows.write(_INSERT, _row(made))
        self.refresh()

    def take_over(self, made: Revocation) -> None:
        """Keeps one that another home made, or lifted, and has on record. Blocks."""
        self._rows.write(_INSERT + _LIFT, _row(made))
        self.refresh()

    def lift(self, revocation_id: str, who: Mapping[str, Json], at: float) -> bool:
        """Ends one; false when none in force has that id. Blocks."""
        sql = "UPDATE revocations SET lifted_at = ?, lifted_by = ? WHERE id = ? AND lifted_at IS NULL"
        done = self._rows.write(sql, (at, json.dumps(who), revocation_id))
        self.refresh()
        return bool(done)

    async def record(self, ledger: Ledger) -> None:
        """Puts on record what was revoked and lifted and is not yet: the process that writes the ledger does it.

        Raises the refusals of `Ledger.check`; what was not written is written the next time.
        """
        for each in self._all:
            lines = _lines(each)
            for number in range(each.recorded, len(lines)):
                await ledger.append(lines[number])
                sql = "UPDATE revocations SET recorded = ? WHERE id = ?"
                await asyncio.to_thread(self._rows.write, sql, (number + 1, each.id))
        if any(each.recorded < len(_lines(each)) for each in self._all):
            await asyncio.to_thread(self.refresh)


def _lines(made: Revocation) -> list[Line]:
    """The records of one: that it was made, and that it was lifted, if it was."""
    named: dict[str, Json] = {"revocation": made.id, "whose": dict(made.whose)}
    if "tenant" in made.whose:
        named["tenant"] = made.whose["tenant"]
    begun = {"at": made.at, "earlier_only": made.earlier_only, "why": made.why, "who": dict(made.who)}
    lines = [Line("admin.revoked", named | begun)]
    if made.lifted_at is not None:
        lines.append(Line("admin.lifted", named | {"at": made.lifted_at, "who": dict(made.lifted_by or {})}))
    return lines


def _row(made: Revocation) -> tuple[object, ...]:
    whose = [made.whose.get(name) for name in WHOSE]
    lifted_by = None if made.lifted_by is None else json.dumps(made.lifted_by)
    said = (made.at, int(made.earlier_only), made.why, json.dumps(made.who))
    return (made.id, *whose, *said, made.lifted_at, lifted_by, made.recorded)


def _revocation(row: tuple[object, ...]) -> Revocation:
    made, *whose, at, earlier, why, who, lifted_at, lifted_by, recorded = row
    return Revocation(
        id=str(made),
        whose={name: str(value) for name, value in zip(WHOSE, whose, strict=True) if value is not None},
        at=float(str(at)),
        why=str(why),
        who=json.loads(str(who)),
        earlier_only=bool(earlier),
        lifted_at=None if lifted_at is None else float(str(lifted_at)),
        lifted_by=None if lifted_by is None else json.loads(str(lifted_by)),
        recorded=int(str(recorded)),
    )
