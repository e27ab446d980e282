"""Names that a clause follows below `args` and `arg`, held against the tools a rule is about.

It never checks a value: it asks schemas which property names are possible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.policy.findings import nearest
from gateway.policy.syntax import ITEM, Path
from gateway.policy.typed import Object, arguments_of, below, facts_of, inside, worded
from gateway.tool import Json, Tool

_OPEN = {"$ref", "allOf", "anyOf", "oneOf", "if", "patternProperties", "dependentSchemas"}


def misnamed(path: Path, tested: bool, tools: Sequence[Tool]) -> str | None:
    """What is wrong with a path, as a sentence. Under a `has()` of the same path it is enough that one tool has it."""
    if path[0] not in ("args", "arg"):
        return None
    if path == ("arg",):
        return "facts are read by name: write arg.NAME, for an argument with `facts:` in its tool's spec"
    found = [sentence for tool in tools if (sentence := _wrong(path, tool))]
    if not found or (tested and len(found) < len(tools)):
        return None
    return found[0]


def label(path: Path) -> str:
    """A path as people write it."""
    return ".".join(path).replace("." + ITEM, ITEM)


def required(path: Path, tool: Tool) -> bool:
    """Whether a call of the tool always has this top-level argument; True where the schema cannot tell."""
    below = _closed(tool.input_schema, True)
    if len(path) < 2 or below is None or path[1] not in below:
        return True
    named = tool.input_schema.get("required", ())
    schema = below[path[1]]
    has_default = isinstance(schema, Mapping) and "default" in schema
    return has_default or (isinstance(named, list | tuple) and path[1] in named)


def never_empty(path: Path, tool: Tool) -> bool:
    """Whether the schema demands at least one item of a top-level list."""
    below = _closed(tool.input_schema, True) or {}
    schema = below.get(path[1]) if len(path) == 2 else None
    least = schema.get("minItems", 0) if isinstance(schema, Mapping) else 0
    return isinstance(least, int) and least > 0


def _wrong(path: Path, tool: Tool) -> str | None:
    """What the tool has against a path: the first step that leads nowhere."""
    found = arguments_of(tool) if path[0] == "args" else facts_of(tool)
    for depth, step in enumerate(path[1:], 1):
        following = below(found, step)
        if following is None:
            known = inside(found)
            if isinstance(known, Object):
                return _unknown(path[: depth + 1], known, tool)
            said = f"{label(path[:depth])} of the tool {tool.name} is {worded(found)}"
            return f"{said}, it has no field {step!r}{_hint(path, tool)}"
        found = following
    return None


def _unknown(path: Path, known: Object, tool: Tool) -> str:
    names = dict(known.fields)
    if path[0] == "args":
        return f"{label(path)} is no argument of the tool {tool.name}: {nearest(path[-1], names)}"
    if len(path) == 2:
        return f"the spec of {tool.name} declares no facts for {path[1]!r}: {nearest(path[1], names)}"
    return f"{label(path)} is no fact of kind {tool.facts[path[1]]}: {nearest(path[-1], names)}"


def _hint(path: Path, tool: Tool) -> str:
    """Where the argument's facts have what was looked for in its text."""
    fact = below(facts_of(tool), path[1]) if path[0] == "args" else None
    if isinstance(fact, Object) and path[-1] in dict(fact.fields):
        return f": write {label(('arg', *path[1:]))}"
    return ""


def _closed(schema: Json, top: bool) -> Mapping[str, Json] | None:
    """The only properties an object can have, or None when others may come. The top level is closed unless it says."""
    if not isinstance(schema, Mapping) or _OPEN & schema.keys():
        return None
    below = schema.get("properties")
    if not isinstance(below, Mapping) and not top:
        return None
    if schema.get("additionalProperties", not top) is not False:
        return None
    return below if isinstance(below, Mapping) else {}
