"""Laws of deciding, over thousands of generated policies and calls."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.policy import load_bundle
from tests.gateway.policy import reference
from tests.gateway.policy.makers import call, tool

NAMES = st.sampled_from(["a", "b"])
OPEN = tool("open", {"a": {}, "b": {}})
VALUES = st.sampled_from([True, False, None, "x", "true", "", 0, 1, 2, -1, 1.5, [], [True], {}, {"a": True}])
CALLS = st.dictionaries(NAMES, VALUES)
ATOMS = st.one_of(
    st.tuples(st.just("is"), NAMES),
    st.tuples(st.just("has"), NAMES),
    st.tuples(st.just("equals"), NAMES, st.sampled_from(["x", "true"])),
    st.tuples(st.just("more"), NAMES, st.integers(0, 2)),
)
CLAUSES = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(st.just("not"), inner),
        st.tuples(st.sampled_from(["and", "or"]), inner, inner),
    ),
    max_leaves=4,
)
RULES = st.fixed_dictionaries(
    {
        "effect": st.sampled_from(["permit", "permit", "permit", "forbid"]),
        "clauses": st.lists(CLAUSES, max_size=3),
        "part": st.integers(0, 2),
    }
)


def files(rules: list[dict[str, Any]], boundaries: set[int]) -> dict[str, bytes]:
    """The rules as policy files (JSON is YAML), one for each part that has any."""
    found = {}
    for part in {rule["part"] for rule in rules}:
        shapes = [
            {"id": f"r{index}", "effect": rule["effect"]}
            | ({"when": [reference.text(each) for each in rule["clauses"]]} if rule["clauses"] else {})
            for index, rule in enumerate(rules)
            if rule["part"] == part
        ]
        head = {"apiVersion": "toolgate/v1", "kind": "Policy", "id": f"p{part}", "boundary": part in boundaries}
        found[f"p{part}.yaml"] = json.dumps(head | {"rules": shapes}).encode()
    return found


@settings(max_examples=800, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rules=st.lists(RULES, min_size=1, max_size=6),
    boundaries=st.sets(st.integers(0, 2), max_size=2),
    calls=st.lists(CALLS, min_size=4, max_size=4),
)
def test_every_decision_is_that_of_the_reference(
    rules: list[dict[str, Any]], boundaries: set[int], calls: list[dict[str, Any]]
) -> None:
    """3,200 decisions over random rules, clauses, parts and JSON; told in full or not, the decision is the same."""
    made = load_bundle(files(rules, boundaries), [OPEN])
    present = [part for part in boundaries if any(rule["part"] == part for rule in rules)]
    for arguments in calls:
        called = call(OPEN, arguments)
        decision = made.decide(called)
        got = "permit" if decision.problem is None else decision.problem.code
        assert got == reference.decide(rules, present, arguments)
        full = made.explain(called)
        assert (full.effect, full.problem, full.rules) == (decision.effect, decision.problem, decision.rules)
        for reason, rule in zip(sorted(full.reasons, key=lambda each: each.rule), _by_id(rules), strict=True):
            told = [reference.truth(clause, arguments) for clause in rule["clauses"]]
            assert [clause.result for clause in reason.clauses] == [str(each).lower() for each in told]


def _by_id(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [rule for _, rule in sorted((f"r{index}", rule) for index, rule in enumerate(rules))]
