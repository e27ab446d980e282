"""Conditions held against the tools they are about: the CEL checker with the types of each tool's arguments and facts.

What a condition does with a value that can never be of the kind it takes is found here, before any call. It never
evaluates a condition: those run over plain values, not over the messages that the checker knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gateway.policy import mismatch
from gateway.policy.engine import Scope
from gateway.policy.messages import Messages
from gateway.policy.mismatch import Mismatch
from gateway.policy.sentences import Spot, sentence, spot_of
from gateway.policy.syntax import Path, Reference, followed
from gateway.policy.typed import Object, Type, arguments_of, facts_of
from gateway.policy.variables import KINDS
from gateway.tool import Tool

_ROOTS = ("args", "arg")
_OWN = "p"  # a part's own names stand below it, whichever part it is, so that parts share what was checked

Kinds = tuple[tuple[str, str], ...]  # the names of a part (`v.hosts`) with their kinds, sorted
Roots = tuple[tuple[str, Type], ...]  # the types of args and arg
_Verdict = tuple[Mismatch, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with a clause, as a sentence. `works`: it does not keep the clause from being what it says."""

    sentence: str
    works: bool


class Checker:
    """Checks clauses for one load, and remembers what it has checked: most clauses and tools are alike."""

    def __init__(self) -> None:
        self._scopes: dict[tuple[Kinds, Roots, frozenset[Path]], tuple[Scope, Messages]] = {}
        self._verdicts: dict[tuple[str, Kinds, Roots], _Verdict] = {}

    def faults(
        self, text: str, reads: Sequence[Reference], kinds: Kinds, tools: Sequence[Tool], plain: Scope
    ) -> Sequence[Fault]:
        """What is wrong with a clause that compiles in `plain`, for the first tool that something is wrong for.

        `reads` is what the clause reads; `kinds` has the names that its part declares.
        """
        paths = sorted({each.path[:2] for each in reads if each.path[0] in _ROOTS})
        seen: set[Roots] = set()
        for tool in tools if paths else ():
            roots = _narrowed(tool, paths)
            if roots in seen:
                continue
            seen.add(roots)
            key = (text, kinds, roots)
            if key not in self._verdicts:
                self._verdicts[key] = self._judged(text, kinds, _whole(tool))
            found = [
                Fault(sentence(each, spot, tool), each.mixed) for each, spot in _spots(text, plain, self._verdicts[key])
            ]
            if found:
                return found
        return ()

    def _judged(self, text: str, kinds: Kinds, roots: Roots) -> _Verdict:
        loose: frozenset[Path] = frozenset()
        while True:
            scope, messages = self._scope(kinds, roots, loose)
            read = [mismatch.read(fault, messages.paths) for fault in scope.faults(text)]
            more = loose.union(*(each for each in read if not isinstance(each, Mismatch)))
            if more == loose:
                return tuple(each for each in read if isinstance(each, Mismatch))
            loose = more

    def _scope(self, kinds: Kinds, roots: Roots, loose: frozenset[Path]) -> tuple[Scope, Messages]:
        key = (kinds, roots, loose)
        if key not in self._scopes:
            messages = Messages(dict(roots), loose)
            own = {f"{_OWN}.{name}": kind for name, kind in kinds}
            self._scopes[key] = Scope({**KINDS, **own, **messages.kinds}, _OWN, messages.pool), messages
        return self._scopes[key]


def _narrowed(tool: Tool, paths: Sequence[Path]) -> Roots:
    """The types of what a clause names at the top, and of nothing else: what differs beyond does not matter to it."""
    found = []
    for name, whole in _whole(tool):
        named = dict(whole.fields) if isinstance(whole, Object) else {}
        if isinstance(whole, Object) and (name,) not in paths:
            steps = [path[1] for path in paths if path[0] == name]
            whole = Object(tuple((step, named[step]) for step in steps if step in named))
        found.append((name, whole))
    return tuple(found)


def _whole(tool: Tool) -> Roots:
    return (("args", arguments_of(tool)), ("arg", facts_of(tool)))


def _spots(text: str, plain: Scope, found: _Verdict) -> Iterator[tuple[Mismatch, Spot]]:
    """Each mismatch with the part of the clause it is about; left out where names alone have told it (`misnamed`)."""
    if not found:
        return
    whole, places = plain.located(text)
    told = {each.path for each in followed(whole)}
    lines = text.split("\n")
    for each in found:
        at = sum(len(line) + 1 for line in lines[: each.line - 1]) + each.column - 1
        spot = spot_of(whole, places.get(at), each.function)
        step = spot.named and each.function in ("select", "_[_]")
        if not step and not any(path[: len(each.path)] == each.path for path in told if each.path):
            yield each, spot
