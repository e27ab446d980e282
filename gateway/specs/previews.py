"""What is wrong with a tool's `preview`: the tool that shows people what a call would change, before they say yes.

It has to change nothing itself, take no more than the call has, and look anew each time. It never looks at another
file than those that are loaded together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from gateway.policy.findings import nearest
from gateway.specs import yaml
from gateway.specs.language import ToolShape
from gateway.specs.yaml import Located, SpecError
from gateway.tool import Json

_HARMLESS = frozenset({"read", "egress"})


def link_previews(shapes: Sequence[tuple[ToolShape, Located]]) -> Iterator[SpecError]:
    """What one file says of another."""
    known = {shape.name: shape for shape, _ in shapes}
    for shape, located in shapes:
        if shape.preview is not None:
            reason = _unfit(shape, shape.preview, known)
            if reason:
                yield located.error(yaml.pointer("preview"), reason)


def _unfit(shape: ToolShape, name: str, known: Mapping[str, ToolShape]) -> str:
    """Why a tool cannot be the preview, or nothing."""
    other = known.get(name)
    if other is None:
        return f"no such tool: {nearest(name, known)}"
    if other.tenant not in (None, shape.tenant):
        return f"{name} is for the tenant {other.tenant!r} only"
    if not _HARMLESS.issuperset(other.effects):
        return f"{name} may change something: a preview has no effects but `read` and `egress`"
    if other.preview is not None:
        return f"{name} has a preview of its own: a preview needs none"
    if other.cache is not None or (other.idempotency is not None and other.idempotency.derive is not None):
        return f"{name} may answer with what was so before: leave its `cache` and `derive` out"
    lacking = sorted(_names(other.input_schema, "required") - _names(shape.input_schema, "properties"))
    return f"{name} needs the argument {lacking[0]}, which this tool has not" if lacking else ""


def _names(schema: Mapping[str, Json], word: str) -> set[str]:
    said = schema.get(word)
    return {str(each) for each in said} if isinstance(said, dict | list) else set()
