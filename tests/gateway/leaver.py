"""A tool that takes and leaves files, for tests: its spec, its policy, and a runner that plays its code."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from gateway.cases import fresh_trial
from gateway.loading import load_files
from gateway.model import Outcome, Principal, RawOutput
from gateway.runners.canned import Upstream
from gateway.tool import SandboxBackend
from gateway.work import Work
from tests.kit import Lab

SPEC = """
apiVersion: toolgate/v1
kind: Tool
name: work
version: 1.0.0
description: Works on files.
input_schema:
  type: object
  properties:
    code: {type: string}
    files: {type: object, additionalProperties: {type: string}}
  required: [code]
effects: [exec]
labels: {output: [untrusted]}
limits: {output: 4KiB}
runner:
  sandbox:
    backend: wasm-python
    code: {argument: code}
    files: {in: artifacts, out: 4MiB}
"""
CLEAN = SPEC.replace("name: work", "name: clean").replace("output: [untrusted]", "output: []")
POLICY = """
apiVersion: toolgate/v1
kind: Policy
id: files
rules:
- {id: all, effect: permit, match: {tools: [work, clean]}}
- id: nothing-suspicious
  effect: forbid
  match: {tools: [clean]}
  when: ['"suspicious" in session.labels']
  message: Not with suspicious files.
"""
SPECS = {"work.yaml": SPEC, "clean.yaml": CLEAN}

Code = Callable[[Work], RawOutput | Awaitable[RawOutput]]


class Player:
    """Runs what it was given as the code of every call; `work` is the last it got."""

    def __init__(self, code: Code) -> None:
        self.code = code
        self.work: Work | None = None

    async def run(self, work: Work) -> RawOutput:
        self.work = work
        said = self.code(work)
        return said if isinstance(said, RawOutput) else await said


def leaving(files: Mapping[str, bytes], text: str = "done") -> Code:
    """Code that leaves these files, whatever it gets."""
    return lambda work: RawOutput(text, files=files)


def lab_with(code: Code, specs: Mapping[str, str] = SPECS, policy: str = POLICY) -> tuple[Lab, Player]:
    """A lab whose sandboxed tools are played by `code`; `dev`, `ann` and `stranger` may call it."""
    loaded = load_files({name: text.encode() for name, text in specs.items()}, {"files.yaml": policy.encode()})
    player = Player(code)
    trial = fresh_trial(loaded, {}, Upstream(200, {}))
    lab = Lab(replace(trial, gate=replace(trial.gate, runners={SandboxBackend: player})))
    agent = frozenset({"agent"})
    others = {
        "ann": Principal("dev", "default", "ann", scopes=agent),
        "stranger": Principal("dev", "other", scopes=agent),
        "operator": Principal("dev", "default", scopes=frozenset({"operator"})),
    }
    lab.trial.authority.principals.update(others)
    return lab, player


def handles(outcome: Outcome) -> dict[str, str]:
    """The handles of what a call left, by name."""
    return {artifact.name: artifact.handle for artifact in outcome.artifacts}
