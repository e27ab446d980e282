"""Every case file runs through the pipeline, REST and MCP, and the three agree."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.case_files import open_cases
from gateway.cases import arrange, fresh_trial, judge, run_case
from gateway.loading import Loaded, load_files
from gateway.model import Outcome
from gateway.policy.cases import Case
from gateway.policy.past import Past
from gateway.policy.shapes import WithShape
from gateway.runners.canned import Upstream
from gateway.tool import SandboxBackend
from sandboxes.pool import WasmPython
from tests.kit import ECHO, Lab

FOLDER = Path(__file__).parent.parent / "cases"


@asynccontextmanager
async def sandbox(loaded: Loaded) -> AsyncIterator[WasmPython | None]:
    """A pool where a tool needs one."""
    if not any(isinstance(tool.backend, SandboxBackend) for tool in loaded.catalogue.all()):
        yield None
        return
    pool = WasmPython(workers=1)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


def seen(outcome: Outcome) -> dict[str, Any]:
    """What every door must say alike."""
    return {
        "code": outcome.problem.code if outcome.problem else None,
        "failed": outcome.problem is not None,
        "structured": outcome.structured,
        "rule": outcome.problem.rule if outcome.problem else None,
    }


def _session(case: Case) -> dict[str, str]:
    """The header that names the session."""
    return {"Toolgate-Session": case.session.id}


async def over_rest(lab: Lab, case: Case) -> dict[str, Any]:
    """The same, as REST shows it."""
    said = (await lab.rest(case.tool, case.arguments, case.name, **_session(case))).json
    if "result" not in said:
        return {"code": said["code"], "failed": True, "structured": None, "rule": said.get("rule")}
    problem = said["problem"] or {}
    return {
        "code": problem.get("code"),
        "failed": said["result"]["is_error"],
        "structured": said["result"]["structured_content"],
        "rule": problem.get("rule"),
    }


async def over_mcp(lab: Lab, case: Case, *, modern: bool) -> dict[str, Any]:
    """The same, as MCP shows it."""
    result = await lab.mcp(case.tool, case.arguments, case.name, modern=modern, **_session(case))
    meta = result.get("_meta") or result.get("data") or {}
    problem = meta.get("dev.toolgate/problem") or {}
    return {
        "code": problem.get("code"),
        "failed": bool(result.get("isError", "code" in result)),
        "structured": result.get("structuredContent"),
        "rule": problem.get("rule"),
    }


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_case_comes_out_as_wanted_through_all_doors(file: Path) -> None:
    """Pipeline, REST, modern MCP and legacy MCP give one outcome for one call."""
    asyncio.run(run_file(file))


async def run_file(file: Path) -> None:
    """Each case four times, each in a gateway of its own."""
    cases, loaded = open_cases(file)
    upstream = Upstream(*cases.upstream) if cases.upstream else None
    async with sandbox(loaded) as pool:
        for case in cases.cases:
            labs = [Lab.over(loaded, upstream, pool) for _ in range(4)]
            for lab in labs:
                arrange(lab.trial, case)
            outcome = await labs[0].call(case.tool, case.arguments, case.name, session=case.session.id)
            result = judge(labs[0].trial, case, outcome)
            assert result.ok, f"{case.source} {case.name}: wanted {result.wanted}, got {result.got}"
            said = seen(outcome)
            assert await over_rest(labs[1], case) == said, case.name
            assert await over_mcp(labs[2], case, modern=True) == said, case.name
            assert await over_mcp(labs[3], case, modern=False) == said, case.name
            recorded = [[line.type for line in lab.trial.ledger.lines] for lab in labs]
            assert recorded == [recorded[0]] * 4, case.name


def test_a_history_that_does_not_fit_fails_its_case() -> None:
    """No call is made: the case says which past call could not have been, and why."""
    cases, loaded = open_cases(FOLDER / "history.yaml")
    wrong = replace(cases.cases[0], history=(Past("refund", {"amount": "much"}, 60.0, "done"),))
    trial = fresh_trial(loaded, {}, None)
    result = asyncio.run(run_case(trial, wrong))
    assert (result.ok, result.got.startswith("history 1: no call of refund: /amount is ")) == (False, True)
    assert trial.ledger.lines == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"timeout": "6s"},
        {"limit": {"key": "session", "calls": "60/1m"}},
        {"screen": {"injection": "flag"}},
        {"cache": "on"},
        {"network": {"allow": ["GET https://a.org/**"]}},
        {"approval": {"by": ["requester"]}},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_obligations_that_came_out_otherwise_fail_a_case_of_a_whole_gateway(wrong: dict[str, Any]) -> None:
    """They are read from the record of the call; the case says which key is not as it wants."""
    cases, loaded = open_cases(FOLDER / "history.yaml")
    (case,) = (case for case in cases.cases if case.expect.obligations is not None)
    trial = fresh_trial(loaded, {}, Upstream(*cases.upstream) if cases.upstream else None)
    wanted = replace(case, expect=replace(case.expect, obligations=WithShape.model_validate(wrong)))
    result = asyncio.run(run_case(trial, wanted))
    (key,) = wrong
    assert (result.ok, f"but not with {key}" in result.got) == (False, True)


ASKING = """
apiVersion: toolgate/v1
kind: Policy
id: asking
rules:
- {id: loudly, effect: permit, match: {tools: [echo]}, with: {approval: {when: args.loud, by: ["user:ann"], ttl: 5m}}}
"""
CASES = """
cases:
- name: asks
  call: {text: hi, loud: true}
  expect: {parked: loudly, obligations: {approval: {by: ["user:ann"], ttl: 5m}}}
- {name: asks nobody, call: {text: hi}, expect: {parked: loudly}}
- {name: asks for another rule, call: {text: hi, loud: true}, expect: {parked: other}}
- {name: has to wait, call: {text: hi, loud: true}, expect: {done: {text: hi}}}
- {name: is permitted by it, call: {text: hi, loud: true}, expect: {permit: loudly}}
"""


def test_a_spec_may_say_that_people_are_asked() -> None:
    """A case of a tool goes through the whole gateway: it holds when the call waits for a yes to that rule."""
    loaded = load_files({"echo.yaml": (ECHO + CASES).encode()}, {"lab.yaml": ASKING.encode()})
    found = [asyncio.run(run_case(fresh_trial(loaded, {}, None), case)) for case in loaded.cases]
    assert [(each.name, each.ok) for each in found] == [
        ("asks", True),
        ("asks nobody", False),
        ("asks for another rule", False),
        ("has to wait", False),
        ("is permitted by it", True),
    ]
