"""What a JSON Schema of ours may look like (2020-12), found out before it is compiled; and how it is closed.

Rules: only keywords that are checked, so a misspelt one cannot open a hole; `$ref` only into the schema itself, to a
subschema, never round in a circle; sizes and depth bounded; no schema whose checking multiplies with the value's depth.

It never checks a value and never compiles anything.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import cast
from urllib.parse import unquote

from gateway.specs.yaml import MAX_BYTES, MAX_DEPTH, pointer
from gateway.strictjson import canonical
from gateway.tool import Json

MAX_SUBSCHEMAS = 1000
MAX_BRANCHES = 256
MAX_VALUE_DEPTH = 64
DIALECT = "https://json-schema.org/draft/2020-12/schema"

# Keyword → where its subschemas apply: `here` to the same value, `below` to a part of it, `nowhere` by itself.
_MAPS = {"properties": "below", "patternProperties": "below", "$defs": "nowhere", "dependentSchemas": "here"}
_LISTS = {"allOf": "here", "anyOf": "here", "oneOf": "here", "prefixItems": "below"}
_SINGLES = {
    **dict.fromkeys(("not", "if", "then", "else"), "here"),
    **dict.fromkeys(("items", "contains", "additionalProperties", "propertyNames"), "below"),
    **dict.fromkeys(("unevaluatedItems", "unevaluatedProperties"), "below"),
}
_PLAIN = {
    *("$schema", "$ref", "$comment", "title", "description", "default", "examples", "deprecated", "readOnly"),
    *("writeOnly", "type", "enum", "const", "multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"),
    *("maxLength", "minLength", "pattern", "format", "maxItems", "minItems", "uniqueItems", "maxContains"),
    *("minContains", "maxProperties", "minProperties", "required", "dependentRequired"),
    "x-mcp-header",  # MCP 2026-07-28: the argument is mirrored in a header (gateway/mirrors.py)
}
_KEYWORDS = _PLAIN | _MAPS.keys() | _LISTS.keys() | _SINGLES.keys()
_NOT_TAKEN = {
    "$id": "leave it out: a schema refers to itself with #/$defs/name",
    "$anchor": "refer to #/$defs/name instead",
    "$dynamicRef": "write $ref",
    "$dynamicAnchor": "refer to #/$defs/name instead",
    "definitions": "JSON Schema 2020-12 calls it $defs",
    "dependencies": "JSON Schema 2020-12 calls it dependentRequired or dependentSchemas",
    "additionalItems": "JSON Schema 2020-12 writes prefixItems and items",
    "contentEncoding": "it would not be checked",
    "contentMediaType": "it would not be checked",
    "contentSchema": "it would not be checked",
}
Finding = tuple[str, str]  # JSON Pointer into the schema, sentence


@dataclass(slots=True)
class Node:
    """One subschema: the pointers of those that judge the same value (`here`) and parts of it (`below`).

    `conditional` says that it stands under `not` or `if`.
    """

    schema: Json
    conditional: bool = False
    here: list[str] = field(default_factory=list)
    below: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Outline:
    """All subschemas of a schema by pointer, the findings, and how often one part of a value may be judged at most."""

    nodes: dict[str, Node]
    findings: list[Finding]
    branches: int


def outline(schema: Json) -> Outline:
    """Walk a schema once. With findings, the schema must not be compiled."""
    nodes: dict[str, Node] = {}
    findings = list(_size(schema))
    if findings:
        return Outline(nodes, findings, 0)
    findings += _walk(schema, "", nodes)
    findings += _link(nodes)
    if not findings:
        findings += _circles(nodes)
    branches = 0 if findings else _branches(nodes)
    if branches > MAX_BRANCHES:
        findings.append(("", f"one value may be judged more than {MAX_BRANCHES} times: use fewer anyOf, oneOf or $ref"))
    return Outline(nodes, findings, branches)


def _size(schema: Json) -> Iterator[Finding]:
    stack: list[tuple[Json, int]] = [(schema, 0)]
    while stack:
        part, depth = stack.pop()
        if depth > MAX_DEPTH:
            yield "", f"a schema is nested at most {MAX_DEPTH} levels deep"
            return
        if isinstance(part, dict):
            stack += ((each, depth + 1) for each in part.values())
        elif isinstance(part, list):
            stack += ((each, depth + 1) for each in part)
    if len(canonical(schema)) > MAX_BYTES:
        yield "", f"a schema has at most {MAX_BYTES} bytes"


def _walk(schema: Json, at: str, nodes: dict[str, Node], conditional: bool = False) -> Iterator[Finding]:
    node = nodes[at] = Node(schema, conditional)
    if len(nodes) > MAX_SUBSCHEMAS:
        if len(nodes) == MAX_SUBSCHEMAS + 1:
            yield at, f"a schema has at most {MAX_SUBSCHEMAS} subschemas"
        return
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        yield at, "a schema is a mapping, true or false"
        return
    yield from _keywords(schema, at)
    for where, below, part in _parts(schema):
        target = node.here if where == "here" else node.below if where == "below" else []
        target.append(at + below)
        yield from _walk(part, at + below, nodes, conditional or below in ("/not", "/if"))


def _parts(schema: dict[str, Json]) -> Iterator[tuple[str, str, Json]]:
    """(where it applies, pointer from here, subschema) of each subschema; wrong shapes are left to the meta-schema."""
    for key, value in schema.items():
        if key in _MAPS and isinstance(value, dict):
            yield from ((_MAPS[key], pointer(key, name), part) for name, part in value.items())
        elif key in _LISTS and isinstance(value, list):
            yield from ((_LISTS[key], pointer(key, place), part) for place, part in enumerate(value))
        elif key in _SINGLES:
            yield _SINGLES[key], pointer(key), value


def _keywords(schema: dict[str, Json], at: str) -> Iterator[Finding]:
    for key in schema:
        if key in _NOT_TAKEN:
            yield at + pointer(key), f"{key} is not taken: {_NOT_TAKEN[key]}"
        elif key not in _KEYWORDS:
            near = get_close_matches(key, _KEYWORDS, 1)
            hint = f": did you mean {near[0]}?" if near else ""
            yield at + pointer(key), f"{key[:40]!r} is no JSON Schema 2020-12 keyword{hint}"
    if schema.get("uniqueItems") is True and "maxItems" not in schema:
        yield at + "/uniqueItems", "uniqueItems needs maxItems beside it"
    if "$schema" in schema and (at or schema["$schema"] != DIALECT):
        yield at + "/$schema", f"schemas are JSON Schema 2020-12: leave $schema out, or write {DIALECT} at the top"


def _link(nodes: dict[str, Node]) -> Iterator[Finding]:
    """Resolve each `$ref` to the subschema it names."""
    for at, node in nodes.items():
        if not isinstance(node.schema, dict) or "$ref" not in node.schema:
            continue
        reference = node.schema["$ref"]
        if not isinstance(reference, str) or not reference.startswith("#"):
            yield at + "/$ref", "a $ref points into the schema itself: #/$defs/name"
        elif (target := unquote(reference[1:])) not in nodes:
            yield at + "/$ref", "nothing stands where this $ref points: write #/$defs/name with a name from $defs"
        else:
            node.here.append(target)


def _circles(nodes: dict[str, Node]) -> Iterator[Finding]:
    """A schema that judges a value by judging the same value again would never end."""
    done: set[str] = set()
    for start in nodes:
        stack: list[tuple[str, Iterator[str]]] = [(start, iter(nodes[start].here))] if start not in done else []
        path = {start}
        while stack:
            at, rest = stack[-1]
            following = next(rest, None)
            if following is None:
                done.add(at)
                path.discard(at)
                stack.pop()
            elif following in path:
                yield following, "this schema refers to itself for the same value: a $ref may only recur below"
                return
            elif following not in done:
                path.add(following)
                stack.append((following, iter(nodes[following].here)))


def _branches(nodes: dict[str, Node]) -> int:
    """How often the checker may judge one part of a value, at the worst place, at any depth of the value."""
    order = _inside_out(nodes)
    above: dict[str, int] = {}
    worst = 0
    for depth in range(MAX_VALUE_DEPTH + 1):
        level: dict[str, int] = {}
        for at in order:
            node = nodes[at]
            own = int(not node.here) if depth == 0 else max((above[each] for each in node.below), default=0)
            level[at] = min(own + sum(level[each] for each in node.here), MAX_BRANCHES + 1)
        above = level
        worst = max(worst, level[""])
        if worst > MAX_BRANCHES or not any(level.values()):
            break
    return worst


def _inside_out(nodes: dict[str, Node]) -> list[str]:
    """All pointers, each after those it needs for the same value (there are no circles)."""
    order: dict[str, None] = {}
    for start in nodes:
        stack = [start]
        while stack:
            at = stack[-1]
            waiting = [each for each in nodes[at].here if each not in order]
            if waiting and at not in order:
                stack += waiting
            else:
                order.setdefault(at)
                stack.pop()
    return list(order)


def closed(schema: dict[str, Json], nodes: dict[str, Node]) -> dict[str, Json]:
    """The same schema with every object closed to keys it does not name, unless it says otherwise itself.

    An object schema with `properties` or `patternProperties` gets `additionalProperties: false`. Where other schemas
    judge the same object too (`$ref`, `allOf`, `anyOf` ...), it gets `unevaluatedProperties: false` instead, so that
    the names they know count as well, and those others stay open. What stands under `not` and `if` is left as written:
    closing it there would loosen the whole. The top is closed even when it names no properties at all.
    """
    whole = {at for node in nodes.values() for at in node.below} | {""}
    keyword = {at: _closing(at, nodes) for at in whole if not nodes[at].conditional}
    return cast(dict[str, Json], _rebuilt(schema, "", keyword))


def _closing(at: str, nodes: dict[str, Node]) -> str | None:
    same = [at]
    for each in same:
        same += [more for more in nodes[each].here if more not in same and not nodes[more].conditional]
    schemas = [nodes[each].schema for each in same]
    mappings = [schema for schema in schemas if isinstance(schema, dict)]
    if any("additionalProperties" in schema or "unevaluatedProperties" in schema for schema in mappings):
        return None
    if at and not any("properties" in schema or "patternProperties" in schema for schema in mappings):
        return None
    if not isinstance(nodes[at].schema, dict):
        return None
    return "additionalProperties" if len(same) == 1 else "unevaluatedProperties"


def _rebuilt(value: Json, at: str, keyword: dict[str, str | None]) -> Json:
    if isinstance(value, dict):
        copy = {key: _rebuilt(part, at + pointer(key), keyword) for key, part in value.items()}
        closing = keyword.get(at)
        return {**copy, closing: False} if closing else copy
    if isinstance(value, list):
        return [_rebuilt(part, f"{at}/{place}", keyword) for place, part in enumerate(value)]
    return value
