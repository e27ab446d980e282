"""An independent reading of how rules combine, small enough to be seen to be right: the real one must agree with it.

A clause is a nested tuple over named values (`drawn.py` writes it as CEL). A part has `id tenant boundary shadow values
rules`, a rule `id effect shadow match clauses`, a call `words` (what keys of a match hold against), `arguments`, and
by part `levels` and `pending`. Nothing is shared with the gateway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

ERROR = "error"
Found = bool | str
Shape = Mapping[str, Any]


class Reference:
    def both(self, found: Sequence[Found]) -> Found:  # false beats error, error beats true
        return False if False in found else ERROR if ERROR in found else True

    def either(self, found: Sequence[Found]) -> Found:  # true beats error, error beats false
        return True if True in found else ERROR if ERROR in found else False

    def truth(self, clause: tuple[Any, ...], seen: Shape) -> Found:
        """A clause over what can be seen: what is absent is an error, and so is what has the wrong type."""
        match clause:
            case ("not", inner):
                found = self.truth(inner, seen)
                return ERROR if found == ERROR else not found
            case ("and" | "or" as word, *inner):
                values = [self.truth(each, seen) for each in inner]
                return self.both(values) if word == "and" else self.either(values)
            case (word, name, *_) if name not in seen or word == "has":
                return name in seen if word == "has" else ERROR
            case ("is", name):
                return _bool(seen[name])
            case ("equals", name, word):
                return isinstance(seen[name], str) and seen[name] == word
            case ("listed", name, values):
                return isinstance(seen[name], str) and seen[name] in seen[values]
            case ("more", name, number):
                return seen[name] > number if type(seen[name]) in (int, float) else ERROR
            case ("every" | "some" as word, name):
                values = [_bool(each) for each in seen[name]] if isinstance(seen[name], list | dict) else [ERROR]
                return self.both(values) if word == "every" else self.either(values)
        raise AssertionError(clause)

    def combine(self, ruled: Sequence[tuple[Shape, Shape]], boundaries: Sequence[str], call: Shape, key: str) -> str:
        permits, forbids = [], []
        for part, rule in ruled:
            seen = {**call["arguments"], **part["values"], **call[key].get(part["id"], {})}
            result = self.both([self.truth(clause, seen) for clause in rule["clauses"]])
            forbids += [result] if rule["effect"] == "forbid" else []
            permits += [(part["id"], rule["id"])] if rule["effect"] == "permit" and result is True else []
        if True in forbids or ERROR in forbids:
            return "forbidden" if True in forbids else "policy_error"
        enough = permits and {part for part, _ in permits}.issuperset(boundaries)
        return " ".join(["permit", *(rule for _, rule in permits)]) if enough else "no_permit"

    def decide(self, parts: Sequence[Shape], call: Shape, shadow: bool = False) -> str:
        """The decision; with `shadow` as it would be if everything in shadow were in force."""
        words = call["words"]
        here = [part for part in parts if part["tenant"] in (None, *words["tenants"])]
        here = [part for part in here if shadow or not part["shadow"]]
        ruled = [(part, rule) for part in here for rule in part["rules"] if shadow or not rule["shadow"]]
        ruled = [each for each in ruled if all(_meets(globs, words[key]) for key, globs in each[1]["match"].items())]
        boundaries = [part["id"] for part in here if part["boundary"]]
        found = self.combine(ruled, boundaries, call, "levels")
        waits = found == "no_permit" and self.combine(ruled, boundaries, call, "pending").startswith("permit")
        return "precondition_pending" if waits else found


def _bool(value: Any) -> Found:
    return value if isinstance(value, bool) else ERROR


def _meets(globs: Sequence[str], words: Sequence[str]) -> bool:
    return any(fnmatchcase(word, glob) for word in words for glob in globs)
