"""A gateway killed at random moments under load, again and again over one home, and what must hold afterwards.

Its tool has effects in a process that survives, which keeps a ledger of its own: every request, before it is answered.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from gateway.audit.content import Contents
from gateway.audit.disk import OsDisk
from gateway.audit.keystore import KeyStore, master_key
from gateway.audit.query import Record, in_doubt, records
from tests.e2e.upstream import Counted, counting_upstream, spec_and_policy
from tests.served import Served, Wire, ready, start, toolgate

CALLERS = 32
SMALL = {"TOOLGATE_AUDIT__SEGMENT": "262144"}  # so that segments end and begin under load too
LONGEST = 0.8  # seconds from the beginning of the load to the kill
STARTING = 0.15  # of the starts, how many are killed too, most while they recover


@dataclass(slots=True)
class Siege:
    """One home, the effects of its tool, and what any of its gateways acknowledged."""

    home: Path
    flags: tuple[str, ...]
    upstream: Counted
    dice: random.Random
    kills: int = 0
    kills_starting: int = 0
    acknowledged: list[dict[str, Any]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=count)

    def round(self) -> None:
        """A gateway is started, loaded, and killed at a random moment; now and then while it starts, first."""
        while self.kills and self.dice.random() < STARTING:
            process = self._start()
            with suppress(subprocess.TimeoutExpired):
                process.wait(self.dice.uniform(0.3, 2.0))
            process.kill()
            process.communicate()
            self.kills_starting += 1
        gateway = ready(self._start(), self.home)
        asyncio.run(self._load(gateway, self.dice.uniform(0.02, LONGEST)))
        gateway.process.communicate()
        self.kills += 1

    def end(self) -> None:
        """One more start, which finds what the last kill left, and a clean stop."""
        gateway = ready(self._start(), self.home)
        gateway.process.terminate()
        gateway.process.communicate(timeout=60)
        assert gateway.process.returncode == 0

    def _start(self) -> subprocess.Popen[str]:
        return start(self.home, *self.flags, env=SMALL)

    async def _load(self, gateway: Served, kill_after: float) -> None:
        asyncio.get_running_loop().call_later(kill_after, gateway.process.kill)
        await asyncio.gather(*(self._caller(gateway) for _ in range(CALLERS)))

    async def _caller(self, gateway: Served) -> None:
        """Calls until the gateway is dead; every fifth call is refused before anything runs."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            wire = await Wire.to(gateway)
            with closing(wire):
                for number in self._numbers:
                    _, said = await wire.call("count", {"text": f"call {number}"} if number % 5 else {})
                    self.acknowledged.append(said)


@contextmanager
def siege(folder: Path, dice: random.Random) -> Iterator[Siege]:
    """The tool, its backend and an empty home."""
    with counting_upstream() as upstream:
        specs, policies = spec_and_policy(folder, upstream)
        yield Siege(folder / "home", ("--specs", str(specs), "--policies", str(policies)), upstream, dice)


@dataclass(frozen=True, slots=True)
class Found:
    """What is on record after a siege, counted. The last five must be empty, or else a promise was broken."""

    acknowledged: int
    effects: int
    doubtful: int
    without_record: list[str]
    without_intent: list[str]
    twice: list[str]
    not_listed: list[str]
    not_verified: list[str]

    @property
    def broken(self) -> list[str]:
        """Every broken promise, in words."""
        told = {
            "acknowledged without its records": self.without_record,
            "an effect without an intent": self.without_intent,
            "an effect of one call twice": self.twice,
            "in doubt and not listed, or listed and not in doubt": self.not_listed,
            "does not verify": self.not_verified,
        }
        return [f"{what}: {which}" for what, found in told.items() for which in found]


def judge(siege: Siege) -> Found:
    """Holds what was acknowledged, and the effects, against the ledger."""
    types: dict[str, list[str]] = {}
    intents: list[Record] = []
    for record in records(siege.home):
        if "call_id" in record:
            types.setdefault(str(record["call_id"]), []).append(str(record["type"]))
        if record["type"] == "call.intent":
            intents.append(record)
    orphans = {call for call, of in types.items() if "call.intent" in of and "call.outcome" not in of}
    listed = {str(record["call_id"]) for record in in_doubt(siege.home)}
    effects = Counter(json.loads(body)["text"] for body in siege.upstream.seen)
    intended = _texts(siege.home, intents)
    verified = toolgate(siege.home, "audit", "verify")
    return Found(
        acknowledged=len(siege.acknowledged),
        effects=effects.total(),
        doubtful=len(listed),
        without_record=[str(said) for said in siege.acknowledged if not _on_record(said, types)],
        without_intent=sorted(effects.keys() - intended),
        twice=[text for text, times in effects.items() if times > 1],
        not_listed=sorted(orphans ^ listed),
        not_verified=[] if verified.returncode == 0 else [verified.stdout + verified.stderr],
    )


def _on_record(said: dict[str, Any], types: dict[str, list[str]]) -> bool:
    wanted = ["call.intent", "call.outcome"] if said.get("status") == "done" else ["call.refused"]
    return types.get(str(said.get("call_id"))) == wanted


def _texts(home: Path, intents: list[Record]) -> set[str]:
    """What each call that was intended would say to the backend, by its recorded arguments."""
    with closing(KeyStore(home / "state.db", master_key(home))) as keys:
        contents = Contents(keys, home / "audit", OsDisk())
        opened: list[Any] = [contents.open(record) for record in intents]
    return {content["arguments"]["text"] for content in opened}
