"""How a `Problem` looks from outside: problem+json for REST (RFC 9457), plain text and members for MCP.

Nothing else renders errors. Texts hold what the problem says and what to do, never secrets or payloads.
"""

from __future__ import annotations

from gateway import strictjson
from gateway.model import Outcome, Problem, Verdict
from gateway.problems import TABLE, text
from gateway.tool import Json


def members(problem: Problem, call_id: str | None = None, trace_id: str | None = None) -> dict[str, Json]:
    """The problem for machines, the same in every protocol."""
    row = TABLE[problem.code]
    said: dict[str, Json] = {
        "code": problem.code,
        "class": row.cls,
        "title": row.title,
        "detail": problem.detail,
        "retryable": row.retryable,
        "retry_after_ms": problem.retry_after_ms,
        "advice": problem.advice,
        "fix": [
            {"pointer": f.pointer, "received": f.received, "allowed": f.allowed, "nearest": f.nearest}
            for f in problem.fix
        ],
        "call_id": call_id,
        "trace_id": trace_id,
    }
    if problem.rule is not None:
        said["rule"] = problem.rule
    return said


def problem_json(problem: Problem, call_id: str | None = None, trace_id: str | None = None) -> dict[str, Json]:
    """The body of an `application/problem+json` answer."""
    row = TABLE[problem.code]
    head: dict[str, Json] = {"type": f"urn:toolgate:problem:{problem.code}", "status": row.status}
    return head | members(problem, call_id, trace_id)


def outcome_text(outcome: Outcome) -> str:
    """What a model reads of an outcome: the tool's own text, and the problem if there is one."""
    if outcome.problem is None:
        if outcome.text or outcome.structured is None:
            return outcome.text
        return strictjson.canonical(outcome.structured).decode()  # some clients show a model nothing but text
    if outcome.text and outcome.problem.code == "tool_error":
        return outcome.text
    return "\n".join(part for part in (outcome.text.rstrip("\n"), text(outcome.problem)) if part)


def verdict(of: Verdict) -> dict[str, Json]:
    """What screening did, as callers see it.

    Not by which rule: agents read this, and whoever shapes results reads agents. The record has it.
    """
    findings = [{"stage": f.stage, "action": f.action, "path": f.path} for f in of.findings]
    return {"action": of.action, "labels": sorted(of.labels), "findings": findings}


def outcome_json(outcome: Outcome, trace_id: str | None = None) -> dict[str, Json]:
    """An outcome as REST gives it."""
    usage = outcome.usage
    return {
        "call_id": outcome.call_id,
        "tool": outcome.tool,
        "status": outcome.status,
        "result": {
            "content": [{"type": "text", "text": outcome_text(outcome)}],
            "structured_content": outcome.structured,
            "is_error": outcome.problem is not None,
            "truncated": outcome.truncated,
        },
        "problem": members(outcome.problem, outcome.call_id, trace_id) if outcome.problem else None,
        "verdict": verdict(outcome.verdict),
        "artifacts": [],
        "usage": {
            "wall_ms": usage.wall_ms,
            "sandbox_ms": usage.sandbox_ms,
            "bytes_out": usage.bytes_out,
            "cost": usage.cost,
        },
        "record": {"shard": outcome.position.shard, "seq": outcome.position.seq} if outcome.position else None,
    }
