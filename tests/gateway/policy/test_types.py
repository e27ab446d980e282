"""Conditions against the types of arguments and facts: what is refused, what is remarked, what is let through."""

from __future__ import annotations

import pytest

from gateway.policy.typed import FACTS, Items, Object, Type
from gateway.specs.facts import derive
from gateway.specs.yaml import SpecErrors
from gateway.tool import Json, Tool
from tests.gateway.policy.makers import bundle, tool

PAGE: Json = {"type": "object", "properties": {"number": {"type": "integer"}, "name": {"type": "string"}}}
TEXTS: Json = {"type": "array", "items": {"type": "string"}}
PAY = tool(
    "pay",
    {
        "amount": {"type": "number"},
        "count": {"type": "integer"},
        "name": {"type": "string"},
        "flag": {"type": "boolean"},
        "mode": {"enum": ["slow", "fast"]},
        "any": {},
        "either": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        "note": {"type": ["string", "null"]},
        "unset": {"type": ["string", "null"], "default": None},
        "page": PAGE,
        "other": PAGE,
        "lines": {"type": "array", "items": PAGE},
        "grid": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
        "names": TEXTS,
        "headers": {"type": "object", "additionalProperties": {"type": "string"}},
        "content-type": {"type": "string"},
        "foo_bar": {"type": "string"},
        "fooBar": {"type": "integer"},
        "url": {"type": "string"},
        "to": TEXTS,
    },
    facts={"url": "url", "to": "email_list"},
)
PART = "id: a\nvalues: {hosts: [a.org], whole: 3}\nstate: {paid: {count: {tools: [pay]}, within: 1h}}\n"


def findings(clause: str, *tools: Tool) -> tuple[list[str], list[str]]:
    """What refuses a rule of all tools with this clause, and what is remarked on numbers that are mixed."""
    lines = "".join(f"\n    {line}" for line in clause.split("\n"))
    rule = f"rules:\n- id: r\n  effect: permit\n  match: {{tools: ['*']}}\n  when:\n  - |-{lines}\n"
    try:
        found = bundle(PART + rule, tools=tools or (PAY,)).findings
    except SpecErrors as refused:
        return [str(each) for each in refused.findings], []
    return [], [str(each) for each in found if "mixed" in str(each)]


WRONG = [
    ('args.amount == "x"', 'args.amount of the tool pay is a number and "x" is text, which are never equal: compare'),
    ("args.flag == 1", "args.flag of the tool pay is true or false and 1 is an integer, which are never equal"),
    ("args.name != null", "args.name of the tool pay is text, never null: where it may be left out, write !has(args"),
    ('args.count.startsWith("1")', "startsWith() takes text, and args.count of the tool pay is an integer: write str"),
    ('args.names.matches("^a$")', "args.names of the tool pay is a list of texts: write args.names.all(each, each.m"),
    ('args.lines.all(i, i.nmae == "x")', "args.lines[].nmae is no argument of the tool pay: did you mean 'name'?"),
    ('args.lines[0].nmae == "x"', "args.lines[].nmae is no argument of the tool pay: did you mean 'name'?"),
    ("args.lines.filter(i, i.number > 1)[0].nmae == 1", "there is no args.lines[].nmae: leave it out"),
    ("args.lines.exists(i, i.name == 1)", "args.lines[].name of the tool pay is text and 1 is an integer"),
    ("args.names.all(n, n == 1)", "args.names[] of the tool pay is text and 1 is an integer"),
    ('args.page.number == "1"', 'args.page.number of the tool pay is an integer and "1" is text'),
    ('args.page.startsWith("a")', "startsWith() takes text, and args.page of the tool pay is an object"),
    ("args.page.number.digits == 1", "args.page.number of the tool pay is an integer, it has no field 'digits'"),
    ('args.url.host == "a.org"', "args.url of the tool pay is text, it has no field 'host': write arg.url.host"),
    ('arg.url.port == "443"', 'arg.url.port of the tool pay is an integer and "443" is text'),
    ("arg.to.all(a, a.domain == 1)", "arg.to[].domain of the tool pay is text and 1 is an integer"),
    ("args.amount + 1 == args.amount", "args.amount of the tool pay is a number and 1 is an integer, which + does no"),
    ("args.count * 1.5 < 9.0", "args.count of the tool pay is an integer and 1.5 is a number, which * does not mix: "),
    ("state.paid + args.amount > 3", "state.paid is an integer and args.amount of the tool pay is a number, which + "),
    ("args.name - 1 == 2", "args.name of the tool pay is text and 1 is an integer: - takes numbers of one kind"),
    ("args.name < 3", "args.name of the tool pay is text and 3 is an integer, which < cannot compare: compare args.n"),
    ("args.names < args.names", "args.names of the tool pay is a list of texts, and < compares numbers, texts and tim"),
    ("args.count in v.hosts", "args.count of the tool pay is an integer and v.hosts is a list of texts, so it is nev"),
    ("args.names in v.hosts", "`in` looks for one value: write args.names.all(each, each in v.hosts) or .exists"),
    ('"a" in args.name', "`in` looks into a list, and args.name of the tool pay is text: write args.name.contains(…)"),
    ('args.names["a"] == "a"', "args.names of the tool pay is a list of texts, it has no field 'a'"),
    ("args.names[args.name] == args.name", "and its items are counted: write args.names[0]"),
    ('args.name.exists(c, c == "a")', "go through a list, and args.name of the tool pay is text"),
    ("args.flag && args.name", "&& takes true or false, and args.name of the tool pay is text"),
    ("!args.count", "! takes true or false, and args.count of the tool pay is an integer"),
    ("args.name", "a clause is true or false, and this one gives text"),
    ("size(args.flag) > 1", "size() does not take this: args.flag of the tool pay is true or false"),
    ("args.mode == 1", "args.mode of the tool pay is text and 1 is an integer"),
    ("args.foo_bar == 1", "args.foo_bar of the tool pay is text"),
    ('args.name == "é" && args.count == "x"', 'args.count of the tool pay is an integer and "x" is text, which are '),
]


