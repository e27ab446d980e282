"""The one URL parser: canonical forms, and every confusion that must be refused or made visible."""

import socket
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.urls import BadUrl, parse_host, parse_url

CANONICAL = [
    ("https://example.org", "https://example.org/"),
    ("HTTPS://Example.ORG/", "https://example.org/"),
    ("https://example.org./a", "https://example.org/a"),
    ("https://example.org:443/", "https://example.org/"),
    ("http://example.org:080/", "http://example.org/"),
    ("http://example.org:8080?x=1", "http://example.org:8080/?x=1"),
    ("https://example.org/?", "https://example.org/?"),
    ("https://bücher.example/ä?ö=ü", "https://xn--bcher-kva.example/%C3%A4?%C3%B6=%C3%BC"),
    ("https://BÜCHER.example/", "https://xn--bcher-kva.example/"),
    ("https://ex。ample.org/", "https://ex.ample.org/"),
    ("https://ｅｘａｍｐｌｅ.org/", "https://example.org/"),
    ("https://example.org/%61dmin%2fx%7e", "https://example.org/admin%2Fx~"),
    ("https://example.org/a|b^c", "https://example.org/a%7Cb%5Ec"),
    ("https://example.org//a", "https://example.org//a"),
    ("https://example.org/a/...", "https://example.org/a/..."),
    ("https://example.org/?q=../x", "https://example.org/?q=../x"),
    ("https://r3---sn-a.example/", "https://r3---sn-a.example/"),
    ("http://[::1]:8080/", "http://[::1]:8080/"),
    ("http://[0:0:0:0:0:0:0:1]/", "http://[::1]/"),
]

LITERALS = [
    ("127.0.0.1", "127.0.0.1"),
    ("127.0.0.1.", "127.0.0.1"),
    ("127.1", "127.0.0.1"),
    ("127.0.1", "127.0.0.1"),
    ("2130706433", "127.0.0.1"),
    ("017700000001", "127.0.0.1"),
    ("0x7f000001", "127.0.0.1"),
    ("0X7F.1", "127.0.0.1"),
    ("0177.0.0.01", "127.0.0.1"),
    ("0x7f.0.0.0x1", "127.0.0.1"),
    ("１２７.0.0.1", "127.0.0.1"),
    ("127。0。0。1", "127.0.0.1"),
    ("①②⑦.0.0.1", "127.0.0.1"),
    ("169.254.169.254", "169.254.169.254"),
    ("0", "0.0.0.0"),
    ("[::ffff:127.0.0.1]", "127.0.0.1"),
    ("[::ffff:7f00:1]", "127.0.0.1"),
    ("[64:ff9b::7f00:1]", "64:ff9b::7f00:1"),
]

REFUSED = [
    "",
    "example.org",
    "//example.org/",
    "https:example.org",
    "https:/example.org",
    "https:///example.org",
    "https://",
    "https://?x",
    "ftp://example.org/",
    "file:///etc/passwd",
    "gopher://example.org/",
    "javascript:alert(1)",
    "data:text/plain,x",
    " https://example.org/",
    "https://example.org/ ",
    "https://exa mple.org/",
    "https://example.org/\r\nHost: evil",
    "https://example.org/\t",
    "ht\ntps://example.org/",
    "https://example.org\x00.evil.com/",
    "https://example.org/\u200b",
    "https://exam\u00adple.org/",
    "https://example.org\u2028/",
    "https://exa\u202emple.org/",
    "https://exam\u3164ple.org/",
    "https://exam\ufe0fple.org/",
    "https://user@example.org/",
    "https://user:pass@example.org/",
    "https://@example.org/",
    "https://example.org@evil.com/",
    "https://example.org:443@evil.com/",
    "https://example.org\\@evil.com/",
    "https://example.org\\.evil.com/",
    "https:\\\\example.org/",
    "https://example.org/a\\b",
    "https://example.org/#x",
    "https://example.org#@evil.com/",
    "https://example.org/a/..;/b",
    "https://example.org/a/.;x=1/b",
    "https://example.org/a/..%3b/b",
    "https://example.org/a/%2e%2e;/b",
    "https://example.org/a/%252e%252e/b",
    "https://example.org/a/%25252e%25252e/b",
    "https://example.org/a/%2525252525252e/b",
    "https://example.org/a/%ef%bc%8e%ef%bc%8e/b",
    "https://example.org/a/..%20/b",
    "https://example.org/a/.%e2%80%8c./b",
    "https://example.org/a/..%252fb",
    "https://example.org/a/..%255Cb",
    "https://example.org/a/%c0%ae%c0%ae/b",
    "https://exa%6dple.org/",
    "https://example.org%2f.evil.com/",
    "https://example.org%00/",
    "https://127.0.0.1%2f/",
    "https://.example.org/",
    "https://example..org/",
    "https://example.org../",
    "https://./",
    "https://-a.example/",
    "https://a-.example/",
    "https://a_b.example/",
    "https://a*b.example/",
    "https://exa<mple.org/",
    "https://exa,mple.org/",
    "https://xn--/",
    "https://xn--a.example/",
    "https://xn--example-.org/",
    "https://xn--bcher-KVA\u0301.example/",
    "https://" + "a" * 64 + ".example/",
    "https://" + ".".join(["a" * 50] * 6) + "/",
    "https://\u2100.example/",
    "https://example.org:0/",
    "https://example.org:65536/",
    "https://example.org:/",
    "https://example.org:8a/",
    "https://example.org:-1/",
    "https://example.org:８０/",
    "https://example.org:80:80/",
    "https://[::1/",
    "https://::1/",
    "https://[::1]x/",
    "https://x[::1]/",
    "https://[::1%25eth0]/",
    "https://[fe80::1%eth0]/",
    "https://[127.0.0.1]/",
    "https://[]/",
    "https://[::1]]/",
    "https://256.1.1.1/",
    "https://1.2.3.4.5/",
    "https://1.2.3.256/",
    "https://4294967296/",
    "https://08.1.1.1/",
    "https://0x.1/",
    "https://0xg.1/",
    "https://a.1/",
    "https://1..1/",
    "https://example.0x7f/",
    "https://" + "9" * 5000 + "/",
    "https://example.org/../x",
    "https://example.org/a/./b",
    "https://example.org/a/%2e%2E/b",
    "https://example.org/a/.%2e",
    "https://example.org/a%2f..%2fb",
    "https://example.org/a%5c..%5cb",
    "https://example.org/%",
    "https://example.org/%4",
    "https://example.org/%zz",
    "https://example.org/?%zz",
    "https://example.org/%00",
    "https://example.org/%0d%0a",
    "https://example.org/%7f",
    "https://example.org/" + "a" * 9000,
    "https://example.org/\ud800",
]


