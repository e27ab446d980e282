"""Lint: policy that loads, but probably does not say what was meant."""

from __future__ import annotations

import pytest

from gateway.policy.bundle import load_bundle
from gateway.tool import Tool
from tests.gateway.policy.makers import FETCH, TOOLS, bundle, call, outcome, tool

STRICT = tool(
    "strict", {"to": {"type": "array", "minItems": 1, "items": {}}}, required=["to"], facts={"to": "email_list"}
)
FINDINGS = [
    ("permit, match: {tools: [fetch, fetsh]}, with: {timeout: 5s}", ":5:50: 'fetsh' matches no loaded tool"),
    ("permit, match: {effects: [write]}", ":5:27: the rule r is about no loaded tool"),
    ("permit, match: {tools: [run]}", ":5:3: permits every call of run (exec) unconditionally"),
    ("permit, match: {tools: [run]}, when: ['args.code.matches(\"print\")']", "matches() finds 'print' anywhere"),
    ("permit, match: {tools: [run]}, when: ['args.code.matches(\"^print\")']", "matches() finds '^print' anywhere"),
    (
        "permit, match: {tools: [fetch]}, when: ['has(args.to) && args.to.all(a, a == \"x\")']",
        "all() over an empty list",
    ),
    (
        "permit, match: {tools: [fetch]}, when: ['session.labels.all(a, a == \"x\")']",
        "all() over an empty list is true",
    ),
    ("permit, match: {tools: [fetch]}, when: ['args.mode == \"x\"']", "a call of fetch may leave 'mode' out"),
    ("permit, match: {tools: [fetch]}, when: ['arg.to.exists(a, a.domain == \"x\")']", "write has(arg.to) && …"),
    ("permit, match: {tools: [fetch]}, with: {sandbox: {backends: [docker]}}", "fetch runs in no sandbox"),
    ("permit, match: {tools: [run]}, with: {sandbox: {backends: [docker]}}", "run runs in wasm-python"),
    ("permit, match: {tools: [fetch]}, with: {sandbox: {require: [no-network]}}", "fetch runs in no sandbox"),
]


@pytest.mark.parametrize(("rule", "wanted"), FINDINGS)
def test_a_finding_names_the_place_and_does_not_refuse(rule: str, wanted: str) -> None:
    """One finding, with its place; the bundle still loads and decides."""
    made = bundle(f"id: a\nrules:\n- {{id: r, effect: {rule}}}\n")
    (finding,) = made.findings
    assert wanted in str(finding)
    assert str(finding).startswith("p0.yaml:5:")


CLEAN = [
    "permit, match: {tools: [fetch, 'r*']}, with: {timeout: 5s}",
    "permit, match: {tools: [fetch]}",
    "permit, match: {tools: [fetch]}, when: ['args.url.matches(\"^https://a[.]org/.*$\")']",
    "permit, match: {tools: [fetch]}, when: ['has(args.to) && size(args.to) > 0 && args.to.all(a, a == \"x\")']",
    "permit, match: {tools: [fetch]}, when: ['has(args.to)', 'size(args.to) > 0', 'args.to.all(a, a == \"x\")']",
    "permit, match: {tools: [strict]}, when: ['arg.to.all(a, a.domain == \"x\")', 'args.to.all(a, a != \"\")']",
    "permit, match: {tools: [fetch]}, when: ['has(args.mode) && args.mode == \"x\"']",
    "permit, match: {effects: [read, exec]}, when: ['has(args.mode) && args.mode == \"x\"']",
    "forbid, match: {tools: [run]}",
]


@pytest.mark.parametrize("rule", CLEAN)
def test_careful_policy_has_no_findings(rule: str) -> None:
    """The ways out that the findings name are taken."""
    assert bundle(f"id: a\nrules:\n- {{id: r, effect: {rule}}}\n", tools=(FETCH, tool_run(), STRICT)).findings == ()


