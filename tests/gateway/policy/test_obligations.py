"""What several permits require together: laws of merging over generated obligations, and what each key comes to."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.model import Effect
from gateway.obligations import Approval, Obligations
from gateway.policy.cases import run_cases
from gateway.policy.obligations import merge, obligations_of, unasked
from gateway.policy.shapes import WithShape
from gateway.specs.yaml import SpecErrors
from tests.gateway.policy.makers import bundle, call

RECORDED = ["metadata", "request", "request_response"]
INJECTION = [None, "allow", "flag", "redact", "quarantine", "block"]
WORDS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=2, unique=True)
HOSTS = st.lists(st.sampled_from(["GET https://a.org/**", "GET https://b.org/**", "GET https://*.a.org/x"]), min_size=1)
KEYS: dict[str, st.SearchStrategy[Any]] = {
    "timeout": st.sampled_from(["1s", "2s", "3s"]),
    "limits": st.sampled_from([{"output": "1KiB"}, {"output": "2KiB"}]),
    "limit": st.sampled_from([{"calls": "1/1m"}, {"key": "agent", "calls": "2/1m"}]),
    "label": WORDS,
    "record": st.sampled_from(RECORDED),
    "sandbox": st.fixed_dictionaries(
        {},
        optional={
            "backends": st.lists(st.sampled_from(["wasm", "docker"]), min_size=1, unique=True),
            "require": WORDS,
        },
    ),
    "network": st.fixed_dictionaries({"allow": HOSTS}),
    "screen": st.fixed_dictionaries(
        {},
        optional={
            "injection": st.sampled_from(INJECTION[1:]),
            "redact": st.lists(st.sampled_from(["email", "secret"]), min_size=1, max_size=2),
        },
    ),
    "cache": st.sampled_from(["on", "off"]),
    "approval": st.fixed_dictionaries(
        {"by": st.lists(st.sampled_from(["requester", "user:ann", "group:staff"]), min_size=1, max_size=2)},
        optional={"ttl": st.sampled_from(["1m", "5m"])},
    ),
}
WITHS = st.fixed_dictionaries({}, optional=KEYS)
SEVERAL = st.lists(WITHS, min_size=2, max_size=5).map(
    lambda withs: [obligations_of(f"r{index}", WithShape.model_validate(each)) for index, each in enumerate(withs)]
)


@settings(max_examples=500, deadline=None)
@given(SEVERAL, st.randoms(use_true_random=False))
def test_merging_obligations_knows_no_order_and_no_count(several: list[Obligations], random: Any) -> None:
    """The lattice join is commutative, associative and idempotent, origins included."""
    merged = merge(several)
    shuffled = random.sample(several, len(several))
    assert merge(shuffled) == merged
    assert merge([*several, *shuffled]) == merged
    assert merge([merge(several[:2]), *several[2:]]) == merged
    assert merge([*several[:1], merge(several[1:])]) == merged
    assert merge([merged]) == merged
    assert merge([Obligations(record="metadata"), merged]) == merged


@settings(max_examples=300, deadline=None)
@given(SEVERAL)
def test_merging_never_loosens(several: list[Obligations]) -> None:
    """Each key of the merge is at least as strict as each rule's own."""
    both = merge(several)
    for side in several:
        loosened = [name for name, is_stricter in STRICTER.items() if not is_stricter(both, side)]
        assert loosened == []


STRICTER: dict[str, Any] = {
    "timeout": lambda x, y: y.timeout is None or (x.timeout is not None and x.timeout <= y.timeout),
    "output": lambda x, y: y.output is None or (x.output is not None and x.output <= y.output),
    "labels": lambda x, y: y.labels <= x.labels,
    "limits": lambda x, y: set(y.limits) <= set(x.limits),
    "record": lambda x, y: RECORDED.index(x.record) >= RECORDED.index(y.record),
    "backends": lambda x, y: y.backends is None or (x.backends is not None and x.backends <= y.backends),
    "require": lambda x, y: y.require <= x.require,
    "networks": lambda x, y: set(y.networks) <= set(x.networks),
    "injection": lambda x, y: INJECTION.index(x.injection) >= INJECTION.index(y.injection),
    "redact": lambda x, y: y.redact <= x.redact,
    "cache": lambda x, y: y.cache or not x.cache,
    "approvals": lambda x, y: all(
        any((a.rule, a.by) == (b.rule, b.by) and a.ttl <= b.ttl for a in x.approvals) for b in y.approvals
    ),
}


