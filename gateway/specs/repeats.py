"""What is wrong with a tool's `idempotency` beyond its shape, and what it comes to.

No key goes where the gateway's own headers are, and what became of a call is asked of no tool that could change it, or
would answer with what was so before. It never looks at another file than those that are loaded together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from gateway.policy.findings import nearest
from gateway.specs import yaml
from gateway.specs.checks import OWN_HEADERS, Checks
from gateway.specs.language import ToolShape
from gateway.specs.yaml import Located, SpecError
from gateway.tool import NO_IDEMPOTENCY, Idempotency

MAX_DERIVE = 24 * 3600.0  # seconds
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_HARMLESS = frozenset({"read", "egress"})


def check_repeats(checks: Checks, shape: ToolShape) -> None:
    """Notes what cannot be kept, as far as this file says."""
    given = shape.idempotency
    if given is None:
        return
    if given.header is not None:
        _header(checks, shape, given.header)
    if given.reconcile == shape.name:
        checks.note("a tool that may change something cannot say whether it did: name another", *_at("reconcile"))
    if given.derive is not None and given.derive > MAX_DERIVE:
        checks.note("the same call again is that call for 24h at most", *_at("derive"))


def repeats_of(shape: ToolShape) -> Idempotency:
    """What the later stages go by."""
    given = shape.idempotency
    return NO_IDEMPOTENCY if given is None else Idempotency(given.header, given.reconcile, given.derive)


def link_repeats(shapes: Sequence[tuple[ToolShape, Located]]) -> Iterator[SpecError]:
    """What one file says of another: the tools that say what became of a call."""
    known = {shape.name: shape for shape, _ in shapes}
    for shape, located in shapes:
        name = shape.idempotency.reconcile if shape.idempotency else None
        if name is not None and name != shape.name:
            reason = _unfit(shape, name, known)
            if reason:
                yield located.error(yaml.pointer(*_at("reconcile")), reason)


def _unfit(shape: ToolShape, name: str, known: Mapping[str, ToolShape]) -> str:
    """Why a tool cannot be asked, or nothing."""
    other = known.get(name)
    if other is None:
        return f"no such tool: {nearest(name, known)}"
    if other.tenant not in (None, shape.tenant):
        return f"{name} is for the tenant {other.tenant!r} only"
    if not _HARMLESS.issuperset(other.effects):
        return f"{name} may change something: only a tool with no effects but `read` and `egress` is asked"
    if other.cache is not None or (other.idempotency is not None and other.idempotency.derive is not None):
        return f"{name} may answer with what was so before: leave its `cache` and `derive` out"
    return ""


def _header(checks: Checks, shape: ToolShape, name: str) -> None:
    taken = {each.header.partition(":")[0].strip().lower() for each in shape.secrets}
    if shape.runner.http is not None:
        taken |= {each.lower() for each in shape.runner.http.headers}
    if not _TOKEN.issuperset(name):
        checks.note("a header has a token for a name", *_at("header"))
    elif name.lower() in OWN_HEADERS | taken:
        checks.note(f"the header {name} is taken", *_at("header"))
    if shape.runner.sandbox is not None:
        checks.note("code in a sandbox is told no key: leave header out", *_at("header"))


def _at(word: str) -> tuple[str, str]:
    return "idempotency", word
