"""The types of a tool's arguments and facts, as far as its JSON Schema says for sure, and what can be followed in them.

It never checks a value, and where a schema could mean several things it says `any`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from gateway.policy.syntax import ITEM
from gateway.tool import Json, Tool

SCALARS: Mapping[str, str] = {"string": "string", "boolean": "bool", "integer": "int", "number": "double"}
_UNSURE = {"$ref", "allOf", "anyOf", "oneOf", "if", "patternProperties", "dependentSchemas"}


@dataclass(frozen=True, slots=True)
class Object:
    """A value with these names and no others. Each may be absent."""

    fields: tuple[tuple[str, Type], ...]


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    of: Type


@dataclass(frozen=True, slots=True)
class Maybe:
    """This, or null, or something of another kind."""

    of: Sure


Sure = str | Object | Items
Type = Sure | Maybe  # str: bool, int, double, string, map (an open object), any
_EMAIL = Object((("local", "string"), ("domain", "string")))
_URL = (("scheme", "string"), ("host", "string"), ("port", "int"), ("path", "string"), ("has_userinfo", "bool"))

# What the specs derive (gateway/specs/facts.py), by kind.
FACTS: Mapping[str, Type] = {
    "url": Object(_URL),
    "host": "string",
    "path": Object((("canonical", "string"),)),
    "email": _EMAIL,
    "email_list": Items(_EMAIL),
    "repo_path": Object((("owner", "string"), ("name", "string"))),
    "shell_words": Items("string"),
}


class _Same:
    """A tool as the key of a cache: by identity, because a tool holds mappings."""

    __slots__ = ("tool",)

    def __init__(self, tool: Tool) -> None:
        self.tool = tool

    def __hash__(self) -> int:
        return id(self.tool)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.tool is self.tool


def arguments_of(tool: Tool) -> Type:
    """The type of `args` in a call of the tool. The top level is closed unless its schema says otherwise."""
    return _roots(_Same(tool))[0]


def facts_of(tool: Tool) -> Object:
    """The type of `arg` in a call of the tool."""
    return _roots(_Same(tool))[1]


@lru_cache(maxsize=4096)
def _roots(same: _Same) -> tuple[Type, Object]:
    facts = tuple((name, FACTS.get(kind, "any")) for name, kind in same.tool.facts.items())
    return type_of(same.tool.input_schema, top=True), Object(facts)


def type_of(schema: Json, top: bool = False) -> Type:
    """The type of the valid values of a schema, defaults filled in and every `number` a float."""
    if not isinstance(schema, Mapping) or _UNSURE & schema.keys():
        return "any"
    named = schema.get("type")
    kinds = [named] if isinstance(named, str) else list(named) if isinstance(named, list | tuple) else []
    sure = [each for each in kinds if each != "null"]
    if not kinds:
        return _untyped(schema, top)
    if len(sure) != 1:
        return "any"
    found = _typed(str(sure[0]), schema, top)
    null = "null" in kinds or ("default" in schema and schema["default"] is None)
    return Maybe(found) if null else found


def inside(found: Type) -> Sure:
    """The type without the possibility that it is null or something else."""
    return found.of if isinstance(found, Maybe) else found


def below(found: Type, step: str) -> Type | None:
    """What stands at a name, or for ITEM in a list; `any` where that cannot be told, None where nothing can stand."""
    sure = inside(found)
    if step == ITEM:
        return sure.of if isinstance(sure, Items) else "any"
    if isinstance(sure, Object):
        return dict(sure.fields).get(step)
    return "any" if sure in ("any", "map") else None


def _untyped(schema: Mapping[str, Json], top: bool) -> Type:
    listed = schema.get("enum", [schema["const"]] if "const" in schema else [])
    values = listed if isinstance(listed, list | tuple) else []
    for kind, name in ((str, "string"), (bool, "bool")):
        if values and all(type(each) is kind for each in values):
            return name
    found = _object(schema, top)
    if top:
        return found
    return Maybe(found) if isinstance(found, Object) else "any"


def _typed(kind: str, schema: Mapping[str, Json], top: bool) -> Sure:
    if kind == "array":
        return Items("any" if "prefixItems" in schema else type_of(schema.get("items")))
    if kind == "object":
        return _object(schema, top)
    return SCALARS.get(kind, "any")


def _object(schema: Mapping[str, Json], top: bool) -> Sure:
    named = schema.get("properties", {})
    if schema.get("additionalProperties", not top) is not False or not isinstance(named, Mapping):
        return "map"
    return Object(tuple((str(name), type_of(each)) for name, each in named.items()))


_WORDS = {
    "bool": "true or false",
    "int": "an integer",
    "double": "a number",
    "string": "text",
    "map": "an object",
    "any": "anything",
    "dyn": "anything",
    "null_type": "null",
    "google.protobuf.Timestamp": "a time",
    "google.protobuf.Duration": "a duration",
}
_MANY = {"int": "integers", "double": "numbers", "string": "texts", "map": "objects"}


def worded(found: Type) -> str:
    """The type in words."""
    sure = inside(found)
    if isinstance(sure, Items):
        of = inside(sure.of)
        many = "lists" if isinstance(of, Items) else "objects" if isinstance(of, Object) else _MANY.get(of)
        return f"a list of {many}" if many else "a list"
    return "an object" if isinstance(sure, Object) else _WORDS.get(sure, sure)
