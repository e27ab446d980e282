"""An explained decision: one form for a decision and its record, and sentences that need no knowledge of the policy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from gateway.aggregates import Level
from gateway.model import Call, Decision, Problem
from gateway.policy import PolicyBundle
from gateway.policy.explain import explained, recorded, refused
from gateway.policy.words import lines, sentence, value
from gateway.ports import Bundle
from tests.gateway.policy.makers import FETCH, RUN, bundle, call
from tests.kit import ECHO, Lab, of_calls

POLICY = """id: a
values: {ok: [a.example, b.example]}
rules:
- {id: fetch, effect: permit, match: {tools: [fetch], agents: [dev]}, when: [arg.url.host in v.ok], with: {timeout: 5s}}
- {id: tainted, effect: forbid, match: {effects: [egress]}, when: ['"pii" in session.labels'], message: Ask a person.}
"""


def told(made: PolicyBundle, asked: Call) -> list[str]:
    """The lines about a call, every clause shown."""
    near = made.near(asked.tool, asked.caller.principal)
    levels = {cell.key: Level(3, 7) for cell in made.cells(asked)}
    return lines(explained(made.explain(asked, levels), near))


def asking(url: str = "https://evil.example/", **more: Any) -> Call:
    """A call of fetch."""
    return call(arguments={"url": url}, **more)


def test_a_refusal_leads_with_what_the_nearest_permit_wants() -> None:
    """One sentence for somebody who has not seen the policy, then every rule and clause with its values."""
    made = bundle(POLICY, tools=[FETCH])
    assert told(made, asking()) == [
        "refused: no rule permits fetch for agent dev: the nearest, fetch (p0.yaml:6), wants arg.url.host in v.ok; "
        'arg.url.host is "evil.example", v.ok is ["a.example", "b.example"]',
        f"bundle {made.digest}",
        "code no_permit: No rule permits this call of fetch.",
        "permit fetch (p0.yaml:6): false",
        '  false arg.url.host in v.ok  [arg.url.host = "evil.example", v.ok = ["a.example", "b.example"]]',
        "forbid tainted (p0.yaml:7): false",
        '  false "pii" in session.labels  [session.labels = []]',
    ]


def test_a_permit_leads_with_the_rules_that_gave_it() -> None:
    """And ends with what they require, each with the rules it came from."""
    said = told(bundle(POLICY, tools=[FETCH]), asking("https://a.example/"))
    assert said[0] == "permitted: fetch (p0.yaml:6) permits fetch for agent dev"
    assert said[-1] == "obligation timeout: 5 s, from fetch"


def test_a_forbid_gives_its_message_and_the_clauses_that_were_true() -> None:
    """The message alone would not say which values made it so."""
    said = told(bundle(POLICY, tools=[FETCH]), asking("https://a.example/", labels=frozenset({"pii"}), user="ada"))
    assert said[0] == (
        "refused: tainted (p0.yaml:7) forbids fetch for agent dev (user ada), "
        'because "pii" in session.labels (session.labels is ["pii"]). It says: Ask a person.'
    )


def test_an_error_names_what_was_absent() -> None:
    """In a permit it is what the nearest cannot judge, in a forbid the reason of the refusal; each says why."""
    why = "absent: white space or a control character"
    said = told(bundle(POLICY, tools=[FETCH]), asking("no address"))
    assert f"wants arg.url.host in v.ok, which cannot be judged; arg.url.host is {why}" in said[0]
    forbidding = "id: a\nrules:\n- {id: no, effect: forbid, match: {tools: [fetch]}, when: ['arg.url.port == 1']}\n"
    assert told(bundle(forbidding, tools=[FETCH]), asking("no address"))[0] == (
        "refused: it cannot be told whether no (p0.yaml:5) forbids fetch for agent dev: "
        f"arg.url.port == 1 (arg.url.port is {why})"
    )


def test_with_no_permit_for_the_caller_it_tells_whom_the_nearest_is_for() -> None:
    """A rule about the tool that is not about the caller, with the key that does not match."""
    made = bundle("id: a\nrules:\n- {id: ops, effect: permit, match: {tools: [run], groups: [ops, sre]}}\n")
    assert told(made, call(RUN, {"code": "1"}, groups=["eng"]))[0] == (
        "refused: no rule permits run for agent dev: the nearest, ops (p0.yaml:5), is for groups ops, sre only; "
        'principal.groups is ["eng"]'
    )
    alone = bundle("id: a\nrules:\n- {id: ops, effect: permit, match: {tools: [fetch]}}\n")
    assert told(alone, call(RUN, {"code": "1"}))[0] == "refused: no rule permits run for agent dev"


def test_the_nearest_permit_has_the_fewest_clauses_that_are_not_true() -> None:
    """Of two that fail, the one with less to change; its false clauses come before those in error."""
    rule = "- {id: %s, effect: permit, match: {tools: [fetch]}, when: [%s]}\n"
    made = bundle(
        "id: a\nrules:\n"
        + rule % ("far", "session.calls > 3, session.cost > 1.0")
        + rule % ("near", "arg.url.port == 1, session.calls > 3, 'args.url != \"x\"'"),
        tools=[FETCH],
    )
    decision = made.explain(asking("https://x.example/"))
    assert explained(decision)["nearest"]["rule"] == "far"  # two and two: the first
    nearer = made.explain(asking("https://x.example:1/"))
    assert explained(nearer)["nearest"] == {
        "rule": "near",
        "source": "p0.yaml:6",
        "clause": {"text": "session.calls > 3", "result": "false", "values": {"session.calls": 0}},
    }


def test_a_boundary_that_does_not_permit_is_named_with_a_permit_of_its_own() -> None:
    """Another part's permit is not what is lacking."""
    agents = "id: agents\nrules:\n- {id: by-agent, effect: permit, match: {tools: [fetch]}}\n"
    groups = (
        "id: groups\nboundary: true\nrules:\n- {id: by-group, effect: permit, match: {tools: [fetch]}, when: [%s]}\n"
    )
    made = bundle(agents, groups % "session.calls > 3", tools=[FETCH])
    assert told(made, asking())[0] == (
        "refused: the part groups has to permit by itself, and no rule of it permits fetch for agent dev: "
        "the nearest, by-group (p1.yaml:6), wants session.calls > 3; session.calls is 0"
    )


