"""The OpenAPI 3.1 page of a caller's tools: one typed path per tool. Pure: tools in, document out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway import __version__
from gateway.tool import Json, Tool

_OUTCOME: dict[str, Json] = {
    "type": "object",
    "required": ["call_id", "tool", "status", "result", "problem", "verdict", "usage", "record"],
    "properties": {
        "call_id": {"type": "string"},
        "tool": {"type": "string"},
        "status": {"enum": ["done", "failed", "parked"]},
        "result": {"type": "object"},
        "problem": {"oneOf": [{"type": "null"}, {"$ref": "#/components/schemas/Problem"}]},
        "verdict": {"type": "object"},
        "artifacts": {"type": "array", "items": {"$ref": "#/components/schemas/Artifact"}},
        "notes": {"type": "array", "items": {"type": "string"}},
        "usage": {"type": "object"},
        "record": {"type": ["object", "null"]},
    },
}
_ARTIFACT: dict[str, Json] = {
    "type": "object",
    "required": ["handle", "name", "size", "media_type", "labels"],
    "properties": {
        "handle": {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"},
        "name": {"type": "string"},
        "size": {"type": "integer"},
        "media_type": {"type": "string"},
        "labels": {"type": "array", "items": {"type": "string"}},
    },
}
_PROBLEM: dict[str, Json] = {
    "type": "object",
    "required": ["code", "class", "title", "detail", "retryable"],
    "properties": {
        "code": {"type": "string"},
        "class": {"type": "string"},
        "title": {"type": "string"},
        "detail": {"type": "string"},
        "status": {"type": "integer"},
        "retryable": {"type": "boolean"},
        "retry_after_ms": {"type": ["integer", "null"]},
        "advice": {"type": ["string", "null"]},
        "fix": {"type": "array"},
        "call_id": {"type": ["string", "null"]},
        "trace_id": {"type": ["string", "null"]},
        "rule": {"type": "string"},
        "approval": {"type": "string"},
    },
}
_KEY: dict[str, Json] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same key and arguments again are the same call: made once, and its outcome told again.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
}
REFUSED: dict[str, Json] = {
    "description": "Refused: nothing ran",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}


def document(
    tools: Sequence[Tool], paths: Mapping[str, Json] | None = None, schemas: Mapping[str, Json] | None = None
) -> dict[str, Json]:
    """An OpenAPI 3.1 document with the call path of each tool; `paths` and `schemas` are other ones to tell of."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Toolgate", "version": __version__, "description": "Tool calls, checked and on record."},
        "security": [{"bearer": []}],
        "paths": {f"/v1/tools/{tool.name}/call": {"post": _operation(tool)} for tool in tools} | dict(paths or {}),
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "parameters": {"Idempotency-Key": _KEY},
            "schemas": {"Artifact": _ARTIFACT, "Outcome": _OUTCOME, "Problem": _PROBLEM, **(schemas or {})},
        },
    }


def _operation(tool: Tool) -> dict[str, Json]:
    outcome: Json = {"$ref": "#/components/schemas/Outcome"}
    if tool.output_schema is not None:
        result = {
            "type": "object",
            "properties": {"structured_content": {"anyOf": [tool.output_schema, {"type": "null"}]}},
        }
        outcome = {"allOf": [outcome, {"type": "object", "properties": {"result": result}}]}
    return {
        "operationId": tool.name,
        "summary": tool.title or tool.name,
        "description": tool.description,
        "parameters": [{"$ref": "#/components/parameters/Idempotency-Key"}],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["arguments"],
                        "additionalProperties": False,
                        "properties": {"arguments": tool.input_schema},
                    }
                }
            },
        },
        "responses": {
            "200": {
                "description": "It ran; with Idempotency-Replayed when it had run before",
                "headers": {"Idempotency-Replayed": {"schema": {"const": "true"}}},
                "content": {"application/json": {"schema": outcome}},
            },
            "202": {"description": "It waits for a person", "content": {"application/json": {"schema": outcome}}},
            "default": REFUSED,
        },
    }
