"""Rows of operators' secrets in `state.db`: sealed bytes by tenant and name. It cannot open what it keeps."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.stores.sqlite import Rows, State

_SCHEMA = """CREATE TABLE IF NOT EXISTS secrets (
  tenant TEXT NOT NULL, name TEXT NOT NULL, sealed BLOB NOT NULL, set_at REAL NOT NULL, PRIMARY KEY (tenant, name))"""


@dataclass(frozen=True, slots=True)
class SecretRow:
    """What is known of a secret without opening it. `tenant` is empty for one that is everybody's; unix seconds."""

    tenant: str
    name: str
    set_at: float


class SqliteSecrets(Rows):
    """Blocks. Raises `OSError` when the file cannot be used."""

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self._write(_SCHEMA)

    def put(self, tenant: str, name: str, sealed: bytes, at: float) -> None:
        self._write("INSERT OR REPLACE INTO secrets VALUES (?, ?, ?, ?)", (tenant, name, sealed, at))

    def find(self, tenant: str, name: str) -> bytes | None:
        rows = self._read("SELECT sealed FROM secrets WHERE tenant = ? AND name = ?", (tenant, name))
        return next((row[0] for row in rows if isinstance(row[0], bytes)), None)

    def remove(self, tenant: str, name: str) -> bool:
        return self._write("DELETE FROM secrets WHERE tenant = ? AND name = ?", (tenant, name)) > 0

    def all(self) -> list[SecretRow]:
        rows = self._read("SELECT tenant, name, set_at FROM secrets ORDER BY tenant, name")
        return [SecretRow(str(tenant), str(name), float(str(at))) for tenant, name, at in rows]
