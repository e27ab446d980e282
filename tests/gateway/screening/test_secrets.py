"""Redaction of issued secrets: every form, wherever it stands; nothing else."""

import base64
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.screening.secrets import IssuedSecrets
from gateway.screening.views import squeezed

CANARY = 'ghx_R4nd/Om+Val"ue-98~canary'
FORMS = IssuedSecrets({"token": CANARY})


def encodings(value: str) -> dict[str, str]:
    raw = value.encode()
    return {
        "raw": value,
        "reversed": value[::-1],
        **{f"base64 +{n}": base64.b64encode(b"xyz"[:n] + raw + b"tail").decode() for n in range(3)},
        **{f"base64 url +{n}": base64.urlsafe_b64encode(b"xyz"[:n] + raw + b"tail").decode() for n in range(3)},
        "base64 wrapped": base64.encodebytes(b"x" * 50 + raw).decode(),
        "hex": raw.hex(),
        "HEX": raw.hex().upper(),
        "percent full": "".join(f"%{byte:02x}" for byte in raw),
        "percent reserved": quote(value, safe=""),
        "percent reserved lower": quote(value, safe="").replace("%2F", "%2f").replace("%2B", "%2b"),
        "percent in part": value.replace("R", "%52"),
        "json": json.dumps(value)[1:-1],
        "json slashes": json.dumps(value)[1:-1].replace("/", "\\/"),
        "json units": "".join(f"\\u{ord(char):04x}" for char in value),
        "bytes": "".join(f"\\x{byte:02x}" for byte in raw),
        "entities": "".join(f"&#{ord(char)};" for char in value),
        "split by spaces": " ".join(value),
        "split by lines": "\n".join(value[at : at + 5] for at in range(0, len(value), 5)),
        "split as source": '" + "'.join(value[at : at + 7] for at in range(0, len(value), 7)),
        "split by escaped lines": "\\n".join(value[at : at + 9] for at in range(0, len(value), 9)),
        "base64 twice": base64.b64encode(base64.b64encode(b"key=" + raw)).decode(),
        "base64 of hex": base64.b64encode(raw.hex().encode()).decode(),
        "base64 of reversed": base64.b64encode(value[::-1].encode()).decode(),
    }


@pytest.mark.parametrize("around", ["{}", "before {} after", 'Authorization: "{}"\n', "x={};y"])
@pytest.mark.parametrize("form", encodings(CANARY))
def test_every_form(form: str, around: str) -> None:
    """The secret is gone in each form, and what stands around it stays."""
    piece = encodings(CANARY)[form]
    text, findings = FORMS.redact(around.format(piece))
    assert piece not in text
    assert "[redacted]" in text
    assert findings
    assert {each.action for each in findings} == {"redact"}
    assert text.startswith(around.split("{}")[0])


def test_own_secret_is_named() -> None:
    """A tool is told which of its own secrets was removed, and of another's only that something was."""
    assert FORMS.redact(f"a {CANARY} b", {"token"})[0] == "a [redacted:token] b"
    assert FORMS.redact(f"a {CANARY} b", {"other"})[0] == "a [redacted] b"


def test_span_is_of_the_text_returned() -> None:
    """A finding says where the mark stands."""
    text, findings = FORMS.redact(f"one {CANARY} two {CANARY[::-1]} three")
    assert [text[slice(*each.span)] for each in findings if each.span] == ["[redacted]", "[redacted]"]


@pytest.mark.parametrize("part", [CANARY[:-1], CANARY[1:], CANARY.swapcase(), "nothing at all", ""])
def test_nothing_else(part: str) -> None:
    """What is not the whole secret stays as it is."""
    assert FORMS.redact(part) == (part, [])


def test_no_secrets_issued() -> None:
    """Without issued secrets the text is returned as it is."""
    text = f"a {CANARY}"
    assert IssuedSecrets().redact(text)[0] is text


def test_a_secret_that_is_part_of_another() -> None:
    """Overlapping secrets go together, and nobody's name is told."""
    forms = IssuedSecrets({"short": "abcdefgh12345678", "long": "abcdefgh12345678zzzz9999"})
    assert forms.redact("see abcdefgh12345678zzzz9999.", {"short"})[0] == "see [redacted]."


def test_what_is_issued_later_is_found_and_what_is_dropped_is_not() -> None:
    """A secret is looked for from when it is added until it is discarded, and what it shares with another stays."""
    secrets = IssuedSecrets({"a": CANARY})
    secrets.add("b", "another-secret-of-22-chars")
    secrets.add("again", CANARY)
    assert secrets.names == {CANARY: "a", "another-secret-of-22-chars": "b"}
    assert secrets.redact("another-secret-of-22-chars", {"b"})[0] == "[redacted:b]"
    secrets.add("back", CANARY[::-1])
    secrets.discard(CANARY)
    secrets.discard("never there")
    assert secrets.redact(f"{CANARY} {CANARY[::-1]}")[0] == "[redacted] [redacted]"
    secrets.discard(CANARY[::-1])
    secrets.discard("another-secret-of-22-chars")
    assert not secrets
    assert secrets.redact(f"{CANARY} another-secret-of-22-chars")[1] == []


def test_numbers_are_looked_at_while_a_secret_could_be_one() -> None:
    """Digits count as long as a secret of digits is issued."""
    secrets = IssuedSecrets({"pin": "8374650192837465"})
    assert secrets.numeric
    secrets.discard("8374650192837465")
    assert not secrets.numeric


@given(
    st.text(
        st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_categories=("C", "M", "Z")), min_size=16
    ).filter(lambda value: len(squeezed(value)) >= 8),
    st.sampled_from(sorted(encodings(CANARY))),
    st.text("abc \n.,", max_size=40),
    st.text("abc \n.,", max_size=40),
)
def test_any_secret_in_any_form(value: str, form: str, before: str, after: str) -> None:
    """Whatever the secret is, none of its forms is left in what is shown."""
    piece = encodings(value)[form]
    text, _ = IssuedSecrets({"any": value}).redact(f"{before} {piece} {after}")
    assert piece not in text
    assert value not in text


@given(st.text(max_size=300))
def test_never_raises(text: str) -> None:
    """Any text can be searched."""
    FORMS.redact(text)


def test_octets_of_any_kind_are_searched() -> None:
    """In what is no text at all: letters of one, two and four octets, and secrets that are not ASCII."""
    forms = IssuedSecrets({"plain": "tk/live+7Qz0-canary", "other": "schlüssel-für-alles"})
    for value in ("tk/live+7Qz0-canary", "schlüssel-für-alles"):
        assert forms.occur(b"\x00\xff" + value.encode() + b"\xfe")
    for wider in ("utf-16-le", "utf-16-be", "utf-32"):
        assert forms.occur(b"\xff" + "tk/live+7Qz0-canary".encode(wider))
    assert not forms.occur(b"\xff tk/live+7Qz0-canar schl\xc3\xbcssel")
    assert not IssuedSecrets().occur(b"anything")
