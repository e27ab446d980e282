"""Which of many strings stand in a text, in one pass over the text whose cost does not grow with their number.

Of each string, `STRIDE` neighbouring grams of eight bytes of UTF-8 are kept; of the text, the grams at every
`STRIDE`-th byte are looked up: wherever the string stands, one of its grams is met. A string that has a gram there is
then looked for as a whole, so that nothing is ever said of a text that does not hold it.
"""

from __future__ import annotations

from collections.abc import Iterator

_GRAM = 8  # bytes
STRIDE = 4  # bytes; divides _GRAM
_WINDOW = _GRAM + STRIDE - 1


class GramIndex:
    """Strings with names. Changed by one thread; another one may search meanwhile."""

    __slots__ = ("_grams", "_names", "_short")

    def __init__(self) -> None:
        self._names: dict[str, tuple[str, ...]] = {}
        self._grams: dict[int, tuple[str, ...]] = {}  # by gram, the strings that are looked for where it stands
        self._short: dict[str, None] = {}  # strings with too few bytes to have as many grams

    def add(self, string: str, name: str) -> None:
        """Adds a name of a string; it may have several, and the same one more than once."""
        known = self._names.get(string)
        if known is not None:
            self._names[string] = (*known, name)
            return
        self._names[string] = (name,)
        raw = string.encode()
        if len(raw) < _WINDOW:
            self._short[string] = None
            return
        # What a kind of credential begins or ends with alike tells none of them apart.
        places = (len(raw) - _WINDOW, (len(raw) - _WINDOW) // 2, 0)
        chosen = min((_window(raw, at) for at in places), key=self._crowd)
        alone = (string,)
        for gram in chosen:
            there = self._grams.get(gram)
            self._grams[gram] = alone if there is None else (*there, string)

    def discard(self, string: str, name: str) -> None:
        """Takes one name of a string away, and with its last one the string."""
        names = list(self._names[string])
        names.remove(name)
        if names:
            self._names[string] = tuple(names)
            return
        del self._names[string]
        if string in self._short:
            del self._short[string]
            return
        raw = string.encode()
        for at in (len(raw) - _WINDOW, (len(raw) - _WINDOW) // 2, 0):
            for gram in _window(raw, at):
                self._leave(gram, string)

    def within(self, text: str) -> dict[str, str]:
        """The strings that stand in a well-formed text, each with its first name."""
        found = [string for string in tuple(self._short) if string in text]
        met = list(self._met(text.encode()))
        candidates = dict.fromkeys(string for gram in met for string in self._grams.get(gram, ()))
        found += [string for string in candidates if string in text]
        named = ((string, self._names.get(string)) for string in found)
        return {string: names[0] for string, names in named if names}

    def _met(self, raw: bytes) -> Iterator[int]:
        """The grams of a text that are in the index. Looked up by the interpreter itself, not one by one."""
        known = self._grams.keys()
        for begin in range(0, _GRAM, STRIDE):
            grams = memoryview(raw[begin : begin + (len(raw) - begin) // _GRAM * _GRAM]).cast("Q")
            if not known.isdisjoint(grams):
                yield from (gram for gram in grams if gram in known)

    def _crowd(self, grams: tuple[int, ...]) -> int:
        return max(len(self._grams.get(gram, ())) for gram in grams)

    def _leave(self, gram: int, string: str) -> None:
        there = self._grams.get(gram, ())
        if string not in there:
            return
        left = tuple(each for each in there if each != string)
        if left:
            self._grams[gram] = left
        else:
            del self._grams[gram]


def _window(raw: bytes, at: int) -> tuple[int, ...]:
    return tuple(memoryview(raw[begin : begin + _GRAM]).cast("Q")[0] for begin in range(at, at + STRIDE))
