"""The screen stage and issued secrets: none leaves, in whatever form and wherever it stands."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model import Problem, RawOutput
from gateway.problems import problem
from gateway.stages.screen import screened
from gateway.tool import Fix
from tests.gateway.stages.screened import CANARY, DIGITS, FOREIGN, SCREENER, intent, shown

ANY_TEXT = st.text(st.characters(), max_size=120)


def forms(secret: str) -> dict[str, str]:
    raw = secret.encode()
    return {
        "raw": secret,
        "base64": base64.b64encode(b"Bearer " + raw).decode(),
        "base64 url": base64.urlsafe_b64encode(b"id:" + raw + b"!!").decode(),
        "hex": raw.hex(),
        "HEX": raw.hex().upper(),
        "percent": "".join(f"%{byte:02X}" for byte in raw),
        "percent reserved": quote(secret, safe=""),
        "json": "".join(f"\\u{ord(char):04x}" for char in secret),
        "entities": "".join(f"&#{ord(char)};" for char in secret),
        "reversed": secret[::-1],
        "zero width": "\u200b".join(secret),
        "coloured": "\x1b[1m".join(secret),
        "split": '" + "'.join(secret),
        "twice": base64.b64encode(base64.b64encode(raw)).decode(),
    }


def places(piece: str) -> dict[str, RawOutput]:
    return {
        "text": RawOutput(f"line one\n{piece}\nline three"),
        "start": RawOutput(f"{piece} tail"),
        "json text": RawOutput(json.dumps({"a": piece}), content_type="application/json"),
        "value": RawOutput("x", {"deep": [{"v": f"<{piece}>"}]}),
        "key": RawOutput("x", {f"k {piece}": 1}),
        "text and value": RawOutput(json.dumps({"a": piece}), {"a": piece}),
        "failure": RawOutput("", problem=Problem("tool_error", f"It said {piece}.", advice=f"Use {piece}.")),
        "fix": RawOutput("", problem=replace(problem("tool_error", "No."), fix=(Fix("/a", piece, piece),))),
    }


@pytest.mark.parametrize("secret", [CANARY, FOREIGN, DIGITS])
@pytest.mark.parametrize("place", places(""))
@pytest.mark.parametrize("form", forms(""))
def test_no_secret_leaves(form: str, place: str, secret: str) -> None:
    """An issued secret, in whatever form and wherever it stands, is nowhere in what leaves the gateway."""
    piece = forms(secret)[form]
    everything = shown(screened(places(piece)[place], intent(), SCREENER))
    for leaked in (piece, secret, secret[::-1], *forms(secret).values()):
        assert leaked not in everything
        assert json.dumps(leaked)[1:-1] not in everything


def test_split_over_fields() -> None:
    """A secret cut into the fields of a list or an object is found; the fields stay as many."""
    third = len(CANARY) // 3
    parts = [CANARY[:third], CANARY[third : 2 * third], CANARY[2 * third :]]
    output = screened(RawOutput(json.dumps(parts), {"parts": ["keep", *parts, "keep"]}), intent(), SCREENER)
    assert output.structured == {"parts": ["keep", *["[redacted:api_token]"] * 3, "keep"]}
    assert not [part for part in parts if part in output.text]
    assert output.verdict.action == "redact"


def test_secret_as_number() -> None:
    """A secret of digits is found when it stands in JSON as a number."""
    output = screened(RawOutput("x", {"pin": int(DIGITS), "n": 7}), intent(), SCREENER)
    assert output.structured == {"pin": "[redacted]", "n": 7}


def test_only_the_tools_own_secret_is_named() -> None:
    """Another tool's secret is removed without its name."""
    output = screened(RawOutput(f"{CANARY} and {FOREIGN}"), intent(), SCREENER)
    assert output.text == "[redacted:api_token] and [redacted]"
    assert "foreign" not in shown(output)


def test_redaction_is_found_where_it_is() -> None:
    """A redaction's finding points at the mark in the field it stands in."""
    output = screened(RawOutput("x", {"a": ["b", f"see {FOREIGN}"]}), intent(), SCREENER)
    (finding,) = output.verdict.findings
    assert (finding.path, finding.span) == ("/a/1", (4, 14))


@given(st.sampled_from(sorted(forms(CANARY))), st.sampled_from(sorted(places(""))), ANY_TEXT, ANY_TEXT)
def test_no_secret_leaves_among_any_text(form: str, place: str, before: str, after: str) -> None:
    """Whatever stands around it, a secret does not leave."""
    raw = places(f"{before} {forms(CANARY)[form]} {after}")[place]
    assert CANARY not in shown(screened(raw, intent(), SCREENER))


def test_a_secret_said_many_times_is_taken_out_everywhere_and_told_of_in_few_findings() -> None:
    """A backend that echoes its credential does not make the verdict, and the record, larger than the result."""
    output = screened(RawOutput(f"{CANARY} " * 2_000), intent(), SCREENER)
    assert CANARY not in shown(output)
    assert output.verdict.action == "redact"
    assert len(output.verdict.findings) <= 130
