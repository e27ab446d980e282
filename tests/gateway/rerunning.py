"""Real code in real sandboxes, recorded on a real ledger, to be run again; and records copied with a lie in them."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway.app import RandomIds, SystemClock
from gateway.audit.ledger import open_ledger
from gateway.audit.lines import RESERVED
from gateway.audit.query import records, reveal
from gateway.cases import fresh_trial
from gateway.loading import OFFERS, Loaded, load_files
from gateway.model import Outcome
from gateway.ports import Line
from gateway.rerun.run import Rerun, rerun
from gateway.runners.fetch import FetchRunner
from gateway.runners.http import HttpRunner
from gateway.runners.net import Net
from gateway.stores.artifacts import FileArtifacts
from gateway.stores.sqlite import SqliteArtifactRows, State
from gateway.tool import FetchBackend, HttpBackend
from sandboxes.model import Backend, Job
from sandboxes.pool import WasmJs, WasmPython
from sandboxes.wasm_modules import WasmModules
from tests.kit import Lab

PATIENCE = 240  # bounds a hang; nothing here measures time
CODER = """
apiVersion: toolgate/v1
kind: Tool
name: NAME
version: 1.0.0
description: Runs code.
input_schema:
  type: object
  properties:
    code: {type: string, default: ""}
    args: {type: object, additionalProperties: true}
    files: {type: object, additionalProperties: {type: string}}
effects: [exec]
labels: {output: []}
timeout: 30s
runner:
  sandbox:
    backend: BACKEND
    code: CODE
    limits: {memory: 64MiB, output: 200KiB, host_calls: 6}
"""
NOISE = {
    "wasm-python": "import random\nx = {str(n): [random.random()] for n in range(50000)}\nraise ValueError(len(x))",
    "wasm-js": "const x = []; for (let n = 0; n < 1e5; n++) x.push({n: Math.random()}); throw x.length",
}
FILES = "    files: {in: artifacts, out: 1MiB}\n"
POLICY = """
apiVersion: toolgate/v1
kind: Policy
id: again
rules:
- {id: all, effect: permit, match: {tools: [code, js, mod, boxed, slow, look, net.fetch]}}
- {id: not-war, effect: forbid, match: {tools: [look]}, when: ['args.what == "war"'], message: Not about war.}
- {id: gold, effect: permit, match: {tools: [look]}, with: {approval: {when: args.what == "gold", by: ["user:ann"]}}}
- {id: quiet, effect: permit, match: {tools: [quiet]}, with: {record: metadata}}
- {id: asked, effect: permit, match: {tools: [asked]}, with: {record: request}}
"""


def coder(name: str, backend: str = "wasm-python", code: str = "{argument: code}", more: str = FILES) -> str:
    """The spec of a tool that runs code."""
    return CODER.replace("NAME", name).replace("BACKEND", backend).replace("CODE", code) + more


def look(port: int) -> str:
    """The spec of a tool at a real upstream, with a default among its arguments."""
    return f"""
apiVersion: toolgate/v1
kind: Tool
name: look
version: 1.0.0
description: Looks something up.
input_schema:
  type: object
  properties: {{what: {{type: string, maxLength: 50}}, deep: {{type: number, default: 1}}}}
  required: [what]
effects: [read]
labels: {{output: []}}
runner:
  http: {{method: POST, url: "http://127.0.0.1:{port}/look", json: {{what: "{{what}}", deep: "{{deep}}"}}}}
