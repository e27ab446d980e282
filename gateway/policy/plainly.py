"""What CEL has against an expression, in words of this language: the name that was meant, the sign that is right here.

It judges nothing: the engine has done so. It never compiles.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.policy import language
from gateway.policy.engine import BadExpression
from gateway.policy.findings import nearest
from gateway.policy.mismatch import Kind, kind_of
from gateway.policy.variables import KINDS

_UNFIT = "not a CEL expression that fits: "
_OVERLOAD = "found no matching overload for '"
_FUNCTIONS = (
    *("size", "has", "all", "exists", "exists_one", "filter", "map", "contains", "startsWith", "endsWith", "matches"),
    *("int", "double", "string", "bool", "timestamp", "duration"),
    *("getFullYear", "getMonth", "getDate", "getDayOfWeek", "getHours", "getMinutes", "getSeconds"),
)
# What other languages write for it.
_RIGHT = {
    "and": "&&",
    "or": "||",
    "not": "!",
    "=": "==",
    "is": "==",
    "=>": ">=",
    "=<": "<=",
    "<>": "!=",
    "=~": "matches()",
    "~": "matches()",
    **dict.fromkeys("‘’“”", "\" or '"),
    **dict.fromkeys(("None", "nil", "NULL", "Null", "undefined"), "null"),
    **dict.fromkeys(("True", "TRUE", "yes"), "true"),
    **dict.fromkeys(("False", "FALSE", "no"), "false"),
    **dict.fromkeys(("len", "length", "count"), "size"),
    **dict.fromkeys(("includes", "has_key", "include"), "contains"),
    **dict.fromkeys(("re", "regex", "match", "test", "like"), "matches"),
    **dict.fromkeys(("any", "some"), "exists"),
    "every": "all",
    "float": "double",
    "str": "string",
}
_SPANS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_KINDS = {
    "int": "a whole number",
    "double": "a decimal number",
    "string": "text",
    "bool": "a truth",
    "null_type": "null",
    "list": "a list",
    "map": "a mapping",
    "dyn": "a value",
    "google.protobuf.Timestamp": "a timestamp",
    "google.protobuf.Duration": "a duration",
}


def plainly(error: BadExpression, text: str, prefix: str, part: language.Part) -> str:
    """One sentence. text: the expression; prefix: how the part's own names begin for the engine."""
    reason = error.reason.removesuffix(f" (in container '{prefix}')").replace(f"{prefix}.v.", "v.")
    line = text.split("\n")[error.line - 1] if error.line <= text.count("\n") + 1 else ""
    before, after = line[: error.column - 1], line[error.column - 1 :]
    _, unknown, rest = reason.partition("undeclared reference to '")
    if unknown:
        return _unknown(rest.rstrip("'"), after, part)
    if reason.startswith("Syntax error"):
        return f"{_UNFIT}{reason.partition(' expecting {')[0]}{_meant(reason, before)}"
    function, applied, given = reason.partition(_OVERLOAD)[2].partition("' applied to '")
    if applied:
        return f"{_UNFIT}{_mixed(function, kind_of(given).of)}"
    return f"{_UNFIT}{reason}"


def _unknown(name: str, after: str, part: language.Part) -> str:
    if after.startswith("("):
        right = _RIGHT.get(name)
        hint = f"write {right}()" if right in _FUNCTIONS else nearest(name, _FUNCTIONS)
        return f"{name!r} is not known as a function: {hint}"
    if name in _RIGHT:
        return f"{name!r} is not known: write {_RIGHT[name]}"
    known = [*KINDS, *(f"v.{each}" for each in part.shape.values), *(f"state.{each}" for each in part.shape.state)]
    below = [each for each in known if each.partition(".")[0] == name.partition(".")[0]]
    if not below and (tail := next((each for each in known if each.rpartition(".")[2] == name), None)):
        return f"{name!r} is not known: did you mean {tail!r}?"
    near = nearest(name, below or known)
    argument = f"an argument is args.{name}, " if "." not in name and near.startswith("known") and not below else ""
    return f"{name!r} is not known: {argument}{near}"


def _meant(reason: str, before: str) -> str:
    """What stands wrong there, or just before, when it is a sign of another language or a time with its unit."""
    found = reason.split("'")[1].strip() if reason.count("'") > 1 else ""
    last = (before.split() or [""])[-1]
    digits = last[len(last.rstrip("0123456789")) :]
    if found in _SPANS and digits:
        return f", and times are seconds here: write {float(int(digits) * _SPANS[found])} for {digits}{found}"
    for word in (found, last):
        if word in _RIGHT:
            return f": write {_RIGHT[word]} for {word}"
    return ""


def _mixed(function: str, kinds: Sequence[Kind]) -> str:
    names = {each.name for each in kinds}
    sign = "in" if function == "@in" else function.strip("_") if "_" in function else f"{function}()"
    said = f"{sign} does not take {' with '.join(_KINDS.get(each.name, each.name) for each in kinds)}"
    if names == {"int", "double"}:
        return f"{said}: whole numbers do not mix with decimal ones, so write 1.0 for 1"
    if "google.protobuf.Duration" in names:
        return f"{said}: times are seconds here, so write 3600.0 for an hour"
    if "google.protobuf.Timestamp" in names:
        return f'{said}: compare timestamp(now) with timestamp("2027-01-01T00:00:00Z")'
    if function.startswith("get") and "int" in names:
        return f"{said}: write timestamp(now).{function}()"
    if function == "contains" and kinds and kinds[0].name == "list":
        return f"{said}: write VALUE in LIST"
    return said
