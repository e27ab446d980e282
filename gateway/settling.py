"""What becomes of the idempotency key of a call in doubt, once an operator has said how the call ended.

It writes no record, and never frees a key on its own account.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, Protocol, cast

from gateway.admission import Claim
from gateway.audit.writer import Writer
from gateway.home import Home
from gateway.sharing import SettledElsewhere
from gateway.stages.claim import LASTS
from gateway.stages.kept import write_done
from gateway.stores.sqlite_counters import SqliteCounters
from gateway.tool import Json

TOLD = "This call was done, as was found out later; what it gave is not known."


class Settling(Protocol):
    """What it takes of the port `Claims`."""

    async def close(self, claim: Claim, call_id: str, kept: bytes, session: str, tenant: str) -> None: ...
    async def release(self, key: str, call_id: str) -> bool: ...


async def settle_claim(claims: Settling, intent: Mapping[str, Json], ended: Literal["done", "not-done"]) -> None:
    """Settles the key that the call of that intent has, if it still has one: a repeat is told that it was done, or
    runs. Raises `Refusal(overloaded)`."""
    claim, call_id = claim_on(intent), str(intent["call_id"])
    if claim is None:
        return
    if ended == "not-done":
        await claims.release(claim.key, call_id)
        return
    content = intent.get("content")
    uid = str(content["key"]) if isinstance(content, dict) else str(intent["session_id"])
    await claims.close(claim, call_id, told_done(intent), uid, str(intent["tenant"]))


def claim_on(intent: Mapping[str, Json]) -> Claim | None:
    """The claim that an intent on record has. What was forwarded is not on record."""
    said = intent.get("idempotency_key")
    if not isinstance(said, dict):
        return None
    return Claim(str(said["claim"]), str(said["fingerprint"]), "", float(cast(Any, said.get("ttl", LASTS))))


def told_done(intent: Mapping[str, Json]) -> bytes:
    """What a repeat is told of a call of which only that is known that it was done."""
    return write_done(str(cast(Any, intent["tool"])["name"]), TOLD)


@contextmanager
def claims_of(home: Home, store: str, ledger: Writer) -> Iterator[Settling | None]:
    """The claims of a home that no gateway serves, those of a Redis among them; None where there are none. Raises
    `OSError`."""
    if store not in ("sqlite", "memory"):
        yield SettledElsewhere(store)
        return
    if store == "memory" or not home.limits.exists():
        yield None
        return
    try:
        counters = SqliteCounters(home.limits, ledger.contents, steady=time.time)
    except sqlite3.Error as error:
        raise OSError(f"{home.limits}: cannot be used: {error}") from error
    try:
        yield counters
    finally:
        counters.shut()
