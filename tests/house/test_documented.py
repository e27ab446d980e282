"""Everything an operator can meet by name stands in the reference, in the very words of the code."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Iterator

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gateway.cli import parser
from gateway.problems import TABLE, Row
from gateway.settings import Settings
from sandboxes.model import GUARANTEES
from sandboxes.offers import BACKENDS
from tests.house.tree import ROOT

SETTINGS = (ROOT / "docs/settings.md").read_text()
PROBLEMS = (ROOT / "docs/problems.md").read_text()
CLI = (ROOT / "docs/cli.md").read_text()
DEPENDENCIES = (ROOT / "docs/dependencies.md").read_text()


def settings(kind: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting by its dotted name."""
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from settings(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def setting_row(name: str, field: FieldInfo) -> str:
    """The row of `docs/settings.md` for one setting; a default that depends on the machine is said in words there."""
    return f"| `{name}` | {field.description} |"


def problem_row(code: str, row: Row) -> str:
    """The row of `docs/problems.md` for one problem."""
    again = "yes" if row.retryable else "no"
    return f"| `{code}` | {row.cls} | {row.status} | {row.title} | {again} | {row.advice} |"


def verbs(commands: argparse.ArgumentParser, path: str = "toolgate") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command by its whole name."""
    inner = [each for each in commands._actions if isinstance(each, argparse._SubParsersAction)]
    if not inner:
        yield path, commands
    for action in inner:
        for name, below in action.choices.items():
            yield from verbs(below, f"{path} {name}")


def options(command: argparse.ArgumentParser) -> set[str]:
    """The long options of a command, those that every command has left out."""
    common = {"--help", "--json", "--config", "--home"}
    return {option for each in command._actions for option in each.option_strings if option.startswith("--")} - common


@pytest.mark.parametrize(("name", "field"), list(settings(Settings)), ids=lambda value: value if value is str else None)
def test_a_setting_is_documented(name: str, field: FieldInfo) -> None:
    """Every setting has a sentence of its own, and it stands in docs/settings.md."""
    assert field.description
    assert setting_row(name, field) in SETTINGS


def test_there_are_at_most_forty_settings() -> None:
    """The service stays one that can be set up by reading one page."""
    assert len(list(settings(Settings))) <= 40


@pytest.mark.parametrize("code", TABLE)
def test_a_problem_is_documented(code: str) -> None:
    """Every code that can go out stands in docs/problems.md with class, status, title and advice."""
    assert problem_row(code, TABLE[code]) in PROBLEMS


def test_no_problem_is_documented_that_cannot_happen() -> None:
    """docs/problems.md has one row per code and no other."""
    assert PROBLEMS.count("\n| `") == len(TABLE)


@pytest.mark.parametrize(("name", "command"), list(verbs(parser())), ids=str)
def test_a_command_is_documented(name: str, command: argparse.ArgumentParser) -> None:
    """Every command has a section in docs/cli.md that names each of its options."""
    assert f"### `{name}`\n" in CLI
    section = CLI.partition(f"### `{name}`\n")[2].partition("\n### ")[0]
    assert {option for option in options(command) if f"`{option}" not in section} == set()


def test_a_dependency_has_a_reason() -> None:
    """Every library we need stands in docs/dependencies.md, and nothing else does."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    names = {name.split(">")[0].split("=")[0].split("<")[0].strip() for name in needed}
    rows = {line.split("`")[1] for line in DEPENDENCIES.splitlines() if line.startswith("| `")}
    assert rows == names


def test_the_guarantees_of_the_sandboxes_stand_in_their_document() -> None:
    """Each with the words of the code, and with `yes` exactly where a kind of sandbox can give it."""
    document = (ROOT / "docs" / "sandboxes.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip(" `") for cell in line.split("|")[1:-1]] for line in document.splitlines() if line.startswith("| ")
    ]
    shown = {row[0]: row[1:] for row in rows if row[0] in GUARANTEES}
    assert {name: cells[0] for name, cells in shown.items()} == dict(GUARANTEES)
    for backend, (given, _) in BACKENDS.items():
        column = 2 if backend == "docker" else 1
        assert {name for name, cells in shown.items() if cells[column] == "yes"} == given, backend
