"""Real agent frameworks, offline, on a gateway process: a refusal is something their model reads and acts on."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agents.environments import python_of
from tests.agents.serving import Served, gateway

HERE = Path(__file__).parent
PLAN = [
    ("run_python", {"cod": "result = 6 * 7"}),
    ("run_python", {"code": "result = 6 * 7"}),
    ("run_python", {"code": "raise ValueError('not today')"}),
    ("http_fetch", {"url": "https://example.org/"}),
    ("json_query", {"document": {"a": [1, 2]}, "path": "/a/1"}),
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A gateway with its starter tools and policies."""
    with gateway(tmp_path_factory.mktemp("home")) as ready:
        yield ready


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_an_agent_repairs_its_call_and_reads_why_another_is_refused(era: str, served: Served) -> None:
    """pydantic-ai and LangGraph both go on to the end: schema refusal, repair, failed tool, policy refusal, result."""
    assert served.key is not None
    command = [str(python_of(HERE / f"{era}.lock")), str(HERE / f"{era}_agent.py"), served.mcp, served.key]
    done = subprocess.run([*command, json.dumps(PLAN)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    run: dict[str, Any] = json.loads(done.stdout)
    assert run["tools"] == ["http_fetch", "json_query", "run_javascript", "run_python"]
    wrong, repaired, failed, refused, queried = (str(shown) for shown in run["shown"])
    assert "invalid_arguments" in wrong
    assert "did you mean code?" in wrong
    assert "42" in repaired
    assert "not today" in failed
    assert "no_permit" in refused
    assert "Do not repeat the same call" in refused
    assert "2" in queried
    assert run["end"] == "done"
