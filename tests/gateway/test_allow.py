"""Allow-list entries: what they match, and what is no entry."""

import pytest

from gateway.allow import Allow, BadAllow, networks_of, within
from gateway.globs import host_fits
from gateway.urls import parse_url

FITS = [
    ("GET https://docs.python.org/**", "GET", "https://docs.python.org/3/library/"),
    ("GET https://docs.python.org/**", "GET", "https://DOCS.python.org.:443/"),
    ("GET https://docs.python.org/3/*", "GET", "https://docs.python.org/3/json?q=1"),
    ("GET https://*.python.org/**", "GET", "https://a.docs.python.org/x"),
    ("POST http://10.0.0.5:81/a/**/z", "POST", "http://10.0.0.5:81/a/z"),
    ("POST http://10.0.0.5:81/a/**/z", "POST", "http://10.0.0.5:81/a/b/z/c/z"),
    ("GET https://h.test/a*c/*.json", "GET", "https://h.test/abbc/x.y.json"),
    ("GET https://h.test/*a*a*", "GET", "https://h.test/banana"),
]
MISSES = [
    ("GET https://docs.python.org/**", "POST", "https://docs.python.org/"),
    ("GET https://docs.python.org/**", "GET", "http://docs.python.org/"),
    ("GET https://docs.python.org/**", "GET", "https://docs.python.org:8443/"),
    ("GET https://docs.python.org/**", "GET", "https://docs.python.org.evil.test/"),
    ("GET https://docs.python.org/**", "GET", "https://xdocs.python.org/"),
    ("GET https://*.python.org/**", "GET", "https://python.org/"),
    ("GET https://*.python.org/**", "GET", "https://evilpython.org/"),
    ("GET https://docs.python.org/3/*", "GET", "https://docs.python.org/3/a/b"),
    ("GET https://docs.python.org/3/*", "GET", "https://docs.python.org/3/a%2Fb"),
    ("GET https://docs.python.org/3/*", "GET", "https://docs.python.org/3/a%5cb"),
    ("GET https://docs.python.org/a/b", "GET", "https://docs.python.org/a%2fb"),
    ("GET https://docs.python.org/docs/**", "GET", "https://docs.python.org/docsX"),
    ("GET https://docs.python.org/docs/**", "GET", "https://docs.python.org/"),
    ("GET https://h.test/a*c", "GET", "https://h.test/ac/"),
    ("GET https://h.test/aba*aba", "GET", "https://h.test/ababa"),
    ("GET https://h.test/*a*a*", "GET", "https://h.test/ba"),
    ("GET http://127.0.0.1:9700/**", "GET", "http://127.0.0.2:9700/"),
    ("GET http://127.0.0.1:9700/**", "GET", "http://127.0.0.1:9701/"),
]


@pytest.mark.parametrize(("entry", "method", "url"), FITS)
def test_an_entry_permits_what_it_names(entry: str, method: str, url: str) -> None:
    """Method, scheme, host, port and path of the canonical URL fit."""
    assert Allow.parse(entry).permits(method, parse_url(url))


@pytest.mark.parametrize(("entry", "method", "url"), MISSES)
def test_an_entry_permits_nothing_else(entry: str, method: str, url: str) -> None:
    """One part that differs is enough, and an encoded slash opens no deeper path."""
    assert not Allow.parse(entry).permits(method, parse_url(url))


@pytest.mark.parametrize(
    "text",
    [
        *("https://h.test/", "GET", "get https://h.test/", "CONNECT https://h.test/", "GET  https://h.test/"),
        *("GET ftp://h.test/", "GET https://*.test/**", "GET https://*/**", "GET https://*.10.0.0.1/", "GET *"),
        *("GET https://a.*.test/", "GET https://h.test/?q", "GET https://u@h.test/", "GET https://h.test/../x"),
        "GET https://h*.test/",
    ],
)
def test_what_is_no_entry_is_refused(text: str) -> None:
    """An entry that could be read in two ways does not load."""
    with pytest.raises(BadAllow):
        Allow.parse(text)


def test_a_long_path_against_many_stars_ends() -> None:
    """Matching does not blow up: 20 stars against 4,000 characters and 500 segments."""
    entry = Allow.parse("GET https://h.test/" + "*a" * 20 + "/" + "**/b/" * 20 + "z")
    assert not entry.permits("GET", parse_url("https://h.test/" + "a" * 4000 + "/b" * 500))


@pytest.mark.parametrize(
    ("pattern", "host", "fits"),
    [
        ("api.github.com", "api.github.com", True),
        ("API.github.com", "api.github.com", True),
        ("*.github.com", "api.github.com", True),
        ("*.github.com", "github.com", False),
        ("github.com", "api.github.com", False),
        ("*.github.com", "evilgithub.com", False),
    ],
)
def test_a_host_pattern_matches_whole_labels(pattern: str, host: str, fits: bool) -> None:
    """Exact, or at least one more label: never a suffix of a label."""
    assert host_fits(pattern, host) is fits


def test_a_request_is_within_networks_when_each_list_has_an_entry_for_it() -> None:
    """Lists narrow each other; an empty list lets nothing through, no list lets everything."""
    wide, narrow = ("GET https://*.h.test/**",), ("GET https://a.h.test/x", "POST https://b.h.test/**")
    both = networks_of((wide, narrow))
    assert within(both, "GET", parse_url("https://a.h.test/x"))
    assert not within(both, "POST", parse_url("https://b.h.test/x"))
    assert not within(both, "GET", parse_url("https://a.h.test/y"))
    assert not within(networks_of(((),)), "GET", parse_url("https://a.h.test/x"))
    assert within(networks_of(()), "GET", parse_url("https://a.h.test/x"))
    with pytest.raises(BadAllow):
        networks_of((wide, ("GET *",)))
