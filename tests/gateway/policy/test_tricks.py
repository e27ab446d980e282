"""What attackers write into URLs, hosts, paths, recipients and commands to be taken for others: none is permitted.

One policy by facts, as an operator would write it; the values stand in `tricks.yaml`, honest ones beside the hostile.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.model import Arguments, Effect, Refusal
from gateway.policy import PolicyBundle
from gateway.runners.http import Plan
from gateway.specs import yaml
from gateway.tool import HttpBackend, Json
from tests.gateway.policy.makers import bundle, call, outcome, tool

KINDS = {
    "fetch": "url",
    "browse": "url",
    "resolve": "host",
    "write": "path",
    "mail": "email_list",
    "tell": "email",
    "clone": "repo_path",
    "shell": "shell_words",
}
TOOLS = {name: tool(name, {"it": {}}, facts={"it": kind}) for name, kind in KINDS.items()}
POLICY = """
id: fences
values: {hosts: [api.acme.com, straße.example], blocked: ["169.254.169.254", evil.org], first: [ls, cat, git]}
rules:
- id: fetch
  effect: permit
  match: {tools: [fetch]}
  when:
  - arg.it.scheme == "https" && arg.it.port == 443
  - arg.it.host in v.hosts
  - arg.it.path.startsWith("/public/")
- {id: browse, effect: permit, match: {tools: [browse]}, when: [arg.it.scheme == "https"]}
- {id: not-there, effect: forbid, match: {tools: [browse]}, when: [arg.it.host in v.blocked]}
- {id: resolve, effect: permit, match: {tools: [resolve]}, when: [arg.it in v.hosts]}
- {id: write, effect: permit, match: {tools: [write]}, when: ['arg.it.canonical.startsWith("/workspace/s_1/")']}
- id: mail
  effect: permit
  match: {tools: [mail]}
  when: ['size(arg.it) > 0 && arg.it.all(a, a.domain == "acme.com")']
- {id: tell, effect: permit, match: {tools: [tell]}, when: [arg.it.domain == "acme.com"]}
- {id: clone, effect: permit, match: {tools: [clone]}, when: [arg.it.owner == "acme"]}
- {id: shell, effect: permit, match: {tools: [shell]}, when: ['arg.it[0] in v.first']}
"""
TRICKS: dict[str, Any] = yaml.load(Path(__file__).with_name("tricks.yaml").read_bytes(), "tricks.yaml").value  # type: ignore[assignment]  # the file's own shape
HONEST: dict[str, list[Json]] = TRICKS["honest"]
HOSTS = [*TRICKS["hosts"], "a" * 300 + ".acme.com"]
RECIPIENTS = [*TRICKS["recipients"], "a@" + "x" * 250 + ".acme.com"]
LONG = "https://api.acme.com/public/" + "a" * 9000
HOSTILE: dict[str, list[Json]] = {
    "fetch": [*TRICKS["urls"], "https://api.acme.com/\ud800", LONG]
    + [f"https://{host}{port}/public/" for host in HOSTS for port in ("", ":443")],
    "browse": TRICKS["blocked"],
    "resolve": HOSTS,
    "write": [*TRICKS["paths"], "/workspace/s_1/\ud800\udfff/../..", "/workspace/s_1/" + "a/" * 5000],
    "mail": [*TRICKS["lists"], ["a@acme.com"] * 201, ["a@acme.com"] * 199 + ["b@evil.org"]]
    + [[*before, each] for each in RECIPIENTS for before in ((), ("a@acme.com",))],
    "tell": RECIPIENTS,
    "clone": TRICKS["repos"],
    "shell": [*TRICKS["commands"], "ls " + "a" * 9000],
}
OTHER: list[Json] = [None, True, 0, 1.5, [], {}, ["https://api.acme.com/public/"], {"host": "api.acme.com"}]


@pytest.fixture(scope="module")
def fences() -> PolicyBundle:
    """The policy, compiled once."""
    return bundle(POLICY, tools=TOOLS.values())


@pytest.mark.parametrize("name", KINDS)
def test_no_trick_is_permitted(fences: PolicyBundle, name: str) -> None:
    """Not one of over 600 hostile values gets a permit, nor does a value of another type."""
    tried = [*HOSTILE[name], *OTHER]
    assert len(tried) >= 20
    decided = [(value, fences.decide(call(TOOLS[name], {"it": value}))) for value in tried]
    assert [value for value, decision in decided if decision.effect is Effect.PERMIT] == []
    assert {decision.problem.code for _, decision in decided if decision.problem} <= {
        *("no_permit", "policy_error", "forbidden")
    }


@pytest.mark.parametrize("name", KINDS)
def test_honest_values_are_permitted(fences: PolicyBundle, name: str) -> None:
    """The same rules permit what they were written for, in each of its spellings."""
    for value in HONEST[name]:
        assert outcome(fences.decide(call(TOOLS[name], {"it": value}))) == f"permit {name}", value


def test_what_is_dialled_is_what_was_judged(fences: PolicyBundle) -> None:
    """A URL that has a fact is the one that the http runner asks; one without a fact it refuses."""
    plan = Plan.of(HttpBackend("GET", url_argument="it", allow=("GET https://*.acme.com/**",)))
    judged = 0
    for value in [*HONEST["fetch"], *HONEST["browse"], *HOSTILE["fetch"], *HOSTILE["browse"]]:
        arguments = Arguments({"it": value})
        read = fences.explain(call(TOOLS["browse"], arguments)).reasons
        shown = {path: seen for reason in read for clause in reason.clauses for path, seen in clause.values.items()}
        try:
            url = plan.target(arguments)
        except Refusal:
            assert list(shown["arg.it.host"]) == ["absent"], value
            continue
        judged += 1
        assert (url.host, url.scheme) == (shown["arg.it.host"], shown["arg.it.scheme"]), value
    assert judged > 50


def test_there_are_enough_tricks() -> None:
    """At least 120 different hostile values, and at least 20 honest ones."""
    assert len({repr(value) for values in HOSTILE.values() for value in values}) >= 600
    assert sum(len(values) for values in HONEST.values()) >= 20
