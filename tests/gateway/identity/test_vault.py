"""Secrets by reference: where they come from, which are refused, and what is remembered of them."""

import asyncio
import os
from pathlib import Path

import pytest

from gateway.identity.vault import SecretVault, local_vault
from gateway.model import Refusal
from gateway.tool import SecretUse

GOOD = "0123456789abcdef"


def _use(source: str, name: str = "token", weak: bool = False) -> SecretUse:
    return SecretUse(name, source, ("api.test",), "Authorization", "Bearer {}", weak)


def _refused(vault: SecretVault, use: SecretUse) -> str:
    with pytest.raises(Refusal) as refused:
        asyncio.run(vault.reveal(use))
    assert refused.value.problem.code == "upstream_unreachable"
    return refused.value.problem.detail


def test_a_secret_comes_from_the_environment() -> None:
    """`env:NAME` is the variable's value."""
    assert asyncio.run(local_vault({"TOKEN": GOOD}).reveal(_use("env:TOKEN"))) == GOOD


def test_a_secret_comes_from_a_file(tmp_path: Path) -> None:
    """`file:PATH` is the file's text without the line break at its end."""
    for end in ("", "\n", "\r\n"):
        (tmp_path / "token").write_bytes((GOOD + end).encode())
        assert asyncio.run(local_vault({}).reveal(_use(f"file:{tmp_path}/token"))) == GOOD


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    """A rotated secret is used with the next call; the old one is still known as given out."""
    file, vault = tmp_path / "token", local_vault({})
    file.write_text(GOOD)
    asyncio.run(vault.reveal(_use(f"file:{file}")))
    (tmp_path / "new").write_text(GOOD[::-1])
    os.replace(tmp_path / "new", file)
    assert asyncio.run(vault.reveal(_use(f"file:{file}"))) == GOOD[::-1]
    assert vault.issued.names == {GOOD: "token", GOOD[::-1]: "token"}


@pytest.mark.parametrize("value", ["x", "0123456789abcde", "changeme"])
def test_a_short_secret_is_refused_unless_marked_weak(value: str) -> None:
    """Fewer than 16 characters need the operator's word."""
    vault = local_vault({"TOKEN": value})
    assert value not in _refused(vault, _use("env:TOKEN"))
    assert vault.issued.names == {}
    assert asyncio.run(vault.reveal(_use("env:TOKEN", weak=True))) == value


@pytest.mark.parametrize("value", ["", "a" * 16 + "\n" + "b", "a" * 16 + "\r\nx: y", "a" * 16 + "é", "a" * 16 + "\x00"])
def test_a_secret_that_cannot_stand_in_a_header_is_refused(value: str) -> None:
    """Empty, several lines, control and other characters: refused, also when marked weak."""
    for weak in (False, True):
        _refused(local_vault({"TOKEN": value}), _use("env:TOKEN", weak=weak))


@pytest.mark.parametrize("source", ["", "env:", "file:", "TOKEN", "vault:x", "env:MISSING", "file:/nowhere/at/all"])
def test_a_secret_that_is_not_there_is_refused(source: str) -> None:
    """A missing variable or file, or a source of another kind, is a typed refusal that does not tell the place."""
    detail = _refused(local_vault({"TOKEN": GOOD}), _use(source))
    assert "MISSING" not in detail
    assert "nowhere" not in detail


def test_only_a_small_regular_file_is_read(tmp_path: Path) -> None:
    """A pipe cannot make a call hang, a folder or a large file is no secret."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"a" * 20_000)
    for name in ("pipe", "large", "."):
        _refused(local_vault({}), _use(f"file:{tmp_path}/{name}"))


def test_what_was_given_out_is_known_by_name() -> None:
    """Two tools with one name for different secrets are both known; the same secret counts once."""
    vault = local_vault({"A": GOOD, "B": GOOD.upper()})
    for source in ("env:A", "env:B", "env:A"):
        asyncio.run(vault.reveal(_use(source)))
    asyncio.run(vault.reveal(_use("env:A", name="other")))
    assert vault.issued.names == {GOOD: "token", GOOD.upper(): "token"}


def test_reading_for_a_check_gives_nothing_out() -> None:
    """`look` says what is wrong without a call."""
    vault = local_vault({"TOKEN": GOOD})
    assert vault.look(_use("env:TOKEN")) is None
    assert vault.look(_use("env:OTHER")) == "it is not set"
    assert "not marked weak" in (local_vault({"TOKEN": "short"}).look(_use("env:TOKEN")) or "")
    assert vault.issued.names == {}
