"""Specs and policies together: what fits, and every finding at its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.loading import SCHEMAS, load_files, load_folders
from gateway.specs.yaml import SpecErrors
from tests.kit import ECHO, PERMIT, ROOT

CODER = """
apiVersion: toolgate/v1
kind: Tool
name: coder
version: 1.0.0
description: Runs Python that may fetch.
input_schema: {type: object, properties: {code: {type: string}}, required: [code]}
effects: [exec]
runner:
  sandbox: {backend: wasm-python, code: {argument: code}, tools: [], network: {allow: ["ALLOW"]}}
"""


def findings(specs: str, policies: str = PERMIT) -> list[str]:
    """What is said of these files."""
    with pytest.raises(SpecErrors) as caught:
        load_files({"echo.yaml": specs.encode()}, {"lab.yaml": policies.encode()})
    return [str(finding) for finding in caught.value.findings]


def test_the_starter_files_fit_together_without_a_finding() -> None:
    """Five tools and a policy, nothing for lint to say."""
    loaded = load_folders(ROOT / "tool_specs", ROOT / "policies")
    assert [tool.name for tool in loaded.catalogue.all()] == [
        "http_fetch",
        "json_query",
        "run_javascript",
        "run_python",
        "run_shell",
    ]
    assert list(loaded.findings) == []


@pytest.mark.parametrize("allow", ["GET https://*.com/**", "GET https://*.10.0.0.1/**"])
def test_an_allow_entry_the_runner_would_not_take_is_refused_at_load(allow: str) -> None:
    """Not at the first call: an operator learns it from `check`."""
    fetch = ECHO.replace(
        'http: {method: POST, url: "https://echo.example.com/say", json: {text: "{text}", loud: "{loud}"}}',
        f'http: {{method: GET, url: {{argument: text}}, allow: ["{allow}"]}}',
    )
    (said,) = findings(fetch)
    assert said.startswith("echo.yaml:")


@pytest.mark.parametrize("allow", ["GET https://*.com/**", "GET https://*.10.0.0.1/**"])
def test_a_network_entry_that_fetch_would_not_take_is_refused_at_load(allow: str) -> None:
    """As for an http tool: else every fetch would be refused."""
    (said,) = findings(CODER.replace("ALLOW", allow))
    assert said.startswith("echo.yaml:")
    assert "at least two labels" in said


def test_code_is_granted_no_tool_of_another_tenant() -> None:
    """Nobody could ever call it: a tool of one tenant has callers of that tenant only."""
    mine = CODER.replace("ALLOW", "GET https://a.test/**").replace("tools: []", "tools: [echo]") + "tenant: one\n"
    specs = {"coder.yaml": mine.encode(), "echo.yaml": (ECHO + "tenant: two\n").encode()}
    with pytest.raises(SpecErrors, match="echo is for the tenant 'two' only"):
        load_files(specs, {"lab.yaml": PERMIT.encode()})
    specs["echo.yaml"] = (ECHO + "tenant: one\n").encode()
    assert load_files(specs, {"lab.yaml": PERMIT.encode()}).catalogue.find("coder") is not None


def test_a_policy_is_checked_against_the_tools_it_is_about() -> None:
    """A misspelt argument in a condition is found at its line."""
    (said,) = findings(ECHO, PERMIT.replace("args.text != ", "args.txt != "))
    assert said.startswith("lab.yaml:6:")
    assert "text" in said


def test_a_guarantee_nobody_knows_is_refused_at_load() -> None:
    """A policy that requires a misspelt one does not load: else every call would be refused, and nobody told why."""
    rule = "- {id: walled, effect: permit, with: {sandbox: {require: [no-netwrok]}}}\n"
    (said,) = findings(ECHO, PERMIT + rule)
    assert "'no-netwrok'" in said
    assert "no-network" in said


def test_a_folder_that_is_not_there_is_a_finding() -> None:
    """Not a traceback."""
    with pytest.raises(SpecErrors, match="there is no such folder"):
        load_folders(Path("nowhere"), ROOT / "policies")


def test_a_project_inside_a_folder_is_none_of_its_business(tmp_path: Path) -> None:
    """A sub-folder with settings of its own is skipped, however deep its files stand; any other sub-folder is read."""
    specs, policies = tmp_path / "specs", tmp_path / "policies"
    for folder in (specs, policies / "ours" / "more", policies / "project" / "policies"):
        folder.mkdir(parents=True)
    (specs / "echo.yaml").write_text(ECHO)
    (policies / "ours" / "more" / "permit.yaml").write_text(PERMIT)
    (policies / "project" / "policies" / "broken.yaml").write_text("no policy")
    with pytest.raises(SpecErrors, match=r"broken\.yaml"):
        load_folders(specs, policies)
    (policies / "project" / "toolgate.yaml").write_text("")
    assert [part.shape.id for part in load_folders(specs, policies).bundle.parts] == ["lab"]


@pytest.mark.parametrize("kind", sorted(SCHEMAS))
def test_every_kind_of_file_has_a_schema_for_editors(kind: str) -> None:
    """JSON Schema 2020-12, closed."""
    schema = SCHEMAS[kind]()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["additionalProperties"] is False


def test_an_argument_may_be_mirrored_in_a_header() -> None:
    """`x-mcp-header` (MCP 2026-07-28) is part of a schema; any other unknown keyword is a finding."""
    mirrored = ECHO.replace("text: {type: string,", "text: {type: string, x-mcp-header: Text,")
    loaded = load_files({"echo.yaml": mirrored.encode()}, {"lab.yaml": PERMIT.encode()})
    assert loaded.catalogue.find("echo") is not None
    (said,) = findings(ECHO.replace("text: {type: string,", "text: {type: string, x-other: Text,"))
    assert "x-other" in said
