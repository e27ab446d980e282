"""What is wrong with a tool's `retry`, `fallback` and `cache` beyond their shape, and what they come to.

Nothing that may have happened is done twice, nothing that changes something is answered from memory, and no result
reaches somebody for whom it was not fetched. It never looks at another file than those that are loaded together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from gateway.policy.findings import nearest
from gateway.reliability.retry import MAX_PERCENT, NOTHING_SENT
from gateway.specs import yaml
from gateway.specs.checks import Checks
from gateway.specs.language import ToolShape
from gateway.specs.yaml import Located, SpecError
from gateway.tool import Caching, McpBackend, Retry, SecretUse, Server, Tool

MAX_TTL = 24 * 3600.0  # seconds
_CALLING = ("tools", "network", "files")


def check_resilience(checks: Checks, shape: ToolShape) -> None:
    """Notes what of the three cannot be kept, as far as this file says."""
    if shape.retry is not None:
        _retry(checks, shape)
    if shape.fallback == shape.name:
        checks.note("a tool is no fallback for itself: name another", "fallback")
    if shape.cache is not None:
        _cache(checks, shape)


def retry_of(shape: ToolShape) -> Retry | None:
    """What the later stages go by."""
    given = shape.retry
    return None if given is None else Retry(frozenset(given.on), given.attempts, *given.backoff, given.budget)


def caching_of(shape: ToolShape, secrets: Sequence[SecretUse]) -> Caching | None:
    """The same, within what the tool's own credentials allow."""
    given = shape.cache
    return None if given is None else Caching(given.ttl, "session" if _of_sessions(secrets) else given.scope)


def confined(tool: Tool, servers: Mapping[str, Server]) -> Tool:
    """The tool, whose results are kept within a session where the credential of its server is of the session."""
    server = servers.get(tool.backend.server) if isinstance(tool.backend, McpBackend) else None
    if tool.cache is None or server is None or not _of_sessions(server.secrets):
        return tool
    return replace(tool, cache=replace(tool.cache, scope="session"))


def link_resilience(shapes: Sequence[tuple[ToolShape, Located]], servers: Mapping[str, Server]) -> Iterator[SpecError]:
    """What one file says of another: fallbacks that are there, end somewhere and may be seen; scopes of results."""
    known = {shape.name: shape for shape, _ in shapes}
    for shape, located in shapes:
        if shape.fallback is not None and shape.fallback != shape.name:
            reason = _unfit(shape, shape.fallback, known)
            if reason:
                yield located.error(yaml.pointer("fallback"), reason)
        server = servers.get(shape.runner.mcp.server) if shape.runner.mcp else None
        shared = shape.cache is not None and shape.cache.scope == "tenant"
        if shared and server is not None and _of_sessions(server.secrets):
            yield located.error(
                yaml.pointer("cache", "scope"), "the server's credential is of one session: write `scope: principal`"
            )


def _unfit(shape: ToolShape, name: str, known: Mapping[str, ToolShape]) -> str:
    """Why a tool is no fallback, or nothing."""
    other = known.get(name)
    if other is None:
        return f"no such tool: {nearest(name, known)}"
    if other.tenant not in (None, shape.tenant):
        return f"{name} is for the tenant {other.tenant!r} only"
    way = [shape.name]
    while other is not None and other.fallback is not None and other.name not in way:
        way.append(other.name)
        other = known.get(other.fallback)
    if other is not None and other.name == shape.name:
        return f"the fallbacks go in a circle: {' → '.join([*way, shape.name])}"
    return ""


def _retry(checks: Checks, shape: ToolShape) -> None:
    assert shape.retry is not None
    for place, code in enumerate(shape.retry.on):
        if code in shape.retry.on[:place]:
            checks.note(f"{code} stands here twice: keep one", "retry", "on", place)
        elif code not in NOTHING_SENT and not shape.idempotent:
            sentence = (
                f"after {code} the call may have happened: only a tool that is `idempotent: true` is called again"
            )
            checks.note(sentence, "retry", "on", place)
        elif code in NOTHING_SENT and (code == "sandbox_unavailable") != (shape.runner.sandbox is not None):
            checks.note(f"this kind of runner never gives {code}", "retry", "on", place)
    if shape.retry.budget > MAX_PERCENT:
        checks.note(f"at most {MAX_PERCENT}% of the calls are tried again", "retry", "budget")


def _cache(checks: Checks, shape: ToolShape) -> None:
    assert shape.cache is not None
    if shape.effects != ["read"]:
        checks.note("only what has no other effect than `read` is answered from memory: `effects: [read]`", "cache")
    if shape.cache.ttl > MAX_TTL:
        checks.note("a result is kept for 24h at most", "cache", "ttl")
    spec = shape.runner.sandbox
    if spec is not None and (spec.tools or spec.network or spec.files.in_ or spec.files.out):
        checks.note(f"code with any of {', '.join(_CALLING)} does more than its result says: leave cache out", "cache")
    if shape.cache.scope == "tenant" and any(each.from_.startswith("oauth:") for each in shape.secrets):
        checks.note("a credential of this tool is of one session: write `scope: principal`", "cache", "scope")


def _of_sessions(secrets: Sequence[SecretUse]) -> bool:
    return any(use.varies == "session" for use in secrets)
