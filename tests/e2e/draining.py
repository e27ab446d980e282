"""A gateway that is told to stop while callers keep it busy, and what becomes of each of their requests.

A reply is lost when a request was sent over a connection that had been kept open, and nothing came back; or when a call
is on record whose caller heard nothing. A connection that is refused, or closed by an answer that says so, loses none.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.upstream import counting_upstream, spec_and_policy
from tests.served import Served, ready, start

CALLERS = 16


@dataclass
class Drained:
    """What callers saw: ids of the calls that were answered, and what happened where nothing was."""

    answered: set[str] = field(default_factory=set)
    lost: list[str] = field(default_factory=list)
    recorded: set[str] = field(default_factory=set)
    exit_code: int | None = None

    def broken(self) -> list[str]:
        """What must not be."""
        unheard = [f"{call} is on record and was not answered" for call in sorted(self.recorded - self.answered)]
        unknown = [f"{call} was answered and is not on record" for call in sorted(self.answered - self.recorded)]
        code = [] if self.exit_code == 0 else [f"it ended with {self.exit_code}"]
        return [*self.lost, *unheard, *unknown, *code]


class Caller:
    """Calls one after the other over connections that it keeps, as long as it may, until none is taken any more."""

    def __init__(self, gateway: Served, seen: Drained, rng: random.Random) -> None:
        self._gateway, self._seen, self._rng = gateway, seen, rng

    async def run(self) -> None:
        """Until the gateway takes no connection."""
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._gateway.port)
            except OSError:
                return
            try:
                fresh = True
                while await self._call(reader, writer, fresh):
                    fresh = False
                    await asyncio.sleep(self._rng.random() * 0.03)
            finally:
                writer.close()

    async def _call(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fresh: bool) -> bool:
        """One call; whether the connection stays open."""
        if reader.at_eof():  # closed between two requests: nothing was sent
            return False
        body = json.dumps({"arguments": {"text": "x"}}).encode()
        head = (
            f"POST /v1/tools/count/call HTTP/1.1\r\nHost: 127.0.0.1:{self._gateway.port}\r\n"
            f"Authorization: Bearer {self._gateway.key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        try:
            writer.write(head.encode() + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(answer.partition("content-length: ")[2].partition("\r\n")[0])
            said = json.loads(await reader.readexactly(length))
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            if not fresh:  # one that the system took, and the gateway never saw, was never let in
                self._seen.lost.append(f"nothing came back over a connection that was kept: {error!r}")
            return False
        self._seen.answered.add(said["call_id"])
        return "connection: close" not in answer


@contextmanager
def slow_tool(folder: Path, rng: random.Random) -> Iterator[tuple[str, ...]]:
    """Flags for a gateway with one tool, whose backend takes up to a third of a second."""
    with counting_upstream() as upstream:
        upstream.first = lambda: time.sleep(rng.random() ** 3 / 3)
        specs, policies = spec_and_policy(folder, upstream)
        yield "--specs", str(specs), "--policies", str(policies)


def drain(home: Path, flags: tuple[str, ...], rng: random.Random) -> Drained:
    """One gateway, busy, told to stop at a random moment."""
    process = start(home, *flags)
    gateway, seen = ready(process, home), Drained()

    async def scene() -> None:
        callers = [asyncio.create_task(Caller(gateway, seen, rng).run()) for _ in range(CALLERS)]
        await asyncio.sleep(0.3 + rng.random() * 0.4)
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(asyncio.gather(*callers), 60)

    asyncio.run(scene())
    seen.exit_code = process.wait(30)
    for file in sorted((home / "audit").rglob("*.jsonl")):
        records = (json.loads(line) for line in file.open("rb") if line.startswith(b"{"))
        seen.recorded |= {each["call_id"] for each in records if each["type"] in ("call.outcome", "call.refused")}
    return seen
