"""What pydantic found wrong with a file's shape, as findings with a place and a sentence that says what is right.

It never checks anything itself.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gateway.policy.shapes import APPROVER, LABEL, NAME, PART_ID, PATH, RULE_ID
from gateway.specs import yaml
from gateway.tool import Json

_NOTHING = object()
_MANY = 16
_KINDS = {
    "string_type": "write text, in quotes where YAML would read something else",
    "list_type": "write a list, like [one, two]",
    "dict_type": "write a mapping, like {key: value}",
    "model_type": "write a mapping, like {key: value}",
    "bool_type": "write true or false",
    "int_type": "write a whole number",
    "float_type": "write a number",
    "string_too_short": "write at least one character",
    "too_short": "give at least one, or leave the key out",
}
_PATTERNS = {
    PATH: "write args.NAME for an argument, arg.NAME for a fact",
    APPROVER: "write requester, user:NAME or group:NAME",
    NAME: "a name begins with a small letter, and has small letters, digits and _ only",
    RULE_ID: "it takes small letters, digits, - and _, and begins and ends with a letter or digit",
    PART_ID: "it takes small letters, digits, - _ and dots, and begins and ends with a letter or digit",
    LABEL: "a label begins with a small letter or digit, and has small letters, digits and _ . : - only",
}


def shape_errors(located: yaml.Located, error: ValidationError, shape: type[BaseModel]) -> list[yaml.SpecError]:
    """One finding for each thing pydantic saw, at the key it stands at."""
    schema = shape.model_json_schema()
    wrong = error.errors(include_url=False)
    other = [each for each in wrong if each["loc"] == ("kind",) and each["type"] == "literal_error"]
    found: dict[tuple[str, str], yaml.SpecError] = {}
    for each in other or wrong:  # of a file of another kind, nothing else is worth telling
        path = _path(located.value, each["loc"])
        at = yaml.pointer(*path)
        sentence = _sentence(each, path, schema)
        found.setdefault((at, sentence), located.error(at, sentence))
    return list(found.values())


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint: the closest known word, else all of them when they are few."""
    known = sorted(set(known))
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    more = ", …" if len(known) > _MANY else ""
    return f"known are {', '.join(known[:_MANY])}{more}" if known else "none is known here"


def _path(value: Json, loc: tuple[int | str, ...]) -> list[int | str]:
    """pydantic's location without the names of union members: only steps that the file really has, and the last."""
    path: list[int | str] = []
    for index, step in enumerate(loc):
        below = _below(value, step)
        if below is not _NOTHING:
            value = below
        elif index < len(loc) - 1 or step == "[key]" or not isinstance(value, dict):
            continue
        path.append(step)
    return path


def _below(value: Json, step: int | str) -> Json:
    if isinstance(value, dict):
        return value.get(step, _NOTHING)
    return value[step] if isinstance(value, list) and isinstance(step, int) and step < len(value) else _NOTHING


def _sentence(each: ErrorDetails, path: list[int | str], schema: Mapping[str, Any]) -> str:
    key = next((str(step) for step in reversed(path) if isinstance(step, str)), "the file")
    kind, given = each["type"], each.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key {key!r}: {nearest(key, _keys(schema, path[:-1]))}"
    if kind == "missing":
        return f"the key {key!r} is missing: add it"
    if kind == "literal_error":
        return f"{_short(each['input'])} is not taken here: write {given['expected']}"
    if kind == "value_error":
        return str(given["error"])
    if kind == "too_long" and isinstance(each["input"], dict):
        return f"{_short(each['input'])} does not fit {key!r}: write one, like {{TOOL: {{ARGUMENT: value}}}}"
    if kind == "string_pattern_mismatch":
        pattern = given["pattern"]
        right = _PATTERNS.get(pattern, f"it has to match {pattern}")
        return f"{_short(each['input'])} is not taken for {key!r}: {right}"
    if kind in _KINDS:
        return f"{_short(each['input'])} does not fit {key!r}: {_KINDS[kind]}"
    return f"{_short(each['input'])} does not fit {key!r}: {each['msg'][:1].lower()}{each['msg'][1:]}"


def _short(value: Json) -> str:
    text = repr(value)
    text = json.dumps(value, ensure_ascii=False) if value is None or isinstance(value, bool) else text
    return text if len(text) <= 60 else text[:57] + "…"


def _keys(schema: Mapping[str, Any], path: list[int | str]) -> list[str]:
    """The known keys of the mapping that a path leads to, by the published schema."""
    here: Mapping[str, Any] = schema
    for step in path:
        here = _resolve(schema, here)
        if isinstance(step, int):
            here = here.get("items", {})
        else:
            named = here.get("patternProperties", {})  # of any name, as those that an operator gives
            here = here.get("properties", {}).get(step) or next(iter(named.values()), {})
    return list(_resolve(schema, here).get("properties", {}))


def _resolve(schema: Mapping[str, Any], here: Mapping[str, Any]) -> Mapping[str, Any]:
    """Through `$ref`, and through `X or null` to X."""
    for option in here.get("anyOf", ()):
        if option.get("type") != "null":
            here = option
            break
    if "$ref" in here:
        return _resolve(schema, schema["$defs"][here["$ref"].rpartition("/")[2]])
    return here
