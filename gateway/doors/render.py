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
    if problem.approval is not None:
        said["approval"] = problem.approval
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


def content(outcome: Outcome) -> list[Json]:
    """The content blocks of a result: its text, one more where it left files, one where a limit is near.

    Apart, so that a text that is JSON stays JSON; as text, because a model has to read a handle to pass it on, and
    older MCP clients refuse a result with a block of a kind they do not know (`resource_link`).
    """
    blocks: list[Json] = [{"type": "text", "text": outcome_text(outcome)}]
    for more in (files_text(outcome), "\n".join(outcome.notes)):
        if more:
            blocks.append({"type": "text", "text": more})
    return blocks


def files_text(outcome: Outcome) -> str:
    """What a model reads of the files a call left: name, size, kind and handle of each; "" when there are none."""
    lines = [f"{a.name} ({a.size} bytes, {a.media_type}): {a.handle}" for a in outcome.artifacts]
    lost = sum(f.rule.startswith("file.") and f.action == "cut" for f in outcome.verdict.findings)
    if lines:
        lines.insert(0, "Files kept for later calls, by handle:")
    if lost:
        lines.append(f"{lost} {'file was' if lost == 1 else 'files were'} not kept.")
    return "\n".join(lines)


def artifacts(outcome: Outcome) -> list[Json]:
    """What a call left behind, for machines."""
    return [
        {"handle": a.handle, "name": a.name, "size": a.size, "media_type": a.media_type, "labels": sorted(a.labels)}
        for a in outcome.artifacts
    ]


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
            "content": content(outcome),
            "structured_content": outcome.structured,
            "is_error": outcome.problem is not None,
            "truncated": outcome.truncated,
        },
        "problem": members(outcome.problem, outcome.call_id, trace_id) if outcome.problem else None,
        "verdict": verdict(outcome.verdict),
        "artifacts": artifacts(outcome),
        "notes": list(outcome.notes),
        "usage": {
            "wall_ms": usage.wall_ms,
            "sandbox_ms": usage.sandbox_ms,
            "bytes_out": usage.bytes_out,
            "cost": usage.cost,
        },
        "record": {"shard": outcome.position.shard, "seq": outcome.position.seq} if outcome.position else None,
    }
