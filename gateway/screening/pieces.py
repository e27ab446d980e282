"""Pieces of a text and what stands in their place once they are taken out. It never decides which pieces go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from gateway.model import Finding
from gateway.screening.leaves import SEPARATOR


@dataclass(frozen=True, slots=True)
class Hit:
    """One piece found: where in the text that was searched, and the name of what it is."""

    start: int
    end: int
    name: str


def taken_out(
    text: str, hits: Iterable[Hit], mark_of: Callable[[set[str]], str], finding_of: Callable[[set[str]], Finding]
) -> tuple[str, list[Finding]]:
    """The text with a mark in the place of each hit, those that overlap as one, and one finding for each mark.

    Both are made of the names of the hits. Spans count characters of the text returned.
    """
    out: list[str] = []
    findings: list[Finding] = []
    at = length = 0
    for start, end, names in _merged(sorted(hits, key=lambda hit: (hit.start, -hit.end))):
        # Fields stay as many as they were, so that structured output can be put together again.
        mark = SEPARATOR.join([mark_of(names)] * (1 + text.count(SEPARATOR, start, end)))
        out += (text[at:start], mark)
        length += start - at + len(mark)
        found = finding_of(names)
        findings.append(Finding(found.stage, found.rule, found.action, span=(length - len(mark), length)))
        at = end
    return "".join(out) + text[at:], findings


def _merged(hits: list[Hit]) -> Iterator[tuple[int, int, set[str]]]:
    if not hits:
        return
    start, end, names = hits[0].start, hits[0].end, {hits[0].name}
    for hit in hits[1:]:
        if hit.start >= end:
            yield start, end, names
            start, end, names = hit.start, hit.end, {hit.name}
        else:
            end = max(end, hit.end)
            names.add(hit.name)
    yield start, end, names
