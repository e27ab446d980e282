"""Every kind of sandbox through a whole gateway: code calls a tool, is refused another, and leaves and takes files."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.app import SystemClock
from gateway.loading import OFFERS, load_files
from gateway.runners.canned import Upstream
from sandboxes.model import Backend
from sandboxes.modules import register
from sandboxes.pool import WasmJs, WasmPython
from sandboxes.wasm_modules import WasmModules
from tests.engine import Engine
from tests.gateway.coder import POLICY, SPECS
from tests.kit import Lab
from tests.sandboxes.containers import opened
from tests.sandboxes.programs import assemble

PATIENCE = 90  # bounds a hang; nothing here measures time
SPEC = """
apiVersion: toolgate/v1
kind: Tool
name: coder
version: 1.0.0
description: Runs code that calls tools.
input_schema:
  type: object
  properties: {code: {type: string, default: ""}, files: {type: object, additionalProperties: {type: string}}}
effects: [exec]
labels: {output: []}
timeout: 30s
runner:
  sandbox:
    backend: BACKEND
    code: CODE
    tools: [look, send]
"""
PYTHON = """
found = call("look", what="sky")
try:
    call("send", what="news")
except ToolError as error:
    result = [found, str(error)]
"""
JAVASCRIPT = """
const found = await call("look", {what: "sky"});
try { await call("send", {what: "news"}) } catch (error) { globalThis.result = [found, error.message] }
"""
SHELL = """
found=$(toolgate-call look '{"what": "sky"}')
said=$(toolgate-call send '{"what": "news"}' 2>&1) || true
printf '%s\\n%s\\n' "$found" "$said"
"""
# Writes the reply to `look`, then the reply to `send`, each as it came.
MODULE = """
(module
  (import "toolgate" "call" (func $call (param i32 i32 i32 i32) (result i32)))
  (import "toolgate" "result" (func $result (param i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 1000) "look") (data (i32.const 1010) "send") (data (i32.const 1020) "{\\22what\\22: \\22x\\22}\\n")
  (func $one (param $name i32)
    (local $size i32)
    (local.set $size (call $call (local.get $name) (i32.const 4) (i32.const 1020) (i32.const 13)))
    (call $result (i32.const 2000))
    (i32.store (i32.const 0) (i32.const 2000)) (i32.store (i32.const 4) (local.get $size))
    (i32.store (i32.const 8) (i32.const 1033)) (i32.store (i32.const 12) (i32.const 1))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 2) (i32.const 16))))
  (func (export "_start") (call $one (i32.const 1000)) (call $one (i32.const 1010))))
