"""Two real gateways over one real Redis, each with a home of its own, called in turn with one key."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from tests.e2e.upstream import Counted, counting_upstream, spec_and_policy
from tests.redisserver import RedisServer
from tests.served import Served, Wire, served, toolgate

PATIENCE = 20.0  # bounds a hang, in seconds


@dataclass(frozen=True)
class Replicas:
    """The gateways, each with the key that all of them know, and the backend that counts what they did."""

    each: tuple[Served, ...]
    upstream: Counted

    async def all_at_once(self, calls: int, tool: str = "count") -> list[tuple[int, Any]]:
        """So many calls in turn to each gateway, all under way together; their answers."""

        async def line(at: Served, numbers: range) -> list[tuple[int, Any]]:
            with closing(await Wire.to(at)) as wire:
                answers = list[tuple[int, Any]]()
                for number in numbers:
                    answers.append(await wire.call(tool, {"text": str(number)}))
                    if answers[-1][0] == 401:  # whoever is nobody is not listened to any longer
                        break
                return answers

        per = 5  # calls of one connection, one after another
        lines = [
            line(self.each[n % len(self.each)], range(begin, min(begin + per, calls)))
            for n, begin in enumerate(range(0, calls, per))
        ]
        return [answer for answers in await asyncio.gather(*lines) for answer in answers]


@contextmanager
def replicas(
    folder: Path,
    server: RedisServer,
    env: Mapping[str, str] | None = None,
    also: tuple[str | Mapping[str, str], str] = ("", ""),
) -> Iterator[Replicas]:
    """Two of them, with the counting tool; stopped at the end. `also`: one more spec, or several by their file, and
    another policy."""
    with ExitStack() as stack:
        upstream = stack.enter_context(counting_upstream())
        specs, policies = spec_and_policy(folder, upstream)
        more = {"also.yaml": also[0]} if isinstance(also[0], str) else also[0]
        for name, text in more.items():
            if text:
                (specs / name).write_text(text.replace("PORT", str(upstream.port)))
        if also[1]:
            (policies / "count.yaml").write_text(also[1])
        flags = ("--specs", str(specs), "--policies", str(policies))
        given = {"TOOLGATE_STORE": f"{server.url}?deadline=2", **(env or {})}
        first, second = (stack.enter_context(served(folder / name, *flags, env=given)) for name in ("a", "b"))
        both = Replicas((first, replace(second, key=first.key)), upstream)
        until(lambda: both.each[1].get("/v1/tools")[0] == 200)  # the key of the one is known to the other
        yield both


def until(true: Callable[[], object]) -> None:
    """Waits until it is so."""
    due = time.monotonic() + PATIENCE
    for _ in count():
        if true():
            return
        assert time.monotonic() < due, "it did not come true"
        time.sleep(0.02)


def told(home: Path, *arguments: str, store: str = "sqlite") -> Any:
    """What a command says, which has to succeed."""
    done = toolgate(home, *arguments, "--json", env={"TOOLGATE_STORE": store})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def records(home: Path, kind: str) -> list[dict[str, Any]]:
    """What a gateway has on record of one type."""
    lines = (line for file in sorted((home / "audit").rglob("*.jsonl")) for line in file.open("rb"))
    found: list[dict[str, Any]] = [json.loads(line) for line in lines if line.startswith(b"{")]
    return [record for record in found if record["type"] == kind]
