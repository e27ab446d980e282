"""A result on its way through screening: all its strings side by side, so that nothing depends on how it is cut up.

It never judges: it puts together what `screen.py` and `injection.py` changed, and says where things stand.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

from gateway.model import Finding, Problem
from gateway.screening.leaves import SEPARATOR, Leaves, pointer, rebuild
from gateway.tool import Json

OWN = 3  # strings before those of the structured output


@dataclass(slots=True)
class Draft:
    """`strings` are text, detail and advice of the failure, then the strings of the structured output.

    `given` is that output as it came, `leaves` its strings; `structured` is what it is by now.
    """

    strings: list[str]
    given: Json
    leaves: Leaves
    numbers: bool
    failure: Problem | None
    truncated: bool
    shortened: bool  # the text, by us
    structured: Json = None
    findings: list[Finding] = field(default_factory=list)
    suspicious: bool = False
    withheld: bool = False
    leaky: bool = False  # what came holds an issued secret, or was not searched whole

    @property
    def joined(self) -> str:
        """All strings as one text."""
        return SEPARATOR.join(self.strings)

    def put(self, joined: str, found: list[Finding]) -> None:
        """Takes the strings anew from a joined text, with what was done to it."""
        self.strings = joined.split(SEPARATOR)
        self.settle()
        self.findings += placed(found, self)

    def settle(self) -> None:
        """Makes the structured output of the strings as they are now."""
        if self.given is None or self.strings[OWN:] == self.leaves.strings:
            self.structured = self.given
        else:  # always of what came: names that became equal have fallen together in what was made before
            self.structured = rebuild(self.given, self.strings[OWN:], self.numbers)

    def is_key(self, number: int) -> bool:
        """Whether the string of that number is a key."""
        return number - OWN in self.leaves.keys


def placed(found: list[Finding], draft: Draft) -> list[Finding]:
    """Findings in the joined strings as findings in the field they stand in."""
    if not found:
        return []
    at = starts(draft.joined)
    there = []
    for each in found:
        start, end = each.span or (0, 0)
        number = bisect_right(at, start) - 1
        path = pointer(draft.structured, number - OWN, draft.numbers) if number >= OWN else ""
        span = start - at[number], end - at[number]
        there.append(Finding(each.stage, each.rule, each.action, path, span))
    return there


def starts(joined: str) -> list[int]:
    """Where each field of joined strings begins."""
    found = [0]
    while (at := joined.find(SEPARATOR, found[-1])) >= 0:
        found.append(at + len(SEPARATOR))
    return found
