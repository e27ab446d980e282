"""The body of a request beside the call path: read under a cap, as strict JSON, and of exactly one shape.

FastAPI would take any size, before it asks who calls. It never repairs what was sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from gateway import strictjson
from gateway.doors.asgi import read_body, read_head, require_json
from gateway.problems import refuse

Shape = TypeVar("Shape", bound=BaseModel)


async def read_shape(request: Request, shape: type[Shape], limit: int) -> Shape:
    """The body of at most `limit` bytes. Raises `Refusal(malformed)` and what `read_body` and `require_json` raise."""
    head = read_head(request.scope)
    require_json(head)
    try:
        raw = await read_body(head, request.receive, limit)
        return shape.model_validate(strictjson.loads(raw, max_bytes=limit))
    except strictjson.MalformedJson as error:
        raise refuse("malformed", f"The body is not strict JSON: {error}.") from None
    except ValidationError as error:
        raise refuse("malformed", misfit(error.errors())) from None


def misfit(errors: Sequence[Any]) -> str:
    """What pydantic found wrong, in one sentence."""
    said = "; ".join(f"{'/'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in errors[:5])
    return f"The request does not fit this route: {said}."
