"""Screening of what tools give back: pure steps, text in and findings out. It never does I/O and never blocks a call.

`canonical` makes text plain, `views` decodes what is encoded in it, `secrets` removes issued credentials, `rules` finds
injection that announces itself, `leaves` takes JSON apart and puts it together. `stages/screen.py` alone acts on them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.screening.rules import RuleSet, bundled, load_rules
from gateway.screening.secrets import IssuedSecrets, SecretForms


@dataclass(frozen=True, slots=True)
class Screener:
    """What the screen stage needs: the rules, and the forms of what the vault has issued by now."""

    rules: RuleSet
    secrets: Callable[[], SecretForms]


__all__ = ["IssuedSecrets", "RuleSet", "Screener", "SecretForms", "bundled", "load_rules"]
