"""The one YAML loader, strict: for specs, policies, cases and settings. Bytes in, values with their places out.

YAML 1.2 with the core schema's scalars, except that a number with a leading zero stays text: `no`, `010` and `1:30` are
strings. Refused, each with file, line and column: more than 256 KiB or 32 levels, anchors and aliases, merge keys,
tags, directives, keys that are not strings, keys given twice, `.nan` and `.inf`, several documents unless asked for.

It works on the parser's events, so size and depth are checked before anything is built, and it never constructs
anything but None, bool, int, float, str, list and dict. It never opens a file.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml

from gateway import regex
from gateway.tool import Json

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32

_NULLS = {"", "~", "null", "Null", "NULL"}
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NOT_FINITE = {sign + word for sign in ("", "-", "+") for word in (".inf", ".Inf", ".INF")} | {".nan", ".NaN", ".NAN"}
_INTEGER = regex.compile(r"[-+]?(0|[1-9][0-9]{0,99})")
_OTHER_BASE = regex.compile(r"0o[0-7]{1,40}|0x[0-9a-fA-F]{1,40}")
_FLOAT = regex.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


class SpecError(Exception):
    """One finding in a file an operator wrote: where (line and column from 1), and a sentence saying what is right."""

    def __init__(self, file: str, line: int, column: int, sentence: str) -> None:
        super().__init__(f"{file}:{line}:{column}: {sentence}")
        self.file = file
        self.line = line
        self.column = column
        self.sentence = sentence


class SpecErrors(Exception):
    """All findings of one load, in the order of files and lines; never empty."""

    def __init__(self, findings: list[SpecError]) -> None:
        self.findings = sorted(findings, key=lambda each: (each.file, each.line, each.column))
        super().__init__("\n".join(map(str, self.findings)))


@dataclass(frozen=True, slots=True)
class Located:
    """One YAML document: its value, and where each part stands in the file.

    `places` maps a JSON Pointer (RFC 6901) to (line, column), both from 1: of the key for an entry of a mapping, of the
    item for an entry of a sequence.
    """

    file: str
    value: Json
    places: dict[str, tuple[int, int]] = field(default_factory=dict)

    def place(self, at: str = "") -> tuple[int, int]:
        """The place of what a pointer names, or of the nearest part around it that the file has."""
        while at and at not in self.places:
            at = at.rpartition("/")[0]
        return self.places.get(at, (1, 1))

    def error(self, at: str, sentence: str) -> SpecError:
        """A finding at what a pointer names."""
        return SpecError(self.file, *self.place(at), sentence)


def pointer(*parts: str | int) -> str:
    """The JSON Pointer of a path: `pointer("a/b", 0)` is `/a~1b/0`."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def load(raw: bytes, file: str) -> Located:
    """Read exactly one document; `file` is only used to name the place. Raises SpecError."""
    documents = load_all(raw, file)
    if len(documents) > 1:
        raise documents[1].error("", "one document stands in this file: put the second one into a file of its own")
    return documents[0]


def load_all(raw: bytes, file: str) -> list[Located]:
    """Read one or more documents, separated by `---`. Raises SpecError."""
    reader = _Reader(_text(raw, file), file)
    try:
        found = list(reader.documents())
    except yaml.YAMLError as error:
        raise _syntax(error, file, reader.text) from None
    if not found:
        raise SpecError(file, 1, 1, "the file is empty")
    return found


def _text(raw: bytes, file: str) -> str:
    if len(raw) > MAX_BYTES:
        raise SpecError(file, 1, 1, f"a file has at most {MAX_BYTES} bytes, this one has {len(raw)}")
    if raw.startswith(b"\xef\xbb\xbf"):
        raise SpecError(file, 1, 1, "save the file without a byte order mark")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - raw.rfind(b"\n", 0, error.start)
        raise SpecError(file, line, column, "not valid UTF-8: save the file as UTF-8") from None


def _syntax(error: yaml.YAMLError, file: str, text: str) -> SpecError:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "a character that YAML does not allow"
    if mark is None:
        return SpecError(file, 1, 1, f"not YAML: {problem}")
    lines = text.split("\n")
    before = lines[mark.line][: mark.column] if mark.line < len(lines) else ""
    return SpecError(file, mark.line + 1, mark.column + 1, f"not YAML: {problem}{_quoted(error, before)}")


