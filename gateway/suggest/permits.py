"""One permit for each agent of a tenant and each tool it called: who, which calls, and how often.

It never permits what was not seen, but for the rounding of bounds, and never leaves out a call that it could read.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from gateway.policy.typed import arguments_of
from gateway.specs import facts
from gateway.suggest.arguments import Spot, always, bound_values, guarded, inner_spot, joined
from gateway.suggest.bounds import Beyond, Bound
from gateway.suggest.facts import bound_fact
from gateway.suggest.names import Constants, slug, unique
from gateway.suggest.seen import Seen
from gateway.suggest.values import FEW
from gateway.tool import Json, Tool

_LONGEST_GLOB = 128
_MOST_CLAUSES = 32


@dataclass(frozen=True, slots=True)
class Draft:
    """A permit to be written, and the calls it is made of. `match` by key; `rate` in calls a minute."""

    id: str
    match: Mapping[str, Sequence[str]]
    when: Sequence[str]
    rate: int
    bound: Bound
    calls: Sequence[Seen]


def drafts(calls: Iterable[Seen], constants: Constants) -> list[Draft]:
    """By tenant, agent and tool; each with the calls that it is about, in their order."""
    groups: dict[tuple[str, str, str], list[Seen]] = {}
    for call in calls:
        groups.setdefault((call.principal.tenant, call.principal.agent, call.tool.name), []).append(call)
    taken: set[str] = set()
    return [_draft(groups[key], constants, taken) for key in sorted(groups)]


def _draft(calls: Sequence[Seen], constants: Constants, taken: set[str]) -> Draft:
    tool, principal = calls[-1].tool, calls[-1].principal
    wanted = {"tools": [tool.name], "agents": [principal.agent], "tenants": [principal.tenant], **_people(calls)}
    match = {key: names for key, names in wanted.items() if all(map(_plain, names))}
    named = {"agents": "agent", "tenants": "tenant", "users": "user"}
    exact = [
        f"principal.{one} in {constants.name(f'{one}s', wanted[key])}"
        for key, one in named.items()
        if key in wanted and key not in match
    ]
    bound = _bound(tool, calls, constants)
    id_ = unique(f"{slug(principal.agent, '-', 28)}-{slug(tool.name, '-', 28)}", taken)
    return Draft(id_, match, packed([*exact, *bound.clauses]), 2 * busiest(calls), bound, calls)


def _plain(name: str) -> bool:
    """Whether a glob of `match` can say exactly this."""
    return "*" not in name and 0 < len(name) <= _LONGEST_GLOB


def _people(calls: Sequence[Seen]) -> dict[str, list[str]]:
    """The users where all calls had one and they are few; else the groups that were common to all."""
    users = {call.principal.user for call in calls}
    if None not in users and len(users) <= FEW:
        return {"users": sorted(map(str, users))}
    groups = frozenset.intersection(*(call.principal.groups for call in calls))
    usable = sorted(group for group in groups if _plain(group))
    return {"groups": usable} if usable and None not in users else {}


def busiest(calls: Sequence[Seen], span: float = 60.0) -> int:
    """The most calls in any minute."""
    times = sorted(call.at for call in calls)
    return max(bisect_right(times, at + span) - index for index, at in enumerate(times))


def packed(clauses: Sequence[str]) -> list[str]:
    """As many clauses as a rule may have: several as one, where there are more."""
    each = -(-len(clauses) // _MOST_CLAUSES) or 1
    if each == 1:
        return list(clauses)
    chunks = (clauses[at : at + each] for at in range(0, len(clauses), each))
    return [" && ".join(f"({clause})" for clause in chunk) for chunk in chunks]


def _bound(tool: Tool, calls: Sequence[Seen], constants: Constants) -> Bound:
    top = Spot("args", slug(tool.name, "_", 24), tool.input_schema, arguments_of(tool))
    properties = cast(Mapping[str, Json], tool.input_schema.get("properties") or {})
    bounds = [_argument(top, name, schema, tool, calls, constants) for name, schema in properties.items()]
    if any(call.arguments.keys() - properties.keys() for call in calls):
        bounds.append(Bound(silent=("arguments that the tool does not declare",)))
    return joined(bounds)


def _argument(top: Spot, name: str, schema: Json, tool: Tool, calls: Sequence[Seen], constants: Constants) -> Bound:
    spot = inner_spot(top, name, schema)
    if spot is None:
        return Bound(silent=("an argument that no expression can name",))
    values = [call.arguments[name] for call in calls if name in call.arguments]
    optional = not always(tool.input_schema, name)
    if not values:
        return guarded(spot.text, Bound(), False)
    kind = tool.facts.get(name)
    meant = _meant(kind, values) if kind else None
    bound = bound_fact(kind, f"arg.{name}", spot.name, meant, constants) if kind and meant is not None else None
    if bound is None:
        bound = bound_values(spot, values, constants)
        return guarded(spot.text, bound, True) if optional else bound
    within = tuple(Beyond(each.what, (name,), each.value) for each in bound.beyond)
    if not optional:
        return Bound(bound.clauses, within)
    clauses = tuple(f"!has({spot.text}) || (has(arg.{name}) && ({each}))" for each in bound.clauses)
    return Bound(clauses, within)


def _meant(kind: str, values: Sequence[Json]) -> list[Json] | None:
    """The facts of all values, or None where one has none."""
    found = [facts.derive({"it": kind}, {"it": value}) for value in values]
    return [each["it"] for each in found] if all(found) else None
