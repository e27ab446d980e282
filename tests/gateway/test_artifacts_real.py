"""Files of real code in a real sandbox, kept on disk: written by one call, read by the next, had by REST."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from gateway.app import SystemClock
from gateway.artifacts import handle_of
from gateway.cases import fresh_trial
from gateway.loading import load_files
from gateway.model import Outcome
from gateway.runners.canned import Upstream
from gateway.stores.artifacts import FileArtifacts
from gateway.stores.sqlite import SqliteArtifactRows, State
from sandboxes.pool import WasmPython
from tests.gateway.leaver import POLICY, SPECS
from tests.kit import Lab

PATIENCE = 120  # bounds a hang; nothing here measures time
WRITES = 'open("out.csv", "w").write("a,b\\n1,2\\n"); print("written")'
READS = """
rows = open("in.csv").read().splitlines()
open("sum.txt", "w").write(str(sum(map(int, rows[1].split(",")))))
print(rows[0])
"""


def play(scenario: Callable[[Lab], Awaitable[None]], folder: Path) -> None:
    """Runs a scenario in a lab with real workers and a store on disk."""

    async def whole() -> None:
        loaded = load_files({name: text.encode() for name, text in SPECS.items()}, {"p.yaml": POLICY.encode()})
        pool = WasmPython(workers=1, spares=0)
        await pool.start()
        try:
            with closing(State(folder / "state.db")) as state:
                trial, clock = fresh_trial(loaded, {"wasm-python": pool}, Upstream(200, {})), SystemClock()
                store = FileArtifacts(folder / "artifacts", SqliteArtifactRows(state))
                await scenario(Lab(replace(trial, gate=replace(trial.gate, clock=clock, artifacts=store))))
        finally:
            await pool.close()

    asyncio.run(asyncio.wait_for(whole(), PATIENCE))


def left(outcome: Outcome) -> dict[str, str]:
    assert outcome.problem is None, (outcome.problem, outcome.text)
    return {artifact.name: artifact.handle for artifact in outcome.artifacts}


def test_code_writes_a_file_that_other_code_reads(tmp_path: Path) -> None:
    """Out of one sandbox and into another, by a handle; the bytes read back equal over REST too."""

    async def scenario(lab: Lab) -> None:
        first = await lab.call("work", {"code": WRITES})
        table = b"a,b\n1,2\n"
        assert (first.text, left(first)) == ("written\n", {"out.csv": handle_of(table)})
        second = await lab.call("work", {"code": READS, "files": {"in.csv": handle_of(table)}})
        assert (second.text, left(second)) == ("a,b\n", {"sum.txt": handle_of(b"3")})
        reply = await lab.http("GET", f"/v1/artifacts/{handle_of(table)}")
        assert (reply.status, reply.body) == (200, table)

    play(scenario, tmp_path)


def test_a_long_result_of_real_code_is_kept_whole(tmp_path: Path) -> None:
    """What the tool's limit cuts off stands in the artifact."""

    async def scenario(lab: Lab) -> None:
        outcome = await lab.call("work", {"code": "for n in range(5000): print(n)"})
        text = "".join(f"{n}\n" for n in range(5000)).encode()
        assert outcome.truncated
        assert left(outcome)["result.txt"] == handle_of(text)
        reply = await lab.http("GET", f"/v1/artifacts/{handle_of(text)}")
        assert (reply.status, reply.body) == (200, text)

    play(scenario, tmp_path)


def test_an_input_that_was_only_read_is_not_left_again(tmp_path: Path) -> None:
    """What comes back is what is new or changed."""

    async def scenario(lab: Lab) -> None:
        handle = left(await lab.call("work", {"code": WRITES}))["out.csv"]
        same = await lab.call("work", {"code": "print(open('in.csv').read())", "files": {"in.csv": handle}})
        assert (same.text, left(same)) == ("a,b\n1,2\n\n", {})

    play(scenario, tmp_path)
