"""How the rates of a call stand, as HTTP headers (`RateLimit` and `RateLimit-Policy`), and what clients say they used.

The headers are as draft-ietf-httpapi-ratelimit-headers-10 has them, in structured fields (RFC 9651). It counts nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, Protocol

from gateway.admission import Standing
from gateway.doors.asgi import Headers
from gateway.model import Caller, Outcome, Principal, Problem, Refusal, Session
from gateway.problems import problem
from gateway.tool import Json

MOST_TOKENS: Final = 1_000_000_000  # in one report
TOKENS: Final = "dev.toolgate/tokens"  # in `_meta` of a call


class Reports(Protocol):
    """What it takes to pass a report on."""

    async def report_tokens(self, principal: Principal, session: Session, tokens: int) -> None: ...


def limit_headers(outcome: Outcome) -> Headers:
    """How the rates stand that the call spent, or had no room in; and `Retry-After`, in seconds, where it has one."""
    headers: Headers = []
    if outcome.problem is not None and outcome.problem.retry_after_ms is not None:
        headers.append((b"retry-after", str(-(-outcome.problem.retry_after_ms // 1000)).encode()))
    return headers + rate_headers(outcome.standings)


def rate_headers(standings: Sequence[Standing]) -> Headers:
    """For each rate: `q` calls in `w` seconds, `r` left, whole again in `t` seconds. Nothing where there is none."""
    if not standings:
        return []
    policy = b", ".join(_policy(each.bucket.name, each.bucket.rate.calls, each.bucket.rate.per) for each in standings)
    stands = ", ".join(
        f"{_text(each.bucket.name)};r={each.left};t={math.ceil(each.reset - 1e-3)}" for each in standings
    )
    return [(b"ratelimit-policy", policy), (b"ratelimit", stands.encode())]


async def tokens_told(gate: Reports, caller: Caller | Problem | None, said: Json) -> Problem | None:
    """Passes on how many tokens of a model a client says that it used; what is wrong with that, if something is.

    `said` is a whole number, as JSON or in digits; None where nothing was said.
    """
    if said is None or not isinstance(caller, Caller):
        return None
    tokens = int(said) if isinstance(said, str) and said.isascii() and said.isdecimal() and len(said) < 16 else said
    if isinstance(tokens, bool) or not isinstance(tokens, int) or not 1 <= tokens <= MOST_TOKENS:
        return problem("malformed", f"The tokens that were used are a whole number from 1 to {MOST_TOKENS}.")
    try:
        await gate.report_tokens(caller.principal, caller.session, tokens)
    except Refusal as refusal:
        return refusal.problem
    return None


@lru_cache(maxsize=1000)
def _policy(name: str, calls: int, per: float) -> bytes:
    return f"{_text(name)};q={calls};w={max(1, math.ceil(per))}".encode()


@lru_cache(maxsize=1000)
def _text(name: str) -> str:
    """A structured field's string, which is ASCII; names of rules are."""
    plain = "".join(each if " " <= each <= "~" else "?" for each in name)
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'