@pytest.mark.parametrize(("clause", "wanted"), WRONG)
def test_a_wrong_type_is_refused_once_with_its_tool_and_what_is_right(clause: str, wanted: str) -> None:
    """One finding at the clause, which names the argument, its type and the tool."""
    (finding,), _ = findings(clause)
    assert wanted in finding
    assert finding.startswith("p0.yaml:11:5: ")


def test_the_place_in_a_clause_is_told() -> None:
    """Line and column of the operator, also behind letters of several bytes."""
    ((finding,), _) = findings('args.name == "é"\n  && args.count == "x"')
    assert finding.endswith("(in the clause, line 2 column 17)")
    ((finding,), _) = findings('"éé" == args.name && args.count == "x"')
    assert finding.endswith("(in the clause, column 33)")


def test_everything_wrong_with_a_clause_is_told() -> None:
    """Not only the first thing."""
    assert len(findings('args.count == "x" && args.name == 1 && args.flag == args.names')[0]) == 3


FITS = [
    "args.amount > 5.0 && args.amount + 1.0 < 7.5",
    "args.count % 2 == 0 && args.count + size(args.names) > 3",
    'args.mode == "fast" || args.flag',
    'args.any == 1 || args.any.b[0].c == "x"',
    'args.either == "x" || args.either == 1',
    'args.note == null || args.note.startsWith("a")',
    'args.unset == null || args.unset == "a"',
    'args.page["number"] == 1 && args["name"] == "x" && args["content-type"] == "x"',
    'size(args.page) > 1 && "name" in args.page && args.page.all(key, key != "x")',
    'args.page == {"number": 1} && args.page == args.other && args != {}',
    'args.lines == [{"name": "x"}] || args.lines[0]["name"] == "x" || args.page in args.lines',
    'args.lines.all(i, i["name"] == "x" && size(i) == 2) && args.lines.map(i, i.number)[0] == 1',
    "args.grid.all(row, row.all(cell, cell > 0)) && args.grid == [[1]]",
    'args.headers.accept == "x" && args.headers["content-type"] == "x" && has(args.headers.x)',
    'args.foo_bar == "x" && args.fooBar == 1',
    'args.name in v.hosts && args.name in ["a", "b"] && args.name in ["a", 1]',
    "(args.flag ? args.name : args.count) == 1",
    "(args.names + [1]) != [] && args.names != []",
    'arg.url.host in v.hosts && arg.url.port == 443 && arg.to.all(a, a.domain == "a.org")',
    "int(args.name) == 1 && double(args.count) > 1.5 && string(args.amount) == '1' && type(args.name) == string",
    "timestamp(args.name) < timestamp(now) && duration(args.name) < duration('1h')",
    "state.paid + args.count > v.whole && session.calls + args.count > 3",
    'dyn(args.count) == "x"',
    "int(args.flag) == 1",
]


@pytest.mark.parametrize("clause", FITS)
def test_what_works_on_plain_values_is_let_through(clause: str) -> None:
    """Objects are mappings at run time, and what a schema leaves open may be anything."""
    assert findings(clause) == ([], [])


MIXED = [
    ("args.amount == 5", "args.amount of the tool pay is a number and 5 is an integer: write 5.0"),
    ("args.amount > 0 && args.page.number < 3", "args.amount of the tool pay is a number and 0 is an integer: write"),
    ("args.count < 1.5", "args.count of the tool pay is an integer and 1.5 is a number: compare integers with integ"),
    ("args.count in [1.5]", "args.count of the tool pay is an integer and the right side is a list of numbers"),
    ("args.amount >= args.count", "args.amount of the tool pay is a number and args.count of the tool pay is an int"),
    ("args.amount > v.whole", "args.amount of the tool pay is a number and v.whole is an integer"),
]


