"""Cases: what a policy file says of itself, checked on decisions alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from gateway.policy.cases import load_cases, run_cases
from gateway.policy.language import schema_of
from gateway.specs.yaml import SpecErrors
from tests.gateway.policy.makers import FETCH, RUN, bundle, call

POLICY = """id: a
rules:
- {id: fetch, effect: permit, match: {agents: [dev]}, when: ['args.url == "d"'], with: {timeout: 5s, label: [x]}}
- {id: tainted, effect: forbid, match: {effects: [egress]}, when: ['"pii" in session.labels || session.calls > 3']}
tests:
"""
CASES: list[tuple[str, bool, str]] = [
    ("call: {fetch: {url: d}}, expect: {permit: fetch}", True, "permit fetch"),
    ("call: {fetch: {url: d}}, expect: {permit: other}", False, "permit fetch"),
    ("call: {fetch: {url: d}}, expect: {permit: fetch, obligations: {timeout: 5s, label: [x]}}", True, "permit fetch"),
    ("call: {fetch: {url: d}}, expect: {permit: fetch, obligations: {timeout: 6s}}", False, "but not with timeout"),
    ("call: {fetch: {url: d}}, expect: {deny: no_permit}", False, "permit fetch"),
    ("call: {fetch: {url: e}}, expect: {deny: no_permit}", True, "deny no_permit"),
    ("call: {fetch: {url: e}}, expect: {permit: fetch}", False, "deny no_permit"),
    ("call: {fetch: {url: e}}, expect: {refused: no_permit}", True, "deny no_permit"),
    ("call: {fetch: {url: d}}, session: {labels: [pii]}, expect: {deny: tainted}", True, "deny forbidden by tainted"),
    ("call: {fetch: {url: d}}, session: {labels: [pii]}, expect: {deny: forbidden}", True, "deny forbidden by tainted"),
    ("call: {fetch: {url: d}}, session: {calls: 4}, expect: {deny: fetch}", False, "deny forbidden by tainted"),
    ("call: {fetch: {}}, expect: {refused: invalid_arguments}", True, "refused invalid_arguments"),
    ("call: {fetch: d}, expect: {refused: invalid_arguments}", True, "refused invalid_arguments"),
    ("call: {fetch: {}}, expect: {deny: no_permit}", False, "refused invalid_arguments"),
    ("call: {nothing: {}}, expect: {refused: unknown_tool}", True, "refused unknown_tool"),
    ("call: {fetch: {url: d}}, as: {agent: ops}, expect: {refused: unknown_tool}", True, "refused unknown_tool"),
    ("call: {fetch: {url: d}}, as: {agent: ops}, expect: {deny: no_permit}", True, "deny no_permit"),
]


@pytest.mark.parametrize(("case", "ok", "got"), CASES)
def test_cases(case: str, ok: bool, got: str) -> None:
    """A case holds or does not, says what came out, and where it stands."""
    (result,) = run_cases(bundle(f"{POLICY}- {{name: one, {case}}}\n", tools=[FETCH]))
    assert result.ok is ok
    assert got in result.got
    assert result.source == "p0.yaml:8"


def test_a_file_of_cases_is_plain_values() -> None:
    """Specs and policies by name or written out, the upstream's answer, and cases with their callers."""
    raw = b"""apiVersion: toolgate/v1
kind: Cases
specs: [tool_specs/fetch.yaml, {kind: Tool}]
upstream: {status: 201, body: {n: 1}}
cases:
- name: one
  as: {agent: bot, user: ann, groups: [eng]}
  call: {fetch: {url: d}}
  expect: {done: {text: hi}, record: {}}
"""
    found = load_cases(raw, "c.yaml")
    assert found.specs == ("tool_specs/fetch.yaml", {"kind": "Tool"})
    assert found.upstream == (201, {"n": 1})
    (case,) = found.cases
    assert (case.name, case.source, case.tool, case.arguments) == ("one", "c.yaml:6", "fetch", {"url": "d"})
    assert (case.principal.agent, case.principal.user, case.principal.groups) == ("bot", "ann", frozenset({"eng"}))
    assert (case.expect.kind, case.expect.value, case.expect.record) == ("done", {"text": "hi"}, {})
    with pytest.raises(SpecErrors, match=r"c\.yaml:2:1: 'Policy' is not taken here: write 'Cases'"):
        load_cases(raw.replace(b"kind: Cases", b"kind: Policy"), "c.yaml")


def test_the_published_schema_takes_what_the_loader_takes() -> None:
    """An editor that follows `schema_of` accepts the starter policy and refuses a misspelt key."""
    schema: Any = schema_of("policy")
    jsonschema.Draft202012Validator.check_schema(schema)
    root = Path(__file__).parents[3]
    good = yaml.safe_load((root / "policies" / "dev.yaml").read_text())
    jsonschema.Draft202012Validator(schema).validate(json.loads(json.dumps(good)))
    assert not jsonschema.Draft202012Validator(schema).is_valid(good | {"rulez": []})


def test_no_sandbox_for_two_rules_is_an_error_that_names_both() -> None:
    """Their backends have nothing in common: neither rule may be dropped, so the call is refused."""
    rule = "- {id: %s, effect: permit, match: {tools: [run]}, with: {sandbox: {backends: [%s]}}}\n"
    made = bundle("id: a\nrules:\n" + rule % ("one", "wasm-python") + rule % ("two", "docker"))
    problem = made.decide(call(RUN, {"code": "1"})).problem
    assert problem is not None
    assert (problem.code, problem.rule) == ("policy_error", "one and two")
    assert "one and two leave no sandbox" in problem.detail
    alone = bundle("id: a\nrules:\n" + rule % ("two", "docker")).decide(call(RUN, {"code": "1"})).problem
    assert alone is not None
    assert (alone.code, alone.rule) == ("policy_error", "two")


def test_a_guarantee_required_of_a_tool_without_a_sandbox_refuses_it() -> None:
    """A rule over all tools: those in a sandbox get the obligation, the others are refused, for it is never dropped."""
    made = bundle(
        "id: a\nrules:\n"
        "- {id: all, effect: permit, match: {tools: ['*']}}\n"
        "- {id: walled, effect: permit, match: {tools: ['*']}, with: {sandbox: {require: [no-network]}}}\n"
    )
    inside = made.decide(call(RUN, {"code": "1"}))
    assert (inside.problem, inside.obligations.require) == (None, {"no-network"})
    problem = made.decide(call()).problem
    assert problem is not None
    assert (problem.code, problem.rule) == ("policy_error", "walled")
