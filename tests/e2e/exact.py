"""How many of ten times as many calls get through at once as there is room for, at two gateways together.

The backend answers nobody until all others were refused: so nothing is given back meanwhile, and as many wait there as
were let through.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from contextlib import closing

from tests.e2e.replicas import Replicas
from tests.served import Served, Wire

TIMES = 10  # as many calls as there is room for
PATIENCE = 60.0  # bounds a hang, in seconds
OUTPUT = 1024  # bytes that a call of `spend` takes beforehand
SECONDS = 25  # and its timeout
COST = 0.5
# What a call of each takes before it runs, as budgets say it.
TAKES = {"calls": 1, "cost": COST, "wall": SECONDS, "bytes": OUTPUT}
_SPEC = """
apiVersion: toolgate/v1
kind: Tool
name: NAME
version: 1.0.0
description: Says back what it was told.
input_schema: {type: object, properties: {text: {type: string}}, required: [text]}
effects: [write]
labels: {output: []}
cost: {per_call: COST}
timeout: SECONDSs
limits: {output: OUTPUTB, LIMIT}
runner:
  http: {method: POST, url: "http://127.0.0.1:PORT/say", json: {text: "{text}"}}
"""
POLICY = """
apiVersion: toolgate/v1
kind: Policy
id: count
rules:
- {id: all, effect: permit, match: {tools: [count, spend, rated, placed], agents: [dev]}}
"""


def specs(room: int) -> dict[str, str]:
    """Specs by file: `spend` has no limit of its own, `rated` so many an hour, `placed` so many at once."""
    limits = {"spend": "concurrency: 256", "rated": f"calls: {room}/1h", "placed": f"concurrency: {room}"}
    amounts = {"COST": COST, "SECONDS": SECONDS, "OUTPUT": OUTPUT}
    found = {}
    for name, limit in limits.items():
        text = _SPEC.replace("NAME", name).replace("LIMIT", limit)
        for word, amount in amounts.items():
            text = text.replace(word, str(amount))
        found[f"{name}.yaml"] = text
    return found


def opened(both: Replicas, name: str, room: int) -> str:
    """A session, opened at the first gateway, with a budget of one dimension for so many calls."""
    body = json.dumps({"budget": {name: TAKES[name] * room}}).encode()
    status, said = both.each[0].post("/v1/sessions", body)
    assert status == 201, said
    return str(said["id"])


def raced(both: Replicas, room: int, tool: str = "spend", session: str = "") -> tuple[int, set[str]]:
    """How many of `TIMES` as many calls as `room` were done, at both at once, and how the others were refused."""
    go, before = threading.Event(), both.upstream.count()
    both.upstream.first = lambda: go.wait(SECONDS - 5)

    async def one(at: Served, number: int) -> str:
        with closing(await Wire.to(at)) as wire:
            status, said = await wire.call(tool, {"text": str(number)}, session=session)
            return "done" if status == 200 else str(said.get("code"))

    async def run() -> Counter[str]:
        calls = [asyncio.create_task(one(both.each[n % 2], n)) for n in range(TIMES * room)]
        waiting = set(calls)
        async with asyncio.timeout(PATIENCE):
            while len(waiting) > room:
                _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            go.set()
            return Counter(await asyncio.gather(*calls))

    try:
        found = asyncio.run(run())
    finally:
        go.set()
        both.upstream.first = None
    assert both.upstream.count() - before == found["done"]
    return found.pop("done", 0), set(found)
