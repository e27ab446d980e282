"""Decisions: which rules permit, which forbid, what an error does, and what is told of it."""

from __future__ import annotations

import pytest

from gateway.model import Call, Effect
from gateway.policy import PolicyBundle
from tests.gateway.policy.makers import FETCH, HTTP, RUN, bundle, call, outcome, tool

OPEN = "- {id: open, effect: permit, match: {tools: [fetch, run]}}\n"


def rules(*lines: str, head: str = "id: a\n") -> PolicyBundle:
    """A bundle of one part with these rules."""
    return bundle(head + "rules:\n" + "".join(lines))


def permit(clause: str, rule: str = "p", **match: str) -> str:
    """A permit about the tool fetch with one clause."""
    return f"- {{id: {rule}, effect: permit, match: {{tools: [fetch]}}, when: ['{clause}']}}\n"


def forbid(clause: str, rule: str = "f") -> str:
    """A forbid about the tool fetch with one clause."""
    return f"- {{id: {rule}, effect: forbid, match: {{tools: [fetch]}}, when: ['{clause}'], message: not this}}\n"


DECISIONS = [
    ("nothing is said", rules("- {id: x, effect: permit, match: {tools: [run]}}\n"), call(), "no_permit"),
    ("an open permit", rules(OPEN), call(), "permit open"),
    ("a true clause", rules(permit('args.url == "https://a.org/"')), call(), "permit p"),
    ("a false clause", rules(permit('args.url == "x"')), call(), "no_permit"),
    ("an error never permits", rules(permit('args.mode == "x"')), call(), "no_permit"),
    ("an error beside a permit", rules(permit('args.mode == "x"'), OPEN), call(), "permit open"),
    ("a text is not true", rules(permit("args.any")), call(arguments={"url": "u", "any": "true"}), "no_permit"),
    ("a number is not true", rules(permit("args.any")), call(arguments={"url": "u", "any": 1}), "no_permit"),
    ("a list is not true", rules(permit("args.any")), call(arguments={"url": "u", "any": [True]}), "no_permit"),
    ("null is not true", rules(permit("args.any")), call(arguments={"url": "u", "any": None}), "no_permit"),
    ("true is true", rules(permit("args.any")), call(arguments={"url": "u", "any": True}), "permit p"),
    ("false is false", rules(permit("!args.any")), call(arguments={"url": "u", "any": False}), "permit p"),
    ("forbid beats permit", rules(OPEN, forbid("true")), call(), "forbidden f"),
    ("whatever the order", rules(forbid("true"), OPEN), call(), "forbidden f"),
    ("a false forbid", rules(OPEN, forbid("false")), call(), "permit open"),
    ("an error in a forbid", rules(OPEN, forbid('args.mode == "x"')), call(), "policy_error f"),
    ("a true forbid beats one in error", rules(forbid('args.mode == "x"'), forbid("true", "g")), call(), "forbidden g"),
    ("too deep a loop is an error", rules(OPEN, forbid("[1,2,3,4,5,6,7,8,9].all(a, [1,2,3,4,5,6,7,8,9].all(b, "
     "[1,2,3,4,5,6,7,8,9].all(c, [1,2,3,4,5,6,7,8,9].all(d, [1,2,3,4,5,6,7,8,9].all(e, args.price > 0.0)))))")),
     call(arguments={"url": "u", "price": 1.0}), "policy_error f"),
    ("an integer beyond 64 bits", rules(OPEN, forbid("args.any > 5")), call(arguments={"url": "u", "any": 2**80}),
     "policy_error f"),
    ("a lone surrogate", rules(OPEN, forbid('args.url == "x"')), call(arguments={"url": "\ud800"}), "policy_error f"),
    ("division by zero", rules(OPEN, forbid("1 / args.any == 1")), call(arguments={"url": "u", "any": 0}),
     "policy_error f"),
]  # fmt: skip


@pytest.mark.parametrize(("made", "called", "wanted"), [each[1:] for each in DECISIONS], ids=[d[0] for d in DECISIONS])
def test_decisions(made: PolicyBundle, called: Call, wanted: str) -> None:
    """Default deny, forbid overrides, and an error is never a permit and never a forbid that did not apply."""
    decision = made.decide(called)
    assert outcome(decision) == wanted
    assert (decision.problem is None) == (decision.effect is Effect.PERMIT)


