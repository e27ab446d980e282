"""`Watched`: a gateway in memory over a policy folder that changes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gateway.home import Home
from gateway.live import Live, Prepare
from gateway.loading import load_files
from gateway.model import Position
from gateway.ports import Line
from gateway.problems import refuse
from gateway.runners.canned import Upstream
from gateway.stores.memory import MemoryLedger
from tests.kit import ECHO, PERMIT, Lab

SETTLE = 0.02
PEACE = PERMIT.replace("war", "peace")
BROKEN = PERMIT.replace("effect: forbid", "effect: frobid")
TESTS = "tests:\n- {name: no war, call: {echo: {text: war}}, expect: {deny: no-war}}\n"


class FailingLedger(MemoryLedger):
    """A ledger that cannot be written while `full`, or that only finds out as it writes while `filling`."""

    full = filling = False

    def check(self) -> None:
        if self.full:
            raise refuse("audit_unavailable", "The disk is full.")

    async def append(self, line: Line) -> Position:
        if self.filling:
            raise refuse("audit_unavailable", "The disk is full.")
        return await super().append(line)


@dataclass
class Watched:
    """A gateway in memory over a policy folder. `said` is what the operator heard."""

    live: Live
    lab: Lab
    ledger: FailingLedger
    folder: Path
    beside: Path
    home: Home
    said: list[str]

    def write(self, text: str, name: str = "lab.yaml") -> None:
        """Puts a whole file in place of another."""
        fresh = self.folder / f".{name}.new"
        fresh.write_text(text)
        fresh.replace(self.folder / name)

    async def may(self, text: str) -> bool:
        """Whether agent dev may say this now."""
        return (await self.lab.call("echo", {"text": text})).status == "done"

    def records(self, kind: str) -> list[dict[str, Any]]:
        """The lines of one type, as fields."""
        return [dict(line.fields) for line in self.ledger.lines if line.type == kind]

    async def until(self, reached: Callable[[], bool]) -> None:
        """Waits for what the watch brings about; where it never comes, the test ends."""
        async with asyncio.timeout(30):
            while not reached():  # noqa: ASYNC110  # what is waited for has no event
                await asyncio.sleep(SETTLE / 2)

    @property
    def policy(self) -> object:
        """What readiness says of the policy."""
        return self.live.state()["policy"]


Scene = Callable[[Watched], Awaitable[None]]


def play(path: Path, scene: Scene, *, candidate: bool = False, prepare: Prepare | None = None) -> Watched:
    """A gateway that was started over one policy file, and a scene with it."""
    folder, beside, home = path / "policies", path / "candidate", Home(path / "home")
    home.make()
    folder.mkdir()
    (folder / "lab.yaml").write_text(PERMIT)

    async def whole() -> Watched:
        loaded = load_files({"echo.yaml": ECHO.encode()}, {str(folder / "lab.yaml"): PERMIT.encode()})
        lab, ledger, said = Lab.over(loaded, Upstream(200, "yes")), FailingLedger(), list[str]()
        given = beside if candidate else None
        live = Live(loaded, folder, given, home, ledger, "1", say=said.append, prepare=prepare, settle=SETTLE)
        lab = Lab(replace(lab.trial, gate=replace(lab.gate, bundles=live, ledger=ledger)))
        watched = Watched(live, lab, ledger, folder, beside, home, said)
        await live.start()
        await scene(watched)
        return watched

    return asyncio.run(whole())
