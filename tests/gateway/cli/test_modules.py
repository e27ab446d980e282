"""`toolgate modules`: what an operator types to register a program, and what is said when it cannot be."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from gateway.cli import main
from tests.sandboxes import programs

HOSTILE = '(module (import "env" "\\1b[2Jgone" (func)) (func (export "_start")))'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of guests of our own, and a folder to stand in."""
    folder = tmp_path / "guests"
    monkeypatch.setenv("TOOLGATE_GUESTS", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture(scope="module")
def binaries() -> list[bytes]:
    """A program that can run, and one whose import would move a cursor."""
    return programs.assemble([programs.ECHO, HOSTILE])


def test_a_registered_program_is_listed(
    tmp_path: Path, binaries: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    """`add` prints digest, size and imports; `list` prints the same for all."""
    (tmp_path / "echo.wasm").write_bytes(binaries[0])
    assert main(["modules", "list"]) == 0
    assert capsys.readouterr().out == "no modules\n"
    assert main(["modules", "add", "echo.wasm"]) == 0
    digest = hashlib.sha256(binaries[0]).hexdigest()
    imports = [f"{programs.WASI}.fd_read", f"{programs.WASI}.fd_write"]
    line = f"sha256:{digest}  module  {len(binaries[0])} bytes  imports {', '.join(imports)}\n"
    assert capsys.readouterr().out == line
    assert main(["modules", "list"]) == 0
    assert capsys.readouterr().out == line
    assert main(["modules", "list", "--json"]) == 0
    row = {"digest": f"sha256:{digest}", "kind": "module", "size": len(binaries[0])}
    assert json.loads(capsys.readouterr().out) == [{**row, "imports": imports, "compiled": True}]


def test_a_refused_program_gets_a_sentence(
    tmp_path: Path, binaries: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    """A finding is exit 1, with the name of what was asked for, spelled so that a terminal only shows it."""
    (tmp_path / "bad.wasm").write_bytes(binaries[1])
    assert main(["modules", "add", "bad.wasm"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "toolgate: the program cannot be registered: it imports env.\\u001b[2Jgone: not offered here"
    assert main(["modules", "add", "bad.wasm", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"].endswith("not offered here")
    assert main(["modules", "add", "missing.wasm"]) == 1
    assert capsys.readouterr().err == "toolgate: missing.wasm cannot be read: No such file or directory\n"


def test_a_folder_open_to_others_is_a_finding(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is registered where others could change it."""
    folder.mkdir(mode=0o700)
    (folder / "modules").mkdir()
    (folder / "modules").chmod(0o777)
    assert main(["modules", "list"]) == 1
    assert "must be a folder that only this user can open" in capsys.readouterr().err