@pytest.mark.parametrize(("text", "canonical"), CANONICAL)
def test_one_url_has_one_form(text: str, canonical: str) -> None:
    """A URL comes out canonical, and its canonical form parses to the same value."""
    url = parse_url(text)
    assert str(url) == canonical
    assert parse_url(canonical) == url
    assert not url.literal_ip or url.host == "::1"


@pytest.mark.parametrize(("text", "address"), LITERALS)
def test_ip_literals_are_seen_in_every_form(text: str, address: str) -> None:
    """However an address is spelt, it is known to be one and which one."""
    url = parse_url(f"http://{text}:81/")
    assert url.literal_ip
    assert url.address == ip_address(address) == ip_address(url.host)
    assert parse_url(str(url)) == url


@pytest.mark.parametrize("text", REFUSED)
def test_what_parsers_disagree_about_is_refused(text: str) -> None:
    """Everything two parsers could read differently is refused, with a reason that does not quote it."""
    with pytest.raises(BadUrl) as caught:
        parse_url(text)
    assert "evil" not in caught.value.reason


def test_parts_of_a_url() -> None:
    """Each part stands by itself: no brackets in the host, no question mark in the query."""
    url = parse_url("http://[2001:DB8::1]:8080/a/b?c=d")
    assert (url.scheme, url.host, url.port, url.path, url.query) == ("http", "2001:db8::1", 8080, "/a/b", "c=d")
    assert (url.authority, url.target) == ("[2001:db8::1]:8080", "/a/b?c=d")


numbers = st.integers(0, 2**32 - 1)


@settings(max_examples=200)
@given(numbers, st.sampled_from(["{}", "{:#x}", "0{:o}"]))
def test_numbers_agree_with_libc(number: int, form: str) -> None:
    """A host that is one number is the address `inet_aton` makes of it."""
    text = form.format(number)
    address = parse_host(text).address
    assert address is not None
    assert address.packed == socket.inet_aton(text)


@settings(max_examples=300)
@given(st.lists(st.sampled_from(["0", "1", "255", "256", "0x7f", "0177", "09", "65535", "16777215"]), max_size=5))
def test_dotted_numbers_agree_with_libc(parts: list[str]) -> None:
    """Dotted forms are taken exactly when `inet_aton` takes them, and give the same address."""
    text = ".".join(parts)
    try:
        expected: bytes | None = socket.inet_aton(text)
    except OSError:
        expected = None
    try:
        address = parse_host(text).address
        got = None if address is None else address.packed
    except BadUrl:
        got = None
    assert got == expected


@settings(max_examples=400)
@given(st.text(alphabet="htps:/.@%#?\\[]a1xé０。-_\u200b ", max_size=30).map(lambda tail: "http://" + tail))
def test_what_is_taken_is_stable(text: str) -> None:
    """Nothing but BadUrl comes out, and a canonical form is plain ASCII that parses to itself."""
    try:
        url = parse_url(text)
    except BadUrl:
        return
    assert str(url).isascii()
    assert parse_url(str(url)) == url
