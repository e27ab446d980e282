"""The one factory of JSON Schema validators (2020-12): the only importer of `jsonschema_rs`.

Every validator is offline (a remote `$ref` is refused when compiled), uses the linear pattern engine, asserts `format`,
and keeps values out of messages. A schema that breaks `schema_rules` is never compiled.

It never fetches anything and never hands out a validator's error object, which holds the value that failed.
"""

from collections.abc import Iterator, Mapping
from typing import Any, cast
from urllib.parse import quote

import jsonschema_rs

from gateway import regex
from gateway.specs import filling, fixes
from gateway.specs.schema_rules import Finding, Node, Outline, closed, outline
from gateway.specs.yaml import pointer
from gateway.tool import Fix, Json

_MASK = "…"
# How many single judgements an explanation may cost; about 10 µs each at worst.
_EXPLAINED = 5_000
_NAME = "urn:toolgate:schema"


class BadSchema(Exception):
    """A schema that is not taken: JSON Pointers into the schema, each with a sentence. Never empty."""

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__("; ".join(f"{at or '/'}: {sentence}" for at, sentence in findings))
        self.findings = findings


class Validator:
    """A schema compiled once. Made by `compile_schema`; implements `gateway.tool.SchemaCheck`.

    `schema` is what is really checked (closed, when asked for), to be shown to models.
    """

    __slots__ = ("_checker", "_depends", "_plan", "_width", "schema")

    def __init__(self, schema: dict[str, Json], checker: jsonschema_rs.Draft202012Validator, found: Outline) -> None:
        self.schema: Mapping[str, Json] = schema
        self._checker = checker
        self._plan = filling.plan(found.nodes)
        self._width = max(found.branches, 1)
        self._depends = any(_chooses(node) for node in found.nodes.values())

    def check(self, value: Json) -> tuple[Fix, ...]:
        """What is wrong with `value`, at most five things, none of which repeats it; empty when it is valid."""
        if self._checker.is_valid(value):
            return ()
        return fixes.explain(self._errors(value), self.schema) or fixes.too_big_to_explain()

    def fill(self, arguments: dict[str, Json]) -> dict[str, Json]:
        """The arguments with the schema's defaults filled in and every `number` a float; the same object when there is
        nothing to do. What was given is not changed."""
        if self._plan is None:
            return arguments
        return cast(dict[str, Json], filling.fill(self._plan, arguments))

    def _errors(self, value: Json) -> Iterator[fixes.Wrong]:
        """All errors of a small value; the first of a large one; none where even finding the first is expensive."""
        if _fewer_parts(value, _EXPLAINED // self._width):
            yield from cast(Iterator[fixes.Wrong], self._checker.iter_errors(value))
        elif not self._depends:
            try:
                self._checker.validate(value)
            except jsonschema_rs.ValidationError as error:
                yield cast(fixes.Wrong, error)


def compile_schema(schema: Json, *, close: bool) -> Validator:
    """Check a schema and compile it. `close`: objects refuse names they do not list, unless they say otherwise.

    Raises BadSchema with every finding.
    """
    found = outline(schema)
    findings = found.findings or _meta(schema) or list(_patterns(found.nodes))
    if findings or not isinstance(schema, dict):
        raise BadSchema(findings or [("", "a schema is a mapping")])
    whole = closed(schema, found.nodes) if close else schema
    try:
        checker = _checker(whole)
    except jsonschema_rs.ValidationError as error:
        raise BadSchema([_refused(error)]) from None
    findings = list(_defaults(schema, found.nodes))
    if findings:
        raise BadSchema(findings)
    return Validator(whole, checker, outline(whole))


def _checker(schema: dict[str, Json], registry: Any = None) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(
        schema,
        registry=registry,
        offline=True,
        pattern_options=jsonschema_rs.RegexOptions(),
        validate_formats=True,
        ignore_unknown_formats=False,
        mask=_MASK,
    )


def _meta(schema: Json) -> list[Finding]:
    try:
        jsonschema_rs.meta.validate(cast(Any, schema))
    except jsonschema_rs.ValidationError as error:
        return [_refused(error)]
    return []


def _refused(error: jsonschema_rs.ValidationError) -> Finding:
    """The library masks the value, so its sentence may be shown; the keyword it was said of is the last of the path."""
    path = error.instance_path
    keyword = path[-1] if path else "the schema"
    if keyword == "format":
        return pointer(*path), "this format cannot be checked: take one that JSON Schema 2020-12 defines"
    fix = fixes.explain(iter([cast(fixes.Wrong, error)]), {})
    return pointer(*path), f"{keyword!s} takes {fix[0].allowed}, not {fix[0].received}"


def _patterns(nodes: dict[str, Node]) -> Iterator[Finding]:
    """Linear patterns only. RE2 says why; the compiled engine then takes the same syntax."""
    for at, node in nodes.items():
        if not isinstance(node.schema, dict):
            continue
        below = node.schema.get("patternProperties")
        named = [(at + pointer("patternProperties", each), each) for each in below] if isinstance(below, dict) else []
        single = node.schema.get("pattern")
        for place, pattern in [*named, *([(at + "/pattern", single)] if isinstance(single, str) else [])]:
            try:
                regex.compile(pattern)
            except regex.BadPattern as error:
                yield place, f"patterns run in linear time, without look-around and back-references: {error.reason}"


def _defaults(schema: dict[str, Json], nodes: dict[str, Node]) -> Iterator[Finding]:
    """A default fits the schema it stands in, or filling it in would make valid arguments invalid."""
    registry = None
    for at, node in nodes.items():
        if isinstance(node.schema, dict) and "default" in node.schema:
            registry = registry or jsonschema_rs.Registry([(_NAME, cast(Any, schema))])
            if not _checker({"$ref": f"{_NAME}#{quote(at)}"}, registry).is_valid(node.schema["default"]):
                yield at + "/default", "the default does not fit its own schema"


def _chooses(node: Node) -> bool:
    return isinstance(node.schema, dict) and ("anyOf" in node.schema or "oneOf" in node.schema)


def _fewer_parts(value: Json, bound: int) -> bool:
    """Whether a value has fewer parts than `bound`, without counting on."""
    waiting = [value]
    for part in waiting:
        if isinstance(part, dict):
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
        if len(waiting) >= bound:
            return False
    return True
