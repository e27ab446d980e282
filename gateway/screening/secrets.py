"""Exact-match redaction of issued credentials (screening step S4): every secret the vault gave out, in every form.

Forms: as it is; base64 at its three alignments, both alphabets; hex; percent-encoded in full or where reserved;
JSON- and `\\x`-escaped; reversed. Each is looked for with white space, quotes, commas, plus signs and backslashes taken
out of text and form alike, so a split one is found, and in the decoded views of the text. It never guesses: what is
not the whole of an issued secret stays.

Sessions hold credentials of their own, so there may be many thousands: a gram index finds which forms a text may
hold, at a cost that does not grow with their number, and adding one costs what its own forms cost.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from urllib.parse import quote, quote_plus

from gateway.model import Finding
from gateway.screening.canonical import canonical, well_formed
from gateway.screening.grams import GramIndex
from gateway.screening.pieces import Hit, taken_out
from gateway.screening.views import Span, Views, squeezed, squeezed_view, views

MIN_PLAIN = 4  # characters, squeezed: a shorter one would be found in any text
MIN_ENCODED = 8


class IssuedSecrets:
    """What was given out by now, and is looked for. It shows a value to nobody but who put it in.

    Changed by one thread; a text may be searched in another one meanwhile.
    """

    __slots__ = ("_forms", "_numeric", "_values", "longest")

    def __init__(self, issued: Mapping[str, str] = MappingProxyType({})) -> None:
        """`issued`: values by name."""
        self._values: dict[str, str] = {}
        self._forms = GramIndex()
        self._numeric = 0
        self.longest = 0  # characters of the longest form there ever was
        for name, value in issued.items():
            self.add(name, value)

    def add(self, name: str, value: str) -> None:
        """Looks for it from now on. A value that is known keeps its first name."""
        if value in self._values:
            return
        self._values[value] = name
        self._numeric += value.strip().isdigit()
        for form in _forms(well_formed(value)):
            self._forms.add(form, name)
            self.longest = max(self.longest, len(form))

    def discard(self, value: str) -> None:
        """Looks for it no more."""
        name = self._values.pop(value, None)
        if name is None:
            return
        self._numeric -= value.strip().isdigit()
        for form in _forms(well_formed(value)):
            self._forms.discard(form, name)

    @property
    def names(self) -> Mapping[str, str]:
        """The name of each value."""
        return MappingProxyType(self._values)

    @property
    def numeric(self) -> bool:
        """Whether one could stand in JSON as a number."""
        return self._numeric > 0

    def __len__(self) -> int:
        return len(self._values)

    def occur(self, raw: bytes) -> bool:
        """Whether bytes of any kind hold an issued secret in one of its forms: as UTF-8, UTF-16 or UTF-32.

        Not in encodings of the bytes as a whole: what is compressed or encrypted is not found.
        """
        if not self._values:
            return False
        # Without NUL, letters of wider ones stand side by side.
        return bool(self._forms.within(squeezed(raw.replace(b"\0", b"").decode("latin-1"))))

    def redact(
        self, text: str, own_names: Collection[str] = (), decoded: Views | None = None
    ) -> tuple[str, list[Finding]]:
        """The canonical `text` without any issued secret, and one finding for each place.

        A secret in `own_names` becomes `[redacted:name]`, any other `[redacted]`: its name would confirm a guess.
        `decoded` are the views of `text`, when they are known. Spans count characters of the text returned.
        """
        if not self._values:
            return text, []
        hits = self._find(text, views(text) if decoded is None else decoded)
        if not hits:
            return text, []

        def mark(names: set[str]) -> str:
            name = next(iter(names)) if len(names) == 1 else ""
            return f"[redacted:{name}]" if name in own_names else "[redacted]"

        return taken_out(text, hits, mark, lambda names: Finding("S4", "secret.issued", "redact"))

    def _find(self, text: str, decoded: Views) -> list[Hit]:
        hits = self._find_in(text)
        for view, place in decoded.found:
            hits += [Hit(*place(hit.start, hit.end), hit.name) for hit in self._find_in(view)]
        return hits

    def _find_in(self, text: str) -> list[Hit]:
        text = well_formed(text)
        dense = squeezed(text)
        there = self._forms.within(dense)
        if not there:
            return []
        view = squeezed_view(text)
        return [Hit(*view.place(*span), name) for form, name in there.items() for span in _occurrences(dense, form)]


def _forms(value: str) -> Iterator[str]:
    """The squeezed forms of one secret that are long enough to be looked for."""
    for plain in dict.fromkeys((value, canonical(value), value[::-1])):
        if len(dense := squeezed(plain)) >= MIN_PLAIN:
            yield dense
    octets = value.encode().decode("latin-1")  # itself, when it is ASCII
    for encoded in (octets, *_base64(value.encode()), *_escaped(value)):
        if len(dense := squeezed(encoded)) >= MIN_ENCODED:
            yield dense


def _base64(raw: bytes) -> Iterator[str]:
    """The characters that stay the same whatever stands before and after (RFC 4648, both alphabets)."""
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + raw).decode().rstrip("=")
        first = (before * 8 + 5) // 6
        whole = (before + len(raw)) * 8 // 6
        yield encoded[first:whole]
        yield encoded[first:whole].replace("+", "-").replace("/", "_")


def _escaped(value: str) -> Iterator[str]:
    raw = value.encode()
    units = value.encode("utf-16-be").hex()
    per_byte = raw.hex()
    quoted = quote(value, safe="")
    for hexed, coded in ((per_byte, units), (per_byte.upper(), units.upper())):
        yield hexed
        yield "".join(f"%{pair}" for pair in _parts(hexed, 2))
        yield "".join(f"\\x{pair}" for pair in _parts(hexed, 2))
        yield "".join(f"\\u{four}" for four in _parts(coded, 4))
    yield quoted
    yield _lower_escapes(quoted)
    yield quote_plus(value)
    yield quote(value)
    yield json.dumps(value)[1:-1]


def _lower_escapes(quoted: str) -> str:
    first, *rest = quoted.split("%")
    return "%".join([first, *(part[:2].lower() + part[2:] for part in rest)])


def _parts(text: str, size: int) -> Iterator[str]:
    return (text[at : at + size] for at in range(0, len(text), size))


def _occurrences(text: str, form: str) -> Iterator[Span]:
    at = text.find(form)
    while at >= 0:
        yield at, at + len(form)
        at = text.find(form, at + len(form))