"""
KINDS = ["wasm-python", "wasm-js", "wasm", "docker", "docker shell"]


@asynccontextmanager
async def sandbox(kind: str, engine: Engine | None, guests: Path) -> AsyncIterator[tuple[Backend, str, str]]:
    """A started backend, the `code` of a spec for it, and the program of the first test."""
    async with AsyncExitStack() as stack:
        if kind.startswith("docker"):
            assert engine is not None
            docker = await stack.enter_async_context(opened(engine))
            if kind == "docker":
                yield docker, f'{{argument: code, image: "{engine.images["python"]}"}}', PYTHON
            else:
                yield docker, f'{{argument: code, image: "{engine.images["shell"]}", command: [bash, -eu]}}', SHELL
            return
        pool: Backend
        if kind == "wasm":
            digest = register(guests, assemble([MODULE])[0]).digest
            pool, code, program = WasmModules(guests, workers=1), f'{{module: "{digest}"}}', ""
        elif kind == "wasm-js":
            pool, code, program = WasmJs(workers=1, spares=0), "{argument: code}", JAVASCRIPT
        else:
            pool, code, program = WasmPython(workers=1, spares=0), "{argument: code}", PYTHON
        stack.push_async_callback(pool.close)
        await pool.start()
        yield pool, code, program


@asynccontextmanager
async def lab(kind: str, engine: Engine | None, guests: Path, more: str = "") -> AsyncIterator[tuple[Lab, str]]:
    """A gateway whose tool `coder` runs in this kind of sandbox, and the program of the first test."""
    async with sandbox(kind, engine, guests) as (backend, code, program):
        spec = SPEC.replace("BACKEND", kind.split()[0]).replace("CODE", code) + more
        files = {name: text.encode() for name, text in {**SPECS, "coder.yaml": spec}.items()}
        registered = {code.partition('"')[2].partition('"')[0]: frozenset({"calls"})}
        offers = {**OFFERS, "wasm": replace(OFFERS["wasm"], modules=registered)}
        loaded = load_files(files, {"lab.yaml": POLICY.encode()}, offers)
        made = Lab.over(loaded, Upstream(200, {"said": "hello"}), backend)
        made.gate = replace(made.gate, clock=SystemClock())
        yield made, program


@pytest.fixture
def engine_for(request: pytest.FixtureRequest, kind: str) -> Engine | None:
    """An engine, for the kinds that need one."""
    return request.getfixturevalue("engine") if kind.startswith("docker") else None


def said(outcome: Any, kind: str) -> tuple[Any, str]:
    """The answer of `look` and the text of the refusal of `send`, as the program got them."""
    assert outcome.problem is None, (outcome.problem, outcome.text)
    if kind == "wasm":
        look, send = map(json.loads, outcome.text.strip().splitlines())
        return look["value"], send["error"]
    if kind == "docker shell":
        look, _, send = outcome.text.partition("\n")
        return json.loads(look), send
    look, send = outcome.structured["result"]
    return look, send


@pytest.mark.parametrize("kind", KINDS)
def test_code_calls_tools_from_every_kind_of_sandbox(kind: str, engine_for: Engine | None, tmp_path: Path) -> None:
    """The permitted call answers, the forbidden one is something the code can read; three linked calls on record."""

    async def scenario() -> None:
        async with lab(kind, engine_for, tmp_path / "guests") as (gateway, program):
            outcome = await gateway.call("coder", {"code": program})
            look, send = said(outcome, kind)
            assert look == {"said": "hello"}
            assert "(forbidden)" in send
            assert "It read pages." in send
            lines = [line for line in gateway.trial.ledger.lines if line.type.startswith("call.")]
            nested = [line for line in lines if line.fields.get("parent_call_id")]
            assert [line.type for line in nested] == ["call.intent", "call.outcome", "call.refused"]
            assert {line.fields["parent_call_id"] for line in nested} == {outcome.call_id}

    asyncio.run(asyncio.wait_for(scenario(), PATIENCE))


LEAVES = {
    "wasm-python": 'open("out.csv", "w").write("a,b\\n1,2\\n")',
    "wasm-js": 'writeFile("out.csv", "a,b\\n1,2\\n")',
    "docker": 'open("out.csv", "w").write("a,b\\n1,2\\n")',
    "docker shell": "printf 'a,b\\n1,2\\n' > out.csv",
}
TAKES = {
    "wasm-python": 'print(open("in.csv").read(), end="")',
    "wasm-js": 'print(readTextFile("in.csv").trimEnd())',
    "docker": 'print(open("in.csv").read(), end="")',
    "docker shell": "cat in.csv",
}


@pytest.mark.parametrize("kind", LEAVES)
def test_a_file_goes_from_one_call_to_the_next(kind: str, engine_for: Engine | None, tmp_path: Path) -> None:
    """What one call leaves is kept under a handle, and the next call finds it under the name it gives it."""

    async def scenario() -> None:
        more = "    files: {in: artifacts, out: 64KiB}\n"
        async with lab(kind, engine_for, tmp_path / "guests", more) as (gateway, _):
            left = await gateway.call("coder", {"code": LEAVES[kind]})
            assert left.problem is None, (left.problem, left.text)
            (artifact,) = left.artifacts
            assert (artifact.name, artifact.size) == ("out.csv", 8)
            taken = await gateway.call("coder", {"code": TAKES[kind], "files": {"in.csv": artifact.handle}})
            assert taken.problem is None, (taken.problem, taken.text)
            assert taken.text.splitlines()[:2] == ["a,b", "1,2"]

    asyncio.run(asyncio.wait_for(scenario(), PATIENCE))
