"""Two bundles that say the same of a call: what has to be the same, and what may differ."""

from __future__ import annotations

import pytest

from gateway.policy import PolicyBundle, load_bundle
from tests.gateway.policy.makers import FETCH, RUN, call

HEAD = "apiVersion: toolgate/v1\nkind: Policy\n"
POLICY = (
    HEAD
    + """
id: m
values: {host: a.org, other: b.org}
state: {sent: {count: {tools: [fetch]}, within: 1h}}
rules:
- {id: p, effect: permit, match: {tools: [fetch]}, when: ['args.url != v.host', state.sent < 5], with: {timeout: 5s}}
- {id: f, effect: forbid, match: {tools: [fetch]}, when: ['args.url == "x"'], message: no}
- {id: r, effect: permit, match: {tools: [run]}}
"""
)
NOTHING = HEAD + "id: {id}\nrules: [{{id: {id}-r, effect: permit, match: {{tools: [run]}}}}]\n"


def made(text: str = POLICY, **more: str) -> PolicyBundle:
    """A bundle of the part, and of others."""
    files = {"m.yaml": text, **{f"{name}.yaml": each for name, each in more.items()}}
    return load_bundle({name: each.encode() for name, each in files.items()}, [FETCH, RUN])


def same(a: PolicyBundle, b: PolicyBundle) -> bool:
    """Whether they say the same of a fetch."""
    asked = call()
    return a.alike(b, asked.tool, asked.caller.principal)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a.org", "c.org"),
        ("sent < 5", "sent < 6"),
        ("within: 1h", "within: 2h"),
        ("timeout: 5s", "timeout: 6s"),
        ("id: p,", "id: q,"),
        ("message: no", "message: never"),
        ("tools: [fetch]}, when: ['args.url == ", "tools: [run]}, when: ['args.code == "),
        ("effect: forbid,", "effect: forbid, mode: shadow,"),
        ("id: m\n", "id: m\nboundary: true\n"),
        ("id: m\n", "id: n\n"),
    ],
)
def test_what_matters_is_not_alike(old: str, new: str) -> None:
    """Each change that a decision on the call, its obligations or its state may show."""
    assert POLICY.count(old) == 1
    assert not same(made(), made(POLICY.replace(old, new)))


@pytest.mark.parametrize(
    ("old", "new"),
    [("b.org", "c.org"), ("id: r,", "id: s,"), ("id: m\n", "id: m\n# a comment\n"), ("[run]", "['*']")],
)
def test_what_is_about_other_calls_does_not_matter(old: str, new: str) -> None:
    """Constants that are not read, rules about other tools, comments; but a rule that takes this tool too does."""
    assert same(made(), made(POLICY.replace(old, new))) == (old != "[run]")


def test_the_place_of_the_part_does_not_matter() -> None:
    """Its names begin otherwise where another part comes before it."""
    assert same(made(), made(a=NOTHING.format(id="a"), z=NOTHING.format(id="z")))
