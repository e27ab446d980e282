"""What is kept of what a tool gave: without issued secrets, whatever became of the result, and else as it came."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.model import RawOutput
from gateway.obligations import Obligations
from gateway.screening import IssuedSecrets
from gateway.screening.scrub import scrubbed
from gateway.stages.screen import HARD_LIMIT, screened
from tests.gateway.stages.screened import ATTACK, CANARY, DIGITS, FOREIGN, OPEN, SCREENER, intent
from tests.gateway.stages.test_screen_secrets import forms, places

NESTED: Any = CANARY
for _ in range(70):
    NESTED = [NESTED]


@pytest.mark.parametrize("secret", [CANARY, FOREIGN, DIGITS])
@pytest.mark.parametrize("place", places(""))
@pytest.mark.parametrize("form", forms(""))
def test_no_secret_is_kept(form: str, place: str, secret: str) -> None:
    """An issued secret, in whatever form and wherever it stands, is nowhere in what the record gets as it came."""
    kept = screened(places(forms(secret)[form])[place], intent(), SCREENER).raw
    everything = kept.text + json.dumps(kept.structured, ensure_ascii=False)
    for leaked in (secret, secret[::-1], *forms(secret).values()):
        assert leaked not in everything


@pytest.mark.parametrize(
    "raw",
    [
        RawOutput(CANARY + "x" * HARD_LIMIT),
        RawOutput("x" * 300_000 + CANARY),
        RawOutput("x", {"long": "x" * 300_000, "last": CANARY}),
        RawOutput("x", {"long": "x" * HARD_LIMIT, "last": CANARY}),
        RawOutput(CANARY, content_type="image/png"),
        RawOutput(f"{ATTACK} {CANARY}"),
        RawOutput("x", NESTED),
        RawOutput("x", {"not": float("nan"), "key": CANARY}),
    ],
    ids=["too large", "cut", "structured cut", "structured too large", "no text", "withheld", "too deep", "no JSON"],
)
def test_what_is_held_back_or_cut_is_kept_without_secrets(raw: RawOutput) -> None:
    """Also where the result was not shown, or not whole, so that nobody looked for secrets in it."""
    kept = screened(raw, intent(obligations=Obligations(injection="quarantine")), SCREENER).raw
    assert CANARY not in kept.text
    assert CANARY not in str(kept.structured)


def test_what_holds_no_secret_is_kept_as_it_came() -> None:
    """Nothing else is taken out: not controls, nor what tries to instruct the reader."""
    raw = RawOutput(f"\x1b[1m\u200b{ATTACK}", {"a": ["\u200b", 1.5]})
    assert screened(raw, intent(), SCREENER).raw is raw
    assert scrubbed(raw, SCREENER.secrets) is raw
    assert screened(RawOutput(CANARY), intent(), OPEN).raw.text == CANARY


def test_only_the_secret_goes() -> None:
    """The rest of the text, the fields and the numbers stay."""
    raw = RawOutput(f"one {CANARY} two", {"a": [f"<{CANARY}>", 7, None], "pin": int(DIGITS)})
    kept = scrubbed(raw, SCREENER.secrets)
    assert kept.text == "one [redacted] two"
    assert kept.structured == {"a": ["<[redacted]>", 7, None], "pin": "[redacted]"}
    assert scrubbed(raw, IssuedSecrets()) is raw
