"""The CEL engine behind three verbs: compile, bind, eval. The only importer of cel-expr-python.

It never lets an expression's outcome be anything but TRUE, FALSE or ERROR, and never defines a CEL function in Python.
The binding returns errors as *values* whose Python form is a non-empty, hence truthy, string: nothing outside
`Program.eval` ever looks at such a value. Expressions are those of the CEL specification with its standard library:
https://github.com/cel-expr/cel-spec
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NewType

from cel_expr_python import cel  # type: ignore[import-untyped]  # ships .pyi files but no py.typed marker

from gateway.policy.syntax import Expr, Reference, followed, parse_checked, parse_located
from gateway.tool import Json

Bound = NewType("Bound", object)


class Truth(Enum):
    """The three outcomes of a clause. The value is the word that decisions and records use."""

    TRUE = "true"
    FALSE = "false"
    ERROR = "error"


_TRUE, _FALSE, _ERROR = Truth


class BadExpression(ValueError):
    """An expression that does not compile: where (line and column from 1, in the expression), and CEL's own words."""

    def __init__(self, line: int, column: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line
        self.column = column
        self.reason = reason


class Unbindable(ValueError):
    """Variables that the engine cannot take at all."""


_TYPES = {
    "bool": cel.Type.BOOL,
    "int": cel.Type.INT,
    "double": cel.Type.DOUBLE,
    "string": cel.Type.STRING,
    "strings": cel.Type.List(cel.Type.STRING),
    "any": cel.Type.DYN,
}
_MAX_JOINTS = 1024
_GIVES = "a clause is true or false, this one gives "
_BOOL = cel.Type.BOOL
_JUDGED = (cel.Type.BOOL.name(), cel.Type.DYN.name())


class Program:
    """One compiled clause."""

    __slots__ = ("_compiled", "_eval", "_expr", "_reads", "_typed")

    def __init__(self, compiled: cel.Expression) -> None:
        self._compiled = compiled
        self._eval = compiled.eval
        self._expr: Expr | None = None
        self._reads: tuple[Reference, ...] | None = None
        # Only an expression of unknown type can give something else than a bool or an error.
        self._typed = compiled.return_type() == _BOOL

    @property
    def expr(self) -> Expr:
        """Its checked syntax tree, for questions about what it reads: read only when somebody asks one."""
        if self._expr is None:
            self._expr = parse_checked(self._compiled.serialize())
        return self._expr

    @property
    def reads(self) -> tuple[Reference, ...]:
        """Every variable it reads, with the fields and items that it follows from there."""
        if self._reads is None:
            self._reads = tuple(dict.fromkeys(followed(self.expr)))
        return self._reads

    def eval(self, bound: Bound) -> Truth:
        """The one place where a CEL value becomes a verdict: TRUE needs the Python `True` *and* the CEL type BOOL.

        Never raises for what the variables hold.
        """
        try:
            result = self._eval(bound)
            value = result.value()
        except (RuntimeError, TypeError, ValueError, OverflowError):
            return _ERROR
        if value is False:
            return _FALSE
        if value is True and (self._typed or result.type() == _BOOL):
            return _TRUE
        return _ERROR


class Joint:
    """Several conditions as one program: one run of the engine, where it would be one for each."""

    __slots__ = ("_eval",)

    def __init__(self, compiled: cel.Expression) -> None:
        self._eval = compiled.eval

    def eval(self, bound: Bound) -> list[Truth] | None:
        """How each came out; None when any is in error, or they are too much together: then ask each for itself.

        The list is one of CEL's, so an error of one is an error of the whole, and no item is an error's text.
        """
        try:
            values = self._eval(bound).plain_value()
        except (RuntimeError, TypeError, ValueError, OverflowError):
            return None
        if type(values) is not list:
            return None
        return [_TRUE if value is True else _FALSE if value is False else _ERROR for value in values]


class Scope:
    """The variables an expression may name. A name may be dotted (`session.cost`); `container` is tried as a prefix."""

    def __init__(self, variables: Mapping[str, str], container: str = "", pool: object = None) -> None:
        """`variables` maps a name to bool, int, double, string, strings, any, or a message of the descriptor pool.

        A scope with messages is for `faults` alone: no value is a message.
        """
        self._joints: dict[tuple[str, ...], Joint] = {}
        types = {name: _TYPES.get(kind) or cel.Type(kind) for name, kind in variables.items()}
        self._env = cel.NewEnv(descriptor_pool=pool, variables=types, container=container)

    def compile(self, text: str) -> Program:
        """Parse and type-check. Raises BadExpression; also when the expression cannot give a bool."""
        try:
            compiled = self._env.compile(text)
        except RuntimeError as error:
            raise _bad(str(error)) from None
        kind = compiled.return_type().name()
        if kind not in _JUDGED:
            raise BadExpression(1, 1, f"{_GIVES}{kind}")
        return Program(compiled)

    def together(self, texts: tuple[str, ...]) -> Joint:
        """Conditions that compile one by one, as one program; remembered, as the calls of many meet the same."""
        found = self._joints.get(texts)
        if found is None:
            # On lines of their own, because a condition may end in a comment.
            found = Joint(self._env.compile("[" + ",".join(f"(\n{text}\n)" for text in texts) + "]"))
            if len(self._joints) >= _MAX_JOINTS:
                self._joints.clear()
            self._joints[texts] = found
        return found

    def faults(self, text: str) -> list[BadExpression]:
        """All that the checker has against an expression, in its own words; empty when it fits."""
        try:
            kind = self._env.compile(text).return_type().name()
        except RuntimeError as error:
            return [_bad(each) for each in str(error).split("\nERROR: ")]
        return [] if kind in _JUDGED else [BadExpression(1, 1, f"{_GIVES}{kind.lower()}")]

    def located(self, text: str) -> tuple[Expr, Mapping[int, Expr]]:
        """The tree of an expression that compiles, and its parts by place (`parse_located`)."""
        return parse_located(self._env.compile(text).serialize())


_PLAIN = cel.NewEnv()


def bind(variables: Mapping[str, Json]) -> Bound:
    """Variables by full name, for any number of programs of any scope: JSON values only. Raises Unbindable.

    A Python datetime would be an error here: the binding takes one only from the scope that compiled the program.
    """
    try:
        return Bound(_PLAIN.Activation(variables))
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise Unbindable(str(error)) from None


def _bad(message: str) -> BadExpression:
    """CEL writes `INVALID_ARGUMENT: ERROR: <input>:LINE:COLUMN: reason`, then the source with a marker under it."""
    first = message.partition("\n")[0]
    _, found, rest = first.partition("<input>:")
    line, _, rest = rest.partition(":")
    column, _, reason = rest.partition(":")
    if not (found and line.isdigit() and column.isdigit()):
        return BadExpression(1, 1, first.removeprefix("INVALID_ARGUMENT: "))
    return BadExpression(int(line), int(column), reason.strip())