def _quoted(error: yaml.YAMLError, before: str) -> str:
    """A hint where an expression began as YAML, and went on after that had ended: `"a" in b`, `[1].size()`, `!a(b)`."""
    tagged = "tag" in (getattr(error, "context", None) or "")
    if tagged or before.rstrip().endswith(('"', "'", "]", "}")):
        return " (put a text that begins with a quote, a bracket or ! in quotes as a whole, like '\"a\" in b')"
    return ""


class _Reader:
    """Builds documents from the event stream; recursion is bounded by MAX_DEPTH."""

    def __init__(self, text: str, file: str) -> None:
        self.text = text
        self._events: Iterator[yaml.Event] = iter(yaml.parse(text, Loader=yaml.CSafeLoader))
        self._file = file
        self._places: dict[str, tuple[int, int]] = {}

    def documents(self) -> Iterator[Located]:
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if event.version or event.tags:
                    raise self._error(event, "directives are not taken: leave the % line out")
                self._places = {}
                value = self._node(next(self._events), "", 0)
                yield Located(self._file, value, self._places)

    def _node(self, event: yaml.Event, at: str, depth: int) -> Json:
        self._places.setdefault(at, _start(event))
        if isinstance(event, yaml.AliasEvent):
            raise self._error(event, "aliases are not taken: write the value out")
        assert isinstance(event, yaml.NodeEvent)
        if event.anchor is not None:
            raise self._error(event, "anchors are not taken: leave the & name out")
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        assert isinstance(event, yaml.CollectionStartEvent)
        if event.tag is not None:
            raise self._error(event, "tags are not taken: leave the ! name out")
        if depth >= MAX_DEPTH:
            raise self._error(event, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(at, depth + 1)
        return self._mapping(at, depth + 1)

    def _sequence(self, at: str, depth: int) -> list[Json]:
        items: list[Json] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, f"{at}/{len(items)}", depth))
        return items

    def _mapping(self, at: str, depth: int) -> dict[str, Json]:
        entries: dict[str, Json] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._key(event, at, depth)
            if key in entries:
                raise self._error(event, f"the key {key[:80]!r} stands twice: keep one")
            below = at + pointer(key)
            self._places[below] = _start(event)
            entries[key] = self._node(next(self._events), below, depth)
        return entries

    def _key(self, event: yaml.Event, at: str, depth: int) -> str:
        if isinstance(event, yaml.ScalarEvent) and event.implicit[0] and event.value == "<<":
            raise self._error(event, "merge keys are not taken: write the keys out")
        if isinstance(event, yaml.CollectionStartEvent):
            raise self._error(event, "a key is a string, not a list or a mapping")
        key = self._node(event, at, depth)
        if not isinstance(key, str):
            raise self._error(event, "a key is a string: put it in quotes")
        return key

    def _scalar(self, event: yaml.ScalarEvent) -> Json:
        if event.tag is not None:
            raise self._error(event, "tags are not taken: put a text that begins with ! in quotes")
        text: str = event.value
        if not event.implicit[0]:
            return text
        if text in _NULLS:
            return None
        if text in _BOOLS:
            return _BOOLS[text]
        if text in _NOT_FINITE:
            raise self._error(event, "a number is finite: .nan and .inf are not taken")
        return self._number(event, text) if text[0] in "+-.0123456789" else text

    def _number(self, event: yaml.ScalarEvent, text: str) -> Json:
        if _INTEGER.fullmatch(text):
            return int(text)
        if _OTHER_BASE.fullmatch(text):
            return int(text, 0)
        if _FLOAT.fullmatch(text):
            number = float(text)
            if len(text) > 100 or not math.isfinite(number):
                raise self._error(event, "a number too large: put it in quotes if it is text")
            return number
        return text

    def _error(self, event: yaml.Event, sentence: str) -> SpecError:
        return SpecError(self._file, *_start(event), sentence)


def _start(event: yaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    return (1, 1) if mark is None else (mark.line + 1, mark.column + 1)