def test_every_obligation_has_its_law() -> None:
    """A key that nobody merges would be lost when two permits are met: each field stands in the table above."""
    assert set(STRICTER) == {each.name for each in fields(Obligations)} - {"origin"}


@pytest.mark.parametrize("key", WithShape.model_fields)
def test_every_key_of_a_permit_requires_something(key: str) -> None:
    """What a file can say under `with` is in the laws above, and none of it comes to nothing."""
    name = WithShape.model_fields[key].alias or key

    @settings(max_examples=20, deadline=None)
    @given(KEYS[name].filter(lambda value: value not in ({}, "request_response", "on")))
    def holds(value: Any) -> None:
        required = obligations_of("r", WithShape.model_validate({name: value}))
        assert replace(required, origin={}) != Obligations()
        assert set(required.origin.values()) == {("r",)}

    holds()


@settings(max_examples=300, deadline=None)
@given(SEVERAL)
def test_every_key_knows_its_rules(several: list[Obligations]) -> None:
    """What the merge requires beyond nothing names the rules that it came from, and only those of the several."""
    merged, nothing = merge(several), Obligations()
    keys = {"timeout": "timeout", "output": "limits.output", "labels": "label", "limits": "limit"}
    keys |= {"backends": "sandbox.backends", "require": "sandbox.require", "networks": "network"}
    keys |= {"injection": "screen.injection", "redact": "screen.redact", "cache": "cache", "approvals": "approval"}
    for name, key in keys.items():
        if getattr(merged, name) != getattr(nothing, name):
            assert set(merged.origin[key]) <= {f"r{index}" for index in range(len(several))}
            assert merged.origin[key] == tuple(sorted(merged.origin[key]))


def of(rule: str, **shape: Any) -> Obligations:
    """What one rule with this `with` requires."""
    return obligations_of(rule, WithShape.model_validate(shape))


def test_each_rule_keeps_its_list_of_a_network() -> None:
    """Lists are never intersected as text: a request has to match an entry of each. The same list counts once."""
    wide = of("wide", network={"allow": ["GET https://*.a.org/**", "GET https://*.a.org/**"]})
    narrow = of("narrow", network={"allow": ["GET https://x.a.org/b/**", "GET https://b.org/**"]})
    again = of("again", network={"allow": ["GET https://b.org/**", "GET https://x.a.org/b/**"]})
    both = merge([wide, narrow, again])
    assert both.networks == (("GET https://*.a.org/**",), ("GET https://b.org/**", "GET https://x.a.org/b/**"))
    assert both.origin["network"] == ("again", "narrow", "wide")


def test_the_strictest_word_on_injection_wins_and_names_its_rule() -> None:
    """allow < flag < redact < quarantine < block; a rule that is silent asks nothing."""
    asked = [of(word, screen={"injection": word}) for word in ("allow", "flag", "redact", "quarantine", "block")]
    assert [merge([*asked[: count + 1], of("silent")]).injection for count in range(5)] == INJECTION[1:]
    assert merge(asked).origin["screen.injection"] == ("block",)


def test_no_cached_result_will_do_where_one_rule_says_so() -> None:
    """`cache: off` wins over `on` and over silence."""
    off = merge([of("a", cache="on"), of("b", cache="off"), of("c")])
    assert (off.cache, off.origin["cache"]) == (False, ("b",))
    assert merge([of("a", cache="on"), of("c")]).cache


