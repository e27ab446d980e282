"""JSON-RPC 2.0 as MCP uses it: one message in, one result or error out, as bytes.

It knows no method and no tool; it never renders a `Problem` and never answers a batch (MCP has none).
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import orjson

from gateway.strictjson import MalformedJson, loads
from gateway.tool import Json

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
HEADER_MISMATCH = -32020
UNSUPPORTED_VERSION = -32022

_MAX_ID = 2**53  # what every JSON reader can give back unchanged
_MAX_ID_CHARS = 256

Id = str | int | None


@dataclass(frozen=True, slots=True)
class Message:
    """A request, or a notification when it has no id. `params` is empty when there were none."""

    method: str
    params: dict[str, Json]
    id: Id = None
    notification: bool = False


class RpcError(Exception):
    """The message as a whole is refused. `status` is the HTTP status, `id` that of the request when it had one."""

    def __init__(self, status: int, code: int, message: str, *, request: Id = None, more: Json = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.id = request
        self.more = more

    def body(self) -> bytes:
        """The error response."""
        error: dict[str, Json] = {"code": self.code, "message": self.message}
        if self.more is not None:
            error["data"] = self.more
        return encode({"jsonrpc": "2.0", "id": self.id, "error": error})


def read(raw: bytes) -> Message:
    """The one message in a body, whose size was checked when it was read. Raises `RpcError`."""
    try:
        value = loads(raw, max_bytes=len(raw))
    except MalformedJson as error:
        raise RpcError(400, PARSE_ERROR, f"The body is not strict JSON: {error}.") from None
    if isinstance(value, list):
        raise RpcError(400, INVALID_REQUEST, "Batches are not part of MCP: send one message per request.")
    if not isinstance(value, dict):
        raise RpcError(400, INVALID_REQUEST, "The body is not a JSON-RPC message object.")
    return _message(value)


def _message(value: dict[str, Json]) -> Message:
    request = value.get("id")
    if "id" in value and not _usable(request):
        raise RpcError(400, INVALID_REQUEST, "The id must be a string or an integer.")
    known = request if isinstance(request, str | int) else None
    if value.get("jsonrpc") != "2.0":
        raise RpcError(400, INVALID_REQUEST, 'The message must say "jsonrpc": "2.0".', request=known)
    method = value.get("method")
    if not isinstance(method, str):
        raise RpcError(400, INVALID_REQUEST, "The message names no method.", request=known)
    params = value.get("params", {})
    if not isinstance(params, dict):
        raise RpcError(400, INVALID_REQUEST, "params must be an object.", request=known)
    return Message(method, params, known, "id" not in value)


def _usable(request: Json) -> bool:
    if isinstance(request, str):
        return len(request) <= _MAX_ID_CHARS
    return isinstance(request, int) and not isinstance(request, bool) and abs(request) < _MAX_ID


def answer(request: Id, result: Json) -> bytes:
    """The response that carries a result."""
    return encode({"jsonrpc": "2.0", "id": request, "result": result})


def encode(value: Json) -> bytes:
    """JSON bytes, keys in the order given; orjson has no integers beyond 64 bits, so those go through `json`."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
