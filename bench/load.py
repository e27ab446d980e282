"""A load generator that needs nothing but this environment: keep-alive connections, each with one request at a time.

Every request has arguments of its own (`{n}` in the body is its number), and every answer is checked: the status must
be 200 and the body must hold what `--expect` says, with the same number. The CPU time of the process `--pid` and its
children over the measured calls comes from /proc. Prints one line of JSON. It never retries.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import httptools
import uvloop


@dataclass
class Plan:
    """What to send, what must come back, and what came. Times in seconds; the first `warm` calls are not measured."""

    head: str
    body: str
    expect: list[str]
    calls: int
    warm: int
    pid: int
    sent: int = 0
    answered: int = 0
    errors: int = 0
    first_bad: str = ""
    took: list[float] = field(default_factory=list)
    started: float = 0.0
    ended: float = 0.0
    cpu: float = 0.0

    def next(self) -> tuple[int, bytes] | None:
        """Number and bytes of the next request, `None` when all are sent."""
        if self.sent == self.warm + self.calls:
            return None
        self.sent += 1
        body = self.body.replace("{n}", str(self.sent))
        return self.sent, f"{self.head}content-length: {len(body)}\r\n\r\n{body}".encode()

    def take(self, number: int, status: int, body: bytes, seconds: float) -> None:
        """Checks one answer."""
        self.answered += 1
        if self.answered == self.warm:
            self.cpu, self.started = -cpu_of(self.pid), time.perf_counter()
        elif self.answered > self.warm:
            self.took.append(seconds)
        said = body.decode()
        if status != 200 or not all(each.replace("{n}", str(number)) in said for each in self.expect):
            self.errors += 1
            self.first_bad = self.first_bad or f"{status} {said[:300]}"
        if self.answered == self.warm + self.calls:
            self.ended = time.perf_counter()
            self.cpu += cpu_of(self.pid)


class Connection(asyncio.Protocol):
    """One connection: sends, waits for the whole answer, checks it, sends again."""

    def __init__(self, plan: Plan, done: asyncio.Future[None]) -> None:
        self._plan = plan
        self._done = done
        self._number = 0
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # always a stream
        self._transport = transport
        self._send()

    def _send(self) -> None:
        ask = self._plan.next()
        if ask is None:
            self._transport.close()
            self._finish()
            return
        self._number, request = ask
        self._body.clear()
        self._parser = httptools.HttpResponseParser(self)
        self._at = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        seconds = time.perf_counter() - self._at
        self._plan.take(self._number, self._parser.get_status_code(), b"".join(self._body), seconds)
        asyncio.get_running_loop().call_soon(self._send)

    def connection_lost(self, _error: Exception | None) -> None:
        self._finish()

    def _finish(self) -> None:
        if not self._done.done():
            self._done.set_result(None)


def tree(pid: int) -> list[int]:
    """A process and all its children."""
    found = [pid]
    for each in found:
        for task in Path(f"/proc/{each}/task").glob("*/children"):
            found += [int(child) for child in task.read_text().split()]
    return found


def cpu_of(pid: int) -> float:
    """Seconds of CPU, user and system, that a process and its living children have used; 0.0 for pid 0.

    /proc/PID/schedstat counts nanoseconds where /proc/PID/stat counts hundredths of a second; it is one per thread.
    """
    if not pid:
        return 0.0
    threads = (task for each in tree(pid) for task in Path(f"/proc/{each}/task").glob("*/schedstat"))
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def rss_of(pid: int) -> int:
    """Resident bytes of a process alone."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def run(host: str, port: int, plan: Plan, connections: int) -> None:
    """Sends everything over so many connections."""
    loop = asyncio.get_running_loop()
    waiting = []
    for _ in range(connections):
        done: asyncio.Future[None] = loop.create_future()
        await loop.create_connection(lambda done=done: Connection(plan, done), host, port)  # type: ignore[misc]  # bound
        waiting.append(done)
    await asyncio.wait(waiting)


def main() -> None:
    """Parses, runs, prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--body", required=True, help="JSON with {n}")
    parser.add_argument("--expect", action="append", default=[])
    parser.add_argument("--header", action="append", default=[])
    parser.add_argument("-c", "--connections", type=int, default=64)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--warm", type=int, default=500)
    parser.add_argument("--pid", type=int, default=0)
    asked = parser.parse_args()
    lines = [f"POST {asked.path} HTTP/1.1", f"host: 127.0.0.1:{asked.port}", "content-type: application/json"]
    head = "".join(f"{line}\r\n" for line in [*lines, *asked.header])
    plan = Plan(head, asked.body, asked.expect, asked.calls, asked.warm, asked.pid)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run("127.0.0.1", asked.port, plan, asked.connections))
    answered = plan.answered == plan.calls + plan.warm
    cuts = statistics.quantiles(plan.took, n=100) if answered else [0.0] * 99
    report = {
        "calls": plan.answered,
        "errors": plan.errors + (plan.calls + plan.warm - plan.answered),
        "first_bad": plan.first_bad,
        "rate": round(plan.calls / (plan.ended - plan.started), 1) if answered else 0.0,
        "p50_ms": round(cuts[49] * 1000, 3),
        "p99_ms": round(cuts[98] * 1000, 3),
        "cpu_us": round(plan.cpu / plan.calls * 1e6, 1),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
