"""Broken policy files: each is refused, at the line it is broken at, with a sentence that says what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.policy import load_bundle
from gateway.specs.yaml import SpecErrors
from tests.gateway.policy.makers import TOOLS

FILES = sorted((Path(__file__).parent / "busted").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_broken_file_is_refused_where_it_is_broken(path: Path) -> None:
    """The first line of each file says what the only finding must begin with: line, column, sentence."""
    raw = path.read_bytes()
    wanted = raw.decode().partition("\n")[0].removeprefix("# wants: ")
    with pytest.raises(SpecErrors) as refused:
        load_bundle({path.name: raw}, TOOLS)
    (finding,) = refused.value.findings
    assert str(finding).startswith(f"{path.name}:{wanted}")


def test_there_are_enough_broken_files() -> None:
    """The folder was found and not emptied by accident."""
    assert len(FILES) >= 90


def test_all_findings_of_all_files_come_at_once() -> None:
    """One load names every broken file, so an operator need not repair them one by one."""
    files = {path.name: path.read_bytes() for path in FILES}
    with pytest.raises(SpecErrors) as refused:
        load_bundle(files, TOOLS)
    assert {finding.file for finding in refused.value.findings} >= {path.name for path in FILES} - {
        "rule_id_twice.yaml"
    }


def test_nothing_at_all_is_refused() -> None:
    """Without a policy there is no bundle, not one that permits or denies everything."""
    with pytest.raises(SpecErrors, match="there is no policy file"):
        load_bundle({}, TOOLS)


def test_two_parts_with_one_id_are_refused() -> None:
    """The finding names the place where the id stands already."""
    text = b"apiVersion: toolgate/v1\nkind: Policy\nid: a\nrules:\n- {id: %s, effect: permit}\n"
    with pytest.raises(SpecErrors, match=r"b\.yaml:3:1: the part id 'a' is taken by a\.yaml:3"):
        load_bundle({"a.yaml": text % b"x", "b.yaml": text % b"y"}, TOOLS)
