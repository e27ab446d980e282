"""Cases run through a whole gateway in memory: real pipeline, real sandboxes, a canned upstream. Nothing is dialled.

Cases of a policy are decisions only (`policy/cases.py`); those of a spec or of a case file go through all ten stages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.loading import Loaded
from gateway.model import Outcome, Request
from gateway.obligations import Approval, Limit, Obligations
from gateway.policy.cases import NOW, Case, CaseResult, missing, tell
from gateway.policy.cases import run_cases as run_decisions
from gateway.policy.past import Misfit
from gateway.runners.canned import Upstream
from gateway.screening import IssuedSecrets, Screener, bundled
from gateway.tool import Json, Rate, SandboxBackend, Tool
from gateway.trial import Trial, make_trial
from sandboxes.model import Backend as Sandbox


async def run_cases(loaded: Loaded, sandboxes: Mapping[str, Sandbox]) -> list[CaseResult]:
    """Every case of these files: those of the policies as decisions, those of the specs as whole calls."""
    results = run_decisions(loaded.bundle)
    for spec_case in loaded.cases:
        results.append(await run_case(fresh_trial(loaded, sandboxes, None), spec_case))
    return results


def sandboxed(loaded: Loaded) -> list[Tool]:
    """The sandboxed tools that a case expects to have run."""
    wanted = {case.tool for case in loaded.cases if case.expect.kind == "done"}
    return [tool for tool in loaded.catalogue.all() if tool.name in wanted and isinstance(tool.backend, SandboxBackend)]


def fresh_trial(loaded: Loaded, sandboxes: Mapping[str, Sandbox], upstream: Upstream | None) -> Trial:
    """A gateway in memory that no case has touched."""
    return make_trial(loaded, Screener(bundled(), IssuedSecrets()), sandboxes, upstream)


async def run_case(trial: Trial, case: Case) -> CaseResult:
    """One case, through all ten stages."""
    try:
        arrange(trial, case)
    except Misfit as misfit:
        return CaseResult(case.name, case.source, False, str(misfit), f"{case.expect.kind} {case.expect.value}")
    request = Request(trial.gate.new_call_id(), case.tool, case.arguments, case.name, case.session.id)
    return judge(trial, case, await trial.gate.handle(request))


def arrange(trial: Trial, case: Case) -> None:
    """Makes the case's caller, session and history known; the case's name is the caller's credential. Raises Misfit."""
    trial.clock.at = NOW
    trial.authority.principals[case.name] = case.principal
    trial.sessions.put(case.session)
    gate, past = trial.gate, trial.counters.cells
    tools = {tool.name: tool for tool in gate.catalogue.all()}
    tell(case, gate.bundles.current(), tools, past.reserve, past.settle)


def judge(trial: Trial, case: Case, outcome: Outcome) -> CaseResult:
    """Whether the outcome, and what was recorded of it, is what the case wants."""
    expect = case.expect
    recorded = _recorded(trial)
    got = f"{outcome.status} {outcome.problem.code if outcome.problem else ''}".strip()
    if expect.kind == "done":
        shown = {"text": outcome.text, "structured_content": outcome.structured}
        ok = outcome.status == "done" and includes(shown, expect.value)
        got = f"{got} {shown}" if not ok else got
    elif expect.kind == "parked":
        ok = outcome.status == "parked" and outcome.problem is not None and expect.value in _asking(recorded)
    elif expect.kind == "refused":
        ok = outcome.problem is not None and outcome.problem.code == expect.value
    else:
        decision = recorded.get("decision")
        effect, code, rules = _decided(decision if isinstance(decision, dict) else {})
        ok = effect == ("permit" if expect.kind == "permit" else "forbid") and expect.value in {code, *rules}
        got = _spelled(effect, code, rules) or got
        if ok and expect.obligations is not None and isinstance(decision, dict):
            lacks = missing(expect.obligations, _obligations(decision["obligations"]))
            ok, got = not lacks, f"{got}, but not with {', '.join(lacks)}" if lacks else got
    if ok and expect.record is not None:
        ok, got = includes(recorded, dict(expect.record)), f"record {recorded}"
    return CaseResult(case.name, case.source, ok, got, f"{expect.kind} {expect.value}")


def _asking(recorded: Mapping[str, Json]) -> set[Json]:
    """The rules for which people were asked."""
    needs = recorded.get("needs")
    return {each["rule"] for each in needs} if isinstance(needs, list) else set()


def includes(whole: Json, part: Json) -> bool:
    """True when every key of `part` is in `whole` with a value that includes its own; other values must be equal."""
    if isinstance(part, Mapping):
        return isinstance(whole, Mapping) and all(key in whole and includes(whole[key], part[key]) for key in part)
    return whole == part


def _obligations(said: Mapping[str, Any]) -> Obligations:
    """Obligations as they are on record."""
    return Obligations(
        timeout=said["timeout"],
        output=said["output"],
        labels=frozenset(said["labels"]),
        limits=tuple(Limit(each["rule"], each["key"], Rate(**each["rate"])) for each in said["limits"]),
        record=said["record"],
        backends=None if said["backends"] is None else frozenset(said["backends"]),
        require=frozenset(said["require"]),
        networks=tuple(tuple(each) for each in said["networks"]),
        injection=said["injection"],
        redact=frozenset(said["redact"]),
        cache=said["cache"],
        approvals=tuple(Approval(each["rule"], tuple(each["by"]), each["ttl"]) for each in said["approvals"]),
        origin={key: tuple(rules) for key, rules in said["origin"].items()},
    )


def _recorded(trial: Trial) -> dict[str, Json]:
    """The fields of all lines of the ledger, later ones over earlier ones, with the types in order."""
    fields: dict[str, Json] = {}
    for line in trial.ledger.lines:
        fields.update(line.fields)
    fields["types"] = [line.type for line in trial.ledger.lines]
    return fields


def _spelled(effect: Json, code: Json, rules: Sequence[str]) -> str:
    """What policy said, in the words of a case; empty when it was not asked."""
    if effect == "permit":
        return f"permit {', '.join(rules)}"
    return f"deny {', '.join([str(code), *rules])}" if effect else ""


def _decided(decision: Mapping[str, Json]) -> tuple[Json, Json, Sequence[str]]:
    """Effect, code and determining rules of a recorded decision."""
    rules = decision.get("rules")
    return decision.get("effect"), decision.get("code"), rules if isinstance(rules, list) else []
