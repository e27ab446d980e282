"""The documents as the house tests see them: fenced blocks of the README and of docs/, each with its place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.house.tree import ROOT

DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
# What a block may say it is. `text` is for what is neither run nor loaded: pictures, output, forms.
LANGUAGES = {"console", "python", "yaml", "json", "text"}


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block: the document, the line it begins on, its language, its text."""

    document: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks(document: Path) -> list[Block]:
    """All fenced blocks of a document, in order."""
    found: list[Block] = []
    opened: tuple[int, str, list[str]] | None = None
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            if opened is None:
                opened = (number, line[3:].strip(), [])
            else:
                found.append(Block(document, opened[0], opened[1], "\n".join(opened[2]) + "\n"))
                opened = None
        elif opened is not None:
            opened[2].append(line)
    assert opened is None, f"{document} ends inside a block"
    return found


def commands(block: Block) -> list[tuple[str, list[str]]]:
    """The commands of a console block, each with the lines of output that follow it."""
    found: list[tuple[str, list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            assert found, f"{block}: output before the first command"
            found[-1][1].append(line)
    return found


def files(document: Path) -> list[tuple[str, str]]:
    """The files that a document shows under their names: a YAML block that begins with `# FOLDER/NAME.yaml`."""
    named = [(block, block.text.split("\n", 1)[0]) for block in blocks(document) if block.language == "yaml"]
    return [(first[2:], block.text) for block, first in named if first.startswith("# ") and first.endswith(".yaml")]
