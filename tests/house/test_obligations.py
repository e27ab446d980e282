"""No obligation is forgotten: each is read by what has to honour it, and each runner that sends looks where it may."""

from __future__ import annotations

import ast
from dataclasses import fields
from pathlib import Path

import pytest

from gateway.obligations import Obligations
from tests.house.tree import functions, nodes, sources

# Who honours it. A new obligation without a line here fails the first test, one with a line nobody earns the second.
READERS = {
    "timeout": ["gateway/stages/admit.py"],
    "limits": ["gateway/stages/ask.py"],
    "approvals": ["gateway/stages/approve.py"],
    "output": ["gateway/stages/screen.py"],
    "labels": ["gateway/stages/screen.py"],
    "injection": ["gateway/stages/screen.py", "gateway/stages/keep.py"],
    "redact": ["gateway/stages/screen.py", "gateway/stages/keep.py"],
    "record": ["gateway/stages/lines.py"],
    "backends": ["gateway/policy/evaluate.py"],
    "require": ["gateway/stages/execute.py", "gateway/policy/evaluate.py"],
    "networks": ["gateway/stages/execute.py"],
    "cache": ["gateway/reliability/cache.py"],
}
ASKS_NOTHING = {"origin"}  # names rules
# Code in a sandbox sends nothing itself: what it calls is a call again, with the networks of those around it.
# A replay sends nothing at all.
SENDS_NOTHING = {Path("gateway/runners/sandboxed.py"), Path("gateway/runners/replay.py")}


def test_every_obligation_is_honoured_somewhere() -> None:
    """Each field has its readers, or a reason to have none."""
    assert set(READERS) | ASKS_NOTHING == {each.name for each in fields(Obligations)}


@pytest.mark.parametrize(("name", "path"), [(name, path) for name, paths in READERS.items() for path in paths])
def test_who_honours_an_obligation_reads_it(name: str, path: str) -> None:
    """The file named above reads that field of a call's obligations."""
    read = {
        node.attr
        for node in nodes(Path(path), ast.Attribute)
        if _last(node.value) in ("obligations", "asked") and isinstance(node.ctx, ast.Load)
    }
    assert name in read


def test_every_runner_that_sends_looks_where_policy_lets_it() -> None:
    """A runner takes a `Work`; each but the sandboxes' own reads its `networks`."""
    blind = {
        path
        for path in sources("gateway/runners")
        if any(_takes_work(function) for function in functions(path))
        and not any(node.attr == "networks" and _last(node.value) == "work" for node in nodes(path, ast.Attribute))
    }
    assert blind == SENDS_NOTHING


def _takes_work(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return function.name == "run" and any(_last(each.annotation) == "Work" for each in function.args.args)


def _last(node: ast.expr | None) -> str:
    """The last name of a dotted one."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
