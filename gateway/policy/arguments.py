"""Names that a clause follows below `args` and `arg`, held against the tools a rule is about.

It never checks a value: it asks schemas which property names are possible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.policy.findings import nearest
from gateway.policy.syntax import Path
from gateway.tool import Json, Tool

# The fields of a fact, by kind; the other kinds are a text or a list.
FIELDS: Mapping[str, tuple[str, ...]] = {
    "url": ("scheme", "host", "port", "path", "has_userinfo"),
    "path": ("canonical",),
    "email": ("local", "domain"),
    "repo_path": ("owner", "name"),
}
_OPEN = {"$ref", "allOf", "anyOf", "oneOf", "if", "patternProperties", "dependentSchemas"}


def misnamed(path: Path, tested: bool, tools: Sequence[Tool]) -> str | None:
    """What is wrong with a path, as a sentence. Under a `has()` of the same path it is enough that one tool has it."""
    look = {"args": _argument, "arg": _fact}.get(path[0])
    if look is None:
        return None
    if path == ("arg",):
        return "facts are read by name: write arg.NAME, for an argument with `facts:` in its tool's spec"
    found = [sentence for tool in tools if (sentence := look(path, tool))]
    if not found or (tested and len(found) < len(tools)):
        return None
    return found[0]


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


def _argument(path: Path, tool: Tool) -> str | None:
    schema: Json = tool.input_schema
    for depth, step in enumerate(path[1:]):
        below = _closed(schema, depth == 0)
        if below is None:
            return None
        if step not in below:
            name = ".".join(path[: depth + 2])
            return f"{name} is no argument of the tool {tool.name}: {nearest(step, below)}"
        schema = below[step]
    return None


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


def _fact(path: Path, tool: Tool) -> str | None:
    if path[1] in tool.facts:
        return _field(path, tool.facts[path[1]])
    return f"the spec of {tool.name} declares no facts for {path[1]!r}: {nearest(path[1], tool.facts)}"


def _field(path: Path, kind: str) -> str | None:
    fields = FIELDS.get(kind, ())
    if len(path) < 3 or (path[2] in fields and len(path) == 3):
        return None
    return f"{'.'.join(path)} is no fact of kind {kind}: {nearest(path[2], fields)}"
