"""Two gateways and one Redis behave as one: limits, labels, sessions, keys, approvals, the places of one that died."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.exact import POLICY as ALL
from tests.e2e.exact import TAKES, TIMES, opened, raced, specs
from tests.e2e.replicas import Replicas, records, replicas, told, until
from tests.e2e.test_revoked import admitted
from tests.redisserver import RedisServer
from tests.served import Served, toolgate

N = 10
ROUNDS = 25
WITHIN = 1.0  # seconds: what is promised
READ = """
apiVersion: toolgate/v1
kind: Tool
name: look
version: 1.0.0
description: Looks something up.
input_schema: {type: object, properties: {text: {type: string}}, required: [text]}
effects: [read]
runner:
  http: {method: POST, url: "http://127.0.0.1:PORT/say", json: {text: "{text}"}}
"""
LOOK = """
apiVersion: toolgate/v1
kind: Policy
id: count
rules:
- {id: all, effect: permit, match: {tools: [count, look], agents: [dev]}}
"""
TRIFECTA = (
    LOOK
    + """
- {id: no-send, effect: forbid, match: {tools: [count]}, when: ['"untrusted" in session.labels']}
"""
)
APPROVED = """
apiVersion: toolgate/v1
kind: Policy
id: count
rules:
- id: count
  effect: permit
  match: {tools: [count]}
  with: {approval: {by: ["user:mia"], ttl: 15m}}
