"""A credential that is for one session: it goes there, and nowhere else."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from gateway.model import Outcome
from tests.kit import DEV, Lab


def code(outcome: Outcome) -> str:
    """How it ended."""
    return outcome.problem.code if outcome.problem else outcome.status


def test_a_bound_credential_calls_in_its_session() -> None:
    """Without a header, and with one that says the same; the token goes before any other header."""

    async def calls() -> list[str]:
        lab = Lab.of()
        lab.trial.authority.principals["bound"] = replace(DEV, session="chat-7")
        asked = [None, "chat-7", "chat-8", "default", "s_0123", "chat 7"]
        found = [code(await lab.call("echo", {"text": "7"}, "bound", session=name)) for name in asked]
        return [*found, *sorted(session.id for session in lab.gate.sessions.all())]

    refused = ["session_closed"] * 4
    assert asyncio.run(calls()) == ["done", "done", *refused, "chat-7"]


def test_a_bound_session_that_was_closed_stays_closed() -> None:
    """A token does not open again what was closed."""

    async def calls() -> list[str]:
        lab = Lab.of()
        lab.trial.authority.principals["bound"] = replace(DEV, session="chat-7")
        first = code(await lab.call("echo", {"text": "7"}, "bound"))
        await lab.gate.sessions.close(DEV.key, "chat-7")
        return [first, code(await lab.call("echo", {"text": "7"}, "bound"))]

    assert asyncio.run(calls()) == ["done", "session_closed"]
