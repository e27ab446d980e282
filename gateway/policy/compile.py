"""From policy files to rules: every expression parsed, type-checked and held against the tools it is about.

It never evaluates a clause over a call, and judges nothing that is a matter of taste (`lint.py` does).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gateway import regex
from gateway.model import Effect
from gateway.policy import language, rules, shapes
from gateway.policy.arguments import misnamed
from gateway.policy.engine import BadExpression, Program, Scope, Truth, Unbindable, bind
from gateway.policy.findings import nearest
from gateway.policy.obligations import obligations_of
from gateway.policy.syntax import Apply, Constant, Path, Reference, references, walk
from gateway.policy.variables import KINDS
from gateway.specs.yaml import SpecError
from gateway.tool import Json, Tool

# Known words without a meaning yet: compiled, so that the finding can name them instead of "undeclared".
_LATER = {"state": "any", "principal.workload": "any"}

Named = tuple[tuple[Path, str], ...]


@dataclass(frozen=True, slots=True)
class Placed:
    """A compiled rule with its place in the file, the tools it is about, and what its clauses refer to."""

    part: language.Part
    index: int
    rule: rules.Rule
    tools: tuple[Tool, ...]
    references: tuple[tuple[int, Reference], ...]  # (number of the clause, reference)

    def error(self, sentence: str, *path: str | int) -> SpecError:
        """A finding at a key of the rule."""
        return self.part.error(sentence, "rules", self.index, *path)


def compile_part(part: language.Part, number: int, tools: Sequence[Tool]) -> tuple[list[Placed], list[SpecError]]:
    """All rules of a part, and everything wrong with them. `number` tells the parts of a bundle apart."""
    prefix = f"p{number}"
    values = {f"{prefix}.v.{name}": value for name, value in part.shape.values.items()}
    scope = Scope({**KINDS, **_LATER, **{name: _kind(value) for name, value in values.items()}}, prefix)
    findings = list(_value_errors(part, scope, values))
    owner = rules.Part(part.shape.id, part.source(), part.shape.tenant, part.boundary, values)
    placed = []
    reads: dict[Named, rules.Reads] = {}
    for index in range(len(part.shape.rules)):
        compiler = _RuleCompiler(part, index, scope, prefix, reads)
        placed.append(compiler.compile(owner, tools))
        findings += compiler.findings
    return placed, findings


class _RuleCompiler:
    """Compiles one rule and keeps what is wrong with it."""

    def __init__(
        self, part: language.Part, index: int, scope: Scope, prefix: str, reads: dict[Named, rules.Reads]
    ) -> None:
        self.findings: list[SpecError] = []
        self._reads = reads
        self._part, self._index, self._scope, self._prefix = part, index, scope, prefix
        self._shape = part.shape.rules[index]

    def compile(self, owner: rules.Part, tools: Sequence[Tool]) -> Placed:
        shape = self._shape
        found = [(number, self._clause(number, text)) for number, text in enumerate(shape.when or ())]
        programs = [(number, program) for number, program in found if program is not None]
        rule = rules.Rule(
            id=shape.id,
            effect=Effect(shape.effect),
            source=self._part.source("rules", self._index),
            match=_match(shape.match),
            part=owner,
            conditions=tuple(self._condition(number, program) for number, program in programs),
            program=self._whole(found),
            obligations=obligations_of(shape.id, shape.with_),
            message=shape.message,
        )
        taken = tuple(tool for tool in tools if rule.match.takes_tool(tool))
        named = tuple((number, each) for number, program in programs for each in references(program.expr))
        placed = Placed(self._part, self._index, rule, taken, named)
        self._refer(placed)
        return placed

    def _clause(self, number: int, text: str) -> Program | None:
        try:
            program = self._scope.compile(text)
        except BadExpression as error:
            where = (
                f"in the clause, line {error.line} column {error.column}"
                if error.line > 1
                else (f"in the clause, column {error.column}")
            )
            self._add(number, f"{_plainly(error.reason, self._prefix, self._part)} ({where})")
            return None
        for expr in walk(program.expr):
            if isinstance(expr, Apply) and expr.function == "matches" and isinstance(expr.arguments[-1], Constant):
                self._pattern(number, expr.arguments[-1].text)
        return program

    def _whole(self, found: Sequence[tuple[int, Program | None]]) -> Program | None:
        if any(program is None for _, program in found) or len(found) < 2:
            return found[0][1] if len(found) == 1 else None
        # On lines of their own, because a clause may end in a comment.
        return self._scope.compile(" && ".join(f"(\n{text}\n)" for text in self._shape.when or ()))

    def _pattern(self, number: int, pattern: str | None) -> None:
        try:
            regex.compile(pattern or "")
        except regex.BadPattern as error:
            self._add(number, f"matches() takes an RE2 pattern, and this is none: {error.reason}")

    def _condition(self, number: int, program: Program) -> rules.Condition:
        paths = sorted({each.path for each in references(program.expr)})
        named = tuple((path, self._label(path)) for path in paths)
        reads = self._reads.setdefault(named, rules.Reads(named))
        return rules.Condition((self._shape.when or [])[number], program, reads)

    def _label(self, path: Path) -> str:
        return ".".join(path).removeprefix(self._prefix + ".")

    def _refer(self, placed: Placed) -> None:
        tested = {each.path for _, each in placed.references if each.tested}
        for number, each in placed.references:
            if each.path[0] in _LATER:
                self._add(number, f"{each.path[0]} is not supported yet: leave the clause out")
            elif sentence := misnamed(each.path, each.path in tested, placed.tools):
                self._add(number, sentence)

    def _add(self, number: int, sentence: str) -> None:
        self.findings.append(self._part.error(sentence, "rules", self._index, "when", number))


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
        try:
            fits = scope.compile(f"v.{plain} == v.{plain}").eval(bind({name: value})) is Truth.TRUE
        except (BadExpression, Unbindable):
            fits = False
        if not fits:
            sentence = f"the value {plain!r} cannot be used in an expression: a word of CEL, or a number over 64 bits"
            yield part.error(sentence, "values", plain)


def _plainly(reason: str, prefix: str, part: language.Part) -> str:
    """CEL's own sentence, with the nearest variable where a name is not known."""
    reason = reason.removesuffix(f" (in container '{prefix}')").replace(f"{prefix}.v.", "v.")
    _, quote, rest = reason.partition("undeclared reference to '")
    if not quote:
        mixed = "(int, double)" in reason or "(double, int)" in reason
        hint = ", and whole numbers do not mix with decimal ones: write 1.0 for 1" if mixed else ""
        return f"not a CEL expression that fits: {reason.partition(' expecting {')[0]}{hint}"
    name = rest.rstrip("'")
    return f"{name!r} is not known: {nearest(name, _names(name, part))}"


def _names(name: str, part: language.Part) -> Iterable[str]:
    root = name.partition(".")[0]
    known = [*KINDS, *(f"v.{each}" for each in part.shape.values)]
    below = [each for each in known if each.partition(".")[0] == root]
    return below or known
