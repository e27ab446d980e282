"""The variables an expression may read: their types at load, their values at decision time.

It binds only what the candidate expressions name: binding a whole argument tree would cost time for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from gateway.model import Call, Principal
from gateway.policy.syntax import Path
from gateway.specs import facts
from gateway.tool import Json, Labels, Tool

Tree = dict[str, "Tree | None"]  # a path to bind; None: everything below
Values = dict[str, Json]

# Arguments come in any size that a door takes (1 MiB), and nothing else happens while a decision is made.
MAX_VALUES = 10_000  # in all that is read of them: the engine goes through as many items and no more
MAX_PAIRS = 500_000  # where a loop looks at them anew for each item; 64 characters count like one more value

KINDS: Mapping[str, str] = {
    "principal.agent": "string",
    "principal.tenant": "string",
    "principal.user": "any",
    "principal.groups": "strings",
    "tool.name": "string",
    "tool.version": "string",
    "tool.digest": "string",
    "tool.effects": "strings",
    "tool.labels": "strings",
    "tool.cost": "double",
    "session.id": "string",
    "session.labels": "strings",
    "session.cost": "double",
    "session.calls": "int",
    "session.age": "double",
    "args": "any",
    "arg": "any",
    "now": "int",  # whole unix seconds: `timestamp(now)` is the time
}


def seen(call: Call) -> Labels:
    """What the session has seen, and what stands in the files that this call gets, or the code that makes it."""
    labels = call.caller.session.labels
    reads: Call | None = call
    while reads is not None:
        if reads.inputs:
            labels = labels.union(*(artifact.labels for artifact in reads.inputs.values()))
        reads = reads.parent.intent.call if reads.parent else None
    return labels


_OF_PRINCIPAL: Mapping[str, Callable[[Principal], Json]] = {
    "principal.agent": lambda principal: principal.agent,
    "principal.tenant": lambda principal: principal.tenant,
    "principal.user": lambda principal: principal.user,
    "principal.groups": lambda principal: sorted(principal.groups),
}
_OF_TOOL: Mapping[str, Callable[[Tool], Json]] = {
    "tool.name": lambda tool: tool.name,
    "tool.version": lambda tool: tool.version,
    "tool.digest": lambda tool: tool.digest,
    "tool.effects": lambda tool: sorted(tool.effects),
    "tool.labels": lambda tool: sorted(tool.labels),
    "tool.cost": lambda tool: float(tool.cost),
}
_OF_CALL: Mapping[str, Callable[[Call], Json]] = {
    "session.id": lambda call: call.caller.session.id,
    "session.labels": lambda call: sorted(seen(call)),
    "session.cost": lambda call: float(call.caller.session.cost),
    "session.calls": lambda call: call.caller.session.calls,
    "session.age": lambda call: float(call.now - call.caller.session.opened_at),
    "now": lambda call: int(call.now),
}


class TooMuch(ValueError):
    """The arguments are too large to be judged; the message may be shown to a model."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a set of expressions reads of one tool and principal, worked out once."""

    fixed: Values
    per_call: tuple[tuple[str, Callable[[Call], Json]], ...]
    reads_arguments: bool
    arguments: Tree | None
    facts: Mapping[str, str]  # argument → kind of facts
    pairs: bool = False

    def values(self, call: Call) -> Values:
        """The variables by full name. A fact that cannot be derived is absent. Raises TooMuch."""
        found = dict(self.fixed)
        for name, read in self.per_call:
            found[name] = read(call)
        if self.reads_arguments:
            found["args"] = read_of = _prune(call.arguments, self.arguments)
            _fit(read_of, self.pairs)
        if self.facts:
            found["arg"] = facts.derive(self.facts, call.arguments)
        return found


def reading(
    reads: Iterable[Path], values: Mapping[str, Json], tool: Tool, principal: Principal, pairs: bool = False
) -> Reading:
    """`values` are the constants of all parts by full name; `pairs` as in `rules.Condition`."""
    paths = set(reads)
    roots = {path[0] for path in paths}
    fixed: Values = {name: value for name, value in values.items() if name in roots}
    fixed |= {name: read(principal) for name, read in _OF_PRINCIPAL.items() if name in roots}
    fixed |= {name: read(tool) for name, read in _OF_TOOL.items() if name in roots}
    named = sorted({path[1] for path in paths if path[0] == "arg" and len(path) > 1})
    return Reading(
        fixed,
        tuple((name, read) for name, read in _OF_CALL.items() if name in roots),
        "args" in roots,
        _tree(path[1:] for path in paths if path[0] == "args"),
        {name: tool.facts[name] for name in named if name in tool.facts},
        pairs,
    )


def _tree(paths: Iterable[Path]) -> Tree | None:
    """One tree of all paths; None when one of them is empty, which asks for everything."""
    below: dict[str, list[Path]] = {}
    for path in paths:
        if not path:
            return None
        below.setdefault(path[0], []).append(path[1:])
    return {step: _tree(rest) for step, rest in below.items()}


def _fit(arguments: Mapping[str, Json], pairs: bool) -> None:
    """Raises TooMuch when going through all of it would keep every other call waiting."""
    waiting = [*arguments.values()]
    values, characters = len(waiting), 0
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            characters += len(each)
        elif isinstance(each, dict | list):
            values += len(each)
            if values > MAX_VALUES:
                break
            waiting.extend(each.values() if isinstance(each, dict) else each)
    if values > MAX_VALUES:
        raise TooMuch(f"What the policy reads of the arguments is more than {MAX_VALUES} values.")
    if pairs and values * (values + characters // 64) > MAX_PAIRS:
        raise TooMuch("The policy compares parts of the arguments with each other, and they are too large for that.")


def _prune(value: Mapping[str, Json], tree: Tree | None) -> Mapping[str, Json]:
    """The part of a mapping that the tree names. What is no mapping below it is kept as it is."""
    if tree is None:
        return value
    found: dict[str, Json] = {}
    for step, below in tree.items():
        if step in value:
            each = value[step]
            found[step] = each if below is None or not isinstance(each, dict) else _prune(each, below)
    return found