@pytest.mark.parametrize(("made", "called", "wanted"), [each[1:] for each in DECISIONS], ids=[d[0] for d in DECISIONS])
def test_judging_is_deciding_without_the_clauses(made: PolicyBundle, called: Call, wanted: str) -> None:
    """The same effect, rules, problem and obligations."""
    whole, judged = made.decide(called), made.judge(called)
    assert (judged.effect, judged.rules, judged.problem) == (whole.effect, whole.rules, whole.problem)
    assert (judged.obligations, judged.reserves, outcome(judged)) == (whole.obligations, whole.reserves, wanted)
    assert not any(reason.clauses for reason in judged.reasons)


CLAUSES = [
    ('principal.agent == "dev" && principal.tenant == "default" && principal.user == null', True),
    ("size(principal.groups) == 0", True),
    ('tool.name == "fetch" && tool.version == "1.0.0" && tool.digest == "sha256:fetch"', True),
    ('tool.effects == ["egress", "read"] && "untrusted" in tool.labels && tool.cost == 0.0', True),
    ('session.id == "s_1" && session.calls == 2 && session.cost == 0.5 && session.age == 100.0', True),
    ('"seen" in session.labels', True),
    ('now == 1000 && timestamp(now) == timestamp("1970-01-01T00:16:40Z")', True),
    ('timestamp(now).getHours("Europe/London") == 1', True),
    ('arg.url.host == "a.org" && arg.url.scheme == "https" && arg.url.port == 443', True),
    ('arg.to.all(a, a.domain == "a.org")', True),
    ('args.to[0] == "me@a.org" && args["mode"] == "x"', True),
    ("has(args.price)", False),
    ("args.page.number == 3", True),
    ("size(args) == 4", True),
    ("!args.to.exists(v, v == principal.agent)", True),
    ('args.url.matches("^https://")', True),
    ('args.mode == "x" // with a comment', True),
    ('args.mode == "x" && args.mode != "y" || false', True),
]


@pytest.mark.parametrize(("clause", "wanted"), CLAUSES, ids=[each[0] for each in CLAUSES])
def test_variables(clause: str, wanted: bool) -> None:
    """Each variable of the language has the value of the call, read one by one and together with another clause."""
    arguments = {"url": "https://a.org/x", "to": ["me@a.org"], "mode": "x", "page": {"number": 3}}
    called = call(FETCH, arguments, labels=frozenset({"seen"}), calls=2, cost=0.5)
    for others in ("", "  - session.calls == 2\n", "  - args.page.number > 1\n"):
        text = f"- id: p\n  effect: permit\n  match: {{tools: [fetch]}}\n  when:\n  - >-\n    {clause}\n{others}"
        assert (rules(text).decide(called).effect is Effect.PERMIT) is wanted


def test_an_integer_that_cel_has_no_type_for_spoils_every_argument() -> None:
    """Arguments are converted together: beside a number beyond 64 bits that a clause reads, no argument can be read."""
    made = rules(permit('args.mode == "x"'), permit("args.any > 5", "q"))
    assert outcome(made.decide(call(arguments={"url": "u", "mode": "x", "any": 6}))) == "permit p q"
    decision = made.decide(call(arguments={"url": "u", "mode": "x", "any": 2**70}))
    assert outcome(decision) == "no_permit"
    assert [reason.result for reason in decision.reasons] == ["error", "error"]


def test_a_fact_that_cannot_be_derived_is_an_error() -> None:
    """User-info in a URL takes the fact away; the permit that reads it does not apply, and says why."""
    decision = rules(permit('arg.url.host == "a.org"')).decide(call(arguments={"url": "https://me@a.org/"}))
    assert outcome(decision) == "no_permit"
    (reason,) = decision.reasons
    assert reason.result == "error"
    assert reason.clauses[0].values == {"arg.url.host": {"absent": "user-info before the host is not taken"}}


def test_reasons_tell_rule_place_clauses_and_values() -> None:
    """Of what decided: the rule's file and line, each clause with its result, and the values that it read."""
    made = bundle(
        "id: a\nvalues:\n  hosts: [b.org]\nrules:\n- id: p\n  effect: permit\n  match: {tools: [fetch]}\n"
        "  when: [arg.url.host in v.hosts, session.cost < 1.0]\n"
    )
    (reason,) = made.decide(call()).reasons
    assert (reason.rule, reason.source, reason.result) == ("p", "p0.yaml:7", "false")
    assert [(clause.text, clause.result, dict(clause.values)) for clause in reason.clauses] == [
        ("arg.url.host in v.hosts", "false", {"arg.url.host": "a.org", "v.hosts": ["b.org"]}),
        ("session.cost < 1.0", "true", {"session.cost": 0.0}),
    ]


