"""Linear-time patterns: the only importer of google-re2. Python's own `re` never sees untrusted text.

RE2 syntax: no look-around and no back-references (refused when compiled), flags inline as in `(?i)`. Every match takes
time linear in the text. Offsets are those of the `str` that was searched (characters, not bytes).

It never searches text that is not valid Unicode: a lone surrogate raises UnicodeEncodeError.
"""

from collections.abc import Iterator

import re2  # type: ignore[import-untyped]  # google-re2 ships no types

MAX_PATTERN_CHARS = 4096


class BadPattern(ValueError):
    """A pattern that RE2 does not take; `reason` is RE2's own short sentence and may quote the pattern."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Pattern:
    """One compiled pattern. Made by `compile`."""

    __slots__ = ("_found", "source")

    def __init__(self, source: str) -> None:
        """Raises BadPattern."""
        if len(source) > MAX_PATTERN_CHARS:
            raise BadPattern(f"longer than {MAX_PATTERN_CHARS} characters")
        self.source = source
        try:
            self._found = re2.compile(source, options=_options())
        except re2.error as error:
            raise BadPattern(_reason(error)) from None
        except UnicodeEncodeError:
            raise BadPattern("not valid Unicode") from None

    def search(self, text: str) -> tuple[int, int] | None:
        """The first match as (start, end), end exclusive."""
        return _span(self._found.search(text))

    def fullmatch(self, text: str) -> tuple[int, int] | None:
        """(0, len(text)) when the whole text matches."""
        return _span(self._found.fullmatch(text))

    def finditer(self, text: str) -> Iterator[tuple[int, int]]:
        """All matches that do not overlap, left to right, as (start, end)."""
        return (match.span() for match in self._found.finditer(text))


class PatternSet:
    """Many patterns, one pass: says which of them occur anywhere in a text, not where."""

    __slots__ = ("_compiled", "_set", "_size")

    def __init__(self) -> None:
        options = _options()
        # A set has no slower engine to fall back on: short of memory it would say "no match".
        options.max_mem = 64 << 20
        self._set = re2.Set.SearchSet(options)
        self._size = 0
        self._compiled = False

    def add(self, pattern: str) -> int:
        """Its number, counted from 0. Raises BadPattern; RuntimeError once compiled."""
        if self._compiled:
            raise RuntimeError("the set is compiled; make a new one to add patterns")
        Pattern(pattern)
        self._set.Add(pattern)
        self._size += 1
        return self._size - 1

    def compile(self) -> None:
        """Once, after the last `add` and before the first `match`."""
        self._set.Compile()
        self._compiled = True

    def match(self, text: str) -> list[int]:
        """The numbers of the patterns that occur in the text, ascending."""
        if not self._compiled:
            raise RuntimeError("the set is not compiled")
        return sorted(self._set.Match(text) or ()) if self._size else []


def compile(pattern: str) -> Pattern:
    """Raises BadPattern."""
    return Pattern(pattern)


def _options() -> re2.Options:
    options = re2.Options()
    # RE2 would write the pattern to stderr.
    options.log_errors = False
    return options


def _reason(error: Exception) -> str:
    first = error.args[0] if error.args else "not a pattern"
    return first.decode(errors="replace") if isinstance(first, bytes) else str(first)


def _span(match: re2._Match | None) -> tuple[int, int] | None:
    return None if match is None else match.span()
