"""Puts a schema's defaults into arguments and makes every `number` a float, by a plan made once per schema.

Defaults come from `properties` reached through `$ref` and `allOf`: where `anyOf`, `oneOf` or `if` would have to be
decided first, nothing is filled in. A whole number becomes a float wherever any branch of the schema says `number`.

It never changes what it was given, never judges a value, and leaves a value of the wrong shape as it is.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field

from gateway.specs.schema_rules import Node
from gateway.specs.yaml import pointer
from gateway.tool import Json

_UNSURE = ("/anyOf/", "/oneOf/", "/then", "/else", "/dependentSchemas/")


@dataclass(slots=True, eq=False)
class Plan:
    """What is to be done with one part of a value. `number`: a whole number becomes a float here.

    `parts` has the plans of named entries of an object and numbered ones of a list (None: leave it alone); `other` and
    `items` the plan of all further ones.
    """

    number: bool = False
    defaults: dict[str, Json] = field(default_factory=dict)
    parts: dict[str | int, "Plan | None"] = field(default_factory=dict)
    other: "Plan | None" = None
    items: "Plan | None" = None


def plan(nodes: dict[str, Node]) -> Plan | None:
    """The plan of a whole schema; None when there is never anything to do."""
    plans: dict[tuple[str, ...], Plan] = {}
    whole = _plan([""], nodes, plans)
    useful = _useful(list(plans.values()))
    for each in plans.values():
        each.other = each.other if id(each.other) in useful else None
        each.items = each.items if id(each.items) in useful else None
        parts = {key: below if id(below) in useful else None for key, below in each.parts.items()}
        spoken_for = each.other is not None or each.items is not None
        each.parts = {key: below for key, below in parts.items() if spoken_for or below is not None}
    return whole if id(whole) in useful else None


def fill(todo: Plan, value: Json) -> Json:
    """The value with defaults and floats; parts that need nothing are shared with what was given."""
    if isinstance(value, dict):
        return _fill_object(todo, value)
    if isinstance(value, list):
        return [
            part if (below := todo.parts.get(place, todo.items)) is None else fill(below, part)
            for place, part in enumerate(value)
        ]
    # bool is an int in Python and never a number in JSON Schema.
    return float(value) if todo.number and type(value) is int else value


def _fill_object(todo: Plan, value: dict[str, Json]) -> dict[str, Json]:
    filled = value.copy()
    for name, default in todo.defaults.items():
        if name not in filled:
            filled[name] = deepcopy(default)
    if todo.other is not None:
        for name, part in value.items():
            if name not in todo.parts:
                filled[name] = fill(todo.other, part)
    for key, below in todo.parts.items():
        if below is not None and isinstance(key, str) and key in filled:
            filled[key] = fill(below, filled[key])
    return filled


def _plan(starts: list[str], nodes: dict[str, Node], plans: dict[tuple[str, ...], Plan]) -> Plan:
    """The plan for a value that the subschemas at `starts` judge, made once, because schemas may recur."""
    key = tuple(sorted(starts))
    if key in plans:
        return plans[key]
    todo = plans[key] = Plan()
    below = _Below()
    for at, sure in _same(starts, nodes).items():
        schema = nodes[at].schema
        if isinstance(schema, dict):
            todo.number = todo.number or schema.get("type") == "number" or "number" in _listed(schema, "type")
            below.gather(schema, at)
            if sure:
                _note_defaults(todo, schema)
    todo.parts = {part: _plan(where, nodes, plans) for part, where in below.parts.items()}
    todo.other = _plan(below.other, nodes, plans) if below.other else None
    todo.items = _plan(below.items, nodes, plans) if below.items else None
    return todo


@dataclass(slots=True)
class _Below:
    """Pointers of the subschemas that judge each part of one value."""

    parts: dict[str | int, list[str]] = field(default_factory=dict)
    other: list[str] = field(default_factory=list)
    items: list[str] = field(default_factory=list)

    def gather(self, schema: dict[str, Json], at: str) -> None:
        for name in _mapped(schema, "properties"):
            self.parts.setdefault(name, []).append(at + pointer("properties", name))
        for place, _ in enumerate(_listed(schema, "prefixItems")):
            self.parts.setdefault(place, []).append(at + pointer("prefixItems", place))
        self.other += (at + pointer("patternProperties", name) for name in _mapped(schema, "patternProperties"))
        if "additionalProperties" in schema:
            self.other.append(at + "/additionalProperties")
        if "items" in schema:
            self.items.append(at + "/items")


def _same(starts: list[str], nodes: dict[str, Node]) -> dict[str, bool]:
    """All subschemas that judge the same value, and whether they surely do (`$ref` and `allOf` all the way)."""
    same = dict.fromkeys(starts, True)
    waiting = list(same)
    for at in waiting:
        for each in nodes[at].here:
            sure = same[at] and not (each.startswith(at + "/") and each[len(at) :].startswith(_UNSURE))
            if not nodes[each].conditional and (each not in same or (sure and not same[each])):
                same[each] = sure
                waiting.append(each)
    return same


def _note_defaults(todo: Plan, schema: dict[str, Json]) -> None:
    for name, part in _mapped(schema, "properties").items():
        if isinstance(part, dict) and "default" in part:
            todo.defaults.setdefault(name, part["default"])


def _mapped(schema: dict[str, Json], key: str) -> dict[str, Json]:
    value = schema.get(key)
    return value if isinstance(value, dict) else {}


def _listed(schema: dict[str, Json], key: str) -> list[Json]:
    value = schema.get(key)
    return value if isinstance(value, list) else []


def _useful(plans: list[Plan]) -> set[int]:
    """The identities of plans that do something, themselves or somewhere below."""
    useful = {id(each) for each in plans if each.number or each.defaults}
    while True:
        more = {id(each) for each in plans if id(each) not in useful and useful.intersection(map(id, _below(each)))}
        if not more:
            return useful
        useful |= more


def _below(todo: Plan) -> Iterator[Plan | None]:
    yield from todo.parts.values()
    yield todo.other
    yield todo.items
