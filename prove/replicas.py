"""`python -m prove.replicas [ROOM] [ROUNDS]`: two gateways and one Redis behave as one; exit 1 if a promise is broken.

Ten times ROOM calls at once at both: of each limit exactly ROOM are done. ROUNDS sessions in which one gateway reads
what may not be trusted, and the very next call at the other is refused. What is revoked or closed at one is refused at
both.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tests.e2e.exact import POLICY, TAKES, opened, raced, specs
from tests.e2e.replicas import Replicas, replicas, told
from tests.e2e.test_replicas import READ, TRIFECTA
from tests.redisserver import RedisServer, started

WITHIN = 1.0  # seconds: what is promised
PATIENCE = 10.0  # bounds a hang


def main(room: int, rounds: int) -> int:
    """Each promise in turn, on gateways of its own."""
    with started() as server:
        broken = [*_limits(server, room), *_labels(server, rounds), *_taken(server)]
    for each in broken:
        print(f"BROKEN {each}")
    return 1 if broken else 0


def _limits(server: RedisServer, room: int) -> Iterator[str]:
    settings: dict[str, dict[str, str]] = {"": {}}
    for over in ("principal", "tenant", "all"):
        settings[f"rate of {over}"] = {"TOOLGATE_LIMITS__RATES": json.dumps({over: f"{room}/1h"})}
    for over in ("principal", "tenant"):
        for within in (None, "24h"):
            budget = {"over": over, "calls": room} | ({"within": within} if within else {})
            settings[f"calls of {over} within {within}"] = {"TOOLGATE_LIMITS__BUDGETS": json.dumps([budget])}
    for name, env in settings.items():
        server.whole()
        with (
            tempfile.TemporaryDirectory(prefix="prove") as folder,
            replicas(Path(folder), server, env, also=(specs(room), POLICY)) as both,
        ):
            races = {name: ("spend", "")} if name else {"a rate": ("rated", ""), "places": ("placed", "")}
            if not name:
                races |= {f"{each} of a session": ("spend", opened(both, each, room)) for each in TAKES}
            for race, (tool, session) in races.items():
                done, refused = raced(both, room, tool, session)
                print(f"replicas: {race}: {done} of {10 * room} done, the others {', '.join(refused)}", flush=True)
                if done != room:
                    yield f"{race}: {done} were done where {room} may be"


def _labels(server: RedisServer, rounds: int) -> Iterator[str]:
    server.whole()
    with (
        tempfile.TemporaryDirectory(prefix="prove") as folder,
        replicas(Path(folder), server, also=(READ, TRIFECTA)) as both,
    ):
        body, refused = json.dumps({"arguments": {"text": "x"}}).encode(), 0
        for number in range(rounds):
            reader, sender = both.each[number % 2], both.each[1 - number % 2]
            headers = {"Toolgate-Session": f"s{number}"}
            assert reader.post("/v1/tools/look/call", body, **headers)[0] == 200
            refused += sender.post("/v1/tools/count/call", body, **headers)[0] == 403
    print(f"replicas: labels: {refused} of {rounds} sends refused after a read at the other gateway", flush=True)
    if refused != rounds:
        yield "labels: something was sent"


def _taken(server: RedisServer) -> Iterator[str]:
    for what in ("key", "token", "agent", "session"):
        server.whole()
        with tempfile.TemporaryDirectory(prefix="prove") as folder, replicas(Path(folder), server) as both:
            made = told(both.each[0].home, "keys", "create", "--agent", "dev")
            both = replace(both, each=tuple(replace(each, key=made["key"]) for each in both.each))
            _until(both, 200)
            _take(both, what, str(made["id"]))
            late = _until(both, 403 if what == "session" else 401)
        print(f"replicas: {what} taken away: refused at both {late * 1000:.0f} ms after the answer", flush=True)
        if late > WITHIN:
            yield f"{what}: {late:.1f} s"


def _take(both: Replicas, what: str, key: str) -> None:
    home = both.each[0].home
    if what == "session":
        assert both.each[0].delete("/v1/sessions/default")[0] == 200
    elif what == "key":
        told(home, "keys", "revoke", key)
    else:
        told(home, "revoke", f"--{what}", key if what == "token" else "dev", "--why", "to see how soon")


def _until(both: Replicas, status: int) -> float:
    """Seconds until both answer so, each time that they are asked."""
    begun = time.monotonic()
    while any(each.call("count", {"text": "x"})[0] != status for each in both.each):
        if time.monotonic() - begun > PATIENCE:
            return PATIENCE
    return time.monotonic() - begun


if __name__ == "__main__":
    sizes = [int(each) for each in sys.argv[1:]]
    sys.exit(main(*(sizes if len(sizes) == 2 else (50, 100))))
