"""Derived facts: what each kind reads, and that anything doubtful has no fact at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.specs.facts import KINDS, derive
from gateway.tool import Json


def fact(kind: str, value: Json) -> Json:
    """The fact of one value, None when there is none."""
    return derive({"it": kind}, {"it": value}).get("it")


def url(host: str, path: str = "/", port: int = 443) -> Json:
    """The fact of an https URL."""
    return {"scheme": "https", "host": host, "port": port, "path": path, "has_userinfo": False}


DERIVED: list[tuple[str, Json, Json]] = [
    ("url", "https://API.example.org./a?b", url("api.example.org", "/a")),
    ("url", "https://0x7f.1:8443/", url("127.0.0.1", port=8443)),
    ("url", "https://example.org/%61dmin", url("example.org", "/admin")),
    ("host", "BÜCHER.example", "xn--bcher-kva.example"),
    ("path", "/workspace/s/./a//b/../c", {"canonical": "/workspace/s/a/c"}),
    ("path", "/workspace/../../etc/passwd", {"canonical": "/etc/passwd"}),
    ("path", "//etc", {"canonical": "/etc"}),
    ("path", "/", {"canonical": "/"}),
    ("email", "Jo.Doe+x@Example.ORG", {"local": "Jo.Doe+x", "domain": "example.org"}),
    ("email_list", ["a@x.org", "b@y.org"], [{"local": "a", "domain": "x.org"}, {"local": "b", "domain": "y.org"}]),
    ("email_list", [], []),
    ("repo_path", "acme/web.app", {"owner": "acme", "name": "web.app"}),
    ("shell_words", "git log -n '5 6' \"a b\"", ["git", "log", "-n", "5 6", "a b"]),
]

ABSENT: list[tuple[str, Json]] = [
    ("url", "https://user@example.org/"),
    ("url", "example.org"),
    ("url", 1),
    ("url", None),
    ("host", "a..b"),
    ("path", "relative/path"),
    ("path", "C:\\x"),
    ("path", "/a\\..\\b"),
    ("path", "/a\x00b"),
    ("email", "a@b@evil.org, c@x.org"),
    ("email", '"a b"@x.org'),
    ("email", "Jo <jo@x.org>"),
    ("email", "a@127.0.0.1"),
    ("email", "a@[::1]"),
    ("email", "@x.org"),
    ("email", "a@"),
    ("email", ".a@x.org"),
    ("email", "a..b@x.org"),
    ("email", "a@x.org\r\nBcc: b@y.org"),
    ("email", "é@x.org"),
    ("email_list", "a@x.org"),
    ("email_list", ["a@x.org", "nobody"]),
    ("email_list", ["a@x.org"] * 201),
    ("repo_path", "acme"),
    ("repo_path", "acme/"),
    ("repo_path", "acme/a/b"),
    ("repo_path", "../x"),
    ("repo_path", "acme/.."),
    ("repo_path", "acme/a%2fb"),
    ("shell_words", "ls; rm -rf /"),
    ("shell_words", "echo $(id)"),
    ("shell_words", "echo `id`"),
    ("shell_words", "a | b"),
    ("shell_words", "a\nb"),
    ("shell_words", "echo 'open"),
    ("shell_words", "x" * 9000),
]


@pytest.mark.parametrize(("kind", "value", "expected"), DERIVED)
def test_facts_are_canonical(kind: str, value: Json, expected: Json) -> None:
    """Each kind gives the one canonical reading."""
    assert fact(kind, value) == expected


@pytest.mark.parametrize(("kind", "value"), ABSENT)
def test_a_doubtful_value_has_no_fact(kind: str, value: Json) -> None:
    """Whatever could be read in two ways is absent, not guessed."""
    assert fact(kind, value) is None


def test_only_named_arguments_have_facts() -> None:
    """An argument without a kind, or a kind without its argument, gives nothing; the others are not harmed by one."""
    arguments: dict[str, Json] = {"a": "nonsense", "b": "x/y", "c": "free"}
    assert derive({"a": "url", "b": "repo_path", "z": "url"}, arguments) == {"b": {"owner": "x", "name": "y"}}


@given(
    st.sampled_from(sorted(KINDS)), st.text(max_size=40) | st.lists(st.text(max_size=10), max_size=3) | st.integers()
)
def test_any_value_ends_in_a_fact_or_none(kind: str, value: Json) -> None:
    """No value gets an exception out."""
    fact(kind, value)


@given(st.text(alphabet="/.ab", max_size=20))
def test_canonical_paths_stay_below_the_root(text: str) -> None:
    """A canonical path is absolute, has no dot segments and is its own canonical form."""
    found = fact("path", text)
    if found is not None:
        assert isinstance(found, dict)
        canonical = found["canonical"]
        assert canonical.startswith("/")
        assert not {".", ".."} & set(canonical.split("/"))
        assert fact("path", canonical) == found