HIDDEN = {
    "forbidden": "- {id: never, effect: forbid, match: {tools: [fetch]}, message: Not here.}",
    "another": "- {id: other, effect: permit, match: {tools: [fetch], agents: [ops]}}",
    "tenant": "- {id: other, effect: permit, match: {tools: [fetch], tenants: [acme]}}",
    "both": "- {id: other, effect: permit, match: {tools: [fetch], agents: [dev], users: [ada]}}",
}
SAID = {
    "forbidden": "never (p0.yaml:5) forbids it whatever the arguments are. It says: Not here.",
    "another": 'other (p0.yaml:5) is for agent ops only; principal.agent is "dev"',
    "tenant": 'other (p0.yaml:5) is for tenant acme only; principal.tenant is "default"',
    "both": "other (p0.yaml:5) is for user ada only; principal.user is null",
}


@pytest.mark.parametrize("why", HIDDEN)
def test_a_hidden_tool_is_explained_by_what_hides_it(why: str) -> None:
    """An unconditional forbid, or permits that are for others."""
    made = bundle(f"id: a\nrules:\n{HIDDEN[why]}\n", tools=[FETCH])
    who = call().caller.principal
    form = refused("fetch", who, "s_1", made.digest, Problem("unknown_tool", "unseen"), made.near(FETCH, who))
    assert sentence(form) == f"refused: fetch is not visible to agent dev: {SAID[why]}"


def test_a_tool_behind_a_closed_boundary_is_explained_by_it() -> None:
    """Permitted by one part, and by no rule of the part that has to permit as well."""
    own = "id: own\nrules:\n- {id: mine, effect: permit, match: {tools: [fetch]}}\n"
    closed = "id: eng\nboundary: true\nrules:\n- {id: theirs, effect: permit, match: {tools: [fetch], groups: [eng]}}\n"
    made = bundle(own, closed, tools=[FETCH])
    who = call().caller.principal
    form = refused("fetch", who, "s_1", made.digest, Problem("unknown_tool", "unseen"), made.near(FETCH, who))
    assert sentence(form) == (
        "refused: fetch is not visible to agent dev: the part eng (p1.yaml:1) has to permit it by itself: "
        "the nearest, theirs (p1.yaml:6), is for group eng only; principal.groups is []"
    )


def test_the_past_is_told_with_value_and_version_and_never_as_never() -> None:
    """An aggregate that nothing has fed yet is infinite for `since`, which JSON has no number for."""
    made = bundle(
        "id: a\nstate:\n  pause: {since: {tools: [fetch]}, within: 1h}\n  used: {count: {tools: [fetch]}, within: 1h}\n"
        "rules:\n- {id: slow, effect: permit, match: {tools: [fetch]}, when: [state.pause < 5.0, state.used < 3]}\n",
        tools=[FETCH],
    )
    asked = asking()
    levels = {cell.key: Level(float("inf") if cell.kind == "since" else 3, 9) for cell in made.cells(asked)}
    form = explained(made.decide(asked, levels))
    assert form["reads"] == {
        "state.pause": {"value": {"never": True}, "version": 9},
        "state.used": {"value": 3, "version": 9},
    }
    json.dumps(form, allow_nan=False)
    assert "wants state.pause < 5.0; state.pause is never" in sentence(form)
    assert "read state.pause = never (version 9)" in lines(form)


