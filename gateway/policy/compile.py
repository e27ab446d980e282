"""From policy files to rules: every expression parsed, type-checked and held against the tools it is about.

It never evaluates a clause over a call, and judges nothing that is a matter of taste (`lint.py` does).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gateway import regex
from gateway.model import Effect
from gateway.policy import language, rules, shapes
from gateway.policy.aggregates import Aggregate, compile_state, incomparable, state_errors, state_types
from gateway.policy.arguments import misnamed
from gateway.policy.engine import BadExpression, Program, Scope, Truth, Unbindable, bind
from gateway.policy.obligations import obligations_of, unasked
from gateway.policy.plainly import plainly
from gateway.policy.sentences import place
from gateway.policy.syntax import Apply, Constant, Path, Reference, cut, revisits, walk
from gateway.policy.typecheck import Checker, Kinds
from gateway.policy.variables import KINDS
from gateway.specs.yaml import SpecError
from gateway.tool import Json, Tool

# Known words without a meaning yet: compiled, so that the finding can name them instead of "undeclared".
_LATER = {"principal.workload": "any"}
_ASKING = ("with", "approval", "when")

Named = tuple[tuple[Path, str], ...]
At = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Placed:
    """A compiled rule with its place in the file, the tools it is about, and what its clauses refer to.

    `asking` is what the condition of its approval refers to; `states` the full names of the aggregates that any of
    them reads; `remarks` what the type check has to say of clauses that work all the same.
    """

    part: language.Part
    index: int
    rule: rules.Rule
    tools: tuple[Tool, ...]
    references: tuple[tuple[int, Reference], ...]  # (number of the clause, reference)
    asking: tuple[Reference, ...] = ()
    states: frozenset[str] = frozenset()
    remarks: tuple[SpecError, ...] = ()

    @property
    def shape(self) -> shapes.RuleShape:
        """The rule as the file has it."""
        return self.part.shape.rules[self.index]

    def error(self, sentence: str, *path: str | int) -> SpecError:
        """A finding at a key of the rule."""
        return self.part.error(sentence, "rules", self.index, *path)


@dataclass(frozen=True, slots=True)
class Compiled:
    """A part as far as it compiles: its rules, its aggregates, and everything wrong with them."""

    placed: Sequence[Placed]
    aggregates: Sequence[Aggregate]
    findings: Sequence[SpecError]


def compile_part(part: language.Part, number: int, tools: Sequence[Tool], checker: Checker) -> Compiled:
    """All rules and aggregates of a part. `number` tells the parts of a bundle apart, which share the checker."""
    prefix = f"p{number}"
    values = {f"{prefix}.v.{name}": value for name, value in part.shape.values.items()}
    shadow = part.shape.mode == "shadow"
    types = state_types(part, prefix) | {name: _kind(value) for name, value in values.items()}
    scope = Scope({**KINDS, **_LATER, **types}, prefix)
    owner = rules.Part(part.shape.id, part.source(), part.shape.tenant, part.boundary, values, scope, shadow)
    aggregates = {each.variable: each for each in compile_state(part, owner, prefix)}
    findings = [*_value_errors(part, scope, values), *_name_errors(part, scope)]
    findings += state_errors(part, list(aggregates.values()), tools)
    kinds = tuple(sorted((name.removeprefix(prefix + "."), kind) for name, kind in types.items()))
    names = _Names(scope, prefix, aggregates, {}, checker, kinds, {})
    placed, catalogue = [], rules.Catalogue(tools)
    for index in range(len(part.shape.rules)):
        compiler = _RuleCompiler(part, index, names)
        placed.append(compiler.compile(owner, catalogue))
        findings += compiler.findings
    return Compiled(placed, list(aggregates.values()), findings)


@dataclass(frozen=True, slots=True)
class _Names:
    """What the rules of a part share: the scope, the prefix of its own names, its aggregates, reads and programs seen
    before, and the type check with the kinds of its own names."""

    scope: Scope
    prefix: str
    aggregates: Mapping[str, Aggregate]
    reads: dict[Named, rules.Reads]
    checker: Checker
    kinds: Kinds
    programs: dict[str, Program]


class _RuleCompiler:
    """Compiles one rule and keeps what is wrong with it."""

    def __init__(self, part: language.Part, index: int, names: _Names) -> None:
        self.findings: list[SpecError] = []
        self.remarks: list[SpecError] = []
        self._part, self._index, self._names = part, index, names
        self._shape = part.shape.rules[index]

    def compile(self, owner: rules.Part, catalogue: rules.Catalogue) -> Placed:
        shape = self._shape
        found = [(number, self._clause(text, "when", number)) for number, text in enumerate(shape.when or ())]
        programs = [(number, program) for number, program in found if program is not None]
        asking = self._asking()
        owed = obligations_of(shape.id, shape.with_)
        rule = rules.Rule(
            id=shape.id,
            effect=Effect(shape.effect),
            source=self._part.source("rules", self._index),
            match=_match(shape.match),
            part=owner,
            conditions=tuple(self._condition((shape.when or [])[number], program) for number, program in programs),
            program=self._whole(found),
            obligations=owed,
            message=shape.message,
            shadow=owner.shadow or shape.mode == "shadow",
            asks=asking and self._condition(asking[0], asking[1]),
            unasked=unasked(owed),
        )
        taken = catalogue.taken(rule.match)
        named = tuple((number, each) for number, program in programs for each in map(cut, program.reads))
        asked = tuple(map(cut, asking[1].reads)) if asking else ()
        roots = {each.path[0] for _, each in named} | {each.path[0] for each in asked}
        states = frozenset(roots & self._names.aggregates.keys())
        self._refer([(("when", number), (shape.when or [])[number], each) for number, each in programs], taken)
        self._refer([(_ASKING, *asking)] if asking else [], taken)
        return Placed(self._part, self._index, rule, taken, named, asked, states, tuple(self.remarks))

    def _asking(self) -> tuple[str, Program] | None:
        approval = self._shape.with_.approval if self._shape.with_ else None
        if approval is None or approval.when is None:
            return None
        program = self._clause(approval.when, *_ASKING)
        return None if program is None else (approval.when, program)

    def _clause(self, text: str, *at: str | int) -> Program | None:
        program = self._names.programs.get(text)
        try:
            program = self._names.programs[text] = program or self._names.scope.compile(text)
        except BadExpression as error:
            said = plainly(error, text, self._names.prefix, self._part)
            self._add(f"{said} ({place(error.line, error.column)})", *at)
            return None
        for expr in walk(program.expr):
            if isinstance(expr, Apply) and expr.function == "matches" and isinstance(expr.arguments[-1], Constant):
                self._pattern(expr.arguments[-1].text, *at)
        return program

    def _whole(self, found: Sequence[tuple[int, Program | None]]) -> Program | None:
        if any(program is None for _, program in found) or len(found) < 2:
            return found[0][1] if len(found) == 1 else None
        return self._names.scope.compile(rules.all_of(self._shape.when or []))

    def _pattern(self, pattern: str | None, *at: str | int) -> None:
        try:
            regex.compile(pattern or "")
        except regex.BadPattern as error:
            self._add(f"matches() takes an RE2 pattern, and this is none: {error.reason}", *at)

    def _condition(self, text: str, program: Program) -> rules.Condition:
        paths = sorted({each.path for each in map(cut, program.reads)})
        named = tuple((path, self._label(path)) for path in paths)
        reads = self._names.reads.setdefault(named, rules.Reads(named))
        return rules.Condition(text, program, reads, revisits(program.expr, "args"))

    def _label(self, path: Path) -> str:
        return ".".join(path).removeprefix(self._names.prefix + ".")

    def _refer(self, clauses: Sequence[tuple[At, str, Program]], tools: Sequence[Tool]) -> None:
        """Hold clauses against the tools: names that there are, and types that fit."""
        tested = {each.path for _, _, program in clauses for each in program.reads if each.tested}
        for at, text, program in clauses:
            for path in dict.fromkeys(each.path for each in program.reads):
                self._name(path, any(path[:end] in tested for end in range(2, len(path) + 1)), tools, *at)
            for fault in self._names.checker.faults(text, program.reads, self._names.kinds, tools, self._names.scope):
                finding = self._part.error(fault.sentence, "rules", self._index, *at)
                (self.remarks if fault.works else self.findings).append(finding)

    def _name(self, path: Path, tested: bool, tools: Sequence[Tool], *at: str | int) -> None:
        aggregate = self._names.aggregates.get(path[0])
        if path[0] in _LATER:
            self._add(f"{path[0]} is not supported yet: leave the clause out", *at)
        elif sentence := incomparable(aggregate, tools) if aggregate else misnamed(path, tested, tools):
            self._add(sentence, *at)

    def _add(self, sentence: str, *at: str | int) -> None:
        finding = self._part.error(sentence, "rules", self._index, *at)
        if finding not in self.findings:
            self.findings.append(finding)


def _match(shape: shapes.MatchShape) -> rules.Match:
    return rules.Match(**{key: tuple(globs) for key, globs in shape if globs is not None})


def _kind(value: Json) -> str:
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return "strings"
    return {bool: "bool", int: "int", float: "double", str: "string"}.get(type(value), "any")


def _value_errors(part: language.Part, scope: Scope, values: Mapping[str, Json]) -> Iterator[SpecError]:
    """A value is one that the engine takes, seen by letting it take it."""
    for name, value in values.items():
        plain = name.rpartition(".")[2]
        if value is None:
            yield part.error(f"the value {plain!r} is nothing: write one, or leave the key out", "values", plain)
            continue
        try:
            fits = scope.compile(f"v.{plain} == v.{plain}").eval(bind({name: value})) is Truth.TRUE
        except (BadExpression, Unbindable):
            fits = False
        if not fits:
            sentence = f"the value {plain!r} cannot be used in an expression: a word of CEL, or a number over 64 bits"
            yield part.error(sentence, "values", plain)


def _name_errors(part: language.Part, scope: Scope) -> Iterator[SpecError]:
    """An aggregate has a name that an expression can say."""
    for name in part.shape.state:
        try:
            scope.compile(f"state.{name} == state.{name}")
        except BadExpression:
            yield part.error(f"the name {name!r} cannot be used in an expression: it is a word of CEL", "state", name)
