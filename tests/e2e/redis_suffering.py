"""Two gateways under load while something happens to their Redis, and what outside clients saw of it.

Three tools change something: one under idempotency keys and few places, one within a session's budget, one under a
rate. One only reads. The backend counts what really happened.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

from tests.e2e.racing import GONE, code_of
from tests.e2e.redis_faults import Fault, Line, Site, line
from tests.e2e.replicas import until
from tests.e2e.upstream import SPEC, Counted, counting_upstream, spec_and_policy
from tests.redisserver import RedisServer
from tests.served import Served, served

PLACES, BUDGET, RATE = 4, 40, 60  # at once; calls of a session; calls a minute
WORK = 0.01  # seconds that the backend takes
_CALL = {"done", "overloaded"}
MAY = {
    "keyed": _CALL | {"in_progress", "outcome_unknown", "concurrency_limited"},
    "spent": _CALL | {"budget_exhausted"},
    "rated": _CALL | {"rate_limited"},
    "look": {"done"},
    "no key": {"unauthenticated"},
    "tools": {"done"},
    "session": _CALL,
    "approvals": {"insufficient_scope"},
}
PATIENCE = 90.0  # bounds a hang, in seconds
_TOOLS = {"keyed": f"concurrency: {PLACES}", "spent": "output: 4KiB", "rated": f"calls: {RATE}/1m", "look": ""}
_POLICY = """
apiVersion: toolgate/v1
kind: Policy
id: count
rules:
- {id: all, effect: permit, match: {tools: [keyed, spent, rated, look], agents: [dev]}}
"""


@dataclass
class Pair:
    """Two gateways, each on a line of its own to the Redis, and their backend."""

    each: Sequence[Served]
    site: Site
    upstream: Counted
    keyed: Counted
    began: float = field(default_factory=time.monotonic)
    most: int = 0  # keyed calls that ran at once

    def watch(self) -> None:
        """Has the backend of keyed calls take its time, and count how many it does at once."""
        lock, running = threading.Lock(), 0

        def work() -> None:
            nonlocal running
            with lock:
                running += 1
                self.most = max(self.most, running)
            time.sleep(WORK)
            with lock:
                running -= 1

        self.keyed.first = work

    def had(self) -> Counter[str]:
        """How often each thing was done."""
        return Counter(json.loads(body)["text"] for body in (*self.keyed.seen, *self.upstream.seen))


@contextmanager
def pair(folder: Path, server: RedisServer, env: dict[str, str] | None = None) -> Iterator[Pair]:
    """Both gateways, whole; stopped at the end."""
    with ExitStack() as stack:
        upstream, keyed = (stack.enter_context(counting_upstream()) for _ in range(2))
        specs, policies = spec_and_policy(folder, upstream)
        (specs / "count.yaml").unlink()
        for name, limits in _TOOLS.items():
            port = keyed.port if name == "keyed" else upstream.port
            text = SPEC.replace("PORT", str(port)).replace("name: count", f"name: {name}")
            text = text.replace("[write]", "[read]") if name == "look" else text
            (specs / f"{name}.yaml").write_text(text + (f"limits: {{{limits}}}\n" if limits else ""))
        (policies / "count.yaml").write_text(_POLICY)
        flags = ("--specs", str(specs), "--policies", str(policies))
        lines = [stack.enter_context(line(server)) for _ in range(2)]
        first, second = (
            stack.enter_context(served(folder / name, *flags, env=_env(to, env or {})))
            for name, to in zip(("a", "b"), lines, strict=True)
        )
        both = Pair((first, replace(second, key=first.key)), Site(server, lines), upstream, keyed)
        until(lambda: both.each[1].get("/v1/tools")[0] == 200)
        both.watch()
        yield both


def _env(to: Line, more: dict[str, str]) -> dict[str, str]:
    return {"TOOLGATE_STORE": f"redis://127.0.0.1:{to.port}/0", **more}


@dataclass
class Seen:
    """What clients saw: seconds that answers took, by what they were; what else they were told."""

    took: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    codes: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def note(self, tool: str, code: str, seconds: float) -> None:
        self.codes[tool][code] += 1
        self.took[f"{tool} {code}"].append(seconds)

    def of(self, *which: str) -> list[float]:
        """The seconds of all of these."""
        return [each for name in which for each in self.took.get(name, [])]


def p99(seconds: Sequence[float]) -> float:
    """Of nothing it is 0."""
    ordered = sorted(seconds)
    return ordered[int(len(ordered) * 0.99)] if ordered else 0.0


class Load:
    """Clients of both gateways. `phase` is what they note things under: it may be changed at any time."""

    def __init__(self, both: Pair, session: str, pause: float = 0.01) -> None:
        self.both, self.session, self._pause = both, session, pause
        self.phase, self.seen = "before", defaultdict[str, Seen](Seen)
        self.over = False
        self._keys = count()
        self.done: set[str] = set()
        self.pending: dict[str, int] = {}

    async def run(self) -> None:
        """All clients, until it is over."""
        clients = [self._keyed(number) for number in range(8)]
        clients += [self._calls("look", number) for number in range(4)]
        clients += [self._calls("rated", number) for number in range(2)]
        clients += [self._calls("spent", number, {"Toolgate-Session": self.session}) for number in range(2)]
        clients += [self._asks(number) for number in range(2)]
        await asyncio.gather(*clients)

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """In another thread: a server that this one starts ends with it."""
        with ThreadPoolExecutor(1) as thread:
            clients = thread.submit(lambda: asyncio.run(self.run()))
            try:
                yield
            finally:
                self.over = True
                clients.result()

    async def _keyed(self, number: int) -> None:
        """One key after another; each is asked for by two clients, at both gateways in turn, until it is done."""
        for turn in count():
            if self.over:
                return
            key = f"{self.session}-{number // 2}-{turn}"
            for tried in count():
                code = await self._one("keyed", key, number + tried, {"Idempotency-Key": key})
                if code not in ("in_progress", "overloaded", "concurrency_limited", "gone"):
                    self.done.update([key] if code == "done" else [])
                    break
                if self.over:
                    return
                await asyncio.sleep(self._pause)

    async def _calls(self, tool: str, number: int, headers: dict[str, str] | None = None) -> None:
        while not self.over:
            await self._one(tool, f"{tool}-{self.session}-{next(self._keys)}", number, headers or {})
            await asyncio.sleep(self._pause * (5 if tool != "look" else 1))

    async def _asks(self, number: int) -> None:
        """What is no call: authentication, sessions, approvals."""
        while not self.over:
            at = self.both.each[number % 2]
            await self._noted("no key", replace(at, key="tg_wrong"), "GET", "/v1/tools", b"", {})
            await self._noted("tools", at, "GET", "/v1/tools", b"", {})
            await self._noted("session", at, "POST", "/v1/sessions", b"{}", {})
            await self._noted("approvals", at, "GET", "/v1/approvals/a_none", b"", {})
            await asyncio.sleep(10 * self._pause)

    async def _one(self, tool: str, text: str, number: int, headers: dict[str, str]) -> str:
        body = json.dumps({"arguments": {"text": text}}).encode()
        at = self.both.each[number % 2]
        return await self._noted(tool, at, "POST", f"/v1/tools/{tool}/call", body, headers)

    async def _noted(self, what: str, at: Served, verb: str, path: str, body: bytes, headers: dict[str, str]) -> str:
        phase, begun = self.phase, time.monotonic()
        try:
            status, said = await asyncio.wait_for(_say(at, verb, path, body, headers), PATIENCE)
            code = code_of(said) if status >= 400 or "status" in said else "done"
            code = "done" if status in (200, 201) and code == "None" else code
        except GONE:
            code = "gone"
        self.seen[phase].note(what, code, time.monotonic() - begun)
        return code


async def _say(at: Served, verb: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, Any]:
    """One request on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
    try:
        given = {"Host": f"127.0.0.1:{at.port}", "Authorization": f"Bearer {at.key}", **headers}
        given |= {"Content-Type": "application/json"}
        given |= {"Content-Length": str(len(body)), "Connection": "close"}
        lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        writer.write(f"{verb} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body)
        head, _, said = (await reader.read(-1)).partition(b"\r\n\r\n")
        if not head:
            raise ConnectionError
        return int(head.split(b" ", 2)[1]), json.loads(said or b"{}")
    finally:
        writer.close()


@dataclass(frozen=True)
class Figures:
    """What came of one fault. `refused`, `reads_before` and `reads` are 99 of 100, in seconds, as is `recovered`;
    `lost` are keys of which somebody was told a result without one effect; `rated` is all since the gateways began."""

    refused: float
    refusals: int
    reads_before: float
    reads: float
    doubles: int
    lost: int
    at_once: int
    spent: int
    rated: int
    rated_may: int
    recovered: float
    seen: dict[str, Seen]

    @property
    def broken(self) -> list[str]:
        """What was promised and is not so; times apart."""
        odd = {
            f"{what} was answered {code}": number
            for seen in self.seen.values()
            for what, codes in seen.codes.items()
            for code, number in codes.items()
            if code not in MAY[what]
        }
        told = {
            "done twice": self.doubles,
            "told of and not done": self.lost,
            "at once too many": self.at_once - PLACES,
            "over the budget": self.spent - BUDGET,
            "over the rate": self.rated - self.rated_may,
        }
        return [f"{what}: {number}" for what, number in {**told, **odd}.items() if number > 0]


def suffer(both: Pair, fault: Fault, seconds: float = 2.0, before: float = 1.0, after: float = 1.0) -> Figures:
    """The fault, for so long, under load; until both gateways do effects again."""
    status, said = both.each[0].post("/v1/sessions", json.dumps({"budget": {"calls": BUDGET}}).encode())
    assert status == 201, said
    both.most, before_it = 0, both.had()
    load = Load(both, said["id"])
    with load.under_way():
        time.sleep(before)
        load.phase = "during"
        _happen(both.site, fault, seconds)
        load.phase, ended = "after", time.monotonic()
        for number, at in enumerate(both.each):
            key = f"{said['id']}-again-{number}"
            until(lambda at=at, key=key: _works(at, key))
        recovered = time.monotonic() - ended
        load.phase = "whole"
        time.sleep(after)
    had = both.had() - before_it
    during, kinds = load.seen["during"], ("keyed", "spent", "rated")
    names = [f"{kind} overloaded" for kind in kinds]
    refused = [each for phase in ("during", "after") for each in load.seen[phase].of(*names)]
    return Figures(
        refused=p99(refused),
        refusals=len(refused),
        reads_before=p99(load.seen["before"].of("look done")),
        reads=p99(during.of("look done")),
        doubles=sum(times > 1 for times in had.values()),
        lost=sum(had[key] != 1 for key in load.done),
        at_once=both.most,
        spent=sum(times for text, times in had.items() if text.startswith("spent-")),
        rated=sum(times for text, times in both.had().items() if text.startswith("rated-")),
        rated_may=RATE + int((time.monotonic() - both.began) * RATE / 60) + 1,
        recovered=recovered,
        seen=dict(load.seen),
    )


def _happen(site: Site, fault: Fault, seconds: float) -> None:
    fault.begin(site)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.2)
        if fault.often:
            fault.begin(site)
    fault.end(site)


def _works(at: Served, key: str) -> bool:
    with suppress(*GONE):
        return at.call("keyed", {"text": key})[0] == 200
    return False
