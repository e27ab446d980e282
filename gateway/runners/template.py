"""Templates of an http tool: texts with `{argument}` placeholders, filled in by plain replacement.

Nothing in a template is ever evaluated: no attribute access, no formatting engine. What a value may look like depends
on where it goes: percent-encoded with no safe characters in a URL, printable ASCII in a header, its own JSON type where
a placeholder is a whole JSON value. Pure; it never sends anything.

A placeholder is `{` + letters, digits, `_`, `-` or `.` + `}`; any other brace is itself. An argument that was not given
leaves out the query parameter, header or JSON member that is nothing but its placeholder; anywhere else it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from gateway.model import Refusal
from gateway.problems import problem
from gateway.tool import Fix, Json

_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")
Given = Mapping[str, Json]
_Spell = Callable[[str, Json], str]


class Missing(Exception):
    """The argument a placeholder names was not given."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass(frozen=True, slots=True)
class Text:
    """A parsed text: literals and placeholder names in turn, literals first and last (so of odd number)."""

    parts: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Text:
        """Every text is a template."""
        parts, literal = [], ""
        while text:
            before, brace, rest = text.partition("{")
            name, closing, after = rest.partition("}")
            if brace and closing and name and _NAME.issuperset(name):
                parts += [literal + before, name]
                literal, text = "", after
            else:
                literal, text = literal + before + brace, rest
        return cls((*parts, literal))

    @classmethod
    def parse_query_value(cls, text: str) -> Text:
        """As `parse`, for a text that is one value of a query: its literals are percent-encoded."""
        parts = list(cls.parse(text).parts)
        parts[::2] = [quote(literal, safe="") for literal in parts[::2]]
        return cls(tuple(parts))

    @property
    def names(self) -> tuple[str, ...]:
        """The placeholders in it."""
        return self.parts[1::2]

    @property
    def whole(self) -> str | None:
        """The name, when the text is one placeholder and nothing else."""
        return self.parts[1] if len(self.parts) == 3 and not self.parts[0] and not self.parts[2] else None

    def path(self, given: Given) -> str:
        """For the part of a URL before the query. An empty value is refused: servers differ on what `//` means."""
        return self._filled(given, _path_value)

    def query(self, given: Given) -> str:
        """For the query of a URL."""
        return self._filled(given, _query_value)

    def header(self, given: Given) -> str:
        """For a header value: printable ASCII without spaces at the ends."""
        return self._filled(given, _header_value)

    def plain(self, given: Given) -> str:
        """For a text within JSON."""
        return self._filled(given, _plain)

    def _filled(self, given: Given, spell: _Spell) -> str:
        if len(self.parts) == 1:
            return self.parts[0]
        values = list(self.parts)
        values[1::2] = [spell(name, _value(given, name)) for name in self.names]
        return "".join(values)


def parse_json(template: Json) -> Json:
    """A JSON template with every string value parsed; keys are taken as they are."""
    if isinstance(template, str):
        return Text.parse(template)
    if isinstance(template, Mapping):
        return {key: parse_json(value) for key, value in template.items()}
    if isinstance(template, list | tuple):
        return [parse_json(value) for value in template]
    return template


def fill_json(template: Json, given: Given) -> Json:
    """The value of a parsed JSON template. Raises Missing for a whole placeholder that is the root or a list's item."""
    if isinstance(template, Text):
        whole = template.whole
        return template.plain(given) if whole is None else _value(given, whole)
    if isinstance(template, dict):
        return {
            key: fill_json(value, given)
            for key, value in template.items()
            if not (isinstance(value, Text) and value.whole is not None and value.whole not in given)
        }
    if isinstance(template, list):
        return [fill_json(value, given) for value in template]
    return template


def unfit(name: str, allowed: str) -> Refusal:
    """The refusal of an argument that cannot stand where the template puts it. Never quotes the value."""
    pointer = "/" + name.replace("~", "~0").replace("/", "~1")
    fix = Fix(pointer, "a value that cannot be sent there", allowed)
    return Refusal(problem("invalid_arguments", f"The argument {name} must be {allowed}.", fix=(fix,)))


def _value(given: Given, name: str) -> Json:
    if name not in given:
        raise Missing(name)
    return given[name]


def _plain(name: str, value: Json) -> str:
    """A scalar as JSON spells it, a string as it is."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    raise unfit(name, "a string, number or boolean")


def _query_value(name: str, value: Json) -> str:
    return quote(_plain(name, value), safe="")


def _path_value(name: str, value: Json) -> str:
    text = _query_value(name, value)
    if not text:
        raise unfit(name, "something other than empty")
    return text


def _header_value(name: str, value: Json) -> str:
    text = _plain(name, value)
    if not (text.isascii() and text.isprintable()) or text != text.strip():
        raise unfit(name, "printable ASCII on one line")
    return text
