"""The source as the house tests see it: files, syntax trees, imports. It never imports what it looks at."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("gateway", "sandboxes")
T = TypeVar("T")
Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def sources(*folders: str) -> tuple[Path, ...]:
    """The Python files under these folders (default: both packages), as paths from the root."""
    found = (path for folder in folders or PACKAGES for path in (ROOT / folder).rglob("*.py"))
    return tuple(sorted(path.relative_to(ROOT) for path in found))


@cache
def text(path: Path) -> str:
    """The text of a file of the repository."""
    return (ROOT / path).read_text(encoding="utf-8")


@cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a Python file of the repository."""
    return ast.parse(text(path), str(path))


def nodes(path: Path, kind: type[T]) -> Iterator[T]:
    """The nodes of one kind in a file."""
    return (node for node in ast.walk(tree(path)) if isinstance(node, kind))


def functions(path: Path) -> Iterator[Function]:
    """Every function of a file, nested ones too."""
    return (node for node in ast.walk(tree(path)) if isinstance(node, Function))


def module(path: Path) -> str:
    """The dotted name of a file: `gateway/policy/__init__.py` is `gateway.policy`."""
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    """The dotted names a file imports, `from a import b` as `a.b`."""
    names = {alias.name for node in nodes(path, ast.Import) for alias in node.names}
    for node in nodes(path, ast.ImportFrom):
        assert node.level == 0, f"{path}:{node.lineno}: relative import"
        names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def called(node: ast.Call) -> str:
    """The dotted name a call is written with, as far as it is one: `loop.sock_connect`, `exec`."""
    return ast.unparse(node.func) if isinstance(node.func, ast.Name | ast.Attribute) else ""


@cache
def tracked() -> tuple[Path, ...]:
    """Every file the repository keeps, as paths from the root."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return tuple(Path(name) for name in listed.decode().split("\0") if name and (ROOT / name).is_file())
