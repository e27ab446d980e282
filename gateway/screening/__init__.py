"""Screening of what tools give back: pure steps, text in and findings out. It never does I/O and never blocks a call.

`canonical` makes text plain, `views` decodes what is encoded in it, `secrets` removes issued credentials, from what is
kept too (`scrub`), `rules` finds injection that announces itself, `leaves` takes JSON apart and puts it together.
`stages/screen.py` alone acts on them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.model import Artifact, Problem, SafeOutput, Verdict
from gateway.screening.rules import RuleSet, bundled, load_rules
from gateway.screening.secrets import IssuedSecrets
from gateway.tool import Json


@dataclass(frozen=True, slots=True)
class Shown:
    """A result as it was shown when it was recorded, to be shown again byte for byte, whatever screening says now.

    `now` is told what screening would have made of it today.
    """

    text: str
    structured: Json
    problem: Problem | None
    verdict: Verdict
    truncated: bool
    artifacts: tuple[Artifact, ...]
    now: Callable[[SafeOutput], None]


@dataclass(frozen=True, slots=True)
class Screener:
    """What the screen stage needs: the rules, and what the vault has issued by now.

    `shown` is there only where a recorded call is replayed.
    """

    rules: RuleSet
    secrets: IssuedSecrets
    shown: Shown | None = None


__all__ = ["IssuedSecrets", "RuleSet", "Screener", "Shown", "bundled", "load_rules"]