"""


class Place:
    """A home folder, the specs served there, and what was called: `ids` in order, `outcomes` by id."""

    def __init__(self, path: Path, specs: Sequence[str], modules: Mapping[str, frozenset[str]] | None = None) -> None:
        self.home, self.guests = path / "home", path / "guests"
        self.home.mkdir(mode=0o700, exist_ok=True)
        self.modules = modules or {}
        self.loaded = self.load(specs)
        self.ids: list[str] = []

    def load(self, specs: Sequence[str]) -> Loaded:
        """Other specs, under the same policy."""
        offers = {**OFFERS, "wasm": replace(OFFERS["wasm"], modules=self.modules)}
        files = {f"{number}.yaml": text.encode() for number, text in enumerate(specs)}
        return load_files(files, {"lab.yaml": POLICY.encode()}, offers)

    @asynccontextmanager
    async def up(self, *kinds: str) -> AsyncIterator[dict[str, Backend]]:
        """Fresh sandboxes of these kinds, one worker each."""
        async with AsyncExitStack() as stack:
            made: dict[str, Backend] = {}
            for kind in kinds:
                if kind == "wasm":
                    made[kind] = WasmModules(self.guests, workers=1)
                else:
                    made[kind] = (WasmJs if kind == "wasm-js" else WasmPython)(workers=1, spares=0)
                stack.push_async_callback(made[kind].close)
                await made[kind].start()
            yield made

    @asynccontextmanager
    async def serving(self, sandboxes: Mapping[str, Backend], net: Net | None = None) -> AsyncIterator[Lab]:
        """A gateway over the home folder: real ledger, real store of artifacts, the machine's clock."""
        trial = fresh_trial(self.loaded, sandboxes, None)
        runners = dict(trial.gate.runners)
        if net is not None:
            runners |= {HttpBackend: HttpRunner(net), FetchBackend: FetchRunner(net)}
        with closing(State(self.home / "state.db")) as state:
            ledger = open_ledger(self.home)
            store = FileArtifacts(self.home / "artifacts", SqliteArtifactRows(state))
            gate = replace(trial.gate, ledger=ledger, artifacts=store, clock=SystemClock(), ids=RandomIds())
            try:
                yield Lab(replace(trial, gate=replace(gate, runners=runners)))
            finally:
                await ledger.close()

    async def call(self, lab: Lab, tool: str, **arguments: Any) -> Outcome:
        """One call in the session `job`, noted."""
        outcome = await lab.call(tool, arguments, session="job")
        self.ids.append(outcome.call_id)
        return outcome

    async def again(
        self, *kinds: str, loaded: Loaded | None = None, home: Path | None = None, ids: Sequence[str] = ()
    ) -> list[Rerun]:
        """These calls (else all) run again, the last first, in sandboxes in which other code has run before."""
        async with self.up(*kinds) as sandboxes:
            for kind in kinds:
                await sandboxes[kind].run(Job(NOISE.get(kind, ""), tenant="default"))
            backwards = await rerun(home or self.home, loaded or self.loaded, sandboxes, (ids or self.ids)[::-1])
            return backwards[::-1]

    async def retold(self, home: Path, lie: Callable[[dict[str, Any]], None]) -> Path:
        """A ledger of its own with the same records, each as `lie` left it: a dict with type, fields and content."""
        ledger = open_ledger(home)
        for shown in reveal(self.home, records(self.home)):
            sealed = shown.record.get("content")
            if not str(shown.record["type"]).startswith("call."):
                continue
            fields = {name: copy.deepcopy(each) for name, each in shown.record.items() if name not in RESERVED}
            told: dict[str, Any] = {"type": shown.record["type"], "fields": fields, "content": shown.content}
            lie(told)
            if told["type"] is None:
                continue
            key = str(sealed["key"]) if isinstance(sealed, dict) else None
            await ledger.append(Line(told["type"], fields, told["content"], key, str(fields["tenant"])))
        await ledger.close()
        return home


def play(scene: Callable[[], Awaitable[None]]) -> None:
    """Runs a scene to its end."""

    async def whole() -> None:
        async with asyncio.timeout(PATIENCE):
            await scene()

    asyncio.run(whole())


def verdicts(found: Sequence[Rerun]) -> list[str]:
    """What is said of each, with the reason or the differences."""
    return [
        " | ".join((each.verdict, *map(str, each.differences), *((each.reason,) if each.reason else ())))
        for each in found
    ]
