"""Deciding held against an independent reference: 100,000 calls of generated policies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from gateway.aggregates import Level
from gateway.model import Call
from gateway.policy import PolicyBundle, load_bundle
from tests.gateway.policy import drawn, makers
from tests.gateway.policy.drawn import Made
from tests.gateway.policy.reference import ERROR, Found, Reference, Shape

SEEDS, POLICIES, CALLS = range(4), 500, 50  # 100,000 cases


@pytest.mark.parametrize("seed", SEEDS)
def test_every_decision_is_that_of_the_reference(seed: int) -> None:
    """25,000 calls a seed, in force and in shadow: not one differs, nor does any clause where they are told."""
    tallying = Tallying()
    assert diverging(tallying, Random(seed), POLICIES) == ""
    words = ("permit", "no_permit", "forbidden", "policy_error", "precondition_pending")
    assert sum(tallying.said.values()) == 2 * POLICIES * CALLS
    assert min(tallying.said[word] for word in words) > 50
    assert tallying.shadowed > 500


class Tallying(Reference):
    """Counts what it says, and how often it says something else of what is in shadow."""

    def __init__(self) -> None:
        self.said: Counter[str] = Counter()
        self.shadowed = 0

    def decide(self, parts: Any, call: Shape, shadow: bool = False) -> str:
        found = super().decide(parts, call, shadow)
        self.said[found.partition(" ")[0]] += 1
        self.shadowed += shadow and found != super().decide(parts, call)
        return found


class ErrorBeatsFalse(Reference):
    """Gets clauses wrong."""

    def both(self, found: Any) -> Found:
        return ERROR if ERROR in found else super().both(found)


class ErrorIsFalse(Reference):
    """Ignores a forbid that could not be judged, as some engines do."""

    def both(self, found: Any) -> Found:
        return False if ERROR in found else super().both(found)


class NoBoundaries(Reference):
    """Lets any part permit for all."""

    def combine(self, ruled: Any, boundaries: Any, call: Shape, key: str) -> str:
        return super().combine(ruled, (), call, key)


class NeverWaits(Reference):
    """Knows nothing of what is under way."""

    def decide(self, parts: Any, call: Shape, shadow: bool = False) -> str:
        return super().decide(parts, {**call, "pending": call["levels"]}, shadow)


class EnforcesShadow(Reference):
    """Takes a trial for the real thing."""

    def decide(self, parts: Any, call: Shape, shadow: bool = False) -> str:
        return super().decide(parts, call, True)


@pytest.mark.parametrize("wrong", [ErrorBeatsFalse, ErrorIsFalse, NoBoundaries, NeverWaits, EnforcesShadow])
def test_the_comparison_would_notice(wrong: type[Reference]) -> None:
    """A reference that gets one thing wrong is told from the real one, by a policy that is as short as can be."""
    found = diverging(wrong(), Random(1), POLICIES)
    assert "the gateway says" in found
    assert found.count('"effect"') <= 2


def diverging(reference: Reference, random: Random, policies: int) -> str:
    """The first case in which reference and gateway differ, made short; empty when there is none."""
    for _ in range(policies):
        parts = drawn.policy(random)
        made = load_bundle(drawn.files(parts), list(drawn.TOOLS.values()))
        for number in range(CALLS):
            called = drawn.call(random, parts)
            if difference(reference, made, parts, called, full=number % 5 == 0):
                return shortened(reference, parts, called)
    return ""


def difference(reference: Reference, made: PolicyBundle, parts: list[Made], called: Made, full: bool = True) -> str:
    """What the gateway says and what the reference says, where that is not the same."""
    real = call_of(called)
    levels = levels_of(made, real, parts, called)
    decision = made.decide(real, levels)
    shadow = decision.shadow or decision
    got = (makers.outcome(decision), makers.outcome(shadow))
    got = tuple(each if each.startswith("permit") else each.partition(" ")[0] for each in got)  # type: ignore[assignment]  # two remain two
    wanted = (reference.decide(parts, called), reference.decide(parts, called, True))
    if got != wanted:
        return f"the gateway says {got} and the reference {wanted}"
    if full:
        told = made.explain(real, levels)
        assert makers.outcome(told) == makers.outcome(decision)
        clauses = {reason.rule: [each.result for each in reason.clauses] for reason in (told.shadow or told).reasons}
        for part in parts:
            seen = {**called["arguments"], **part["values"], **called["levels"][part["id"]]}
            for rule in part["rules"]:
                wanted_clauses = [str(reference.truth(each, seen)).lower() for each in rule["clauses"]]
                if clauses.get(rule["id"], wanted_clauses) != wanted_clauses:
                    return f"the gateway says {clauses[rule['id']]} and the reference {wanted_clauses} of {rule['id']}"
    return ""


def call_of(called: Made) -> Call:
    """The drawn call as the gateway has it."""
    words = called["words"]
    arguments = {name.removeprefix("args."): value for name, value in called["arguments"].items()}
    tool, agent, tenant = drawn.TOOLS[words["tools"][0]], words["agents"][0], words["tenants"][0]
    return makers.call(tool, arguments, agent, tenant, next(iter(words["users"]), None), words["groups"])


def levels_of(made: PolicyBundle, real: Call, parts: list[Made], called: Made) -> dict[str, Level]:
    """What the drawn past is in the cells that the gateway asks for."""
    owners = {shape["within"]: (part["id"], f"state.{name}") for part in parts for name, shape in part["state"].items()}
    levels = {}
    for cell in made.cells(real):
        part, name = owners[f"{cell.within:.0f}s"]
        if name in called["levels"][part]:
            value = called["levels"][part][name]
            levels[cell.key] = Level(value, 1, value != called["pending"][part][name])
    return levels


def shortened(reference: Reference, parts: list[Made], called: Made) -> str:
    """The policy and the call with everything left out that the difference does not need."""
    found = ""
    shorter = True
    while shorter:
        shorter = False
        for fewer, less in shorter_ones(parts, called):
            made = load_bundle(drawn.files(fewer), list(drawn.TOOLS.values()))
            if different := difference(reference, made, fewer, less):
                parts, called, found, shorter = fewer, less, different, True
                break
    shown = b"\n".join(drawn.files(parts).values()).decode()
    return f"{found or 'the gateway says otherwise'}\n{shown}\n{called}"


def shorter_ones(parts: list[Made], called: Made) -> Iterator[tuple[list[Made], Made]]:
    """The same with one part, rule, clause, match or argument less."""
    for at, part in enumerate(parts):
        if len(parts) > 1:
            yield parts[:at] + parts[at + 1 :], called
        for place, rule in enumerate(part["rules"]):
            rest = [part["rules"][:place], part["rules"][place + 1 :]]
            fewer: list[list[Made]] = [[]] if len(part["rules"]) > 1 else []
            fewer += [[rule | {"match": {}}]] if rule["match"] else []
            clauses = rule["clauses"]
            fewer += [[rule | {"clauses": clauses[:each] + clauses[each + 1 :]}] for each in range(len(clauses))]
            for instead in fewer:
                changed = part | {"rules": [*rest[0], *instead, *rest[1]]}
                yield [*parts[:at], changed, *parts[at + 1 :]], called
    for name in called["arguments"]:
        if name == "args.n":  # the others decide what of the past there is
            yield parts, called | {"arguments": {k: v for k, v in called["arguments"].items() if k != name}}
