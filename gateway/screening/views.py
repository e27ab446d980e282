"""Decoded views of a text (screening step S3): base64, hex, percent, HTML entities, backslash escapes, two levels deep.

Views are searched for secrets and by rules; they are never shown. Each maps its offsets back to the text it came from.
Bounds: two levels, 20 encoded pieces that turn out to be text, 64 Ki characters decoded; beyond them it says so.
"""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.entities import html5

from gateway import regex
from gateway.screening.canonical import comparable, unescaped

DEPTH = 2
MAX_BLOBS = 20
MAX_DECODED = 64 * 1024

Span = tuple[int, int]
Place = Callable[[int, int], Span]


@dataclass(frozen=True, slots=True)
class View:
    """A text drawn from another one, piece by piece: `starts[i]` is where the piece that came from `sources[i]` begins.

    A piece as long as its source was copied, any other was decoded and maps as a whole.
    """

    text: str
    starts: list[int]
    sources: list[Span]

    def place(self, start: int, end: int) -> Span:
        """The span of the source that `text[start:end]` came from; `start < end`."""
        first = bisect_right(self.starts, start) - 1
        last = bisect_right(self.starts, end - 1) - 1
        begin, finish = self.sources[first][0], self.sources[last][1]
        if self._copied(first):
            begin += start - self.starts[first]
        if self._copied(last):
            finish = self.sources[last][0] + end - self.starts[last]
        return begin, finish

    def _copied(self, piece: int) -> bool:
        after = self.starts[piece + 1] if piece + 1 < len(self.starts) else len(self.text)
        begin, finish = self.sources[piece]
        return after - self.starts[piece] == finish - begin


@dataclass(frozen=True, slots=True)
class Views:
    """What could be decoded: texts with the way back, and whether a bound left something undecoded."""

    found: tuple[tuple[str, Place], ...] = ()
    complete: bool = True


NONE = Views()


def views(text: str) -> Views:
    """All views of a well-formed text. One scan when nothing in it is encoded."""
    if not _may_hold(text):
        return NONE
    budget = _Budget()
    found: list[tuple[str, Place]] = []
    seen = {(text, (0, len(text)))}
    level: list[tuple[str, Place]] = [(text, _same)]
    for _ in range(DEPTH):
        below: list[tuple[str, Place]] = []
        for source, place in level:
            for view in _decoded(source, budget):
                through = _through(view, place)
                known = (view.text, through(0, len(view.text)))
                if known not in seen:
                    seen.add(known)
                    below.append((view.text, through))
        found += below
        level = below
    return Views(tuple(found), budget.complete)


def squeezed(text: str) -> str:
    """The text without white space, quotes, commas, plus signs, backslashes and field separators."""
    return _unbroken(text).encode().translate(None, _SQUEEZED).decode()


def squeezed_view(text: str) -> View:
    """`squeezed(text)` with the way back."""
    text = _unbroken(text)
    return _assemble((span, text[slice(*span)]) for span in _KEPT.finditer(text))


def _unbroken(text: str) -> str:
    # Escaped line feeds and tabs of JSON or source code split words too; the length stays.
    if "\\" in text:
        for escaped in ("\\n", "\\r", "\\t"):
            text = text.replace(escaped, "  ")
    return text


def compared_view(text: str) -> View | None:
    """`comparable(text)` with the way back; None in the rare case that letters there depend on their neighbours."""
    plain = unescaped(text)
    folded = {char: comparable(char) for char in set(plain)}
    view = _assemble(((at, at + 1), folded[char]) for at, char in enumerate(plain))
    return view if view.text == comparable(text) else None


_SQUEEZED = b" \t\n\r\x00\"'`,+\\"
_KEPT = regex.compile(r"[^ \t\n\r\x00\"'`,+\\]+")

# Encoders break lines at 64 or 76 characters.
_BLOB = regex.compile(r"(?:[A-Za-z0-9+/_-]{60,}\n)*[A-Za-z0-9+/_-]{20,}")
_HEX = regex.compile(r"(?:[0-9A-Fa-f]{2})+")
_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")
_ENTITY_NAME = 32
_TEXT = bytes([9, 10, 13, *range(32, 127)])


class _Budget:
    """What is left of the bounds."""

    def __init__(self) -> None:
        self.blobs = MAX_BLOBS
        self.characters = MAX_DECODED
        self.complete = True
        self._known: dict[str, str] = {}

    def take(self, characters: int) -> bool:
        self.characters -= characters
        self.complete = self.complete and self.characters >= 0
        return self.complete

    def blob(self, run: str) -> str:
        """What an encoded run says; one seen before is free, so that repeating it hides nothing."""
        if run not in self._known and self.complete:
            decoded = _blob(run)
            if decoded:
                self.blobs -= 1
                self.complete = self.blobs >= 0
                self.take(len(decoded))
            self._known[run] = decoded if self.complete else ""
        return self._known.get(run, "")


