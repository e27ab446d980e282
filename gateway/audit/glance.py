"""One look at the past: content opened as `content.py` does, with each key fetched and unwrapped once.

For going through many records at a stretch. It does not see what is erased meanwhile, so it is never kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from gateway.audit.content import Contents, Mac
from gateway.audit.disk import Disk, OsDisk
from gateway.audit.keystore import KeyStore, master_key

_MOST = 10_000  # sessions remembered


class Glance(Contents):
    """Contents that ask for each session's key once."""

    def __init__(self, keys: KeyStore, audit: Path, disk: Disk) -> None:
        super().__init__(keys, audit, disk)
        self._seen: dict[str, Mac | None] = {}

    def find(self, session: str) -> Mac | None:
        try:
            return self._seen[session]
        except KeyError:
            found = super().find(session)
        if len(self._seen) >= _MOST:
            del self._seen[next(iter(self._seen))]
        self._seen[session] = found
        return found


class _Keys(KeyStore):
    """A key store that unwraps each tenant's key once."""

    def __init__(self, database: Path, master: bytes) -> None:
        super().__init__(database, master)
        self._unwrapped: dict[str, bytes] = {}

    def _tenant_key(self, tenant: str) -> bytes:
        found = self._unwrapped.get(tenant)
        if found is None:
            found = self._unwrapped[tenant] = super()._tenant_key(tenant)
        return found


@contextmanager
def glance(home: Path) -> Iterator[Contents]:
    """The contents of a home folder, for one look. Raises `OSError`, `ValueError`, `sqlite3.Error` for bad keys."""
    with closing(_Keys(home / "state.db", master_key(home))) as keys:
        yield Glance(keys, home / "audit", OsDisk())
