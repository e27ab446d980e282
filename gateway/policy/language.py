"""Reading a policy file or a file of cases: YAML bytes in, checked shapes (`shapes.py`) with their places out.

It never compiles an expression and never looks at a tool (`compile.py` does); it opens no file. What the language has
a word for but the gateway cannot honour yet is refused here, by name, never ignored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ValidationError

from gateway.allow import Allow, BadAllow
from gateway.policy.findings import nearest, shape_errors
from gateway.policy.shapes import KINDS, NULLABLE, WANTED, CallShape, CaseShape, CasesShape, PolicyShape
from gateway.problems import TABLE
from gateway.specs import yaml
from gateway.tool import Json

LONGEST = 24 * 3600.0  # seconds that an aggregate may look back


@dataclass(frozen=True, slots=True)
class Part:
    """A policy file that has the right shape. `digest` is the SHA-256 of its bytes, in hex."""

    shape: PolicyShape
    located: yaml.Located
    digest: str

    @property
    def boundary(self) -> bool:
        """A task part only ever narrows."""
        return self.shape.boundary or self.shape.tier == "task"

    def source(self, *path: str | int) -> str:
        """`file:line` of a part of the file."""
        return f"{self.located.file}:{self.located.place(yaml.pointer(*path))[0]}"

    def error(self, sentence: str, *path: str | int) -> yaml.SpecError:
        """A finding at a part of the file."""
        return self.located.error(yaml.pointer(*path), sentence)


def read_part(raw: bytes, file: str) -> Part:
    """A policy file. Raises SpecErrors with all findings of its shape."""
    located = _read(raw, file)
    found = _later(located)
    if found:
        raise yaml.SpecErrors(found)
    try:
        shape = PolicyShape.model_validate(located.value)
    except ValidationError as error:
        raise yaml.SpecErrors(shape_errors(located, error, PolicyShape)) from None
    part = Part(shape, located, hashlib.sha256(raw).hexdigest())
    cases = [*case_errors(located, shape.tests, "tests"), *_beyond_decisions(part)]
    found = [*_part_errors(part), *_state_errors(part), *_rule_errors(part), *cases]
    if found:
        raise yaml.SpecErrors(found)
    return part


def read_cases(raw: bytes, file: str) -> tuple[CasesShape, yaml.Located]:
    """A file of cases. Raises SpecErrors with all findings of its shape."""
    located = _read(raw, file)
    try:
        shape = CasesShape.model_validate(located.value)
    except ValidationError as error:
        raise yaml.SpecErrors(shape_errors(located, error, CasesShape)) from None
    found = case_errors(located, shape.cases, "cases")
    if found:
        raise yaml.SpecErrors(found)
    return shape, located


def read_call(raw: bytes, file: str) -> CallShape:
    """A call that is asked about: the keys of a case without `name` and `expect`. Raises SpecErrors."""
    located = _read(raw, file)
    try:
        return CallShape.model_validate(located.value)
    except ValidationError as error:
        raise yaml.SpecErrors(shape_errors(located, error, CallShape)) from None


def schema_of(kind: Literal["policy", "cases"]) -> dict[str, Json]:
    """The JSON Schema (2020-12) of a file kind, for editors."""
    shape: type[BaseModel] = PolicyShape if kind == "policy" else CasesShape
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_named(shape.model_json_schema())}


def _named(schemas: Mapping[str, Json]) -> dict[str, Json]:
    """Schemas by key, which take null only where it is a value, as the shapes do (`shapes.Shape`)."""
    return {key: each if key in NULLABLE else _given(each) for key, each in schemas.items()}


def _given(schema: Json) -> Json:
    if isinstance(schema, list):
        return [_given(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    whole = _named(schema)
    options = whole.get("anyOf")
    if isinstance(options, list) and {"type": "null"} in options:
        del whole["anyOf"], whole["default"]
        (given,) = (each for each in options if each != {"type": "null"})
        whole |= given
    return whole


def case_errors(located: yaml.Located, cases: list[CaseShape], key: str) -> list[yaml.SpecError]:
    """What is wrong with cases beyond their shape."""
    found = []
    for index, case in enumerate(cases):
        wanted = case.expect.model_fields_set & set(WANTED)
        at = yaml.pointer(key, index, "expect")
        if len(wanted) != 1:
            found.append(located.error(at, "a case expects exactly one of permit, parked, deny, refused or done"))
        elif case.expect.obligations is not None and not wanted <= {"permit", "parked"}:
            found.append(located.error(at, "obligations come only with permit and parked"))
        elif case.expect.events is not None:
            found.append(
                located.error(f"{at}/events", "what a case expects of events is not supported yet: leave it out")
            )
        elif case.expect.refused is not None and case.expect.refused not in TABLE:
            found.append(
                located.error(at, f"{case.expect.refused!r} is no problem code: {nearest(case.expect.refused, TABLE)}")
            )
    return found


def _read(raw: bytes, file: str) -> yaml.Located:
    try:
        return yaml.load(raw, file)
    except yaml.SpecError as error:
        raise yaml.SpecErrors([error]) from None


def _part_errors(part: Part) -> list[yaml.SpecError]:
    found = []
    shape = part.shape
    if shape.tier == "tenant" and shape.tenant is None:
        found.append(part.error("a part of tier tenant names its tenant: add `tenant:`", "tier"))
    if shape.boundary is False and "boundary" in shape.model_fields_set and shape.tier == "task":
        found.append(part.error("a task part is always a boundary: leave `boundary: false` out", "boundary"))
    return found


def _beyond_decisions(part: Part) -> list[yaml.SpecError]:
    sentence = "a policy's tests stop at the decision: put a case with done or record into a Cases file"
    return [
        part.error(sentence, "tests", index, "expect")
        for index, case in enumerate(part.shape.tests)
        if case.expect.model_fields_set & {"done", "record"}
    ]


def _rule_errors(part: Part) -> list[yaml.SpecError]:
    found = []
    for index, rule in enumerate(part.shape.rules):
        if rule.id in TABLE:
            sentence = f"{rule.id!r} is a problem code: give the rule a name of its own"
            found.append(part.error(sentence, "rules", index, "id"))
        if rule.effect == "forbid" and rule.with_ is not None:
            sentence = "a forbid carries no obligations: leave `with` out, or put it on a permit"
            found.append(part.error(sentence, "rules", index, "with"))
        found += _network_errors(part, index)
    return found


def _network_errors(part: Part, index: int) -> Iterator[yaml.SpecError]:
    asked = part.shape.rules[index].with_
    for place, entry in enumerate(asked.network.allow if asked and asked.network else ()):
        try:
            Allow.parse(entry)
        except BadAllow as bad:
            at = ("rules", index, "with", "network", "allow", place)
            yield part.error(f"this is no entry of a network: {bad}", *at)


def _state_errors(part: Part) -> list[yaml.SpecError]:
    found = []
    for name, shape in part.shape.state.items():
        given = [kind for kind in KINDS if getattr(shape, kind) is not None]
        if len(given) != 1:
            found.append(part.error(f"an aggregate is exactly one of {', '.join(KINDS)}", "state", name))
            continue
        takes_path = given[0] in ("sum", "count_distinct")
        if takes_path and shape.of is None:
            sentence = f"{given[0]} takes the calls that it is over from `of`: add of: {{tools: [...]}}"
            found.append(part.error(sentence, "state", name))
        if not takes_path and shape.of is not None:
            sentence = f"{given[0]} names its calls itself: write {given[0]}: {{tools: [...]}} and leave `of` out"
            found.append(part.error(sentence, "state", name, "of"))
        if shape.within > LONGEST:
            found.append(part.error("an aggregate looks back 24h at most", "state", name, "within"))
    return found


# ── words of the language that are not supported yet ─────────────────────────────────────────────────────────────────

_LATER_TOP = ("signature",)
_LATER_SESSION = ("budget",)  # of a case


def _later(located: yaml.Located) -> list[yaml.SpecError]:
    top = located.value
    if not isinstance(top, dict):
        return [located.error("", "a policy file is a mapping that starts with `apiVersion: toolgate/v1`")]
    found = [_not_yet(located, key, key) for key in _LATER_TOP if key in top]
    tests = top.get("tests")
    for index, case in enumerate(tests if isinstance(tests, list) else []):
        session = case.get("session") if isinstance(case, dict) else None
        for key in _LATER_SESSION:
            if isinstance(session, dict) and key in session:
                found.append(_not_yet(located, f"the {key} of a session", "tests", index, "session", key))
    return found


def _not_yet(located: yaml.Located, what: str, *path: str | int) -> yaml.SpecError:
    return located.error(yaml.pointer(*path), f"{what} is not supported yet: leave it out")
