"""What came of a call, as it is kept for repeats: bytes and back. It makes no `Outcome`, and nothing it reads runs.

JSON, `{"v": 1, …}`. It is content: whoever keeps it encrypts it, and erases it with its session.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from gateway.model import Artifact, Finding, Outcome, Problem, Usage, Verdict
from gateway.tool import Fix, Json

VERSION = 1


class NotKept(Exception):
    """There is nothing to be read, or not in a form that this version knows."""


@dataclass(frozen=True, slots=True)
class Recalled:
    """What is on record of the call `of` that a repeat is of: the members of an `Outcome`, without id and position.

    `claim` is the key of the claim that they share.
    """

    of: str
    claim: str
    tool: str
    status: Literal["done", "failed"]
    text: str
    structured: Json
    problem: Problem | None
    verdict: Verdict
    usage: Usage
    truncated: bool
    artifacts: tuple[Artifact, ...]


def write(outcome: Outcome) -> bytes:
    """An outcome that is on record."""
    return _spelled(
        {
            "tool": outcome.tool,
            "status": outcome.status,
            "text": outcome.text,
            "structured": outcome.structured,
            "problem": asdict(outcome.problem) if outcome.problem else None,
            "verdict": asdict(outcome.verdict),
            "usage": asdict(outcome.usage),
            "truncated": outcome.truncated,
            "artifacts": [asdict(artifact) for artifact in outcome.artifacts],
        }
    )


def write_done(
    tool: str,
    text: str,
    structured: Json = None,
    verdict: Verdict | None = None,
    failed: Problem | None = None,
    truncated: bool = False,
    artifacts: Sequence[Artifact] = (),
) -> bytes:
    """What is known by other means of a call that happened: that it did, and perhaps with which result."""
    return _spelled(
        {
            "tool": tool,
            "status": "failed" if failed else "done",
            "text": text,
            "structured": structured,
            "problem": asdict(failed) if failed else None,
            "verdict": asdict(verdict or Verdict("allow", frozenset())),
            "usage": asdict(Usage()),
            "truncated": truncated,
            "artifacts": [asdict(artifact) for artifact in artifacts],
        }
    )


def read(of: str, claim: str, kept: bytes | None) -> Recalled:
    """What was kept of the call `of`. Raises `NotKept`."""
    try:
        said: dict[str, Any] = json.loads(kept or b"null")
        if said.pop("v") != VERSION:
            raise NotKept
        problem, verdict = said.pop("problem"), said.pop("verdict")
        return Recalled(
            of=of,
            claim=claim,
            problem=_problem(problem) if problem else None,
            verdict=_verdict(verdict),
            usage=Usage(**said.pop("usage")),
            artifacts=tuple(_artifact(each) for each in said.pop("artifacts")),
            **said,
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise NotKept from None


def _spelled(said: Mapping[str, Json]) -> bytes:
    # Not canonical JSON, in which 1.0 is 1: a repeat shows what the first call did.
    return json.dumps({"v": VERSION, **said}, separators=(",", ":"), default=sorted).encode()


def _problem(said: dict[str, Any]) -> Problem:
    fix = tuple(Fix(**each) for each in said.pop("fix"))
    return Problem(fix=fix, needs=tuple(said.pop("needs")), **said)


def _verdict(said: dict[str, Any]) -> Verdict:
    findings = tuple(_finding(each) for each in said["findings"])
    return Verdict(said["action"], frozenset(said["labels"]), findings)


def _finding(said: dict[str, Any]) -> Finding:
    span = said.pop("span")
    return Finding(span=None if span is None else (span[0], span[1]), **said)


def _artifact(said: dict[str, Any]) -> Artifact:
    return Artifact(labels=frozenset(said.pop("labels")), **said)
