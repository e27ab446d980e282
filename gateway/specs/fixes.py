"""From a validator's errors to repairs a model can act on: where, what kind of value came, what is allowed.

It never repeats a value that was sent: of what came it says the type and the length, and of names at most 64
characters, escaped. What is allowed comes from the operator's own schema.
"""

import json
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Protocol, cast

from gateway.specs.yaml import pointer
from gateway.tool import Fix, Json

MAX_FIXES = 5
_SHOWN = 200
_NAME = 64


class Kind(Protocol):
    """What `jsonschema_rs` says of an error: the keyword's name and its operand."""

    @property
    def name(self) -> str: ...
    @property
    def value(self) -> object: ...


class Wrong(Protocol):
    """The part of a `jsonschema_rs.ValidationError` that is read here."""

    @property
    def kind(self) -> Kind: ...
    @property
    def instance(self) -> Json: ...
    @property
    def instance_path(self) -> Sequence[str | int]: ...
    @property
    def schema_path(self) -> Sequence[str | int]: ...


_TYPES = {
    "string": "a string",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}

# Keyword → what is allowed; `{}` is its operand.
_ALLOWED = {
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "minProperties": "at least {} entries",
    "maxProperties": "at most {} entries",
    "minimum": "a number of at least {}",
    "maximum": "a number of at most {}",
    "exclusiveMinimum": "a number above {}",
    "exclusiveMaximum": "a number below {}",
    "multipleOf": "a multiple of {}",
    "pattern": "a string matching {}",
    "format": "a string in the format {}",
    "uniqueItems": "items that all differ",
    "contains": "a list with the right number of items of the kind the schema asks for",
    "not": "a value other than those the schema excludes",
    "falseSchema": "nothing here: leave it out",
    "unevaluatedItems": "no further items: leave them out",
    "propertyNames": "only names of the form the schema asks for",
}


def explain(errors: Iterator[Wrong], schema: Json) -> tuple[Fix, ...]:
    """At most five fixes, in the order of the errors, each pointer once per kind of trouble."""
    found: dict[tuple[str, str], Fix] = {}
    # A branch that failed leaves its names unevaluated: that is no news beside what made it fail.
    for error in sorted(errors, key=lambda each: each.kind.name == "unevaluatedProperties"):
        if found and error.kind.name == "unevaluatedProperties":
            break
        for fix in _fixes(error, schema):
            found.setdefault((fix.pointer, fix.allowed), fix)
            if len(found) == MAX_FIXES:
                return tuple(found.values())
    return tuple(found.values())


def too_big_to_explain() -> tuple[Fix, ...]:
    """The answer for a value so large that looking for every error would cost more than it helps."""
    return (Fix("", "a large value that does not fit", "a value that fits the tool's input schema"),)


def _fixes(error: Wrong, schema: Json) -> Iterator[Fix]:
    name = error.kind.name
    at = pointer(*(_shown_name(part) if isinstance(part, str) else part for part in error.instance_path))
    if name in ("additionalProperties", "unevaluatedProperties"):
        yield from _unknown(error, at, schema)
    elif name == "required":
        missing = str(error.kind.value)
        known = _known(error, schema)
        sent = [key for key in _keys(error.instance) if key not in known]
        yield Fix(at + pointer(missing), "nothing", _described(known.get(missing)), _near(missing, sent))
    elif name in ("anyOf", "oneOf"):
        yield from _branch(error, at, schema)
    else:
        allowed, near = _allowed(error)
        yield Fix(at, received(error.instance), allowed, near)


def _unknown(error: Wrong, at: str, schema: Json) -> Iterator[Fix]:
    known = list(_known(error, schema))
    allowed = "one of " + ", ".join(known) if known else "only names that the schema lists"
    for name in cast(list[str], error.kind.value)[:MAX_FIXES]:
        near = _near(name, known)
        yield Fix(at + pointer(_shown_name(name)), "an unknown name", _cut(allowed), near)


def _branch(error: Wrong, at: str, schema: Json) -> Iterator[Fix]:
    """Of several alternatives, explain the one that came closest: whose errors lie deepest, then the fewest."""
    branches = [branch for branch in cast(list[list[Wrong]], error.kind.value) if branch]
    depth = len(error.instance_path)
    best = max(branches, key=lambda branch: (min(len(each.instance_path) for each in branch), -len(branch)), default=[])
    types = [each for branch in branches for each in branch if each.kind.name == "type"]
    if not branches:
        yield Fix(at, received(error.instance), "a value that fits exactly one of the schema's alternatives")
    elif len(types) == len(branches) and all(len(each.instance_path) == depth for each in types):
        allowed = " or ".join(dict.fromkeys(_allowed(each)[0] for each in types))
        yield Fix(at, received(error.instance), _cut(allowed))
    else:
        right_type = [branch for branch in branches if not any(each in types for each in branch)]
        for each in best if best in right_type or not right_type else right_type[0]:
            yield from _fixes(each, schema)


def _allowed(error: Wrong) -> tuple[str, str | None]:
    name, operand = error.kind.name, error.kind.value
    if name == "type":
        return " or ".join(_TYPES.get(str(each), str(each)) for each in cast(list[object], operand)), None
    if name in ("enum", "const"):
        options = cast(list[Json], operand) if name == "enum" else [operand]
        texts = [each for each in options if isinstance(each, str)]
        near = _near(error.instance, texts) if isinstance(error.instance, str) else None
        return _cut("one of " + ", ".join(_json(each) for each in options)), near
    if name in _ALLOWED:
        return _cut(_ALLOWED[name].format(operand)), None
    return "a value that fits the schema", None


def received(value: Json) -> str:
    """The type and size of a value, never the value."""
    if isinstance(value, str):
        return f"a string of {len(value)} characters"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, list):
        return f"a list of {len(value)} items"
    if isinstance(value, dict):
        return f"an object with {len(value)} entries"
    if isinstance(value, int):
        return "a whole number"
    return "null" if value is None else "a number"


def _known(error: Wrong, schema: Json) -> dict[str, Json]:
    """The properties named where the keyword that failed stands."""
    for part in list(error.schema_path)[:-1]:
        if isinstance(schema, dict) and isinstance(part, str):
            schema = schema.get(part)
        elif isinstance(schema, list) and isinstance(part, int):
            schema = schema[part]
    return _named(schema)


def _named(schema: Json) -> dict[str, Json]:
    """The properties a schema names, itself or in its branches."""
    if not isinstance(schema, dict):
        return {}
    properties = schema.get("properties")
    found = dict(properties) if isinstance(properties, dict) else {}
    for key in ("allOf", "anyOf", "oneOf"):
        branches = schema.get(key)
        for branch in branches if isinstance(branches, list) else []:
            found = {**_named(branch), **found}
    return found


def _described(schema: Json) -> str:
    if isinstance(schema, dict):
        kind = schema.get("type")
        if isinstance(kind, str):
            return f"{_TYPES.get(kind, kind)} (required)"
    return "a value (required)"


def _keys(value: Json) -> list[str]:
    return list(value)[:100] if isinstance(value, dict) else []


def _near(name: str, known: list[str]) -> str | None:
    near = get_close_matches(name[:_NAME], [each[:_NAME] for each in known[:100]], 1)
    return _shown_name(near[0]) if near else None


def _json(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False)


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _shown_name(name: str) -> str:
    """A name the caller made up, short and with nothing in it that a screen would obey."""
    short = name if len(name) <= _NAME else name[:_NAME] + "…"
    return short if short.isprintable() else short.encode("unicode_escape").decode()
