"""What a platform engineer changes in a policy, on a recorded week: exactly the calls worked out by hand differ."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from gateway.loading import load_files
from gateway.simulate.report import Report
from gateway.simulate.run import simulate
from tests.gateway.simulate.recording import only
from tests.gateway.week import DAY, SPECS, Week, a_call, lived

HEAD = "apiVersion: toolgate/v1\nkind: Policy\n"
POLICY = (
    HEAD
    + """
id: week
state:
  paid: {sum: args.amount, of: {tools: [refund]}, within: 12h, over: user}
rules:
- {id: fetch, effect: permit, match: {tools: [fetch]}}
- {id: files, effect: permit, match: {tools: [read_file]}, with: {limit: {calls: 3/6h, key: agent}}}
- {id: issues, effect: permit, match: {tools: [open_issue]}}
- {id: mails, effect: permit, match: {tools: [mail]}, with: {label: [sensitive]}}
- {id: refunds, effect: permit, match: {tools: [refund]},
   when: [args.amount <= 150.0, state.paid + args.amount <= 300.0]}
- {id: kept, effect: forbid, match: {tools: [open_issue]}, when: ['"sensitive" in session.labels']}
- {id: late, effect: forbid, mode: shadow, match: {tools: [fetch]}, when: ['arg.url.host == "arxiv.org"']}
"""
)
WHO = ("ann", "bob")


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> Week:
    """Calls one after the other, 15 minutes apart."""
    luck = random.Random(3)
    return lived(tmp_path_factory.mktemp("week"), [a_call(luck) for _ in range(650)], POLICY, at_once=1)


def changed(week: Week, old: str, new: str, specs: Mapping[str, str] = SPECS, **more: str) -> Report:
    """What the policy with one text in place of another makes of the week; `more` are further parts."""
    assert old in POLICY
    parts = {"open.yaml": POLICY.replace(old, new)} | {f"{name}.yaml": text for name, text in more.items()}
    loaded = load_files(*({name: text.encode() for name, text in files.items()} for files in (specs, parts)))
    report = simulate(week.home, loaded.bundle, loaded.catalogue.all())
    assert report.found["drift"] == 0, list(report.lines())
    assert report.calls == 650
    return report


def differing(week: Week, report: Report) -> dict[str, list[int]]:
    """The places of the calls that differ, by class."""
    found: dict[str, list[int]] = {}
    for change in report.changes:
        found.setdefault(str(change["class"]), []).append(week.ids.index(str(change["call_id"])))
    return found


def calls(week: Week, wanted: Callable[[str, str, Mapping[str, Any]], bool], code: str | None = "done") -> list[int]:
    """The places of such calls that ended so."""
    return [at for at, made in enumerate(week.made) if wanted(*made) and code in (None, week.codes[at])]


def test_the_week_has_what_the_changes_are_about(week: Week) -> None:
    """Each way to be refused occurs, and the same policy makes no difference."""
    assert {"done", "rate_limited", "no_permit"} <= set(week.codes)
    assert (changed(week, "id: week", "id: week").changes, min(map(week.codes.count, set(week.codes))) > 5) == (
        [],
        True,
    )


def test_a_clause_is_tightened(week: Week) -> None:
    """Refunds up to 100 instead of 150: those between, but that less is spent lets others through under the cap."""
    report = changed(week, "<= 150.0", "<= 100.0")
    assert differing(week, report) == refunds(week, most=100.0)
    assert set(differing(week, report)) == {"newly-forbidden", "newly-permitted"}


def refunds(
    week: Week, most: float = 150.0, within: float = 0.5 * DAY, also: Callable[[int], bool] = lambda at: True
) -> dict[str, list[int]]:
    """What becomes of the refunds under other bounds, by hand: sums over the refunds that happen."""
    past: dict[str, list[tuple[float, float]]] = defaultdict(list)
    found: dict[str, list[int]] = {}
    for at, (by, tool, given) in enumerate(week.made):
        if tool != "refund":
            continue
        paid = sum(amount for when, amount in past[by] if week.times[at] - when < within)
        permitted = given["amount"] <= most and round(paid + given["amount"], 6) <= 300.0 and also(at)
        if permitted:
            past[by].append((week.times[at], given["amount"]))
        if permitted != (week.codes[at] == "done"):
            found.setdefault("newly-permitted" if permitted else "newly-forbidden", []).append(at)
    return found


def test_the_window_of_an_aggregate_is_changed(week: Week) -> None:
    """A sum over a day instead of half a day refuses more; one over an hour less."""
    assert differing(week, changed(week, "12h", "24h")) == refunds(week, within=DAY)
    assert set(refunds(week, within=DAY)) >= {"newly-forbidden"}
    assert differing(week, changed(week, "12h", "1h")) == refunds(week, within=DAY / 24)
    assert set(refunds(week, within=DAY / 24)) >= {"newly-permitted"}


def test_a_rate_is_added(week: Week) -> None:
    """Two fetches in six hours: a bucket of two that gets one each three hours, by hand."""
    report = changed(week, "tools: [fetch]}}", "tools: [fetch]}, with: {limit: {calls: 2/6h, key: agent}}}")
    room, last, refused = 2.0, week.times[0], []
    for at in calls(week, lambda by, tool, given: tool == "fetch"):
        room, last = min(2.0, room + (week.times[at] - last) / (3 * 3600)), week.times[at]
        if room < 1 - 1e-9:
            refused.append(at)
        else:
            room -= 1
    found = differing(week, report)
    assert found["newly-forbidden"] == refused
    assert len(refused) > 5
    assert found["obligations"] == [at for at in calls(week, lambda _, tool, __: tool == "fetch") if at not in refused]
    assert only(report.groups("newly-forbidden")).rule == "fetch (rate_limited)"


def test_history_is_asked_for(week: Week) -> None:
    """A refund only within six hours of a mail by the same person; what is not spent then leaves room under the cap."""
    more = (
        "id: more\nstate: {mailed: {formerly: {tools: [mail]}, within: 6h, over: user}}\nrules:\n"
        "- {id: first, effect: forbid, match: {tools: [refund]}, when: ['!state.mailed']}\n"
    )
    mailed = {by: calls(week, lambda who, tool, _, by=by: (who, tool) == (by, "mail")) for by in WHO}

    def wrote(at: int) -> bool:
        return any(0 <= week.times[at] - week.times[mail] < DAY / 4 for mail in mailed[week.made[at][0]] if mail < at)

    found = differing(week, changed(week, "id: week", "id: week", more=HEAD + more))
    assert found == refunds(week, also=wrote)
    assert min(map(len, (found["newly-forbidden"], found["newly-permitted"]))) >= 2


def test_a_permit_is_removed(week: Week) -> None:
    """All calls that it alone permitted."""
    report = changed(week, "- {id: issues, effect: permit, match: {tools: [open_issue]}}\n", "")
    assert differing(week, report) == {"newly-forbidden": calls(week, lambda by, tool, given: tool == "open_issue")}
    assert only(report.groups("newly-forbidden")).rule == "no_permit"


@pytest.mark.parametrize("name", ["fetch", "files", "mails", "refunds", "kept"])
def test_a_rule_is_only_renamed(week: Week, name: str) -> None:
    """Nothing differs: what it is called is not what it asks for."""
    assert changed(week, f"id: {name},", f"id: other-{name},").changes == []


def test_an_obligation_is_added(week: Week) -> None:
    """Each permitted fetch has it, and nothing else differs."""
    with_ = "tools: [fetch]}, with: {screen: {redact: [email]}}}"
    report = changed(week, "tools: [fetch]}}", with_)
    assert differing(week, report) == {"obligations": calls(week, lambda by, tool, given: tool == "fetch")}
    group = only(report.groups("obligations"))
    assert (group.rule, group.key, group.before, group.after) == ("fetch", "screen.redact", [], ["email"])


def test_a_label_is_given_elsewhere(week: Week) -> None:
    """Files make a session sensitive instead of mails: the coder's issues are forbidden, and nobody else's change."""
    report = changed(week, "{calls: 3/6h, key: agent}}", "{calls: 3/6h, key: agent}, label: [sensitive]}")
    opened, expected = -2 * DAY, list[int]()
    tainted = False
    for at, (by, tool, _) in enumerate(week.made):
        if by != "coder":
            continue
        if week.times[at] >= opened + DAY:
            opened, tainted = week.times[at], False
        if tool == "read_file" and week.codes[at] == "done":
            tainted = True
        if tool == "open_issue" and tainted:
            expected.append(at)
    found = differing(week, report)
    assert found["newly-forbidden"] == expected
    assert found["obligations"] == calls(week, lambda by, tool, given: tool == "read_file")
    assert len(expected) > 5


def test_a_rule_is_added_for_one_tenant(week: Week) -> None:
    """It is about that tenant's calls, whoever else calls the same tools."""
    shop = HEAD + "id: shop\ntenant: shop\nrules: [{id: none, effect: forbid, match: {tools: ['*']}, when: ['true']}]\n"
    report = changed(week, "id: week", "id: week", shop=shop)
    assert differing(week, report) == {"newly-forbidden": calls(week, lambda by, tool, given: by in WHO)}


def test_a_tool_is_another_one_now(week: Week) -> None:
    """Of its calls nobody can tell; all the others are as they were."""
    specs = {**SPECS, "fetch.yaml": SPECS["fetch.yaml"].replace("version: 1.0.0", "version: 1.1.0")}
    report = changed(week, "id: week", "id: week", specs)
    count = len(calls(week, lambda by, tool, given: tool == "fetch"))
    assert (report.same, report.changes) == (650 - count, [])
    assert dict(report.unreplayable) == {"the tool fetch is not here as it was": count}


def test_a_rule_in_shadow_is_enforced(week: Week) -> None:
    """What it would have refused it refuses; one that is put in shadow refuses nothing any more."""
    report = changed(week, "mode: shadow, ", "")
    arxiv = calls(week, lambda by, tool, given: "arxiv.org" in given.get("url", ""))
    assert differing(week, report) == {"newly-forbidden": arxiv}
    assert only(report.groups("newly-forbidden")).rule == "late (forbidden)"
    quiet = changed(week, "{id: issues, effect: permit", "{id: issues, mode: shadow, effect: permit")
    assert differing(week, quiet) == {"newly-forbidden": calls(week, lambda by, tool, given: tool == "open_issue")}