def test_values_in_reasons_are_short() -> None:
    """A long text, a long list and a mapping are cut, so that a decision stays small."""
    arguments = {"url": "u" * 5000, "to": ["a"] * 50, "page": {"number": 1}}
    clause = 'args.url == "x" || size(args.to) == 0 || args.page == {}'
    (reason,) = rules(permit(clause)).decide(call(arguments=arguments)).reasons
    values = reason.clauses[0].values
    assert values["args.url"] == "u" * 119 + "…"
    assert values["args.to"] == ["a"] * 8 + ["… 42 more"]
    assert values["args.page"] == "a mapping of 1"


def test_a_small_mapping_is_shown_whole_and_never_looks_like_a_word_of_ours() -> None:
    """Two to four keys, as facts have, one level deep; `{"absent": …}` from a caller stays a mapping of 1."""
    clause = "args.any == 1 || args.page == {}"
    for page, seen in (
        ({"number": 1, "of": {"a": 1, "b": 2}}, {"number": 1, "of": "a mapping of 2"}),
        ({"absent": True}, "a mapping of 1"),
        ({key: 1 for key in "abcde"}, "a mapping of 5"),
        ([{"number": 1, "of": 2}], [{"number": 1, "of": 2}]),
    ):
        arguments = {"url": "u", "page": page, "any": 0}
        (reason,) = rules(permit(clause)).decide(call(arguments=arguments)).reasons
        assert reason.clauses[0].values["args.page"] == seen


def test_a_forbid_gives_its_message_and_no_value() -> None:
    """The caller reads the rule's message; without one, plain words. Arguments are never in it."""
    arguments = {"url": "https://secret.example/"}
    told = rules(OPEN, forbid("true")).decide(call(arguments=arguments)).problem
    assert told is not None
    assert (told.detail, told.rule) == ("not this", "f")
    untold = rules(OPEN, "- {id: f, effect: forbid}\n").decide(call(arguments=arguments)).problem
    assert untold is not None
    assert untold.detail == "A rule of the policy forbids this call."
    for made in (rules(permit("false")), rules(OPEN, forbid('args.mode == "x"'))):
        problem = made.decide(call(arguments=arguments)).problem
        assert problem is not None
        assert "secret" not in problem.detail


def test_a_permit_can_say_what_it_waits_for() -> None:
    """When nothing permits, the first permit about the call with a message says it; in a boundary, one of that part."""
    first = "- {id: q, effect: permit, match: {tools: [fetch]}, when: ['false'], message: Do this first.}\n"
    told = rules(permit("false"), first).decide(call()).problem
    assert told is not None
    assert (told.code, told.detail, told.rule) == ("no_permit", "Do this first.", None)
    assert outcome(rules(OPEN, first).decide(call())) == "permit open"
    assert rules(first).decide(call(RUN, {"code": "1"})).problem == rules(permit("true")).decide(call(RUN)).problem
    edge = bundle("id: edge\nboundary: true\nrules:\n" + first, "id: b\nrules:\n" + OPEN)
    told = edge.decide(call()).problem
    assert told is not None
    assert (told.detail, told.rule) == ("Do this first.", "edge")


MATCHES = [
    ("{agents: [dev]}", {}, True),
    ("{agents: [ops]}", {}, False),
    ("{agents: ['d*']}", {}, True),
    ("{agents: ['*e*v']}", {}, True),
    ("{agents: ['dev*dev']}", {}, False),
    ("{users: ['*']}", {}, False),
    ("{users: ['*']}", {"user": "ann"}, True),
    ("{groups: [eng, ops]}", {"groups": ["ops"]}, True),
    ("{groups: [eng]}", {}, False),
    ("{tenants: [default]}", {}, True),
    ("{tenants: [acme]}", {}, False),
    ("{effects: [egress]}", {}, True),
    ("{effects: [exec]}", {}, False),
    ("{tool_labels: [untrusted]}", {}, True),
    ("{tool_labels: [pii]}", {}, False),
    ("{tools: ['fe*'], agents: [dev], effects: [read]}", {}, True),
    ("{tools: ['fe*'], agents: [dev], effects: [exec]}", {}, False),
    ("{}", {}, True),
]


@pytest.mark.parametrize(("match", "caller", "wanted"), MATCHES)
def test_match(match: str, caller: dict[str, object], wanted: bool) -> None:
    """All keys given must match, one left out matches any; the same decides calling and listing."""
    made = rules(f"- {{id: p, effect: permit, match: {match}}}\n")
    called = call(**caller)  # type: ignore[arg-type]  # a table row of keyword arguments
    assert (made.decide(called).effect is Effect.PERMIT) is wanted
    assert ("fetch" in made.visible(called.caller.principal)) is wanted