@pytest.mark.parametrize(("clause", "wanted"), MIXED)
def test_comparing_whole_and_decimal_numbers_is_remarked(clause: str, wanted: str) -> None:
    """It works, so it does not refuse; a second mistake beside it still does."""
    errors, (remark,) = findings(clause)
    assert (errors, f"integer and double mixed: {wanted}" in remark) == ([], True)
    assert len(findings(f"{clause} && args.name == 1")[0]) == 1


def test_a_clause_fits_every_tool_of_its_rule() -> None:
    """The finding names the tool that it does not fit; what `has` tests may be missing, but not be of another type."""
    text = tool("b", {"x": {"type": "string"}})
    whole = tool("c", {"x": {"type": "integer"}})
    none = tool("d", {"y": {"type": "string"}})
    guarded = 'has(args.x) && args.x == "a"'
    assert findings(guarded, text, none) == ([], [])
    assert findings('args.x == "a"', text, none)[0] == [
        "p0.yaml:11:5: args.x is no argument of the tool d: known are y"
    ]
    assert findings(guarded, text, whole, none)[0] == [
        'p0.yaml:11:5: args.x of the tool c is an integer and "a" is text, which are never equal:'
        " compare args.x with an integer (in the clause, column 23)"
    ]


def test_what_was_checked_for_one_tool_is_told_of_another_by_its_own_name() -> None:
    """Rules alike about tools alike share the check, not the sentence."""
    one, two = (tool(name, {"x": {"type": "string"}}) for name in ("one", "two"))
    rules = "".join(
        f"- {{id: r{name}, effect: permit, match: {{tools: [{name}]}}, when: [args.x == 1]}}\n"
        for name in ("one", "two")
    )
    with pytest.raises(SpecErrors) as refused:
        bundle(f"id: a\nrules:\n{rules}", tools=(one, two))
    assert [
        f"of the tool {name} " in str(each) for name, each in zip(("one", "two"), refused.value.findings, strict=True)
    ]
    assert ["tool two" in str(each) for each in refused.value.findings] == [False, True]


AWKWARD = [
    *("_", "__", "_a", "a_", "a", "A", "aB", "a_b", "a__b", "AB", "M0", "M1", "toolgate", "google", "message", "map"),
    *("optional", "group", "extensions", "reserved", "descriptor", "é", "a b", "", "1", "in", "$ref", "x" * 200),
]


def test_any_names_may_stand_side_by_side(capfd: pytest.CaptureFixture[str]) -> None:
    """Names that the form of the check has words for, or takes for one, are names all the same; nothing is printed."""
    below: Json = {"type": "object", "properties": {name: {"type": "string"} for name in AWKWARD}}
    made = tool("odd", {name: below for name in AWKWARD})
    assert findings('args.aB.a_b == "x" && args["a b"][""] == "x" && args.M0.google == "x"', made) == ([], [])
    ((finding,), _) = findings("args.aB.a__b == 1", made)
    assert "args.aB.a__b of the tool odd is text and 1 is an integer" in finding
    assert capfd.readouterr() == ("", "")


def test_the_condition_of_an_approval_is_checked_too() -> None:
    """At its own place."""
    asks = "with: {approval: {when: \"args.count > '1'\", by: [requester]}}"
    with pytest.raises(SpecErrors, match=r"args\.count of the tool pay is an integer and \"1\" is text") as refused:
        bundle(f"id: a\nrules:\n- {{id: r, effect: permit, match: {{tools: [pay]}}, {asks}}}\n", tools=(PAY,))
    assert len(refused.value.findings) == 1


EXAMPLES: dict[str, Json] = {
    "url": "https://a.org/x",
    "host": "a.org",
    "path": "/a",
    "email": "me@a.org",
    "email_list": ["me@a.org"],
    "repo_path": "a/b",
    "shell_words": "ls -l",
}


def test_the_types_of_facts_are_those_that_are_derived() -> None:
    """For every kind the fields and their types are exactly what the specs derive."""
    assert {kind: shape(fact) for kind, fact in derive({kind: kind for kind in EXAMPLES}, EXAMPLES).items()} == FACTS


def shape(value: Json) -> Type:
    """The type of one value, fields in order."""
    if isinstance(value, dict):
        return Object(tuple((name, shape(each)) for name, each in value.items()))
    if isinstance(value, list):
        return Items(shape(value[0]))
    return {str: "string", int: "int", bool: "bool"}[type(value)]
