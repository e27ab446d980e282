"""Bundles by digest: an old decision can be made again from the home folder alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.home import Home
from gateway.kept import NotKept, keep, load_kept, read_kept
from gateway.loading import load_files
from gateway.model import Arguments, Call, Caller, Session
from gateway.policy.cases import NOW
from tests.kit import DEV, ECHO, PERMIT

MORE = """apiVersion: toolgate/v1
kind: Policy
id: more
rules:
- {id: no-eve, effect: forbid, match: {agents: [eve]}, message: Not é.}
""".encode()
FILES = {"lab.yaml": PERMIT.encode(), "more.yaml": MORE}
LOADED = load_files({"echo.yaml": ECHO.encode()}, FILES)
TOOLS = LOADED.catalogue.all()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home folder in which the bundle was kept."""
    made = Home(tmp_path / "home")
    made.make()
    keep(made, LOADED.bundle.digest, FILES, TOOLS)
    return made


def file_of(home: Home) -> Path:
    """The one file there is."""
    (path,) = home.bundles.iterdir()
    return path


def test_a_kept_bundle_is_the_one_it_was(home: Home) -> None:
    """The same digest, and for the same calls the same decisions, to the line of each rule."""
    again = load_kept(home, LOADED.bundle.digest, TOOLS)
    assert again.digest == LOADED.bundle.digest
    session = Session("s", "u", DEV.key, NOW, NOW + 60)
    for text in ("hello", "war", "secret"):
        call = Call("c_1", Caller(DEV, session), TOOLS[0], Arguments({"text": text, "loud": False}), NOW, 0)
        assert again.explain(call, {}) == LOADED.bundle.explain(call, {})


def test_it_is_kept_whole_and_private(home: Home) -> None:
    """Files as text, tools by digest; nobody else may read what a policy says of them."""
    path = file_of(home)
    assert path.name == f"{LOADED.bundle.digest.removeprefix('sha256:')}.json"
    assert (path.stat().st_mode & 0o777, home.bundles.stat().st_mode & 0o777) == (0o600, 0o700)
    assert json.loads(path.read_text()) == {
        "digest": LOADED.bundle.digest,
        "files": {name: raw.decode() for name, raw in FILES.items()},
        "tools": {tool.name: tool.digest for tool in TOOLS},
    }
    assert read_kept(home, LOADED.bundle.digest).tools == {"echo": TOOLS[0].digest}


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b'{"digest": 1, "files": 2, "tools": {}}', b'{"digest"'])
def test_what_is_no_kept_bundle_is_said(home: Home, raw: bytes) -> None:
    """With the file's name."""
    file_of(home).write_bytes(raw)
    with pytest.raises(NotKept, match=r"\.json: "):
        load_kept(home, LOADED.bundle.digest, TOOLS)


def test_an_altered_one_is_refused(home: Home) -> None:
    """Its files make another digest than its name."""
    path = file_of(home)
    path.write_text(path.read_text().replace("war", "tea"))
    with pytest.raises(NotKept, match="was altered"):
        load_kept(home, LOADED.bundle.digest, TOOLS)


def test_one_whose_tools_are_gone_does_not_load_half(home: Home) -> None:
    """A rule that reads an argument of a tool that has none of it now."""
    other = load_files({"echo.yaml": ECHO.replace("text", "word").encode()}, {"more.yaml": MORE})
    with pytest.raises(NotKept, match="does not load with these tools"):
        load_kept(home, LOADED.bundle.digest, other.catalogue.all())


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:../state", "sha256:" + "0" * 63 + "/", "sha256:" + "0" * 64])
def test_a_digest_that_names_nothing(home: Home, digest: str) -> None:
    """And one that would lead out of the folder."""
    with pytest.raises(NotKept):
        read_kept(home, digest)
