"""From a home folder's ledger to a policy file that has been tried: it loads, its tests pass, it permits what was done.

The ledger is verified first: what was altered is no ground for a rule. It takes no lock, and writes no file.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.audit import query
from gateway.audit.glance import glance
from gateway.model import Arguments, Call, Effect, Session
from gateway.policy.bundle import PolicyBundle, load_bundle
from gateway.policy.cases import run_cases
from gateway.specs.yaml import MAX_BYTES
from gateway.stages.authenticate import suppose
from gateway.suggest.cases import cases_of
from gateway.suggest.names import Constants
from gateway.suggest.permits import Draft, drafts
from gateway.suggest.seen import ELSEWHERE, Past, Seen, past_of
from gateway.suggest.written import written
from gateway.tool import Tool

FILE = "suggested.yaml"
REFUSED = "the rule that was made of it cannot judge it"


class NothingToGoBy(Exception):
    """There is no file to write; the text says why."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """`text` is the policy file. `calls` is how many it permits; `silent` for each reason how many it is not about."""

    text: str
    calls: int
    rules: int
    cases: int
    silent: Mapping[str, int]


def suggest(home: Path, tools: Sequence[Tool], since: float = 0.0, agent: str | None = None) -> Suggestion:
    """Rules of the calls that were admitted since then (unix seconds) and done; of one agent where that is given.

    Raises `NothingToGoBy`.
    """
    if why := query.unverified(home):
        raise NothingToGoBy(why)
    try:
        with glance(home) as contents:
            past = past_of(query.since(home, since), contents, tools, agent)
        if archived := query.elsewhere(home, since):
            past.silent[ELSEWHERE] = archived
    except (sqlite3.Error, OSError, ValueError) as error:
        raise NothingToGoBy(f"{home}: cannot be read: {error}") from error
    return suggested(past, tools)


def suggested(past: Past, tools: Sequence[Tool]) -> Suggestion:
    """The same of calls that were read. Raises `NothingToGoBy`."""
    if not past.calls:
        left = "".join(f"; {count}: {reason}" for reason, count in sorted(past.silent.items()))
        raise NothingToGoBy(f"there is no call to make a rule of{left}")
    constants = Constants()
    made = drafts(past.calls, constants)
    cases = [case for draft in made for case in cases_of(draft)]
    text = written(made, constants, cases, past.silent)
    bundle = _loaded(text, tools)
    results = run_cases(bundle)
    good = [case for case, result in zip(cases, results, strict=True) if result.ok]
    lost = len(_refused(bundle, made))
    silent = Counter(past.silent) + Counter({REFUSED: lost})
    if good != cases or lost:
        text = written(made, constants, good, silent)
        _loaded(text, tools)
    return Suggestion(text, len(past.calls) - lost, len(made), len(good), silent)


def _loaded(text: str, tools: Sequence[Tool]) -> PolicyBundle:
    raw = text.encode()
    if len(raw) > MAX_BYTES:
        sentence = f"the file would have {len(raw)} bytes, and a policy has at most {MAX_BYTES}"
        raise NothingToGoBy(f"{sentence}: take one --agent at a time, or a shorter --since")
    return load_bundle({FILE: raw}, tools)


def _refused(bundle: PolicyBundle, made: Iterable[Draft]) -> list[Seen]:
    """The calls that the rules do not permit, though they were made of them: numbers beyond 64 bits, very much text."""
    calls = (call for draft in made for call in draft.calls)
    return [call for call in calls if bundle.decide(_call(call)).effect is not Effect.PERMIT]


def _call(seen: Seen) -> Call:
    session = Session("s_suggest", "s_suggest", seen.principal.key, seen.at, seen.at)
    return Call(seen.call_id, suppose(seen.principal, session), seen.tool, Arguments(seen.arguments), seen.at, 0)
