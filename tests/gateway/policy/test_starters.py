"""The starters one copies: each loads clean, its cases pass, and the cases really guard every rule and every clause."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.cli import main
from gateway.explaining import explain_case
from gateway.loading import Loaded, load_folders
from gateway.model import Outcome, Principal, Session
from gateway.policy.bundle import load_bundle
from gateway.policy.cases import Case, CaseResult, cases_of, run_cases
from gateway.policy.words import sentence
from gateway.runners.canned import Upstream
from gateway.specs import yaml
from tests.kit import ROOT, Lab

STARTERS = sorted(path.parent for path in (ROOT / "policies" / "starters").glob("*/toolgate.yaml"))
EVERYTHING = [*STARTERS, ROOT]  # also what is in force when nothing was copied
Parts = dict[str, Any]  # file → document

every_starter = pytest.mark.parametrize("folder", STARTERS, ids=lambda path: path.name)
every_bundle = pytest.mark.parametrize("folder", EVERYTHING, ids=lambda path: path.name if path != ROOT else "default")


@cache
def loaded(folder: Path) -> Loaded:
    """A project as it stands."""
    return load_folders(folder / "tool_specs", folder / "policies")


@cache
def cases(folder: Path) -> tuple[Case, ...]:
    """The cases of its policies."""
    return tuple(cases_of(loaded(folder).bundle))


def parts(folder: Path) -> Parts:
    """Its policy files as values, without their tests: those are run from outside."""
    found = {}
    for path in sorted((folder / "policies").glob("*.yaml")):
        document: Any = yaml.load(path.read_bytes(), path.name).value
        document.pop("tests", None)
        found[path.name] = document
    return found


def passed(folder: Path, changed: Parts) -> list[bool]:
    """How the project's cases go under changed policy files."""
    files = {name: orjson.dumps(document) for name, document in changed.items() if document["rules"]}
    bundle = load_bundle(files, loaded(folder).catalogue.all())
    return [result.ok for result in run_cases(bundle, cases(folder))]


def mutations(whole: Parts) -> Iterator[tuple[str, Parts, Parts]]:
    """What was taken out of a rule or an aggregate, the files as they were, and the files without it.

    A rule in shadow refuses nobody, so it counts as enforced both before and after: some case has to feel it then.
    """
    for file, document in whole.items():
        for name in [name for name, aggregate in document.get("state", {}).items() if "same" in aggregate]:
            after = deepcopy(whole)
            del after[file]["state"][name]["same"]
            yield f"{file}: state {name}: same", whole, after
        for number, rule in enumerate(document["rules"]):
            before = deepcopy(whole)
            before[file]["rules"][number].pop("mode", None)
            after = deepcopy(before)
            del after[file]["rules"][number]
            yield f"{file}: rule {rule['id']}", before, after
            for what, rest in lessened(before[file]["rules"][number]):
                after = deepcopy(before)
                after[file]["rules"][number] = rest
                yield f"{file}: rule {rule['id']}: {what}", before, after


