"""What the documents show is run: commands against a gateway of their own, YAML by the loaders, Python as it stands.

In a console block a line with `$` is run and what follows is what it prints. There `...` stands for any text, on a
line of its own for any lines; times, durations, ids and digests count as equal whatever they are. A YAML block whose
first line is the name of a file, as a comment, is that file in the folder where the document's commands are run.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from gateway.loading import load_folders
from tests.house.documents import DOCUMENTS, LANGUAGES, Block, blocks, commands, files
from tests.house.tree import ROOT

ADDRESS = "127.0.0.1:8080"  # what documents say; the test's gateway has another port
BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]
STARTERS = "policies/starters/"  # where documents copy from: the checkout's, not the folder's
VARYING = {
    r"\d\d:\d\d:\d\d\.\d{3}": "TIME",
    r"\b\d{4}-\d\d-\d\dT": "DATE",
    r"\b\d+(\.\d+)? ?ms\b": "DURATION",
    r"\b\d+ µs": "DURATION",
    r"\b([a-z]{1,2}_)?[0-9a-f]{8,64}\b": "ID",
    r"\btg_(agent|operator)_[\w-]+": "KEY",
}
KEPT, READY = "The key of agent dev is kept", "Try a call:"


class Terminal:
    """A folder, a `toolgate` on the path, and a gateway once `make run` was typed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._gateway: subprocess.Popen[str] | None = None
        self._address = ADDRESS
        (folder / "bin").mkdir()
        command = f"{shlex.quote(sys.executable)} -c 'import sys; from gateway.cli import main; sys.exit(main())'"
        (folder / "bin" / "toolgate").write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (folder / "bin" / "toolgate").chmod(0o700)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TOOLGATE_")}
        path = f"{folder / 'bin'}:{Path(sys.executable).parent}:{kept['PATH']}"
        self._environ = kept | {"PYTHONPATH": str(ROOT), "PATH": path}

    def type(self, command: str) -> str:
        """Runs one command; gives what it printed, on either stream."""
        if command.startswith(". .venv/"):
            return ""
        if command == "make run":
            return self._serve()
        if command.startswith("cd "):
            self._folder = (self._folder / command[3:]).resolve()
            return ""
        command = command.replace(ADDRESS, self._address).replace(STARTERS, f"{ROOT}/{STARTERS}")
        shell = ["sh", "-c", command]
        ran = subprocess.run(shell, cwd=self._folder, env=self._environ, timeout=120, text=True, check=False, **_OUTPUT)
        return str(ran.stdout).replace(self._address, ADDRESS)

    def close(self) -> None:
        """Stops the gateway."""
        if self._gateway is not None:
            self._gateway.terminate()
            self._gateway.communicate(timeout=60)

    def _serve(self) -> str:
        serve = ["toolgate", "serve", "--port", "0"]
        self._gateway = subprocess.Popen(serve, cwd=self._folder, env=self._environ, text=True, **_OUTPUT)
        said = "".join(_until_ready(self._gateway.stdout))
        found = re.search(r"http://([\d.]+:\d+)", said)
        assert found, said
        self._address = found[1]
        return said.replace(self._address, ADDRESS)


_OUTPUT: dict[str, int] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}


def _until_ready(lines: IO[str] | None) -> Iterator[str]:
    tried = False  # is a first call proposed?
    for line in lines or ():
        yield line
        tried |= " ready on " in line and "run_python" in line
        if line.startswith(READY):
            yield next(iter(lines or ()), "")
        if line.startswith(READY if tried else KEPT):
            return


def same(shown: list[str], said: str) -> bool:
    """Does what was printed read as the document shows it?"""
    pattern = []
    for line in shown:
        if line.strip() == "...":
            pattern.append(r"(?:.*\n)*?")
        else:
            pattern.append(".*".join(re.escape(part) for part in _settled(line).split("...")) + r"\n")
    text = "\n".join(_settled(line).rstrip() for line in said.rstrip("\n").splitlines())
    return re.fullmatch("".join(pattern), text + "\n" if text else "") is not None


def _settled(line: str) -> str:
    for varying, name in VARYING.items():
        line = re.sub(varying, name, line)
    return line


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if any(b.language == "console" for b in blocks(d))], ids=str)
def test_commands_print_what_the_document_shows(document: Path, tmp_path: Path) -> None:
    """Every command of a document, run in order, prints what stands below it."""
    terminal = Terminal(tmp_path)
    for name, text in files(document):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    try:
        for block in [block for block in blocks(document) if block.language == "console"]:
            for command, shown in commands(block):
                said = terminal.type(command)
                assert same(shown, said), f"{block}: $ {command}\n{said}\n--- is shown as\n" + "\n".join(shown)
    finally:
        terminal.close()


KIND_POLICY = "\nkind: Policy\n"
ANY = "apiVersion: toolgate/v1\nkind: Policy\nid: any\nrules: [{id: any, effect: permit, match: {agents: [dev]}}]\n"


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.text.startswith("apiVersion:")], ids=str)
def test_files_that_are_shown_can_be_loaded(block: Block, tmp_path: Path) -> None:
    """A policy loads beside the starter tools; a spec beside the others of its document, under a policy for all."""
    specs, policies = tmp_path / "tool_specs", tmp_path / "policies"
    policies.mkdir()
    if KIND_POLICY in block.text:
        shutil.copytree(ROOT / "tool_specs", specs)
        (policies / "shown.yaml").write_text(block.text)
    else:
        specs.mkdir()
        beside = [b for b in blocks(block.document) if b.text.startswith("apiVersion:") and KIND_POLICY not in b.text]
        for number, shown in enumerate(beside):
            (specs / f"shown{number}.yaml").write_text(shown.text)
        (policies / "any.yaml").write_text(ANY)
    assert load_folders(specs, policies).catalogue.all()


def test_python_that_is_shown_runs(tmp_path: Path) -> None:
    """Every Python block of a document runs by itself, without an error."""
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    for block in [block for block in BLOCKS if block.language == "python"]:
        run = [sys.executable, "-c", block.text]
        ran = subprocess.run(run, cwd=tmp_path, env=environ, timeout=120, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, f"{block}: {ran.stderr}"


def test_every_block_says_what_it_is() -> None:
    """A block names a language we know, so that none escapes being run or loaded; JSON parses."""
    assert [str(block) for block in BLOCKS if block.language not in LANGUAGES] == []
    for block in BLOCKS:
        if block.language == "json":
            json.loads(block.text)
    assert [str(b) for b in BLOCKS if b.language == "text" and b.text.startswith(("$ ", "apiVersion:"))] == []


def test_a_document_that_lies_is_noticed() -> None:
    """The comparison is one: other text, a line too many or too few are not the same."""
    assert same(["4"], "4\n")
    assert same(["...", "b c_0123456789abcdef ..."], "a\nb c_fedcba9876543210 done 3 ms\n")
    assert not same(["4"], "5\n")
    assert not same(["4"], "4\n5\n")
    assert not same(["4", "5"], "4\n")
