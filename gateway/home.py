"""The home folder: keys, state, ledger, artifacts and the policies it went by, private to its user."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from gateway import strictjson


class BadHome(Exception):
    """The home folder cannot be used; the text says why and what to change."""


@dataclass(frozen=True, slots=True)
class Home:
    """Paths of one home folder."""

    path: Path

    @property
    def state(self) -> Path:
        return self.path / "state.db"

    @property
    def limits(self) -> Path:
        return self.path / "limits.db"

    @property
    def replicas(self) -> Path:
        """Which gateways shared a Redis with this one when it was last whole."""
        return self.path / "replicas.json"

    @property
    def audit(self) -> Path:
        return self.path / "audit"

    @property
    def artifacts(self) -> Path:
        return self.path / "artifacts"

    @property
    def bundles(self) -> Path:
        return self.path / "bundles"

    @property
    def credentials(self) -> Path:
        return self.path / "dev-credentials.json"

    def make(self) -> None:
        """Makes the folder with mode 0700. Raises `BadHome` when it cannot be, or when others may look inside."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self.path.stat()
        except OSError as error:
            raise BadHome(f"{self.path}: cannot be made: {error.strerror}") from error
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise BadHome(f"{self.path}: others may look inside; chmod 700 it")
        if found.st_uid != os.geteuid():
            raise BadHome(f"{self.path}: belongs to another user")

    def must_exist(self) -> None:
        """Raises `BadHome` when no gateway was ever started here."""
        if not self.state.exists():
            raise BadHome(f"{self.path}: no gateway has been started here; name its folder with --home")

    def read_credentials(self) -> tuple[str, str] | None:
        """URL and key of the local agent, as the last start wrote them."""
        try:
            said = strictjson.loads(self.credentials.read_bytes(), max_bytes=4096)
        except (OSError, strictjson.MalformedJson, strictjson.TooLarge):
            return None
        if not isinstance(said, dict):
            return None
        return str(said.get("url", "")), str(said.get("agent_key", ""))

    def write_credentials(self, url: str, agent_key: str) -> None:
        """Writes URL and key for the local CLI, mode 0600, in one step."""
        fresh = self.credentials.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump({"url": url, "agent_key": agent_key}, file)
            file.write("\n")
        fresh.replace(self.credentials)
