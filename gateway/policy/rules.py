"""Compiled policy: rules and the parts they stand in, and which of them a tool and a principal meet.

It never runs an expression (`evaluate.py` does) and never reads a file (`language.py` does).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.globs import matches
from gateway.model import Effect, Principal
from gateway.obligations import Obligations
from gateway.policy.engine import Program, Scope
from gateway.policy.syntax import Path
from gateway.tool import Json, Tool

Globs = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Match:
    """Which calls a rule is about: every key given must match, `None` matches any."""

    tools: Globs | None = None
    effects: Globs | None = None
    tool_labels: Globs | None = None
    agents: Globs | None = None
    users: Globs | None = None
    groups: Globs | None = None
    tenants: Globs | None = None

    def takes_tool(self, tool: Tool) -> bool:
        """By name, declared effects and labels of results."""
        return (
            _any(self.tools, (tool.name,)) and _any(self.effects, tool.effects) and _any(self.tool_labels, tool.labels)
        )

    def takes_principal(self, principal: Principal) -> bool:
        """By agent, user, groups and tenant. A caller without a user matches no `users`."""
        return (
            _any(self.agents, (principal.agent,))
            and _any(self.users, () if principal.user is None else (principal.user,))
            and _any(self.groups, principal.groups)
            and _any(self.tenants, (principal.tenant,))
        )


@dataclass(frozen=True, slots=True, eq=False)
class Reads:
    """The variables that a clause reads, each path with its name for people. One object for all clauses alike."""

    paths: tuple[tuple[Path, str], ...]


@dataclass(frozen=True, slots=True)
class Condition:
    """One compiled clause. `pairs`: for each item of something it looks at the arguments again."""

    text: str
    program: Program
    reads: Reads
    pairs: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """A compiled rule. `source` is `file:line`; `obligations` is empty for a forbid.

    `program` is the conjunction of all conditions, `None` when there is none: CEL's `&&` is false if any side is false,
    else in error if any is, so it gives the rule's result whatever their order. A rule in `shadow` is not enforced.
    `asks` is the condition of its approval; a call for which that is false owes only what is `unasked`.
    """

    id: str
    effect: Effect
    source: str
    match: Match
    part: Part
    conditions: tuple[Condition, ...] = ()
    program: Program | None = None
    obligations: Obligations = field(default_factory=Obligations)
    message: str | None = None
    shadow: bool = False
    asks: Condition | None = None
    unasked: Obligations = field(default_factory=Obligations)

    @property
    def text(self) -> str:
        """All conditions as one, as an expression in the scope of the part."""
        return all_of([condition.text for condition in self.conditions])


@dataclass(frozen=True, slots=True)
class Part:
    """One policy file in the bundle. `values` are its constants under the full names that its programs use.

    `scope` knows the names that its expressions may say.

    A part in `shadow` is not enforced: none of its rules, nor its boundary.
    """

    id: str
    source: str
    tenant: str | None
    boundary: bool
    values: Mapping[str, Json]
    scope: Scope
    shadow: bool = False

    def covers(self, principal: Principal) -> bool:
        """A part of a tenant is about that tenant's calls only."""
        return self.tenant is None or self.tenant == principal.tenant


class Catalogue:
    """The loaded tools, to find those that a match is about without asking each of them."""

    def __init__(self, tools: Iterable[Tool]) -> None:
        self._tools = tuple(tools)
        self._named: dict[str, list[int]] = {}
        for place, tool in enumerate(self._tools):
            self._named.setdefault(tool.name, []).append(place)

    def taken(self, match: Match) -> tuple[Tool, ...]:
        """The tools that the match takes, in the order of the catalogue."""
        near: Iterable[Tool] = self._tools
        if match.tools is not None and not any("*" in each for each in match.tools):
            places = {place for name in match.tools for place in self._named.get(name, ())}
            near = (self._tools[place] for place in sorted(places))
        return tuple(tool for tool in near if match.takes_tool(tool))


def all_of(clauses: Sequence[str]) -> str:
    """One expression for all clauses: on lines of their own, because a clause may end in a comment."""
    return clauses[0] if len(clauses) == 1 else " && ".join(f"(\n{clause}\n)" for clause in clauses)


def candidates(rules: Iterable[Rule], principal: Principal) -> tuple[Rule, ...]:
    """The rules, among those that take the tool, that this principal's call meets."""
    return tuple(rule for rule in rules if rule.part.covers(principal) and rule.match.takes_principal(principal))


def _any(patterns: Globs | None, words: Iterable[str]) -> bool:
    return patterns is None or any(matches(pattern, word) for word in words for pattern in patterns)
