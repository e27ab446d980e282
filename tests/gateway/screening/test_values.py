"""Values of well-known forms: which are found, in which encodings, and what is left alone."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest

from gateway.screening import values
from gateway.screening.leaves import SEPARATOR
from gateway.screening.views import views

BODY = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj"
LINES = f"{BODY}\n{BODY[::-1]}\nMzEfYyjiWA4R4=="
PEM = f"-----BEGIN RSA PRIVATE KEY-----\n{LINES}\n-----END RSA PRIVATE KEY-----"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P"
# Made up, each of the form its issuer gives out; none was ever valid.
SECRETS = {
    "aws": "AKIA" + "Q3EGRBXLZ7TJWMPA",
    "github": "ghp_" + "Zk3V9qLmT1xB7dRw2NsYc5HfJ8aPuE4oGi6K",
    "github fine": "github_pat_" + "11AAZ3V9q0LmT1xB7dRw_2NsYc5HfJ8aPuE4oGi6KqWbnVxTz",
    "gitlab": "glpat-" + "Zk3V9qLmT1xB7dRw2Ns-",
    "slack": "xoxb-" + "384756102938-4857610293847-Zk3V9qLmT1xB7dRw2NsYc5Hf",
    "stripe": "sk_live_" + "Zk3V9qLmT1xB7dRw2NsYc5Hf",
    "google": "AIza" + "SyZk3V9qLmT1xB7dRw2NsYc5HfJ8aPuE4oG",
    "openai": "sk-proj-" + "Zk3V9qLmT1xB7dRw2NsYc5HfJ8aPuE4oGi6KqWbnVxTz",
    "anthropic": "sk-ant-api03-" + "Zk3V9qLmT1xB7dRw2NsYc5HfJ8aPuE4oGi6KqWbnVxTz",
    "own": "tg_agent_" + "JiZOPSieoLNA1jCvTKXbteDHlBIwwZXG0qSo6IV2HQs",
    "jwt": JWT,
    "pem": PEM,
}
SAID = {
    "env": "DB_PASSWORD=k7Gx2pQm9sVt4wZb",
    "yaml": "client_secret: k7Gx2pQm9sVt4wZb",
    "json": '{"apiKey": "k7Gx2pQm9sVt4wZb"}',
    "code": "token := 'k7Gx2pQm9sVt4wZb'",
    "header": "Authorization: Bearer k7Gx2pQm9sVt4wZb",
    "query": "https://a.org/?access_token=k7Gx2pQm9sVt4wZb&page=2",
    "login": "postgres://app:k7Gx2pQm9sVt4wZb@db.example:5432/shop",
    "fields": SEPARATOR.join(("password", "k7Gx2pQm9sVt4wZb", "name")),
}
PLAIN = [
    "password: str, token: Token, api_key=os.environ['OPENAI_API_KEY']",
    "The password is at least 12 characters; set PASSWORD=<your-password> first.",
    "token = standard_b64encode(credentials.encode('utf8'))",
    "private_key = ed25519.Ed25519PrivateKey.from_private_bytes(secret)",
    "secret: projects/acme/secrets/database/versions/latest",
    "password=${DB_PASSWORD_2024} token={{ secrets.NPM_TOKEN_V2 }}",
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "commit 5066d7ca5066d7ca5066d7ca5066d7ca5066d7ca",
    "id: 123e4567-e89b-12d3-a456-426614174000",
    "sk-folding-cube sk-test npm_config_registry hf_hub_download xoxb-your-token-here ghp_xxxx",
    'grep -r "-----BEGIN RSA PRIVATE KEY-----" . finds keys that were committed by accident',
    '_START = "-----BEGIN OPENSSH PRIVATE KEY-----"\n_END = "-----END OPENSSH PRIVATE KEY-----"',
    "postgres://user:password@localhost:5432/database",
    "-----BEGIN PUBLIC KEY-----\n" + LINES + "\n-----END PUBLIC KEY-----",
    "data:image/png;base64," + "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk",
    "passes 2 tokens3 of 16 credentials; secret santa 2024 passwordless-login-v2-rollout",
]


def cleaned(text: str, *kinds: str) -> str:
    """The text with values of these kinds taken out; secrets when none is named."""
    return values.redact(text, kinds or ("secret",), views(text))[0]


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_a_credential_that_its_form_gives_away_is_taken_out(secret: str) -> None:
    """Wherever it stands in a text, the whole of it, and nothing of what stands around."""
    assert cleaned(f"first {secret} last") == "first [redacted:secret] last"
    assert cleaned(json.dumps({"note": secret, "n": 1})) == '{"note": "[redacted:secret]", "n": 1}'
    assert cleaned(secret) == "[redacted:secret]"


@pytest.mark.parametrize("text", SAID.values(), ids=SAID)
def test_what_is_called_a_secret_and_looks_like_one_is_taken_out(text: str) -> None:
    """After a word for it, in settings, code, headers, queries and JSON: the value goes, the rest stays."""
    assert cleaned(text) == text.replace("k7Gx2pQm9sVt4wZb", "[redacted:secret]")


@pytest.mark.parametrize("text", PLAIN)
def test_what_only_looks_alike_stays(text: str) -> None:
    """Names in code, placeholders, digests, ids, public keys, images, and talk about secrets."""
    assert cleaned(text) == text


@pytest.mark.parametrize("name", ["github", "jwt", "pem", "stripe"])
def test_an_encoded_value_goes_as_a_whole(name: str) -> None:
    """Base64, hex, percent and entities are looked into, two levels deep; the encoded piece is what is taken out."""
    secret = SECRETS[name]
    raw = f"key {secret}".encode()
    encoded = {
        base64.b64encode(raw).decode(),
        raw.hex(),
        "".join(f"%{octet:02x}" for octet in raw),
        "".join(f"&#{ord(char)};" for char in secret),
        base64.b64encode(base64.b64encode(raw)).decode(),
        quote(secret).replace("-", "%2D").replace("_", "%5F"),
    }
    for piece in encoded:
        clean = cleaned(f"see {piece} there")
        assert "[redacted:secret]" in clean
        assert piece not in clean
        assert secret not in "".join(view for view, _ in views(clean).found)


def test_addresses_of_people_are_taken_out_where_asked() -> None:
    """In text, lists, links and other scripts; a word with an at sign is no address."""
    text = "Ann <ann.o+x@mail.example.org>, mailto:bob@a-b.co.uk, józef@poczta.pl; see @ann, x@y, v@1.2 and a@b.c1."
    assert cleaned(text, "email") == (
        "Ann <[redacted:email]>, mailto:[redacted:email], [redacted:email]; see @ann, x@y, v@1.2 and a@b.c1."
    )
    assert cleaned("to=ann%40mail.example.org", "email") == "to=[redacted:email]"
    for spelled in ("jose\u0301@example.org", "ann＠example.org", "ann@example。org", "ann@bu\u0308cher.example"):
        assert cleaned(f"to {spelled}.", "email") == "to [redacted:email]."
    assert cleaned(text) == text


def test_each_finding_has_its_place_in_the_text_that_is_shown() -> None:
    """Kind, action and span; a login in a URL is a secret before it is an address."""
    text = f"a@b.org {SECRETS['github']} postgres://app:k7Gx2pQm9sVt4wZb@db.example/x"
    clean, found = values.redact(text, ("email", "secret"), views(text))
    shown = [(each.rule, clean[slice(*(each.span or (0, 0)))]) for each in found]
    assert shown == [
        ("value.email", "[redacted:email]"),
        ("value.secret", "[redacted:secret]"),
        ("value.secret", "[redacted:secret]"),
    ]
    assert {(each.stage, each.action) for each in found} == {("S4", "redact")}


def test_a_key_in_pieces_over_fields_leaves_as_many_fields() -> None:
    """A file that was read line by line: every field of the key shows the mark."""
    text = SEPARATOR.join(["before", *PEM.splitlines(), "after"])
    assert cleaned(text).split(SEPARATOR) == ["before", *["[redacted:secret]"] * 5, "after"]


def test_a_key_whose_end_was_cut_off_is_found() -> None:
    """The lines of base64 after the heading go, also where the text ends in the middle of them."""
    assert cleaned("x " + PEM[:120]) == "x [redacted:secret]"


@pytest.mark.parametrize("piece", ["a@", "@a.", "token=", "-----BEGIN PRIVATE KEY-----", "eyJhbGciOiJI.", "x://y:"])
def test_a_text_made_to_be_slow_is_not(piece: str) -> None:
    """A megabyte of beginnings without an end: each is looked at, none is a value."""
    text = piece * (1_000_000 // len(piece))
    assert cleaned(text, "email", "secret") == text
