"""What a spec's sandbox asks for and its backend cannot give is refused at load, with the reason."""

from dataclasses import replace

import pytest

from gateway.loading import OFFERS
from gateway.specs.load import load_specs
from gateway.specs.yaml import SpecErrors

MODULE = "sha256:" + "a" * 64
GRIND = f"""
apiVersion: toolgate/v1
kind: Tool
name: grind
version: 1.0.0
description: Grinds.
input_schema: {{type: object, properties: {{files: {{type: object}}}}}}
effects: [exec]
runner:
  sandbox: {{backend: wasm, code: {{module: "{MODULE}"}}, MORE}}
"""


def said_of_module(more: str, reaches: set[str]) -> str:
    """What is found in a spec that gives a module more than its program; "" when nothing is."""
    offer = replace(OFFERS["wasm"], modules={MODULE: frozenset(reaches)})
    try:
        load_specs({"grind.yaml": GRIND.replace("MORE", more).encode()}, sandboxes={"wasm": offer})
    except SpecErrors as refused:
        return str(refused)
    return ""


@pytest.mark.parametrize(
    ("more", "needs", "said"),
    [
        ("files: {in: artifacts}", "files", "this module has no files"),
        ("files: {out: 1MiB}", "files", "this module has no files"),
        ("tools: [grind]", "calls", "this module calls no tools"),
        ('network: {allow: ["GET https://a.test/**"]}', "calls", "this module calls no tools"),
    ],
)
def test_a_module_is_given_nothing_that_it_cannot_reach(more: str, needs: str, said: str) -> None:
    """What it imports says what it can use: anything else would be dropped in silence."""
    assert said_of_module(more, {needs}) == ""
    assert said in said_of_module(more, {"files", "calls"} - {needs})


def test_a_disk_larger_than_a_module_can_have_is_refused() -> None:
    """Its files lie in the memory of a worker: 64 MiB of them, and a larger limit is not cut down without a word."""
    assert said_of_module("limits: {disk: 64MiB}", {"files"}) == ""
    assert "disk lies between 1 and 64 MiB" in said_of_module("limits: {disk: 65MiB}", {"files"})