def _may_hold(text: str) -> bool:
    return any(mark in text for mark, _ in _ESCAPES) or _BLOB.search(text) is not None


def _same(start: int, end: int) -> Span:
    return start, end


def _through(view: View, place: Place) -> Place:
    return lambda start, end: place(*view.place(start, end))


def _decoded(text: str, budget: _Budget) -> Iterator[View]:
    pieces = sorted(piece for mark, decode in _ESCAPES for piece in _escapes(text, mark, decode, budget))
    if pieces:
        yield _assemble(_filled(text, pieces))
    for start, end in _BLOB.finditer(text):
        if decoded := budget.blob(text[start:end]):
            yield View(decoded, [0], [(start, end)])


def _escapes(
    text: str, mark: str, decode: Callable[[str, int], tuple[int, str]], budget: _Budget
) -> Iterator[tuple[Span, str]]:
    at = text.find(mark)
    while at >= 0:
        end, decoded = decode(text, at)
        if decoded:
            if not budget.take(len(decoded)):
                return
            yield (at, end), decoded
        at = text.find(mark, end)


def _filled(text: str, pieces: list[tuple[Span, str]]) -> Iterator[tuple[Span, str]]:
    at = 0
    for (start, end), decoded in pieces:
        if at < start:
            yield (at, start), text[at:start]
        yield (start, end), decoded
        at = end
    if at < len(text):
        yield (at, len(text)), text[at:]


def _assemble(pieces: Iterator[tuple[Span, str]]) -> View:
    texts: list[str] = []
    starts: list[int] = []
    sources: list[Span] = []
    at = 0
    for source, piece in pieces:
        texts.append(piece)
        starts.append(at)
        sources.append(source)
        at += len(piece)
    return View("".join(texts), starts, sources)


def _blob(run: str) -> str:
    """What a run of the base64 alphabet says, when that is text; else ""."""
    run = run.replace("\n", "")
    if len(run) % 2 == 0 and _HEX.fullmatch(run):
        return _as_text(bytes.fromhex(run))
    run = run.replace("-", "+").replace("_", "/")
    run = run[: len(run) - 1] if len(run) % 4 == 1 else run
    try:
        return _as_text(base64.b64decode(run + "=" * (-len(run) % 4)))
    except binascii.Error:
        return ""


def _as_text(raw: bytes) -> str:
    text = raw.decode(errors="replace")
    mostly_ascii = len(raw.translate(None, _TEXT)) * 5 <= len(raw)
    return text if mostly_ascii or ("\ufffd" not in text and text.isprintable()) else ""


def _percent(text: str, at: int) -> tuple[int, str]:
    end = at
    while text.startswith("%", end) and len(digits := text[end + 1 : end + 3]) == 2 and _HEX_DIGITS.issuperset(digits):
        end += 3
    if end == at:
        return at + 1, ""
    return end, bytes.fromhex(text[at:end].replace("%", "")).decode(errors="replace")


def _byte(text: str, at: int) -> tuple[int, str]:
    digits = text[at + 2 : at + 4]
    return (at + 4, chr(int(digits, 16))) if len(digits) == 2 and _HEX_DIGITS.issuperset(digits) else (at + 2, "")


def _unit(text: str, at: int) -> tuple[int, str]:
    digits = text[at + 2 : at + 6]
    whole = len(digits) == 4 and _HEX_DIGITS.issuperset(digits)
    return (at + 6, _character(int(digits, 16))) if whole else (at + 2, "")


def _entity(text: str, at: int) -> tuple[int, str]:
    end = text.find(";", at, at + _ENTITY_NAME) + 1
    name = text[at + 1 : end]
    if not name.startswith("#"):
        decoded = html5.get(name, "")
    elif name[1:2] in ("x", "X") and _HEX_DIGITS.issuperset(name[2:-1]) and 3 < len(name) < 10:
        decoded = _character(int(name[2:-1], 16))
    elif name[1:-1].isdecimal() and name.isascii() and len(name) < 10:
        decoded = _character(int(name[1:-1]))
    else:
        decoded = ""
    return (end, decoded) if decoded else (at + 1, "")


def _character(code: int) -> str:
    return chr(code) if code < 0x110000 and not 0xD800 <= code < 0xE000 else "\ufffd"


_ESCAPES: tuple[tuple[str, Callable[[str, int], tuple[int, str]]], ...] = (
    ("%", _percent),
    ("&", _entity),
    ("\\x", _byte),
    ("\\u", _unit),
)
