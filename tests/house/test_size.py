"""Nothing grows too large to be read: files, functions, and the settings of the linter that measures complexity."""

from __future__ import annotations

import re
import tomllib

from tests.house.tree import ROOT, functions, sources, text, tracked

FILE, FUNCTION, COMPLEXITY = 400, 50, 10
EVERYWHERE = ("gateway", "sandboxes", "tests", "bench")
RULES = {"E", "F", "W", "I", "B", "C90", "PLW0603", "PLC0415", "BLE", "T20", "ASYNC", "S102", "S307"}


def test_a_file_has_at_most_400_lines() -> None:
    """No Python file is longer than 400 lines."""
    long = {str(path): len(text(path).splitlines()) for path in sources(*EVERYWHERE)}
    assert {path: lines for path, lines in long.items() if lines > FILE} == {}


def test_a_function_has_at_most_50_lines() -> None:
    """No function is longer than 50 lines, its docstring and decorators' line counted."""
    long = [
        f"{path}:{function.lineno} {function.name}"
        for path in sources(*EVERYWHERE)
        for function in functions(path)
        if (function.end_lineno or 0) - function.lineno >= FUNCTION
    ]
    assert long == []


def test_the_linter_measures_complexity_and_is_not_loosened() -> None:
    """ruff refuses a complexity above 10 and keeps every rule the house relies on, for every file."""
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]
    lint = ruff["lint"]
    assert ruff["line-length"] <= 120
    assert lint["mccabe"]["max-complexity"] <= COMPLEXITY
    assert RULES.issubset(lint["select"])
    assert not RULES.intersection(lint["ignore"])
    assert not {"exclude", "extend-exclude"}.intersection(ruff)
    loosened = {pattern: rules for pattern, rules in lint.get("per-file-ignores", {}).items() if "C90" in str(rules)}
    assert loosened == {}


def test_the_type_checker_is_strict() -> None:
    """mypy is strict over both packages, with no module set aside."""
    mypy = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert mypy["strict"] is True
    assert {"gateway", "sandboxes"}.issubset(mypy["packages"])
    assert not {"exclude", "overrides", "ignore_errors", "ignore_missing_imports"}.intersection(mypy)


def test_what_is_ignored_says_why() -> None:
    """Every `type: ignore` and `noqa` names what it ignores and gives the reason; the order of imports needs none."""
    ignore = r"type:\s*ignore(?!\[[\w, -]+\]\s+#\s*\S)"
    noqa = r"noqa(?!:\s*(?:(?:E40[12]|F401|I001)(?:,\s*|\s|$))+|:\s*[A-Z]+\d+(?:,\s*[A-Z]+\d+)*\s+#\s*\S)"
    silent = re.compile(rf"#\s*(?:{ignore}|{noqa})")
    found = [
        f"{path}:{number}"
        for path in sources(*EVERYWHERE)
        if path.name != "test_size.py"
        for number, line in enumerate(text(path).splitlines(), 1)
        if silent.search(line)
    ]
    assert found == []


def test_continuous_integration_calls_the_makefile() -> None:
    """What CI runs is `make lint test`, and lint is the whole of ruff and mypy."""
    ci = (ROOT / ".ci/run").read_text()
    assert "set -e" in ci
    assert "make lint test" in ci
    makefile = (ROOT / "Makefile").read_text()
    for command in ("ruff check\n", "ruff format --check\n", "mypy --strict\n"):
        assert command in makefile


def test_the_repository_names_no_machine() -> None:
    """No tracked file holds an absolute path of somebody's machine, and the lock file no registry."""
    paths = re.compile(r"(?<![\w.~-])/(?:work|root|home)/(?!toolgate\b)\w")
    found = [
        f"{path}:{number}: {line.strip()[:80]}"
        for path in tracked()
        if path.suffix not in {".png", ".wasm", ".gz"} and path.name != "LICENSE"
        for number, line in enumerate(text(path).splitlines(), 1)
        if paths.search(line)
    ]
    assert found == []
    assert re.findall(r"https?://|--(?:extra-)?index-url|--find-links", (ROOT / "requirements.lock").read_text()) == []