DECLARED = [
    (
        "state: {paid: {sum: args.price, of: {tools: [fetch]}, within: 1h}}",
        "when: [state.paid < 5.0]",
        ":3:9: a new session resets the sum 'paid': say over: user",
    ),
    (
        "state: {calls: {count: {tools: [fetch, ftch]}, within: 1h}}",
        "when: [state.calls < 5]",
        ":3:40: 'ftch' matches no loaded tool, so 'calls' counts no calls of it",
    ),
    (
        "state: {paid: {sum: args.price, of: {tools: [ftch]}, within: 1h, over: user}}",
        "when: [state.paid < 5.0]",
        ":3:46: 'ftch' matches no loaded tool, so 'paid' counts no calls of it",
    ),
    ("state: {calls: {count: {tools: [fetch]}, within: 1h}}", "", ":3:9: the aggregate 'calls' is never used"),
    ("values: {hosts: [a.org]}", "", ":3:10: the value 'hosts' is never used: leave it out"),
]


@pytest.mark.parametrize(("declared", "rest", "wanted"), DECLARED)
def test_what_a_part_declares_is_looked_at_too(declared: str, rest: str, wanted: str) -> None:
    """Values and aggregates, each at its place."""
    rule = f"- {{id: r, effect: permit, match: {{tools: [fetch]}},\n {rest}}}"
    (finding,) = bundle(f"{declared or 'tier: platform'}\nid: a\nrules:\n{rule}\n").findings
    assert wanted in str(finding)


USED = [
    ("values: {most: 5.0}", 'with: {approval: {when: "args.price > v.most", by: [requester]}}'),
    ("state: {n: {count: {tools: [fetch]}, within: 1h}}", 'with: {approval: {when: "state.n > 3", by: [requester]}}'),
    ("state: {paid: {sum: args.price, of: {tools: [fetch]}, within: 1h, over: user}}", "when: [state.paid < 5.0]"),
    ("state: {n: {count: {tools: [fetch]}, within: 1h}}", "when: [state.n < 5]"),
]


@pytest.mark.parametrize(("declared", "rest"), USED)
def test_what_only_an_approval_names_is_used(declared: str, rest: str) -> None:
    """Its condition is an expression like any other; a sum over a user, or a count, is no finding."""
    part = f"{declared}\nid: a\nrules:\n- {{id: r, effect: permit, match: {{tools: [fetch]}}, {rest}}}\n"
    assert [str(each) for each in bundle(part).findings if "asked yet" not in str(each)] == []


TWINS = [
    ("permit", "permit", "[args.url == 'a']", "", "y", ":6:3: says what x (p0.yaml:5) says: leave one of them out"),
    ("forbid", "forbid", "[args.url == 'a']", "message: no, ", "y", "says what x (p0.yaml:5) says"),
    ("permit", "forbid", "[args.url == 'a']", "", "x", ":5:3: never permits: y (p0.yaml:6) forbids exactly this"),
    ("forbid", "permit", "[args.url == 'a']", "", "y", ":6:3: never permits: x (p0.yaml:5) forbids exactly this"),
    ("permit", "permit", "[args.url == 'a']", "with: {timeout: 5s}, ", "", ""),
    ("permit", "permit", "[args.url == 'a']", "mode: shadow, ", "", ""),
]


@pytest.mark.parametrize(("one", "two", "when", "more", "where", "wanted"), TWINS)
def test_rules_of_the_same_calls(one: str, two: str, when: str, more: str, where: str, wanted: str) -> None:
    """One that says the same is dead, and a permit under the same forbid too; another obligation makes another rule."""
    rules = [f"id: x, effect: {one}, ", f"id: y, effect: {two}, {more}"]
    lines = "\n".join(f"- {{{rule}match: {{tools: [fetch]}}, when: {when}}}" for rule in rules)
    found = [str(each) for each in bundle(f"id: a\nrules:\n{lines}\n").findings]
    assert len(found) == bool(wanted)
    assert all(wanted in each for each in found)


def test_the_same_words_in_two_parts_are_two_rules() -> None:
    """Values are private to a part, so the same clause may mean another thing there."""
    rule = "- {id: %s, effect: permit, match: {tools: [fetch]}, when: [args.url in v.hosts]}"
    part = f"values: {{hosts: [%s]}}\nrules:\n{rule}\n"
    assert bundle("id: a\n" + part % ("a", "x"), "id: b\n" + part % ("b", "y")).findings == ()


