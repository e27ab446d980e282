"""Idempotency keys over a real gateway and a backend that counts: one key is one effect, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

from tests.e2e.racing import code_of, effects, race
from tests.e2e.upstream import Counted, counting_upstream, spec_and_policy
from tests.served import Served, ready, served, start, toolgate


def flags_of(folder: Path, upstream: Counted) -> tuple[str, ...]:
    specs, policies = spec_and_policy(folder, upstream)
    return "--specs", str(specs), "--policies", str(policies)


def keyed(gateway: Served, key: str, text: str) -> dict[str, Any]:
    """One call under a key."""
    body = json.dumps({"arguments": {"text": text}}).encode()
    return dict(gateway.post("/v1/tools/count/call", body, **{"Idempotency-Key": key})[1])


def test_raced_keys_are_one_effect_each(tmp_path: Path) -> None:
    """50 keys, each by four of 32 clients at once: 50 effects, and everybody is told the same of his key."""
    with counting_upstream() as upstream, served(tmp_path / "home", *flags_of(tmp_path, upstream)) as gateway:
        keys = [f"key {number}" for number in range(50)]
        found = asyncio.run(race([gateway], keys, clients=32, each=4))
        assert effects(upstream) == dict.fromkeys(keys, 1)
        assert found.codes() == {"done": 200}
        for key, told in found.told.items():
            assert {json.dumps(said["result"]) for said in told} == {json.dumps(told[0]["result"])}, key


def test_a_key_survives_the_gateway(tmp_path: Path) -> None:
    """What was done before a kill is told after it, from the command line too, and nothing is done again."""
    home = tmp_path / "home"
    with counting_upstream() as upstream:
        flags = flags_of(tmp_path, upstream)
        gateway = ready(start(home, *flags), home)
        first = keyed(gateway, "k", "hello")
        gateway.kill()
        with served(home, *flags) as gateway:
            second = keyed(gateway, "k", "hello")
            assert (second["status"], second["result"]) == (first["status"], first["result"])
            asked = '{"text": "hello"}'
            said = toolgate(home, "call", "count", asked, "--idempotency-key", "k", "--json")
            assert json.loads(said.stdout)["result"] == first["result"]
            assert upstream.count() == 1
            other = keyed(gateway, "k", "other")
            assert other["code"] == "key_reused"


def cut_off(home: Path, flags: tuple[str, ...], upstream: Counted, keys: tuple[str, ...]) -> None:
    """A gateway is killed while its backend does the work of these calls, one for each key."""
    gateway = ready(start(home, *flags), home)
    upstream.first = threading.Barrier(len(keys), gateway.process.kill).wait

    def call(key: str) -> None:
        with suppress(OSError, HTTPException, ValueError):
            keyed(gateway, key, key)

    with ThreadPoolExecutor(len(keys)) as callers:
        list(callers.map(call, keys))
    gateway.process.wait(30)
    upstream.first = None


def test_a_call_cut_off_by_a_kill_is_never_made_again(tmp_path: Path) -> None:
    """Its outcome is unknown, after the restart too; an operator's word settles it, one way or the other, with and
    without a gateway that runs."""
    home, keys = tmp_path / "home", ("done", "not", "later", "not later")
    with counting_upstream() as upstream:
        flags = flags_of(tmp_path, upstream)
        cut_off(home, flags, upstream, keys)
        assert upstream.count() == len(keys)
        admin = json.loads(toolgate(home, "keys", "create", "--scope", "operator", "--json").stdout)["key"]
        with served(home, *flags) as gateway:
            doubtful = {key: keyed(gateway, key, key) for key in keys}
            assert {code_of(said) for said in doubtful.values()} == {"outcome_unknown"}
            assert upstream.count() == len(keys)
            ids = {key: said["detail"].partition("(")[2].partition(")")[0] for key, said in doubtful.items()}
            resolve(home, ids["done"], "done", admin)
            resolve(home, ids["not"], "not-done", admin)
            told = keyed(gateway, "done", "done")
            assert (code_of(told), upstream.count()) == ("done", len(keys))
            assert "found out later" in told["result"]["content"][0]["text"]
            assert code_of(keyed(gateway, "not", "not")) == "done"
            assert upstream.count() == len(keys) + 1
        resolve(home, ids["later"], "done", admin)
        resolve(home, ids["not later"], "not-done", admin)
        with served(home, *flags) as gateway:
            assert [code_of(keyed(gateway, key, key)) for key in keys] == ["done"] * len(keys)
            assert upstream.count() == len(keys) + 2


def resolve(home: Path, call_id: str, ended: str, key: str) -> None:
    done = toolgate(home, "audit", "resolve", call_id, "--as", ended, "--why", "looked", "--key", key)
    assert done.returncode == 0, done.stderr