"""


def test_limits_are_exact_over_both(redis_server: RedisServer, tmp_path: Path) -> None:
    """Of ten times as many calls as there is room for, at both gateways at once, exactly as many are done: a rate,
    places, and each dimension of a budget; what was taken beforehand and not used is there again."""
    with replicas(tmp_path, redis_server, also=(specs(N), ALL)) as both:
        assert raced(both, N, "rated") == (N, {"rate_limited"})
        assert raced(both, N, "placed") == (N, {"concurrency_limited"})
        for name in TAKES:
            assert raced(both, N, session=opened(both, name, N)) == (N, {"budget_exhausted"}), name
        for tool in ("placed", "spend"):
            assert both.each[1].call(tool, {"text": "again"})[0] == 200
        _tokens(both, redis_server.url)
        for each in both.each:
            assert (each.home / "replicas.json").stat().st_mode & 0o077 == 0


def _tokens(both: Replicas, store: str) -> None:
    """Ten times as many as there are, one by one and all at once: all of them count, and then nothing is done."""
    done = both.upstream.count()
    session = both.each[0].post("/v1/sessions", json.dumps({"budget": {"tokens": N}}).encode())[1]["id"]
    with ThreadPoolExecutor(20) as pool:
        asked = [(both.each[n % 2], f"/v1/sessions/{session}/usage", b'{"tokens": 1}') for n in range(TIMES * N)]
        statuses = {status for status, _ in pool.map(lambda each: each[0].post(*each[1:]), asked)}
    assert statuses == {200}
    for each in both.each:
        assert each.get(f"/v1/sessions/{session}")[1]["used"]["tokens"] == TIMES * N
        body = json.dumps({"arguments": {"text": "x"}}).encode()
        status, said = each.post("/v1/tools/count/call", body, **{"Toolgate-Session": session})
        assert (status, said["code"]) == (403, "budget_exhausted"), said
    shown = told(both.each[1].home, "sessions", "show", session, store=store)
    assert [each["used"]["tokens"] for each in shown] == [TIMES * N]
    assert both.upstream.count() == done


def test_a_place_of_a_killed_gateway_comes_back(redis_server: RedisServer, tmp_path: Path) -> None:
    """Its call is over for good once its time is: then the other gateway has the place."""
    short = {"also.yaml": READ.replace("effects: [read]", "effects: [write]\ntimeout: 2s\nlimits: {concurrency: 1}")}
    with replicas(tmp_path, redis_server, also=(short, LOOK)) as both:
        first, second = both.each
        go = threading.Event()
        both.upstream.first = lambda: go.wait(30)
        hanging = threading.Thread(target=_hangs, args=(first,))
        hanging.start()
        until(lambda: both.upstream.count() == 1)
        first.process.kill()
        hanging.join()
        go.set()
        assert second.call("look", {"text": "x"})[0] == 429
        until_free = time.monotonic() + 90
        while second.call("look", {"text": "x"})[0] == 429:
            assert time.monotonic() < until_free
            time.sleep(0.2)
        assert both.upstream.count() == 2


def _hangs(at: Served) -> None:
    with contextlib.suppress(OSError):  # it is killed before it answers
        at.call("look", {"text": "x"})


def test_what_is_read_here_forbids_sending_there(redis_server: RedisServer, tmp_path: Path) -> None:
    """Again and again: a result that may not be trusted at one gateway, and the very next call at the other knows."""
    with replicas(tmp_path, redis_server, also=(READ, TRIFECTA)) as both:
        for number in range(ROUNDS):
            reader, sender = both.each[number % 2], both.each[1 - number % 2]
            headers = {"Toolgate-Session": f"s{number}"}
            body = json.dumps({"arguments": {"text": "x"}}).encode()
            assert sender.post("/v1/tools/count/call", body, **headers)[0] == 200
            assert reader.post("/v1/tools/look/call", body, **headers)[0] == 200
            status, said = sender.post("/v1/tools/count/call", body, **headers)
            assert (status, said["rule"]) == (403, "no-send"), said
        assert both.upstream.count() == 2 * ROUNDS


async def _until_refused(both: Replicas, take: str) -> tuple[float, list[int]]:
    """Calls both without end while one of them is told; when that was done, and how many were refused."""
    statuses, enough = list[int](), asyncio.Event()

    async def line() -> None:
        while True:
            answers = await both.all_at_once(4)
            statuses.extend(status for status, _ in answers)
            if statuses.count(200) >= 100:
                enough.set()
            if any(status != 200 for status, _ in answers):
                return

    lines = [asyncio.create_task(line()) for _ in range(8)]
    await enough.wait()
    await asyncio.to_thread(_take, both, take)
    at = time.time()
    await asyncio.wait_for(asyncio.gather(*lines), 60)
    return at, statuses


def _take(both: Replicas, what: str) -> None:
    first = both.each[0]
    if what == "session":
        assert first.delete("/v1/sessions/default")[0] == 200
    elif what == "key":
        key = records(first.home, "call.intent")[-1]["principal"]["token_id"]
        told(first.home, "keys", "revoke", key)
    else:
        told(first.home, "revoke", "--agent", "dev", "--why", "it ran away")


@pytest.mark.parametrize("take", ["session", "key", "agent"])
def test_what_is_taken_away_at_one_is_gone_at_both(redis_server: RedisServer, tmp_path: Path, take: str) -> None:
    """By the record of both nothing is admitted later than a second after the answer."""
    with replicas(tmp_path, redis_server) as both:
        at, statuses = asyncio.run(_until_refused(both, take))
        for each in both.each:
            assert each.call("count", {"text": "x"})[0] == (403 if take == "session" else 401)
        homes = [each.home for each in both.each]
    late = [when - at for home in homes for when in admitted(home) if when > at + WITHIN]
    assert late == []
    assert statuses.count(200) >= 100
    if take == "session":
        assert [len(records(home, "session.closed")) for home in homes] == [1, 0]


def test_asked_here_and_granted_there(redis_server: RedisServer, tmp_path: Path) -> None:
    """A call waits at one gateway, a person says yes at the other, and it is done once, at either."""
    with replicas(tmp_path, redis_server, also=("", APPROVED)) as both:
        first, second = both.each
        made = toolgate(
            first.home, "keys", "create", "--json", "--agent", "mia-cli", "--user", "mia", "--scope", "approver"
        )
        mia = replace(second, key=json.loads(made.stdout)["key"])
        status, said = first.call("count", {"text": "x"})
        assert (status, said["problem"]["code"]) == (202, "approval_required"), said
        path = f"/v1/approvals/{said['problem']['approval']}"
        until(lambda: mia.get(path)[0] == 200)
        status, answer = mia.post(f"{path}/approve", b"{}")
        assert status == 200, answer
        call_id = second.call("count", {"text": "x"})[1]["call_id"]
        assert both.upstream.count() == 1
        until(lambda: first.get(f"/v1/calls/{call_id}")[0] == 200)  # what one did the other can say
        assert first.call("count", {"text": "x"})[0] == 202
        assert both.upstream.count() == 1