def test_a_permit_in_shadow_permits_nothing() -> None:
    """Told where no rule in force permits the tool; what would be told of a rule in force is not."""
    shadow = "- {id: s, effect: permit, mode: shadow, match: {tools: [run]}}\n"
    (finding,) = bundle(f"id: a\nrules:\n{shadow}").findings
    assert str(finding).startswith("p0.yaml:5:3: in shadow it permits nothing, and no rule in force permits run")
    other = "- {id: p, effect: permit, match: {tools: [run]}, with: {timeout: 5s}}\n"
    assert bundle(f"id: a\nrules:\n{shadow}{other}").findings == ()


def test_a_forbid_in_shadow_shadows_nothing() -> None:
    """It forbids nothing, so a permit under it permits."""
    rules = "- {id: no, effect: forbid, mode: shadow}\n- {id: p, effect: permit, match: {tools: [fetch]}}\n"
    assert bundle(f"id: a\nrules:\n{rules}").findings == ()
    assert len(bundle(f"id: a\nrules:\n{rules.replace('mode: shadow', 'message: no')}").findings) == 1


def test_a_forbid_without_a_message_is_no_finding() -> None:
    """The code says enough where an operator has nothing to add."""
    assert bundle("id: a\nrules:\n- {id: no, effect: forbid, when: ['session.calls > 9']}\n").findings == ()


def tool_run() -> Tool:
    """A tool that runs code and takes nothing but the code."""
    return tool("run", {"code": {"type": "string"}}, ("exec",), ("code",))


SHADOWS = [
    ("{tools: [fetch]}", "{tools: [fetch]}", True),
    ("{}", "{tools: ['f*'], agents: [dev]}", True),
    ("{agents: ['*']}", "{tools: [fetch], agents: [dev]}", True),
    ("{tools: [fetch], agents: [dev]}", "{tools: [fetch]}", False),
    ("{tools: [fetch], agents: [dev]}", "{tools: [fetch], agents: [dev, ops]}", False),
    ("{tools: [run]}", "{tools: [fetch]}", False),
    ("{groups: [x]}", "{tools: [fetch], agents: [x]}", False),
]


@pytest.mark.parametrize(("wide", "narrow", "wanted"), SHADOWS)
def test_a_permit_under_an_unconditional_forbid(wide: str, narrow: str, wanted: bool) -> None:
    """It is named only when every call that it could permit is forbidden."""
    made = bundle(
        f"id: a\nrules:\n- {{id: no, effect: forbid, match: {wide}}}\n- {{id: p, effect: permit, match: {narrow}}}\n"
    )
    assert any("never permits: no (p0.yaml:5)" in str(finding) for finding in made.findings) is wanted


def test_a_value_that_nothing_uses() -> None:
    """It stands in a file of its own part: another part's value of the same name is another one."""
    one = "id: a\nvalues:\n  hosts: [a]\nrules:\n- {id: p, effect: permit, match: {tools: [fetch]}}\n"
    two = "id: b\nvalues:\n  hosts: [https://a.org/]\nrules:\n"
    two += "- {id: q, effect: permit, when: [args.url in v.hosts], match: {tools: [fetch]}}\n"
    made = bundle(one, two)
    assert [str(each) for each in made.findings] == ["p0.yaml:5:3: the value 'hosts' is never used: leave it out"]
    assert outcome(made.decide(call())) == "permit p q"


def test_a_guarantee_that_the_sandbox_of_a_tool_does_not_give_is_told() -> None:
    """Every call would be refused; said at its place, for each tool the rule is about, and only for what is missing."""
    rule = "{id: r, effect: permit, match: {tools: [run]}, with: {sandbox: {require: [no-network, cpu-cap]}}}"
    files = {"p.yaml": f"apiVersion: toolgate/v1\nkind: Policy\nid: a\nrules:\n- {rule}\n".encode()}
    (finding,) = load_bundle(files, TOOLS, {"wasm-python": frozenset({"no-network"})}).findings
    assert str(finding).startswith("p.yaml:5:")
    assert str(finding).endswith("wasm-python does not guarantee cpu-cap, so every call of run is refused")
    assert load_bundle(files, TOOLS, {"wasm-python": frozenset({"no-network", "cpu-cap"})}).findings == ()
    assert load_bundle(files, TOOLS).findings == ()
