"""Arguments that MCP clients repeat in HTTP headers, for those in between to route by (`x-mcp-header`, SEP-2243).

Pure, and the same for both sides: the door checks the headers it gets, the MCP runner writes those it sends.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.tool import Json

_TOKEN: Final = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_OPEN, _CLOSE = "=?base64?", "?="


@dataclass(frozen=True, slots=True)
class Mirror:
    """One argument that is repeated: its path in the arguments, its JSON type, the header's name."""

    path: tuple[str, ...]
    type: str
    header: str

    def value(self, arguments: Json) -> str | None:
        """The argument as its header has it; `None` when it is not there, null, or nothing a header can hold."""
        for key in self.path:
            arguments = arguments.get(key) if isinstance(arguments, Mapping) else None
        if isinstance(arguments, bool):
            return "true" if arguments else "false"
        return str(arguments) if isinstance(arguments, str | int | float) else None


def mirrors(schema: Mapping[str, Json]) -> tuple[Mirror, ...]:
    """The arguments of a tool marked `x-mcp-header`, reached through `properties` alone.

    Empty when one mark is not usable (a name that is no RFC 9110 token, one given twice, a type other than string,
    integer or boolean): the specification has clients drop the marks of such a tool.
    """
    found = tuple(_marks(schema, ()))
    names = {m.header for m in found}
    usable = all(_TOKEN.issuperset(m.header) and m.type in ("string", "integer", "boolean") for m in found)
    return found if usable and len(names) == len(found) and "mcp-param-" not in names else ()


def _marks(schema: Json, path: tuple[str, ...]) -> Iterator[Mirror]:
    if not isinstance(schema, Mapping):
        return
    if path and "x-mcp-header" in schema:
        yield Mirror(path, _text(schema.get("type")), f"mcp-param-{_text(schema['x-mcp-header'])}".lower())
    properties = schema.get("properties")
    if isinstance(properties, Mapping):
        for name, inner in properties.items():
            yield from _marks(inner, (*path, name))


def _text(value: Json) -> str:
    return value if isinstance(value, str) else ""


def wrapped(value: str) -> str:
    """A value as a header can carry it: as it is when it is plain, else in base64 between `=?base64?` and `?=`."""
    plain = value.isascii() and value.isprintable() and value == value.strip()
    if plain and not (value.startswith(_OPEN) and value.endswith(_CLOSE)):
        return value
    return f"{_OPEN}{base64.b64encode(value.encode()).decode()}{_CLOSE}"


def unwrapped(value: str) -> str | None:
    """The inverse of `wrapped`; `None` when what is wrapped is not canonical base64 of UTF-8."""
    if not (value.startswith(_OPEN) and value.endswith(_CLOSE) and len(value) >= len(_OPEN) + len(_CLOSE)):
        return value
    inner = value[len(_OPEN) : -len(_CLOSE)]
    try:
        raw = base64.b64decode(inner, validate=True)
        text = raw.decode()
    except (binascii.Error, ValueError):
        return None
    return text if base64.b64encode(raw).decode() == inner else None
