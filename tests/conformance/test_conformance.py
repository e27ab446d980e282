"""The official MCP conformance suite against a gateway process, once for each generation of the protocol."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from tests.agents.environments import node_modules
from tests.agents.serving import Served, gateway

HERE = Path(__file__).parent
SUITE = "node_modules/@modelcontextprotocol/conformance"
REQUIRED = {"2026-07-28": 37, "2025-11-25": 30}
# Run by the suite without being scored; they pass, and have to go on passing.
ALSO = {"2026-07-28": {"http-header-validation"}, "2025-11-25": {"server-session-lifecycle"}}
_STAMP = len("-2026-01-01T00-00-00-000Z")


@pytest.fixture(scope="module")
def suite() -> tuple[Path, Path]:
    """Node.js and the installed suite."""
    node, installed = node_modules(HERE, HERE / "node.lock")
    return node, installed / SUITE


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A gateway for callers without a key, which is all the suite can be, over the suite's own tools."""
    home = tmp_path_factory.mktemp("home")
    with gateway(home, "--anonymous", specs=HERE / "specs", policies=HERE / "policies") as ready:
        yield ready


@pytest.mark.parametrize("revision", REQUIRED)
def test_every_scenario_passes_that_is_not_listed(
    revision: str, suite: tuple[Path, Path], served: Served, tmp_path: Path
) -> None:
    """The checks that fail are exactly those of `expected_failures.yaml`, each there for a named reason."""
    node, package = suite
    command = [str(node), str(package / "dist/index.js"), "server", "--url", served.mcp, "-o", str(tmp_path)]
    subprocess.run([*command, "--requirements", revision], capture_output=True, timeout=300, check=False)
    required = yaml.safe_load((package / f"requirements/{revision}.yaml").read_text())["server"]
    failed = _failed(tmp_path)
    looked_at = {*required, *ALSO[revision]}
    assert len(required) == REQUIRED[revision]
    assert looked_at <= failed.keys(), "the suite did not run them all"
    assert {name: ids for name, ids in failed.items() if ids and name in looked_at} == _expected(revision)


def _failed(results: Path) -> Mapping[str, set[str]]:
    """The checks that failed, by scenario."""
    found = {}
    for path in results.glob("server-*/checks.json"):
        name = path.parent.name.removeprefix("server-")[:-_STAMP]
        found[name] = {check["id"] for check in json.loads(path.read_text()) if check["status"] == "FAILURE"}
    return found


def _expected(revision: str) -> Mapping[str, set[str]]:
    groups = yaml.safe_load((HERE / "expected_failures.yaml").read_text())[revision]
    return {name: set(ids) for group in groups for name, ids in group["fails"].items()}