def test_a_shadow_decision_is_told_where_it_differs() -> None:
    """The whole other decision, in a sentence of its own, and the rules that only it has."""
    made = bundle(
        "id: a\nrules:\n- {id: all, effect: permit, match: {tools: [fetch]}}\n"
        "- {id: soon, effect: forbid, mode: shadow, match: {tools: [fetch]}, when: ['arg.url.port == 443']}\n",
        tools=[FETCH],
    )
    form = explained(made.decide(asking()))
    assert form["shadow"]["effect"] == "forbid"
    assert form["shadow"]["differs"] == ["effect", "code", "rules"]
    said = lines(form)
    assert said[0] == "permitted: all (p0.yaml:5) permits fetch for agent dev"
    assert any(line.startswith("in shadow: refused: soon (p0.yaml:6) forbids fetch for agent dev") for line in said)
    assert "  forbid soon (p0.yaml:6): true" in said
    same = explained(made.decide(asking("https://a.example:444/")))
    assert same["shadow"]["differs"] == []
    assert lines(same)[-1] == "in shadow: the same (with the rules in shadow in force)"


LAB = """
apiVersion: toolgate/v1
kind: Policy
id: lab
state:
  said_1h: {count: {tools: [echo]}, within: 1h}
  pause: {since: {tools: [echo]}, within: 1h}
rules:
- id: some
  effect: permit
  match: {tools: [echo]}
  when: [state.said_1h < 2, 'args.text != "no"', state.pause >= 0.0]
  with: {timeout: 5s}
- {id: not-war, effect: forbid, match: {tools: [echo]}, when: ['args.text == "war"'], message: No.}
- {id: late, effect: forbid, mode: shadow, match: {tools: [echo]}, when: ['args.text == "soon" || state.pause < 0.0']}
"""


class Keeping:
    """A bundle in force whose decisions are kept."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self.decisions: list[Decision] = []

    def current(self) -> Bundle:
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bundle, name)

    def decide(self, call: Call, levels: Mapping[str, Level]) -> Decision:
        self.decisions.append(self._bundle.decide(call, levels))
        return self.decisions[-1]


@pytest.mark.parametrize("text", ["yes", "no", "war", "soon"])
def test_a_record_explains_itself_as_the_decision_did(text: str) -> None:
    """`toolgate explain CALL_ID` has nothing but the record, and says all that the decision says."""
    lab = Lab.of({"echo.yaml": ECHO}, {"lab.yaml": LAB})
    kept = Keeping(lab.gate.bundles.current())
    lab.gate = replace(lab.gate, bundles=kept)

    async def calls() -> None:
        await lab.call("echo", {"text": "before"})
        await lab.call("echo", {"text": text})

    asyncio.run(calls())
    asked = [line for line in of_calls(lab.trial.ledger.lines) if line.type != "call.outcome"]
    forms = [recorded(line.fields, line.content) for line in asked]
    assert forms == [explained(decision) for decision in kept.decisions]
    assert forms[0] is not None
    assert forms[0]["reads"]["state.pause"]["value"] == {"never": True}
    assert forms[1] is not None
    assert forms[1]["shadow"]["differs"] == (["effect", "code", "rules", "obligations"] if text == "soon" else [])


def test_where_no_content_is_on_record_the_rules_are_named() -> None:
    """`record: metadata` keeps no clause and no value, and still says by which rule."""
    lab = Lab.of({"echo.yaml": ECHO}, {"lab.yaml": LAB.replace("timeout: 5s", "record: metadata")})
    asyncio.run(lab.call("echo", {"text": "yes"}))
    asked = of_calls(lab.trial.ledger.lines)[0]
    form = recorded(asked.fields, asked.content)
    assert form is not None
    assert (form["reasons"], sentence(form)) == ([], "permitted: some permits echo for agent dev")


def test_a_value_is_readable_whatever_it_is() -> None:
    """Text in quotes as it would stand in a policy, what was not there as a word, numbers as numbers."""
    shown = {"a": "a", "é\n": '"', "n": 1, "x": 0.1 + 0.2, "whole": 420.0, "none": None, "list": [True, "b"]}
    assert [value(each) for each in shown.values()] == ['"a"', '"\\""', "1", "0.3", "420.0", "null", '[true, "b"]']
    assert (value({"absent": True}), value({"never": True})) == ("absent", "never")
    assert value({"absent": "no plain address"}) == "absent: no plain address"


def test_a_permit_that_somebody_has_to_say_yes_to_is_no_yes() -> None:
    """The rules permit it; the call waits all the same until people have said yes."""
    made = bundle(
        "id: a\nrules:\n- {id: ask, effect: permit, match: {tools: [fetch]}, "
        "with: {approval: {when: 'session.calls > 3', by: ['group:ops', 'user:eve'], ttl: 15m}}}\n",
        tools=[FETCH],
    )
    asked = explained(made.decide(asking(calls=4)))
    assert (asked["effect"], asked["permitted"]) == ("permit", False)
    assert sentence(asked) == (
        "not yet permitted: it needs a yes by group:ops or user:eve within 900 s: "
        "ask (p0.yaml:5) permits fetch for agent dev"
    )
    assert explained(made.decide(asking(calls=3)))["permitted"]
