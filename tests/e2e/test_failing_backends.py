"""A real gateway process before real backends that fail: what it sends is counted where it arrives."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from gateway.reliability.breaker import FAILURES
from tests.e2e.sick import POLICY, sick, spec
from tests.served import Served, served, toolgate

RETRIED = "{on: [upstream_error], attempts: 3, backoff: 1ms..5ms}"


@contextmanager
def gateway(folder: Path, **specs: str) -> Iterator[Served]:
    """A gateway over these specs, all of whose tools agent dev may call."""
    for name in ("specs", "policies"):
        (folder / name).mkdir()
    for name, text in specs.items():
        (folder / "specs" / f"{name}.yaml").write_text(text)
    (folder / "policies" / "all.yaml").write_text(POLICY)
    with served(folder / "home", "--specs", str(folder / "specs"), "--policies", str(folder / "policies")) as up:
        yield up


def codes(up: Served, tool: str, times: int, at_once: int = 1) -> Counter[str]:
    """The codes of so many calls, `done` where there is none."""

    def one(number: int) -> str:
        _, said = up.call(tool, {"what": f"n{number}"})
        problem = said.get("problem") or (said if "code" in said else None)
        return str(problem["code"]) if problem else str(said["status"])

    with ThreadPoolExecutor(at_once) as threads:
        return Counter(threads.map(one, range(times)))


def states(up: Served) -> list[tuple[str, str, int]]:
    """What an operator sees of the backends."""
    made = toolgate(up.home, "keys", "create", "--scope", "operator", "--json")
    operator = replace(up, key=json.loads(made.stdout)["key"])
    for _ in range(100):  # a new key counts within a second
        status, said = operator.get("/v1/backends")
        if status == 200:
            break
    return [(each["name"], each["state"], each["failures"]) for each in said["backends"]]


def until_done(up: Served, tool: str) -> Counter[str]:
    """Calls one after the other until one is done: what each came to."""
    seen: Counter[str] = Counter()
    while not seen["done"]:
        seen += codes(up, tool, 1)
    return seen


def test_what_is_tried_again_and_what_is_kept(tmp_path: Path) -> None:
    """Every second answer is a failure, and each would be tried again: a tenth more requests, and no more. Of results
    that are kept, forty calls of ten kinds make ten requests."""
    with sick() as flapping, sick() as steady:
        specs = {
            "flap": spec("flap", flapping, "idempotent: true", f"retry: {RETRIED}"),
            "kept": spec("kept", steady, "cache: {ttl: 1h}"),
        }
        with gateway(tmp_path, **specs) as up:
            flapping.mood = "flapping"
            seen = codes(up, "flap", 200, at_once=4)
            for _ in range(4):
                assert codes(up, "kept", 10, at_once=4) == {"done": 10}
    assert seen["done"] + seen["upstream_error"] + seen["breaker_open"] == 200
    assert flapping.requests <= 220 - seen["breaker_open"]
    assert steady.requests == 10


def test_a_breaker_opens_and_recovers_by_one_probe(tmp_path: Path) -> None:
    """Five requests until it opens, none while it is open, one that closes it, and then one for each call again."""
    with sick() as backend, gateway(tmp_path, look=spec("look", backend)) as up:
        backend.mood = "errors"
        seen = codes(up, "look", 20)
        # On a machine that is slow it may be tried meanwhile, by one request each time.
        assert seen == {"upstream_error": backend.requests, "breaker_open": 20 - backend.requests}
        assert FAILURES <= backend.requests < 10
        name = f"http://127.0.0.1:{backend.port}"
        assert states(up) == [(name, "open", backend.requests)]
        assert up.get("/readyz") == (200, {"audit": "ok", "backends": "1 open", "policy": "ok"})
        before, backend.mood = backend.requests, "well"
        seen = until_done(up, "look")
        assert set(seen) <= {"breaker_open", "done"}
        assert backend.requests == before + 1
        assert codes(up, "look", 20, at_once=4) == {"done": 20}
        assert backend.requests == before + 21
        assert states(up) == [(name, "closed", 0)]


def test_a_hanging_backend_has_its_fallback_answer(tmp_path: Path) -> None:
    """Those that hung when it was found out failed; after that the other backend answers, and nothing is sent here."""
    with sick() as hanging, sick() as other:
        specs = {
            "look": spec("look", hanging, "timeout: 500ms", "fallback: other"),
            "other": spec("other", other),
        }
        with gateway(tmp_path, **specs) as up:
            hanging.mood = "hangs"
            seen = codes(up, "look", 10, at_once=5)
            seen += until_done(up, "look")
    assert seen == {"timeout": hanging.requests, "done": other.requests}
    assert hanging.requests >= FAILURES
