"""The starters one copies: each loads clean, its cases pass, and the cases really guard every rule and every clause."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.cli import main
from gateway.loading import Loaded, load_folders
from gateway.model import Principal, Session
from gateway.policy.bundle import load_bundle
from gateway.policy.cases import Case, CaseResult, cases_of, run_cases
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
    """What was taken out, the files as they were, and the files without it: each rule, each key of its `match` but the tools, each clause.

    A rule in shadow refuses nobody, so it counts as enforced both before and after: some case has to feel it then.
    """
    for file, document in whole.items():
        for number, rule in enumerate(document["rules"]):
            before = deepcopy(whole)
            before[file]["rules"][number].pop("mode", None)
            after = deepcopy(before)
            del after[file]["rules"][number]
            yield f"{file}: rule {rule['id']}", before, after
            for key in rule["match"].keys() - {"tools"}:  # a clause about another tool's arguments would not compile
                after = deepcopy(before)
                del after[file]["rules"][number]["match"][key]
                yield f"{file}: rule {rule['id']}: match {key}", before, after
            clauses = rule.get("when", [])
            for place, clause in enumerate(clauses):
                after = deepcopy(before)
                left = [text for at, text in enumerate(clauses) if at != place]
                after[file]["rules"][number] |= {"when": left}
                if not left:
                    del after[file]["rules"][number]["when"]
                yield f"{file}: rule {rule['id']}: {clause}", before, after


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
    """No rule, no clause and no key of a `match` that says who or what kind can go without one of the cases coming out otherwise."""
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

MARIA = {"agent": "support", "tenant": "default", "user": "maria"}


def desk(*sessions: str, by: Mapping[str, str] = MARIA) -> Lab:
    """The support starter with these sessions of maria's open."""
    lab = Lab.over(loaded(ROOT / "policies" / "starters" / "support"), Upstream(200, {"ok": True}))
    principal = Principal(**by, scopes=frozenset({"agent"}))
    lab.trial.authority.principals["maria"] = principal
    for name in sessions:
        now = lab.trial.clock.now()
        lab.trial.sessions.put(Session(name, name, principal.key, now, now + 86_400))
    return lab


async def pay(lab: Lab, order: str, amount: float, session: str) -> str:
    """Looks an order up and refunds some of it; gives `done`, or the rule that refused."""
    await lab.call("lookup_order", {"order": order}, "maria", session=session)
    arguments = {"order": order, "amount": amount, "reason": "damaged"}
    outcome = await lab.call("issue_refund", arguments, "maria", session=session)
    return outcome.problem.rule or outcome.problem.code if outcome.problem else outcome.status


def test_a_new_session_does_not_start_a_new_day() -> None:
    """The cap is the person's: 500 euros within 24 hours over all sessions, and again after that."""

    async def day() -> list[str]:
        lab = desk("s_1", "s_2", "s_3")
        paid = [await pay(lab, "A-1", 200, "s_1"), await pay(lab, "A-2", 200, "s_2"), await pay(lab, "A-3", 200, "s_3")]
        paid += [await pay(lab, "A-4", 100, "s_2"), await pay(lab, "A-5", 0.01, "s_1")]
        lab.trial.clock.at += 86_400
        return [*paid, await pay(desk_again(lab), "A-6", 200, "s_4")]

    def desk_again(lab: Lab) -> Lab:
        now = lab.trial.clock.now()
        owner = lab.trial.authority.principals["maria"].key
        lab.trial.sessions.put(Session("s_4", "s_4", owner, now, now + 86_400))
        return lab

    assert asyncio.run(day()) == ["done", "done", "refund-day-cap", "done", "refund-day-cap", "done"]


def test_twenty_refunds_sent_at_once_do_not_pass_the_cap_together() -> None:
    """Each is judged by what the others have reserved, answered or not."""

    async def rush() -> list[str]:
        lab = desk("s_1")
        orders = [f"A-{number}" for number in range(20)]
        for order in orders:
            await lab.call("lookup_order", {"order": order}, "maria", session="s_1")
        return await asyncio.gather(*(pay(lab, order, 100, "s_1") for order in orders))

    paid = asyncio.run(rush())
    assert paid.count("done") <= 5
    assert set(paid) <= {"done", "refund-day-cap", "precondition_pending", "rate_limited"}


def test_a_lookup_in_one_session_is_none_in_another() -> None:
    """Whoever refunds has looked at the order there."""

    async def elsewhere() -> str:
        lab = desk("s_1", "s_2")
        await lab.call("lookup_order", {"order": "A-1"}, "maria", session="s_1")
        arguments = {"order": "A-1", "amount": 10, "reason": "damaged"}
        outcome = await lab.call("issue_refund", arguments, "maria", session="s_2")
        return outcome.problem.code if outcome.problem else outcome.status

    assert asyncio.run(elsewhere()) == "no_permit"


def test_what_the_tools_return_closes_the_way_out() -> None:
    """Read a ticket, read an order, then mail: the labels come from the tools' own results, not from the case."""

    async def led_astray() -> list[str | None]:
        lab = desk("s_1")
        mail = {"to": ["ida@example.com"], "subject": "Today", "body": "All done."}
        said = []
        for tool, arguments in (
            ("send_email", mail),
            ("read_ticket", {"ticket": "T-1"}),
            ("send_email", mail),
            ("reply_ticket", {"ticket": "T-1", "answer": "passed_to_a_person"}),
        ):
            outcome = await lab.call(tool, arguments, "maria", session="s_1")
            said.append(outcome.problem.rule or outcome.problem.code if outcome.problem else outcome.status)
        return said

    assert asyncio.run(led_astray()) == ["done", "done", "no-exfiltration", "done"]
