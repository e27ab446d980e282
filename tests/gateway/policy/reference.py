"""An independent reading of the policy language, small enough to be seen to be right: the real one must agree with it.

A clause is a nested tuple; `text` writes it as CEL, `truth` judges it here: True, False or ERROR. Nothing is shared
with the gateway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

ERROR = "error"
Clause = tuple[Any, ...]
Rule = Mapping[str, Any]  # effect, clauses, part (number)


def text(clause: Clause) -> str:
    """The clause in CEL."""
    match clause:
        case ("is", name):
            return f"args.{name}"
        case ("has", name):
            return f"has(args.{name})"
        case ("equals", name, word):
            return f'args.{name} == "{word}"'
        case ("more", name, number):
            return f"args.{name} > {number}"
        case ("not", inner):
            return f"!({text(inner)})"
        case ("and", left, right):
            return f"({text(left)} && {text(right)})"
        case ("or", left, right):
            return f"({text(left)} || {text(right)})"
    raise AssertionError(clause)


def truth(clause: Clause, arguments: Mapping[str, Any]) -> bool | str:
    """The clause over arguments: a missing argument is an error, and so is what has the wrong type."""
    match clause:
        case ("has", name):
            return name in arguments
        case ("is" | "equals" | "more", name, *_) if name not in arguments:
            return ERROR
        case ("is", name):
            return arguments[name] if isinstance(arguments[name], bool) else ERROR
        case ("equals", name, word):
            return isinstance(arguments[name], str) and arguments[name] == word
        case ("more", name, number):
            value = arguments[name]
            return value > number if isinstance(value, int | float) and not isinstance(value, bool) else ERROR
        case ("not", inner):
            found = truth(inner, arguments)
            return ERROR if found == ERROR else not found
        case ("and", left, right):
            return both([truth(left, arguments), truth(right, arguments)])
        case ("or", left, right):
            sides = [truth(left, arguments), truth(right, arguments)]
            return True if True in sides else ERROR if ERROR in sides else False
    raise AssertionError(clause)


def both(found: Sequence[bool | str]) -> bool | str:
    """False beats error, error beats true."""
    return False if False in found else ERROR if ERROR in found else True


def decide(rules: Sequence[Rule], boundaries: Sequence[int], arguments: Mapping[str, Any]) -> str:
    """`permit`, or the code of the refusal."""
    results = [(rule, both([truth(clause, arguments) for clause in rule["clauses"]])) for rule in rules]
    forbids = [result for rule, result in results if rule["effect"] == "forbid"]
    permitting = [rule["part"] for rule, result in results if rule["effect"] == "permit" and result is True]
    if True in forbids:
        return "forbidden"
    if ERROR in forbids:
        return "policy_error"
    return "permit" if permitting and all(part in permitting for part in boundaries) else "no_permit"
