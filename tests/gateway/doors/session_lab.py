"""A lab in which several callers open sessions, and a backend that answers when it is let."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from gateway.model import Principal, RawOutput
from gateway.ports import Line
from gateway.work import Work
from tests.kit import DEV, ECHO, Lab, Reply

QUICK = ECHO.replace("100/1m", "100000/1s")
COSTLY = QUICK.replace("effects: [read]", "effects: [read]\ncost: {per_call: 0.1}\nlabels: {output: [pii]}")
SPEAKER = replace(DEV, scopes=frozenset({"agent", "session:request"}), token_id="k_front")
WHO = {
    "front": SPEAKER,
    "ann": replace(DEV, user="ann"),
    "bot": Principal("bot", "default", scopes=frozenset({"agent"})),
    "ops": Principal("ops", "default", scopes=frozenset({"operator"}), token_id="k_ops"),
    "eyes": Principal("eyes", "default", scopes=frozenset({"auditor"})),
    "stranger": Principal("dev", "other", scopes=frozenset({"agent"})),
    "strange-ops": Principal("ops", "other", scopes=frozenset({"operator"})),
    "bound": replace(DEV, session="chat-7"),
}


@dataclass
class Slow:
    """A backend that answers when it is let, and counts what runs."""

    gate: asyncio.Event
    begun: int = 0

    async def run(self, work: Work) -> RawOutput:
        self.begun += 1
        await self.gate.wait()
        return RawOutput("ok")


def lab_of(spec: str = QUICK) -> Lab:
    """A lab that knows everybody above."""
    lab = Lab.of({"echo.yaml": spec})
    lab.trial.authority.principals.update(WHO)
    return lab


async def ask(lab: Lab, method: str, path: str, by: str = "dev", body: Any = None) -> Reply:
    """One request below `/v1/sessions`."""
    return await lab.http(method, f"/v1/sessions{path}", b"" if body is None else json.dumps(body).encode(), by)


async def opened(lab: Lab, by: str = "dev", **asked: Any) -> Any:
    """A new session, as it is shown."""
    reply = await ask(lab, "POST", "", by, asked)
    assert reply.status == 201, reply.body
    return reply.json


async def code(lab: Lab, session: str, text: str = "7") -> str:
    """How a call in a session ends."""
    outcome = await lab.call("echo", {"text": text}, session=session)
    return outcome.problem.code if outcome.problem else outcome.status


async def until(so: Callable[[], bool]) -> None:
    """Lets others go on until it is so."""
    for _ in range(100_000):
        if so():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never was")


def records(lab: Lab, kind: str) -> list[Line]:
    """The records of one type."""
    return [line for line in lab.trial.ledger.lines if line.type == kind]
