"""A real gateway process before real backends that fail: what it sends is counted where it arrives."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import NamedTuple

import pytest

from gateway.reliability.breaker import FAILURES
from tests.e2e.sick import POLICY, Sick, sick, spec
from tests.served import Served, served, toolgate

RETRIED = "{on: [upstream_error], attempts: 3, backoff: 1ms..5ms}"
# What the spec of each tool has; each has a backend of its own, which is the backend of nothing else.
TOOLS = {
    "flap": ("idempotent: true", f"retry: {RETRIED}"),
    "kept": ("cache: {ttl: 1h}",),
    "look": (),
    "hang": ("timeout: 500ms", "fallback: other"),
    "other": (),
}


class Bench(NamedTuple):
    """A gateway, an operator of it, and the backends of its tools."""

    up: Served
    operator: Served
    behind: dict[str, Sick]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """All tools of it may be called by agent dev."""
    folder = tmp_path_factory.mktemp("failing")
    for name in ("specs", "policies"):
        (folder / name).mkdir()
    with ExitStack() as stack:
        behind = {name: stack.enter_context(sick()) for name in TOOLS}
        for name, lines in TOOLS.items():
            (folder / "specs" / f"{name}.yaml").write_text(spec(name, behind[name], *lines))
        (folder / "policies" / "all.yaml").write_text(POLICY)
        files = ("--specs", str(folder / "specs"), "--policies", str(folder / "policies"))
        up = stack.enter_context(served(folder / "home", *files))
        made = toolgate(up.home, "keys", "create", "--scope", "operator", "--json")
        operator = replace(up, key=json.loads(made.stdout)["key"])
        while operator.get("/v1/backends")[0] != 200:  # a new key counts within a second
            time.sleep(0.1)
        yield Bench(up, operator, behind)


def codes(up: Served, tool: str, times: int, at_once: int = 1) -> Counter[str]:
    """The codes of so many calls, `done` where there is none."""

    def one(number: int) -> str:
        _, said = up.call(tool, {"what": f"n{number}"})
        problem = said.get("problem") or (said if "code" in said else None)
        return str(problem["code"]) if problem else str(said["status"])

    with ThreadPoolExecutor(at_once) as threads:
        return Counter(threads.map(one, range(times)))


def state(bench: Bench, backend: Sick) -> tuple[str, int]:
    """What an operator sees of a backend: its state, and the failures in a row."""
    _, said = bench.operator.get("/v1/backends")
    found = {each["name"]: (each["state"], each["failures"]) for each in said["backends"]}
    return found[f"http://127.0.0.1:{backend.port}"]


def until_done(up: Served, tool: str) -> Counter[str]:
    """Calls one after the other until one is done: what each came to."""
    seen: Counter[str] = Counter()
    while not seen["done"]:
        seen += codes(up, tool, 1)
        time.sleep(0.05)
    return seen


def test_what_is_tried_again_and_what_is_kept(bench: Bench) -> None:
    """Every second answer is a failure, and each would be tried again: a tenth more requests, and no more. Of results
    that are kept, forty calls of ten kinds make ten requests; none is kept once content was erased."""
    flapping, steady = bench.behind["flap"], bench.behind["kept"]
    flapping.mood = "flapping"
    seen = codes(bench.up, "flap", 200, at_once=4)
    for _ in range(4):
        assert codes(bench.up, "kept", 10, at_once=4) == {"done": 10}
    assert seen["done"] + seen["upstream_error"] + seen["breaker_open"] == 200
    assert flapping.requests <= 220 - seen["breaker_open"]
    assert steady.requests == 10
    asked = json.dumps({"session": "default", "agent": "dev", "why": "It was asked for."}).encode()
    status, said = bench.operator.post("/v1/audit:erase", asked)
    assert status == 200, said
    assert codes(bench.up, "kept", 1) == {"done": 1}
    assert steady.requests == 11


def test_a_breaker_opens_and_recovers_by_one_probe(bench: Bench) -> None:
    """Five requests until it opens, none while it is open, one that closes it, and then one for each call again."""
    up, backend = bench.up, bench.behind["look"]
    backend.mood = "errors"
    seen = codes(up, "look", 20)
    # On a machine that is slow it may be tried meanwhile, by one request each time.
    assert seen == {"upstream_error": backend.requests, "breaker_open": 20 - backend.requests}
    assert FAILURES <= backend.requests < 10
    assert state(bench, backend) == ("open", backend.requests)
    status, ready = up.get("/readyz")
    assert (status, ready["backends"].split()[1]) == (200, "open")
    before, backend.mood = backend.requests, "well"
    seen = until_done(up, "look")
    assert set(seen) <= {"breaker_open", "done"}
    assert backend.requests == before + 1
    assert codes(up, "look", 20, at_once=4) == {"done": 20}
    assert backend.requests == before + 21
    assert state(bench, backend) == ("closed", 0)


def test_a_hanging_backend_has_its_fallback_answer(bench: Bench) -> None:
    """Those that hung when it was found out failed; after that the other backend answers, and nothing is sent here."""
    hanging, other = bench.behind["hang"], bench.behind["other"]
    hanging.mood = "hangs"
    seen = codes(bench.up, "hang", 10, at_once=5)
    seen += until_done(bench.up, "hang")
    assert seen == {"timeout": hanging.requests, "done": other.requests}
    assert hanging.requests >= FAILURES