def test_every_rule_that_wants_a_yes_gets_one_for_the_shortest_time() -> None:
    """All `by` are kept, each with its rule; the shortest ttl holds for all of them."""
    both = merge(
        [
            of("z", approval={"by": ["user:ann", "requester"], "ttl": "5m"}),
            of("a", approval={"by": ["group:staff"], "ttl": "1m"}),
        ]
    )
    assert both.approvals == (Approval("a", ("group:staff",), 60.0), Approval("z", ("requester", "user:ann"), 60.0))
    assert both.origin["approval"] == ("a", "z")


def test_an_approval_that_need_not_be_asked_shortens_none() -> None:
    """`unasked` takes a rule's approval out before the merge, and nothing else of it."""
    short = of("short", approval={"when": "true", "by": ["requester"], "ttl": "1s"}, cache="off")
    long = of("long", approval={"by": ["user:ann"], "ttl": "5m"})
    both = merge([unasked(short), long])
    assert both.approvals == long.approvals
    assert both.origin == {"approval": ("long",), "cache": ("short",)}
    assert unasked(of("none", cache="off")) == of("none", cache="off")
    assert replace(short, approvals=(), origin={"cache": ("short",)}) == unasked(short)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("https://a.org/**", "METHOD scheme://host/path"),
        ("get https://a.org/**", "METHOD scheme://host/path"),
        ("GET ftp://a.org/", "http"),
        ("GET https://a.org/?q=1", "query"),
        ("GET https://*.org/", "two labels"),
        ("GET https://u:p@a.org/", "user"),
        ("* https://a.org/", "METHOD scheme://host/path"),
        ("GET https://*/**", ""),
    ],
)
def test_an_entry_that_no_request_could_match_is_refused_where_it_stands(entry: str, said: str) -> None:
    """A policy's network is read when the policy is: a finding at the entry's own line, never at a call."""
    text = f"""id: p
rules:
- id: narrow
  effect: permit
  with:
    network:
      allow:
      - GET https://a.org/**
      - {entry!r}
"""
    with pytest.raises(SpecErrors) as refused:
        bundle(text)
    (found,) = refused.value.findings
    assert (found.file, found.line) == ("p0.yaml", 11)
    assert "no entry of a network" in found.sentence
    assert said in found.sentence


POLICY = """id: p
rules:
- id: one
  effect: permit
  with: {network: {allow: [GET https://a.org/**]}, screen: {injection: flag}, cache: off, label: [x]}
- id: two
  effect: permit
  with: {network: {allow: [GET https://a.org/b/**]}, screen: {injection: block, redact: [email]}}
"""


def test_the_permits_that_are_met_are_merged_in_a_decision() -> None:
    """A decision carries what all its permits require, each key with its rules."""
    decision = bundle(POLICY).decide(call())
    assert decision.effect is Effect.PERMIT
    got = decision.obligations
    assert got.networks == (("GET https://a.org/**",), ("GET https://a.org/b/**",))
    assert (got.injection, got.redact, got.cache, got.labels) == ("block", {"email"}, False, {"x"})
    assert got.origin["network"] == ("one", "two")
    assert got.origin["screen.redact"] == ("two",)


@pytest.mark.parametrize(
    ("wanted", "key"),
    [
        ("{network: {allow: [GET https://c.org/**]}}", "network"),
        ("{screen: {injection: quarantine}}", "screen.injection"),
        ("{screen: {redact: [secret]}}", "screen.redact"),
        ('{cache: "on"}', "cache"),
        ("{approval: {by: [requester]}}", "approval"),
    ],
)
def test_a_case_compares_every_obligation(wanted: str, key: str) -> None:
    """A policy's own test that wants another network, screening, cache or approval than comes out has failed."""
    expect = f"expect: {{permit: one, obligations: {wanted}}}"
    tests = f"tests:\n- {{name: x, call: {{fetch: {{url: 'https://a.org/'}}}}, {expect}}}\n"
    (result,) = run_cases(bundle(POLICY + tests))
    assert not result.ok
    assert result.got.endswith(f"but not with {key}")
