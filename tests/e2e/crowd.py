"""Many clients that are slow, or gone: what it costs those who are neither."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from tests.served import ROOT, Served

LOOP = json.dumps({"arguments": {"code": "while True: pass"}}).encode()


@dataclass
class Health:
    """How long /healthz took, each time, in seconds."""

    took: list[float] = field(default_factory=list)

    def p99(self) -> float:
        """Of a hundred, all but one were quicker."""
        return sorted(self.took)[max(0, len(self.took) * 99 // 100 - 1)]


async def _watched(gateway: Served, health: Health) -> None:
    """Asks ten times a second, each time over a new connection."""
    while True:
        started = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{gateway.port}\r\nConnection: close\r\n\r\n".encode())
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        health.took.append(time.monotonic() - started)
        writer.close()
        await asyncio.sleep(0.1)


async def _drips(gateway: Served) -> float:
    """Sends one byte of a head a second; after how many seconds the other side hung up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    started = time.monotonic()
    gone = asyncio.ensure_future(reader.read())
    try:
        for byte in f"POST /v1/tools/run_python/call HTTP/1.1\r\nHost: 127.0.0.1:{gateway.port}\r\n".encode():
            writer.write(bytes([byte]))
            if (await asyncio.wait({gone}, timeout=1.0))[0]:
                break
        await asyncio.gather(gone, return_exceptions=True)
    except ConnectionError:
        gone.cancel()
    finally:
        writer.close()
    return time.monotonic() - started


async def slow(gateway: Served, clients: int) -> tuple[Health, list[float]]:
    """So many at once that send a head byte by byte: health meanwhile, and how long each was kept."""
    health = Health()
    watching = asyncio.create_task(_watched(gateway, health))
    kept = await asyncio.gather(*(_drips(gateway) for _ in range(clients)))
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    return health, kept


async def leaving(gateway: Served, clients: int) -> tuple[Health, float]:
    """So many at once that start code without end and hang up: health meanwhile, and when (unix time) all had gone."""
    health = Health()
    watching = asyncio.create_task(_watched(gateway, health))
    head = (
        f"POST /v1/tools/run_python/call HTTP/1.1\r\nHost: 127.0.0.1:{gateway.port}\r\n"
        f"Authorization: Bearer {gateway.key}\r\nContent-Type: application/json\r\nContent-Length: {len(LOOP)}\r\n\r\n"
    )
    writers = []
    for _ in range(clients):
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(head.encode() + LOOP)
        writers.append(writer)
    await asyncio.sleep(1.0)
    for writer in writers:
        writer.transport.abort()
    left = time.time()
    await asyncio.sleep(4.0)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    return health, left


def ends(home: Path) -> list[tuple[float, str | None]]:
    """When each call ended (unix time), and how."""
    found = []
    for file in sorted((home / "audit").rglob("*.jsonl")):
        for record in (json.loads(line) for line in file.open("rb") if line.startswith(b"{")):
            if record["type"] in ("call.outcome", "call.refused"):
                found.append((datetime.fromisoformat(record["ts"]).timestamp(), record["outcome"]["code"]))
    return found


POLICY = """
apiVersion: toolgate/v1
kind: Policy
id: crowd
rules:
- {id: run, effect: permit, match: {tools: [run_python], agents: [dev]}}
"""


def unlimited(folder: Path) -> tuple[str, ...]:
    """Flags for a gateway whose callers may run as much Python as they like."""
    (folder / "policies").mkdir(parents=True)
    (folder / "policies" / "crowd.yaml").write_text(POLICY)
    (folder / "specs").mkdir()
    spec = (ROOT / "tool_specs" / "run_python.yaml").read_text().partition("cases:")[0]
    (folder / "specs" / "run.yaml").write_text(
        spec.replace("{output: 256KiB}", "{output: 256KiB, concurrency: 1000}", 1)
    )
    return "--specs", str(folder / "specs"), "--policies", str(folder / "policies")
