"""A bundle: all policy parts compiled together, ready to decide. Made by `load_bundle`, immutable afterwards.

It never reads a file: bytes are handed in. What it remembers between calls (which rules a tool and a principal meet)
changes how fast it answers, never what.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

from gateway.aggregates import Cell, Entry, Level
from gateway.model import Call, Decision, Effect, Principal, Reason
from gateway.policy import evaluate, language, near
from gateway.policy.aggregates import Aggregate
from gateway.policy.alike import alike
from gateway.policy.compile import Placed, compile_part
from gateway.policy.lint import lint
from gateway.policy.rules import Part, Rule, candidates
from gateway.policy.typecheck import Checker
from gateway.specs.fetch import fetch_tool
from gateway.specs.yaml import SpecError, SpecErrors
from gateway.tool import SandboxBackend, Tool

_MAX_PLANS = 4096
NO_LEVELS: Mapping[str, Level] = MappingProxyType({})
K = TypeVar("K")
V = TypeVar("V")
Shape = tuple[str, str, str | None, frozenset[str]]


class PolicyBundle:
    """The policy decision point (PDP): `ports.Bundle` over compiled rules.

    `digest` is the SHA-256 over the sorted parts, as `sha256:` and hex. `findings` are what lint says of the files.
    """

    def __init__(
        self,
        parts: Sequence[language.Part],
        placed: Sequence[Placed],
        aggregates: Sequence[Aggregate],
        tools: Sequence[Tool],
        findings: Sequence[SpecError],
    ) -> None:
        self.parts = tuple(parts)
        self.findings = tuple(findings)
        self.tools: Mapping[str, Tool] = {tool.name: tool for tool in tools}
        self.rules: Mapping[str, Rule] = {each.rule.id: each.rule for each in placed}
        self._aggregates = tuple(aggregates)
        self._owners: tuple[Part, ...] = tuple({id(each.rule.part): each.rule.part for each in placed}.values())
        self._digest = _digest(parts)
        self._index = _indexed(placed, tools)
        self._plans: dict[tuple[str, Shape], evaluate.Plan] = {}
        self._visible: dict[Shape, frozenset[str]] = {}

    @property
    def digest(self) -> str:
        return self._digest

    def cells(self, call: Call) -> Sequence[Cell]:
        """What of the past the rules that this call meets read."""
        return evaluate.cells(self._plan(call.tool, call.caller.principal), call)

    def entries(self, call: Call) -> Sequence[Entry]:
        """What this call adds to the past once it is admitted."""
        return evaluate.entries(self._plan(call.tool, call.caller.principal), call)

    @property
    def windows(self) -> Mapping[str, float]:
        """For the stem of each aggregate its window, in seconds."""
        return {each.stem: each.within for each in self._aggregates}

    def feeds(self, tool: Tool, principal: Principal) -> frozenset[str]:
        """The stems of the aggregates that the principal's calls of the tool add to."""
        return frozenset(each.stem for each in self._plan(tool, principal).feeds)

    def decide(self, call: Call, levels: Mapping[str, Level] = NO_LEVELS) -> Decision:
        """The decision on a call. Pure: the same call and levels give the same decision."""
        return evaluate.decide(self._plan(call.tool, call.caller.principal), call, self._digest, levels)

    def explain(self, call: Call, levels: Mapping[str, Level] = NO_LEVELS) -> Decision:
        """The same decision, with every clause of every rule it looked at."""
        return evaluate.decide(self._plan(call.tool, call.caller.principal), call, self._digest, levels, "all")

    def judge(self, call: Call, levels: Mapping[str, Level] = NO_LEVELS) -> Decision:
        """The same decision, without any clauses and without what is in shadow: for going through many calls."""
        return evaluate.decide(self._plan(call.tool, call.caller.principal), call, self._digest, levels, "nothing")

    def alike(self, other: PolicyBundle, tool: Tool, principal: Principal) -> bool:
        """Whether both say the same of the principal's calls of the tool, so that one's judgement is the other's."""
        return alike(self._plan(tool, principal), other._plan(tool, principal))

    def visible(self, principal: Principal) -> frozenset[str]:
        """The tools of the catalogue that the principal may see listed: clauses are not run, arguments not known."""
        shape = _shape(principal)
        found = self._visible.get(shape)
        if found is None:
            found = frozenset(name for name, tool in self.tools.items() if _listed(self._plan(tool, principal)))
            _keep(self._visible, shape, found)
        return found

    def near(self, tool: Tool, principal: Principal) -> Sequence[Reason]:
        """The rules about a tool that do not meet the caller, or hide the tool from it: for explaining."""
        return near.near(self._index.get(tool.digest) or self._taking(tool), self._owners, principal)

    def _plan(self, tool: Tool, principal: Principal) -> evaluate.Plan:
        key = (tool.digest, _shape(principal))
        found = self._plans.get(key)
        if found is None:
            met = candidates(self._index.get(tool.digest) or self._taking(tool), principal)
            found = evaluate.plan(met, self._owners, tool, principal, self._aggregates)
            _keep(self._plans, key, found)
        return found

    def _taking(self, tool: Tool) -> tuple[Rule, ...]:
        """The rules about a tool; also for one that the catalogue got only after this bundle was loaded."""
        return tuple(rule for rule in self.rules.values() if rule.match.takes_tool(tool))


