"""Rows of connected accounts in `state.db`: whose, where, and sealed bytes. It cannot open what it keeps.

A row that is marked as dropped is not used any more; it stays until the gateway has told the provider and the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.accounts import Connected, Person
from gateway.stores.sqlite import Rows, State

_SCHEMA = """CREATE TABLE IF NOT EXISTS accounts (
  id TEXT PRIMARY KEY, tenant TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, provider TEXT NOT NULL,
  connected_at REAL NOT NULL, connected_by TEXT NOT NULL, scope TEXT, sealed BLOB NOT NULL, dropped_by TEXT)"""
_COLUMNS = "id, tenant, kind, name, provider, connected_at, connected_by, scope"


@dataclass(frozen=True, slots=True)
class Dropped:
    """An account that nobody may use any more, and who said so, in words."""

    account: Connected
    by: str


class SqliteAccounts(Rows):
    """Blocks. Raises `OSError` when the file cannot be used."""

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self._write(_SCHEMA)

    def all(self) -> list[Connected]:
        """Those in use."""
        return [
            _connected(row)
            for row in self._read(f"SELECT {_COLUMNS} FROM accounts WHERE dropped_by IS NULL ORDER BY id")
        ]

    def dropped(self) -> list[Dropped]:
        """Those to be forgotten."""
        rows = self._read(f"SELECT {_COLUMNS}, dropped_by FROM accounts WHERE dropped_by IS NOT NULL")
        return [Dropped(_connected(row), str(row[-1])) for row in rows]

    def sealed(self, account_id: str) -> bytes | None:
        """What is sealed of an account, whether it is in use or not."""
        rows = self._read("SELECT sealed FROM accounts WHERE id = ?", (account_id,))
        return next((row[0] for row in rows if isinstance(row[0], bytes)), None)

    def add(self, account: Connected, sealed: bytes) -> None:
        who = account.person
        values = (account.id, who.tenant, who.kind, who.name, account.provider, account.at, account.by, account.scope)
        self._write(f"INSERT INTO accounts ({_COLUMNS}, sealed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*values, sealed))

    def renew(self, account_id: str, sealed: bytes) -> bool:
        """Other bytes for the same account; False when it is dropped or gone."""
        sql = "UPDATE accounts SET sealed = ? WHERE id = ? AND dropped_by IS NULL"
        return self._write(sql, (sealed, account_id)) > 0

    def drop(self, account_id: str, by: str) -> bool:
        """Marks it; False when it was marked or gone already."""
        sql = "UPDATE accounts SET dropped_by = ? WHERE id = ? AND dropped_by IS NULL"
        return self._write(sql, (by, account_id)) > 0

    def forget(self, account_id: str) -> None:
        self._write("DELETE FROM accounts WHERE id = ?", (account_id,))


def _connected(row: Sequence[object]) -> Connected:
    account_id, tenant, kind, name, provider, at, by, scope = row[:8]
    person = Person(str(tenant), "agent" if kind == "agent" else "user", str(name))
    return Connected(
        str(account_id), person, str(provider), float(str(at)), str(by), None if scope is None else str(scope)
    )
