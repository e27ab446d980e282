"""The header rules of MCP 2026-07-28: what a request says in its headers must be what its body says (SEP-2243).

Pure. It never trusts a header for anything: headers are there for those in between, the body is what is executed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from gateway.doors.jsonrpc import HEADER_MISMATCH, INVALID_PARAMS, UNSUPPORTED_VERSION, Message, RpcError
from gateway.mirrors import Mirror, unwrapped
from gateway.tool import Json

MODERN: Final = ("2026-07-28",)
LEGACY: Final = ("2025-11-25", "2025-06-18", "2025-03-26")
VERSION_KEY: Final = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES_KEY: Final = "io.modelcontextprotocol/clientCapabilities"

_NAMED: Final = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}


def is_modern(message: Message, headers: Mapping[str, str]) -> bool:
    """Whether the message is meant for 2026-07-28 or newer: it says so in `_meta`, or in the header, or discovers."""
    meta = message.params.get("_meta")
    if isinstance(meta, dict) and VERSION_KEY in meta:
        return True
    return message.method == "server/discover" or _said(headers, "mcp-protocol-version") not in (None, *LEGACY)


def check_envelope(message: Message, headers: Mapping[str, str]) -> None:
    """The duties of every modern request, in order: fields, headers as the body, a version we speak. Or `RpcError`."""
    meta = message.params.get("_meta")
    said = meta if isinstance(meta, dict) else {}
    for key, kind in ((VERSION_KEY, str), (CAPABILITIES_KEY, dict)):
        if not isinstance(said.get(key), kind):
            raise RpcError(400, INVALID_PARAMS, f'params._meta must have "{key}".', request=message.id)
    version = said[VERSION_KEY]
    _same(message, headers, "MCP-Protocol-Version", version)
    _same(message, headers, "Mcp-Method", message.method)
    if named := _NAMED.get(message.method):
        _same(message, headers, "Mcp-Name", message.params.get(named))
    if version not in MODERN:
        more: Json = {"supported": list(MODERN), "requested": version}
        raise RpcError(400, UNSUPPORTED_VERSION, "Protocol version not supported.", request=message.id, more=more)


def _same(message: Message, headers: Mapping[str, str], name: str, said: Json) -> None:
    value = _said(headers, name.lower())
    if value is None or unwrapped(value) != said:
        raise RpcError(400, HEADER_MISMATCH, f"The {name} header must match the body.", request=message.id)


def _said(headers: Mapping[str, str], name: str) -> str | None:
    value = headers.get(name)
    return None if value is None else value.strip(" \t")


def check_mirrors(message: Message, headers: Mapping[str, str], wanted: Iterable[Mirror]) -> None:
    """Each marked argument and its `Mcp-Param-…` header: both there and equal, or neither. Or `RpcError`."""
    for mirror in wanted:
        value = _said(headers, mirror.header)
        argument = mirror.value(message.params.get("arguments"))
        if value is None and argument is None:
            continue
        if value is None or argument is None or not _equal(mirror, unwrapped(value), argument):
            where = "/".join(("", *mirror.path))
            text = f"The {mirror.header} header must match the argument {where}."
            raise RpcError(400, HEADER_MISMATCH, text, request=message.id)


def _equal(mirror: Mirror, said: str | None, argument: str) -> bool:
    if said == argument:
        return True
    if said is None or mirror.type != "integer":
        return False
    whole, _, part = said.partition(".")
    mine, _, rest = argument.partition(".")
    return whole == mine and not part.strip("0") and not rest.strip("0")  # 42.0 is 42, and no float is made of it
