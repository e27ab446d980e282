"""Clients that send byte by byte, and clients that hang up: neither keeps a socket or a sandbox."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from tests.e2e.crowd import ends, leaving, slow, unlimited
from tests.served import served

CLIENTS = 100


def test_who_drips_or_leaves_holds_nothing(tmp_path: Path) -> None:
    """Slow sockets are gone within 20 s, sandboxes of who left within 2 s, each on record; the next call is served."""
    with served(tmp_path / "home", *unlimited(tmp_path)) as gateway:
        health, kept = asyncio.run(slow(gateway, CLIENTS))
        assert len(kept) == CLIENTS
        assert max(kept) < 20
        assert health.took
        health, left = asyncio.run(leaving(gateway, CLIENTS))
        assert health.took
        ended = ends(tmp_path / "home")
        assert Counter(code for _, code in ended) == {"cancelled": CLIENTS}
        assert max(at for at, _ in ended) <= left + 2
        assert gateway.call("run_python", {"code": "print(1)"})[1]["status"] == "done"
