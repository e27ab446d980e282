"""Rules made of what was really called: they permit all of it, little else, and nothing that a caller smuggled in."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.loading import require_tests
from gateway.model import Arguments, Call, Effect, Principal, Session
from gateway.policy.cases import run_cases
from gateway.specs import yaml
from gateway.stages.authenticate import suppose
from gateway.suggest.run import NothingToGoBy, suggest, suggested
from gateway.suggest.seen import Past, Seen
from gateway.suggest.text import flow, quoted
from gateway.suggest.values import above, at_most, directories, folder, is_secret
from tests.gateway.week import CALLERS, DAY, KEY, OPEN, Made, Week, a_call, bundle_of, lived, permits, tools_of


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> Week:
    luck = random.Random(7)
    return lived(tmp_path_factory.mktemp("week"), [a_call(luck) for _ in range(2100)])


def mutations(arguments: Mapping[str, Any], luck: random.Random) -> Iterator[dict[str, Any]]:
    """The call, changed in one way that matters: elsewhere, to somebody else, of more."""
    if "url" in arguments:
        host, _, path = arguments["url"].removeprefix("https://").partition("/")
        yield {**arguments, "url": f"https://evil{luck.randrange(99)}.example.net/{path}"}
        yield {**arguments, "url": f"https://{host}.example.net/{path}"}
        yield {**arguments, "url": f"http://{host}/{path}"}
        yield {**arguments, "url": f"https://{host}/admin/{path}"}
        yield {**arguments, "url": f"https://{host}:8443/{path}"}
        yield {**arguments, "url": f"https://{host}/{path.partition('/')[0]}/other/{luck.randrange(99)}"}
    if "path" in arguments:
        yield {**arguments, "path": f"/etc/{luck.choice(['passwd', 'shadow'])}"}
        yield {**arguments, "path": f"/repo/src/../../home{arguments['path']}"}
        yield {**arguments, "path": "/repo/srcs" + arguments["path"]}
        yield {**arguments, "path": arguments["path"].replace("/src/", "/docs/")}
    if "to" in arguments:
        yield {**arguments, "to": [*arguments["to"], "eve@example.net"]}
        yield {**arguments, "to": ["eve@shop.example.com.example.net"]}
        yield {**arguments, "to": []}
        yield {**arguments, "cc": "eve@example.net"}
    if "amount" in arguments:
        yield {**arguments, "amount": arguments["amount"] + 200}
        yield {**arguments, "amount": arguments["amount"] * 3}
        yield {**arguments, "amount": -arguments["amount"]}
        yield {**arguments, "reason": "lost"}
    if "repo" in arguments:
        yield {**arguments, "repo": "evil/web"}
        yield {**arguments, "repo": "acme/secrets"}
        yield {**arguments, "tags": ["owned"]}
        yield {**arguments, "place": {"line": 100_000}}


def test_a_week_is_permitted_and_what_nobody_did_is_not(week: Week) -> None:
    """All of 2,100 calls on a real ledger are permitted; of those changed in one way hardly any are.

    Those that are: a larger amount that is no larger than others were.
    """
    assert set(week.codes) == {"done"}
    made = suggest(week.home, week.tools, week.now - 8 * DAY)
    bundle = bundle_of(made, week.tools)
    assert (made.calls, dict(made.silent), made.rules) == (2100, {}, 5)
    assert all(permits(bundle, by, tool, arguments) for by, tool, arguments in week.made)
    luck = random.Random(11)
    changed = [(by, tool, each) for by, tool, given in week.made for each in mutations(given, luck)]
    permitted = [each for each in changed if permits(bundle, *each)]
    assert len(changed) > 5000
    assert len(permitted) <= 0.02 * len(changed)
    largest = max(given["amount"] for _, tool, given in week.made if tool == "refund")
    assert all(tool == "refund" and given["amount"] <= largest for _, tool, given in permitted)


def test_the_file_is_ready_to_be_checked(week: Week) -> None:
    """It loads without a finding, and its own tests pass: real calls of each rule, and such as each rule refuses."""
    bundle = bundle_of(suggest(week.home, week.tools, 0.0), week.tools)
    require_tests(bundle)
    assert [str(finding) for finding in bundle.findings] == []
    results = run_cases(bundle)
    assert {result.wanted for result in results} == {f"permit {name}" for name in bundle.rules} | {"deny no_permit"}
    assert len([each for each in results if each.wanted.startswith("deny")]) >= 12


def test_no_other_agent_tenant_or_person_is_permitted(week: Week) -> None:
    """A rule is about one agent of one tenant, and its users where every call had one."""
    bundle = bundle_of(suggest(week.home, week.tools, 0.0), week.tools)
    by_id = {part.id: part.match for part in bundle.parts[0].shape.rules}
    assert by_id["support-mail"].users == ["ann", "bob"]
    assert (by_id["coder-read-file"].agents, by_id["coder-read-file"].users) == (["coder"], None)
    fetch = {"url": "https://docs.python.org/3/library/1.html"}
    assert permits(bundle, "researcher", "fetch", fetch)
    assert not permits(bundle, "coder", "fetch", fetch)


def test_only_one_agent_where_that_is_asked(week: Week) -> None:
    """`agent` leaves the calls of the others out."""
    made = suggest(week.home, week.tools, 0.0, "coder")
    assert set(bundle_of(made, week.tools).rules) == {"coder-read-file", "coder-open-issue"}


def test_a_limit_is_twice_the_busiest_minute(tmp_path: Path) -> None:
    """Twenty calls in one minute give a rate of forty a minute for the agent."""
    week = lived(tmp_path, [("coder", "read_file", {"path": f"/repo/{n}"}) for n in range(30)])
    made = suggest(week.home, week.tools)
    assert "with: {limit: {key: agent, calls: 40/1m}}" in made.text
    assert '# seen 30 times by agent "coder", last ' in made.text


def test_what_cannot_be_read_is_counted(tmp_path: Path) -> None:
    """Calls at metadata level and of tools that are gone make no rule; the file and the result say how many."""
    quiet = OPEN.replace("]\n", ", {id: q, effect: permit, match: {tools: [mail]}, with: {record: metadata}}]\n")
    quiet = quiet.replace('tools: ["*"]', "tools: [fetch, read_file]")
    mail = {"to": ["a@example.com"], "subject": "x", "body": "y"}
    calls: list[Made] = [("ann", "mail", mail), ("coder", "read_file", {"path": "/repo/a"})]
    calls.append(("researcher", "fetch", {"url": "https://example.com/"}))
    week = lived(tmp_path, calls, quiet)
    made = suggest(week.home, tools_of("fetch.yaml"))
    assert dict(made.silent) == {"there is no such tool any more": 1, "the arguments are not on record": 1}
    assert "# Not in it: 1 call: the arguments are not on record" in made.text
    assert made.calls == 1


def test_without_calls_there_is_no_file(week: Week) -> None:
    """Nobody called: that is said, and no empty policy is made."""
    with pytest.raises(NothingToGoBy, match="no call to make a rule of"):
        suggest(week.home, week.tools, 0.0, "nobody")


def seen(tool: str, *given: Mapping[str, Any], by: str = "coder") -> Past:
    """Calls as they come from a ledger."""
    found = {each.name: each for each in tools_of()}[tool]
    filled = [found.check.fill(dict(each)) for each in given]
    return Past([Seen(f"c_{n}", 60.0 * n, CALLERS[by], found, each) for n, each in enumerate(filled)])


def test_a_credential_is_never_written() -> None:
    """Its call is no test, its value no constant, the path it stands in no prefix; yet the call is permitted."""
    past = seen("fetch", *[{"url": f"https://example.com/hook/{KEY}/a"}] * 4)
    issues = seen("open_issue", *[{"repo": "acme/web", "title": KEY, "tags": [KEY]}] * 4)
    made = suggested(Past(past.calls + issues.calls), tools_of())
    assert KEY not in made.text
    assert made.calls == 8
    assert is_secret({"password": "hunter2"})
    assert is_secret([f"token={KEY}"])
    assert not is_secret({"text": "a note"})


HOSTILE = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.sampled_from(
    [
        '"',
        "'",
        "\\",
        "\n- {id: all, effect: permit}\n",
        '" || true || "',
        "v.x",
        "#",
        ": ",
        "{{}}",
        "\u2028",
        "\x85",
        "*a",
    ]
)


@settings(max_examples=25, deadline=None)
@given(st.lists(HOSTILE, min_size=1, max_size=4), st.dictionaries(HOSTILE, HOSTILE, max_size=3))
def test_hostile_strings_stay_values(titles: list[str], extra: dict[str, str]) -> None:
    """Whatever a caller writes, the file loads, its tests pass, they hold what was called, and no rule came of it."""
    extra = {key: value for key, value in extra.items() if key not in ("repo", "title", "tags", "place")}
    given_ = [{"repo": "acme/web", "title": title, "tags": [title], **extra} for title in titles for _ in range(3)]
    past = seen("open_issue", *given_)
    hostile = [
        replace(each, principal=Principal("co\n- {}#*", 'te"n', titles[0], frozenset(titles))) for each in past.calls
    ]
    made = suggested(Past(hostile), tools_of())
    bundle = bundle_of(made, tools_of())
    require_tests(bundle)
    assert (made.calls, len(bundle.rules), len(bundle.parts[0].shape.rules)) == (len(given_), 1, 1)
    real = [case for case in bundle.parts[0].shape.tests if case.expect.permit]
    called = [each.arguments for each in past.calls]
    assert all(case.call["open_issue"] in called and case.as_.agent == "co\n- {}#*" for case in real)
    session = Session("s_x", "s_x", "", 0.0, 1.0)
    stranger = suppose(Principal("coder", 'te"n', titles[0], frozenset(titles)), session)
    call = Call("c", stranger, bundle.tools["open_issue"], Arguments(called[0]), 1.0, 0)
    assert bundle.decide(call).effect is Effect.FORBID


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | HOSTILE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(HOSTILE, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_what_is_written_reads_back_the_same(value: Any) -> None:
    """Our own YAML reader gives back each value, of the same types."""
    line = f"it: {flow(value)}\n"
    back = yaml.load(line.encode(), "f").value
    assert isinstance(back, dict)
    assert json.dumps(back["it"]) == json.dumps(value)
    assert line.count("\n") == 1
    assert line.isascii()
    assert quoted("\x85\u2028") == '"\\x85\\u2028"'


@pytest.mark.parametrize(
    ("number", "most"), [(0, 0), (7, 7), (99, 99), (101, 110), (412, 420), (-412, -410), (2**63 - 1, 2**63 - 1)]
)
def test_a_bound_is_rounded_up_to_two_digits(number: int, most: int) -> None:
    """Up, also below zero, and never beyond 64 bits."""
    assert at_most(number) == most


@given(st.floats(allow_nan=False, allow_infinity=False, max_value=1e300))
def test_a_rounded_bound_is_never_below(number: float) -> None:
    """Every float is within its own bound."""
    assert float(above(number)) >= number


def test_prefixes_end_where_a_name_ends() -> None:
    """Of paths that begin alike, only whole parts are common; the files of several places have a folder each."""
    assert folder(["/a/b/c", "/a/bc/d"]) == "/a/"
    assert folder(["/a/b/c"]) == "/a/b/"
    assert folder(["/", "/a/b"]) == "/"
    assert directories(["/repo/a/x", "/repo/ab/y", "/tmp/z"]) == ["/repo", "/tmp/z"]
    assert directories([f"/{n}/x" for n in range(20)]) == ["/"]