def load_bundle(
    files: Mapping[str, bytes], tools: Sequence[Tool], given: Mapping[str, frozenset[str]] | None = None
) -> PolicyBundle:
    """Compile policy files (name → bytes) against the loaded tools. Raises SpecErrors with everything that is wrong.

    given: the guarantees of each sandbox backend, where they are known.
    """
    parts: list[language.Part] = []
    errors: list[SpecError] = []
    for file in sorted(files):
        try:
            parts.append(language.read_part(files[file], file))
        except SpecErrors as refused:
            errors += refused.findings
    if not files:
        errors.append(SpecError("policies", 1, 1, "there is no policy file: without one nothing is permitted"))
    errors += _twice(parts)
    parts.sort(key=lambda part: part.shape.id)
    tools = [*tools, *_built_in(tools)]
    placed: list[Placed] = []
    aggregates: list[Aggregate] = []
    checker = Checker()
    for number, part in enumerate(parts):
        compiled = compile_part(part, number, tools, checker)
        placed += compiled.placed
        aggregates += compiled.aggregates
        errors += compiled.findings
    if errors:
        raise SpecErrors(errors)
    return PolicyBundle(parts, placed, aggregates, tools, lint(parts, placed, tools, given or {}))


def _built_in(tools: Sequence[Tool]) -> list[Tool]:
    """`net.fetch`, where the code of some tool can call it. Rules name it like any other; its form is one for all."""
    fetching = (tool for tool in tools if isinstance(tool.backend, SandboxBackend) and tool.backend.network)
    return [fetch_tool(tool) for tool in itertools.islice(fetching, 1)]


def _twice(parts: Sequence[language.Part]) -> list[SpecError]:
    """Part ids and rule ids are unique over the whole bundle."""
    found: list[SpecError] = []
    ids: dict[str, str] = {}
    rules: dict[str, str] = {}
    for part in parts:
        if part.shape.id in ids:
            sentence = f"the part id {part.shape.id!r} is taken by {ids[part.shape.id]}: give this part another one"
            found.append(part.error(sentence, "id"))
        ids.setdefault(part.shape.id, part.source("id"))
        for index, rule in enumerate(part.shape.rules):
            if rule.id in rules:
                sentence = f"the rule id {rule.id!r} is taken at {rules[rule.id]}: give this rule another one"
                found.append(part.error(sentence, "rules", index, "id"))
            rules.setdefault(rule.id, part.source("rules", index))
    return found


def _listed(plan: evaluate.Plan) -> bool:
    rules = [candidate.rule for candidate in plan.candidates]
    permitting = [rule.part for rule in rules if rule.effect is Effect.PERMIT]
    return (
        bool(permitting)
        and all(any(part is each for each in permitting) for part in plan.boundaries)
        and not any(rule.effect is Effect.FORBID and not rule.conditions for rule in rules)
    )


def _indexed(placed: Sequence[Placed], tools: Sequence[Tool]) -> Mapping[str, Sequence[Rule]]:
    """For the digest of each tool the rules about it."""
    found: dict[str, list[Rule]] = {tool.digest: [] for tool in tools}
    for each in placed:
        for digest in {tool.digest for tool in each.tools}:
            found[digest].append(each.rule)
    return found


def _digest(parts: Sequence[language.Part]) -> str:
    whole = hashlib.sha256()
    for part in sorted(parts, key=lambda part: part.shape.id):
        whole.update(f"{part.shape.id} {part.digest}\n".encode())
    return f"sha256:{whole.hexdigest()}"


def _shape(principal: Principal) -> Shape:
    """All of a principal that rules can ask for."""
    return principal.tenant, principal.agent, principal.user, principal.groups


def _keep(kept: dict[K, V], key: K, value: V) -> None:
    """Bounded: callers are many. Emptied when full, which costs a moment and changes no answer."""
    if len(kept) >= _MAX_PLANS:
        kept.clear()
    kept[key] = value
