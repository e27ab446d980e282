"""What a gateway has to stand failing backends: breakers, budgets of retries, kept results; and what counts as failing.

It never sends, waits or decides: `stages/attempts.py` goes by it. A gateway without one makes one attempt of each call,
as cases and replays do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

from gateway.model import Call, Outcome, Problem, RawOutput
from gateway.ports import Clock
from gateway.reliability.breaker import Breakers, Place, Standing
from gateway.reliability.cache import ResultCache
from gateway.reliability.retry import RetryBudgets
from gateway.tool import FetchBackend, HttpBackend, McpBackend, SandboxBackend
from gateway.urls import BadUrl, parse_url

_FALLBACK = "fallback "
_FULL_TIME = 0.9  # of a tool's timeout
_LONGEST = 512  # characters of scheme, host and port; what is longer is none, and is not remembered


@dataclass(frozen=True, slots=True)
class Resilience:
    """The parts, of one gateway. `draw` gives a number in [0, 1) that nobody can foresee."""

    breakers: Breakers
    budgets: RetryBudgets
    cache: ResultCache
    draw: Callable[[], float]

    @classmethod
    def of(cls, clock: Clock, draw: Callable[[], float], say: Callable[[Standing], None]) -> Resilience:
        """New ones. `say` is told of each backend that is given up or taken back."""
        return cls(Breakers(clock, say), RetryBudgets(), ResultCache(clock.monotonic), draw)


def place_of(call: Call) -> Place | None:
    """The backend that a call goes to; None where its URL is none, which its runner refuses."""
    backend, tenant = call.tool.backend, call.caller.principal.tenant
    if isinstance(backend, HttpBackend) and backend.url is not None:
        return _at(tenant, backend.url)
    if isinstance(backend, McpBackend):
        return Place(tenant, f"mcp:{backend.server}")
    if isinstance(backend, SandboxBackend):
        return Place(tenant, f"sandbox:{backend.backend}")
    named = "url" if isinstance(backend, FetchBackend) else backend.url_argument or ""
    origin = _origin(str(call.arguments.get(named)))
    return _at(tenant, origin) if len(origin) <= _LONGEST else None


def had_its_time(call: Call, seconds: float) -> bool:
    """Whether a call with so much time left has what its tool is given, or was cut short by its budget, its policy or
    the call around it: how long it waited says nothing about the backend then."""
    return seconds >= _FULL_TIME * call.tool.timeout


def is_ill(call: Call, raw: RawOutput, fair: bool) -> bool | None:
    """Whether what an attempt gave says that the backend is ill; None when it says nothing. `fair`: it had its time.

    Code that runs out of time in its sandbox, and arguments that an MCP server does not take, are the caller's own.
    """
    code, backend = raw.problem.code if raw.problem else None, call.tool.backend
    if code == "cancelled" or (code == "timeout" and (isinstance(backend, SandboxBackend) or not fair)):
        return None
    if code == "upstream_error" and not isinstance(backend, SandboxBackend):
        # What an MCP server says of a call is an answer; that of an http endpoint is a status from 500 on.
        return raw.origin is None or isinstance(backend, HttpBackend)
    return code == "timeout"


def is_out(refused: Problem, fair: bool) -> bool | None:
    """The same of an attempt that sent nothing. A sandbox that lacks what was asked for says no time
    after which to come again."""
    if refused.code == "sandbox_unavailable":
        return True if refused.retry_after_ms is not None else None
    return True if refused.code == "upstream_unreachable" and fair else None


def of_attempts(raw: RawOutput, attempts: int, sandbox_ms: float) -> RawOutput:
    """The output of a call that took so many attempts, and so much time in sandboxes, all of them together."""
    if attempts <= 1:
        return raw
    return replace(raw, attempts=attempts, sandbox_ms=None if raw.sandbox_ms is None else sandbox_ms)


def tried(refused: Problem, attempts: int) -> Problem:
    """The problem of a call that was tried so many times."""
    if attempts <= 1:
        return refused
    return replace(refused, detail=f"{refused.detail} It was tried {attempts} times.")


def instead(outcome: Outcome) -> RawOutput:
    """The output of a call whose fallback ran: what that came to, which is screened already."""
    return RawOutput(
        outcome.text,
        outcome.structured,
        problem=outcome.problem,
        truncated=outcome.truncated,
        origin=f"{_FALLBACK}{outcome.tool}",
        labels=outcome.verdict.labels,
        attempts=0,
    )


def refused_too(refused: Problem, fallback: str, why: Problem) -> Problem:
    """The problem of a call whose fallback was refused as well: its own, and why that did not help."""
    return replace(refused, detail=f"{refused.detail} Its fallback {fallback} did not run either ({why.code}).")


def answered_by(raw: RawOutput) -> str | None:
    """What answered in place of the backend, for the record: `cache`, `fallback`, or nothing did."""
    if raw.attempts:
        return None
    return "fallback" if (raw.origin or "").startswith(_FALLBACK) else "cache"


def _origin(url: str) -> str:
    """As much of a URL as may name scheme, host and port."""
    scheme, mark, rest = url.partition("://")
    return scheme + mark + rest.partition("/")[0].partition("?")[0]


@lru_cache(maxsize=4096)
def _at(tenant: str, url: str) -> Place | None:
    """Of the URL, the path may be a template."""
    try:
        parsed = parse_url(f"{_origin(url)}/")
    except BadUrl:
        return None
    return Place(tenant, f"{parsed.scheme}://{parsed.authority}")
