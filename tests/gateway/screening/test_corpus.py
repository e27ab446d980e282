"""The bundled rules over a corpus of benign and injected results: no false-alarm figure may grow.

The corpus is not part of the project. `TOOLGATE_CORPUS` names a folder with `benign.jsonl` and `injected.jsonl`, one
record a line with `text` and `kind`. The table is printed with `-s -n 0`.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.model import RawOutput
from gateway.obligations import Obligations
from gateway.stages.screen import screened
from tests.gateway.stages.screened import OPEN, intent

FOLDER = os.environ.get("TOOLGATE_CORPUS", "")

Table = dict[str, Counter[str]]


def records(name: str) -> Iterator[tuple[str, str]]:
    with (Path(FOLDER) / name).open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            yield record["kind"], record["text"]


def table(name: str) -> Table:
    """For each kind: how many records, how many withheld, how many marked or withheld."""
    counts: Table = {}
    for kind, text in records(name):
        output = screened(RawOutput(text), intent(), OPEN)
        row = counts.setdefault(kind, Counter())
        row["all"] += 1
        row["withheld"] += output.problem is not None
        row["marked"] += "suspicious" in output.verdict.labels
    return counts


def share(rows: Table, column: str, kinds: set[str]) -> float:
    return sum(rows[kind][column] for kind in kinds) / sum(rows[kind]["all"] for kind in kinds)


@pytest.mark.skipif(not FOLDER, reason="TOOLGATE_CORPUS is not set")
def test_false_alarms() -> None:
    """Ordinary results are almost never held back or marked; documents that quote attacks seldom held back."""
    rows = table("benign.jsonl")
    print("\n".join(f"{kind:32} {dict(row)}" for kind, row in sorted(rows.items())))
    ordinary = set(rows) - {"security_docs"}
    assert share(rows, "withheld", ordinary) <= 0.001
    assert share(rows, "marked", ordinary) <= 0.01
    assert share(rows, "withheld", {"security_docs"}) <= 0.015


@pytest.mark.skipif(not FOLDER, reason="TOOLGATE_CORPUS is not set")
def test_found() -> None:
    """Announced injection is found; the rules claim nothing for plain requests, and that row is printed too."""
    rows = table("injected.jsonl")
    print("\n".join(f"{kind:32} {dict(row)}" for kind, row in sorted(rows.items())))
    announced = {"agentdojo_ignore_previous", "agentdojo_important_instructions", "agentdojo_system_message"}
    assert share(rows, "withheld", announced) >= 0.95


@pytest.mark.skipif(not FOLDER, reason="TOOLGATE_CORPUS is not set")
def test_false_alarms_of_credentials() -> None:
    """Taking out what looks like a credential changes almost nothing of ordinary results, nor of security documents."""
    wants = intent(obligations=Obligations(redact=frozenset({"secret"})))
    rows = [screened(RawOutput(text), wants, OPEN) for _, text in records("benign.jsonl")]
    changed = sum(finding.rule == "value.secret" for output in rows for finding in output.verdict.findings)
    print(f"{changed} places in {len(rows)} results")
    assert changed <= 0.002 * len(rows)