def lessened(rule: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A rule without one clause, one obligation, one key of its `match` but the tools, which its clauses depend on."""
    for clause in rule.get("when", []):
        left = [text for text in rule["when"] if text != clause]
        rest = {key: value for key, value in rule.items() if key != "when"}
        yield clause, rest | ({"when": left} if left else {})
    for part in ("match", "with"):
        for key in sorted(rule.get(part, {}).keys() - {"tools"}):
            yield f"{part} {key}", rule | {part: {name: each for name, each in rule[part].items() if name != key}}


def failing(results: list[CaseResult]) -> list[str]:
    """The cases that did not come out as wanted, in words."""
    return [f"{r.source} {r.name}: wanted {r.wanted}, got {r.got}" for r in results if not r.ok]


@every_bundle
def test_a_starter_loads_without_a_finding_and_its_cases_pass(folder: Path) -> None:
    """Lint has nothing to say."""
    assert [str(finding) for finding in loaded(folder).findings] == []
    assert failing(run_cases(loaded(folder).bundle)) == []


@every_starter
def test_a_starter_is_attacked(folder: Path) -> None:
    """At least twenty cases, at least half of them refusals, and each refusal names its rule or its code."""
    refusals = [case for case in cases(folder) if case.expect.kind in ("deny", "refused")]
    assert len(cases(folder)) >= 20
    assert len(refusals) >= max(8, len(cases(folder)) / 2)
    assert all(isinstance(case.expect.value, str) and case.expect.value for case in refusals)


@every_bundle
def test_whatever_is_taken_out_of_a_rule_is_missed_by_a_case(folder: Path) -> None:
    """No rule, clause, obligation, key of a `match` or `same` can go without one of the cases coming out otherwise."""
    whole = parts(folder)
    as_it_was: dict[str, list[bool]] = {}
    unguarded = []
    for what, before, after in mutations(whole):
        key = str(before)
        if key not in as_it_was:
            as_it_was[key] = passed(folder, before)
        if passed(folder, after) == as_it_was[key]:
            unguarded.append(what)
    assert not unguarded, "\n".join(unguarded)


@every_starter
def test_every_refusal_can_be_explained(folder: Path) -> None:
    """In one sentence that names the rule or part and its line; what a URL or path hides is told apart from nothing."""
    for case in cases(folder):
        if case.expect.kind == "deny" and case.expect.value != "precondition_pending":
            said = sentence(explain_case(case, loaded(folder).bundle))
            assert said.startswith("refused: "), case.name
            assert ".yaml:" in said, case.name
            assert not re.search(r"\barg\.\w+(\.\w+)? is absent(?!: )", said), case.name


@every_starter
def test_a_copy_checks_by_itself(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copied and entered, with no flag at all, it is what `toolgate check` and `toolgate serve` find."""
    shutil.copytree(folder, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    assert main(["check"]) == 0


def test_the_checkout_does_not_load_its_starters() -> None:
    """What is in force by default are the files of policies/ alone."""
    assert {part.shape.id for part in loaded(ROOT).bundle.parts} == {"starter.dev", "starter.no-exfiltration"}


def test_no_exfiltration_is_one_rule_everywhere() -> None:
    """The copies in the starters say the same as the file they come from; only their cases are their own."""
    ours = parts(ROOT)["no_exfiltration.yaml"]
    copies = {f.name: p["no_exfiltration.yaml"] for f in STARTERS if "no_exfiltration.yaml" in (p := parts(f))}
    assert copies.keys() == {"coding", "research", "support"}
    for copy in copies.values():
        assert {**copy, "id": ours["id"]} == ours


# ── over several sessions, which one case cannot tell: through the whole pipeline, with a backend that always agrees ──

MARIA = Principal("support", "default", user="maria", scopes=frozenset({"agent"}))


def desk() -> Lab:
    """The support starter; `maria` is its agent with her behind it."""
    lab = Lab.over(loaded(ROOT / "policies" / "starters" / "support"), Upstream(200, {"ok": True}))
    lab.trial.authority.principals["maria"] = MARIA
    return lab


def opened(lab: Lab, session: str) -> str:
    """A session of hers, for a day."""
    now = lab.trial.clock.now()
    lab.trial.sessions.put(Session(session, session, MARIA.key, now, now + 86_400))
    return session


def said(outcome: Outcome) -> str:
    """`done`, or the rule or else the code that refused."""
    return outcome.problem.rule or outcome.problem.code if outcome.problem else outcome.status


async def pay(lab: Lab, order: str, amount: float, session: str) -> str:
    """Looks an order up and refunds some of it."""
    await lab.call("lookup_order", {"order": order}, "maria", session=session)
    arguments = {"order": order, "amount": amount, "reason": "damaged"}
    return said(await lab.call("issue_refund", arguments, "maria", session=session))


def test_a_new_session_does_not_start_a_new_day() -> None:
    """The cap is the person's: 500 euros within 24 hours over all sessions, and again after that."""

    async def days() -> list[str]:
        lab = desk()
        monday = [("A-1", 200.0), ("A-2", 200.0), ("A-3", 200.0), ("A-4", 100.0), ("A-5", 0.01)]
        paid = [await pay(lab, order, amount, opened(lab, f"s_{order}")) for order, amount in monday]
        lab.trial.clock.at += 86_400
        return [*paid, await pay(lab, "A-6", 200, opened(lab, "s_tuesday"))]

    assert asyncio.run(days()) == ["done", "done", "refund-day-cap", "done", "refund-day-cap", "done"]


def test_twenty_refunds_sent_at_once_do_not_pass_the_cap_together() -> None:
    """Each is judged by what the others have reserved, answered or not."""

    async def rush() -> list[str]:
        lab = desk()
        session = opened(lab, "s_1")
        return await asyncio.gather(*(pay(lab, f"A-{number}", 100, session) for number in range(20)))

    paid = asyncio.run(rush())
    assert paid.count("done") == 5
    assert paid.count("refund-day-cap") == 15


def test_a_lookup_in_one_session_is_none_in_another() -> None:
    """Whoever refunds has looked at the order there."""

    async def elsewhere() -> str:
        lab = desk()
        here, there = opened(lab, "s_1"), opened(lab, "s_2")
        await lab.call("lookup_order", {"order": "A-1"}, "maria", session=here)
        arguments = {"order": "A-1", "amount": 10, "reason": "damaged"}
        return said(await lab.call("issue_refund", arguments, "maria", session=there))

    assert asyncio.run(elsewhere()) == "support.agents"  # the boundary that has no permit for it


def test_what_the_tools_return_closes_the_way_out() -> None:
    """Read a ticket, read an order, then mail: the labels come from the tools' own results, not from the case."""

    async def led_astray() -> list[str]:
        lab = desk()
        session = opened(lab, "s_1")
        mail = {"to": ["ida@example.com"], "subject": "Today", "body": "All done."}
        calls: list[tuple[str, dict[str, Any]]] = [
            ("send_email", mail),
            ("read_ticket", {"ticket": "T-1"}),
            ("send_email", mail),
            ("reply_ticket", {"ticket": "T-1", "answer": "passed_to_a_person"}),
        ]
        return [said(await lab.call(tool, arguments, "maria", session=session)) for tool, arguments in calls]

    assert asyncio.run(led_astray()) == ["done", "done", "no-exfiltration", "done"]