def test_a_part_of_a_tenant_is_about_that_tenant_only() -> None:
    """Its permits, its forbids and its boundary do not reach another tenant's calls."""
    acme = "id: acme\ntier: tenant\ntenant: acme\nboundary: true\nrules:\n- {id: no, effect: forbid}\n"
    made = bundle("id: base\nrules:\n" + OPEN, acme)
    assert outcome(made.decide(call())) == "permit open"
    assert outcome(made.decide(call(tenant="acme"))) == "forbidden no"


@pytest.mark.parametrize("head", ["id: edge\nboundary: true\n", "id: edge\ntier: task\n"])
def test_a_boundary_part_must_permit_too(head: str) -> None:
    """It can only narrow: its own permit is needed besides any other, and alone is enough for itself."""
    base = "id: base\nrules:\n" + OPEN
    edge = head + "rules:\n- {id: docs, effect: permit, match: {tools: [fetch]}, when: ['args.url == \"d\"']}\n"
    made = bundle(base, edge)
    assert outcome(made.decide(call(arguments={"url": "d"}))) == "permit open docs"
    assert outcome(made.decide(call(arguments={"url": "e"}))) == "no_permit edge"
    assert outcome(made.decide(call(RUN, {"code": "1"}))) == "no_permit edge"
    assert made.visible(call().caller.principal) == {"fetch"}


def test_two_boundaries_stand_for_agent_and_user() -> None:
    """Delegation: the agent must be permitted and the user must be permitted, each by a part of its own."""
    agents = "id: agents\nboundary: true\nrules:\n- {id: bot, effect: permit, match: {agents: [bot]}}\n"
    users = "id: users\nboundary: true\nrules:\n- {id: eng, effect: permit, match: {groups: [eng]}}\n"
    made = bundle(agents, users)
    assert outcome(made.decide(call(agent="bot", user="ann", groups=["eng"]))) == "permit bot eng"
    assert outcome(made.decide(call(agent="bot", user="eve", groups=["ops"]))) == "no_permit users"
    assert outcome(made.decide(call(agent="dev", user="ann", groups=["eng"]))) == "no_permit agents"


def test_listing_ignores_clauses_but_not_unconditional_forbids() -> None:
    """A tool shows where some call of it could be permitted; one that is always forbidden does not."""
    made = rules(permit("false"), "- {id: run, effect: permit, match: {tools: [run]}}\n", forbid("true"))
    assert made.visible(call().caller.principal) == {"fetch", "run"}
    shut = rules(OPEN, "- {id: no, effect: forbid, match: {tools: [run]}}\n")
    assert shut.visible(call().caller.principal) == {"fetch"}
    assert made.visible(call(tenant="other").caller.principal) == {"fetch", "run"}


def test_a_tool_that_came_after_the_bundle_is_decided_too() -> None:
    """Globs and effects reach a tool that was not loaded with the bundle; no answer is kept from an older version."""
    made = rules("- {id: p, effect: permit, match: {effects: [read]}}\n")
    late = tool("late", {}, ("read",), backend=HTTP)
    assert outcome(made.decide(call(late, {}))) == "permit p"
    assert outcome(made.decide(call(tool("wild", {}, ("exec",)), {}))) == "no_permit"


def test_the_same_call_gives_the_same_decision() -> None:
    """Decisions are values: equal for equal calls, in a fresh bundle too, and whatever was decided in between."""
    text = permit('arg.url.host == "a.org" && now > 5'), forbid('args.mode == "x"')
    one, other = rules(*text), rules(*text)
    first = one.decide(call())
    one.decide(call(agent="somebody", arguments={"url": "x", "mode": "x"}))
    assert one.decide(call()) == first == other.decide(call())
    assert one.explain(call()).effect is first.effect


def test_explaining_judges_every_clause_and_decides_the_same() -> None:
    """`explain` adds the clauses of rules that did not matter, and changes nothing else."""
    made = rules(OPEN, forbid('"pii" in session.labels'), permit('args.url == "x"'))
    short, full = made.decide(call()), made.explain(call())
    assert (full.effect, full.rules, full.obligations) == (short.effect, short.rules, short.obligations)
    assert [len(reason.clauses) for reason in short.reasons] == [0, 0, 0]
    assert [[clause.result for clause in reason.clauses] for reason in full.reasons] == [[], ["false"], ["false"]]


def test_digest_is_of_the_parts_not_of_their_order_or_names() -> None:
    """Parts are sorted by id; one byte more in a file is another bundle."""
    one, two = "id: a\nrules:\n" + OPEN, "id: b\nrules:\n" + permit("true")
    assert bundle(one, two).digest == bundle(two, one).digest
    assert bundle(one, two).digest != bundle(one + "# more\n", two).digest
    assert bundle(one).digest.startswith("sha256:")
