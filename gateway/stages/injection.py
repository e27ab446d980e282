"""What is done about injection in a result: marked, taken out or held back, as much as policy asks and never less.

A hit that holds a result back by itself (HIGH) always does. What `redact` cannot take out exactly, it holds back. It
never shows what it held back.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.model import Finding
from gateway.obligations import Injection
from gateway.screening import rules
from gateway.screening.canonical import canonical, comparable
from gateway.screening.pieces import Hit, taken_out
from gateway.screening.views import Place, Span, Views, compared_view, views
from gateway.stages.draft import Draft, placed, starts

REMOVED = "[removed]"
# Words that leave nothing in a result that rules have a hit in, however weak.
STRICT: tuple[Injection, ...] = ("redact", "quarantine", "block")


@dataclass(slots=True)
class _Seen:
    """What was found in a draft: the highest score, and findings in the order they came."""

    spelled: bool
    complete: bool
    best: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def doubtful(self) -> bool:
        return self.best >= rules.ANNOTATE or self.spelled or not self.complete


def judge(draft: Draft, decoded: Views, known: rules.RuleSet, spelled: str, wanted: Injection | None) -> None:
    """Notes what rules find in a draft, and does what is `wanted` about it. `decoded` are the views of its strings.

    `spelled` is what invisible characters of the text spelled.
    """
    seen = _look(draft, draft.joined, decoded, known, spelled)
    draft.suspicious = seen.doubtful
    draft.withheld = seen.best >= rules.HIGH
    if wanted in STRICT and seen.doubtful and not draft.withheld:
        if wanted == "redact" and not spelled and decoded.complete and _take_out(draft, decoded, known):
            return
        draft.withheld = True
    if draft.withheld and wanted in STRICT:
        held = "block" if wanted == "block" else "quarantine"
        seen.findings = [Finding(each.stage, each.rule, held) for each in seen.findings]
    draft.findings += seen.findings


def _look(draft: Draft, joined: str, decoded: Views, known: rules.RuleSet, spelled: str) -> _Seen:
    """What rules find in the strings of a draft, or in what they may become."""
    seen = _Seen(bool(spelled), decoded.complete)
    shown = comparable(joined)
    hits = known.search(shown, "text", "keys")
    if hits:
        _look_at_shown(draft, hits, shown, seen, exact=joined.isascii())
    for text in dict.fromkeys((*(text for text, _ in decoded.found), *([spelled] if spelled else ()))):
        _look_at_view(text, known, seen)
    if spelled:
        seen.findings.append(Finding("S1", "hidden.message", "annotate"))
    if not decoded.complete:
        seen.findings.append(Finding("S3", "views.incomplete", "annotate"))
    return seen


def _look_at_shown(draft: Draft, hits: list[rules.Hit], shown: str, seen: _Seen, *, exact: bool) -> None:
    """Hits in the joined strings, by field; `exact` when their places are those of the strings."""
    field_of = _field_in(shown)
    hits = _applying(draft, hits, field_of)
    score = rules.score(hits, field_of)
    action = "quarantine" if score >= rules.HIGH else "annotate"
    if exact:
        seen.findings += placed([Finding("S5", hit.rule.id, action, span=(hit.start, hit.end)) for hit in hits], draft)
    else:
        seen.findings += [Finding("S5", hit.rule.id, action) for hit in hits]
    seen.best = max(seen.best, score)


def _look_at_view(text: str, known: rules.RuleSet, seen: _Seen) -> None:
    hits = known.search(comparable(canonical(text)), "views")
    score = rules.score(hits)
    action = "quarantine" if score >= rules.HIGH else "annotate"
    seen.findings += [Finding("S5", rule, action) for rule in dict.fromkeys(hit.rule.id for hit in hits)]
    seen.best = max(seen.best, score)


def _take_out(draft: Draft, decoded: Views, known: rules.RuleSet) -> bool:
    """Whether every hit could be taken out of the strings, so that nothing is left to find in them."""
    joined = draft.joined
    hits: list[Hit] = []
    for text, place, where in ((joined, _same, ("text", "keys")), *((*view, ("views",)) for view in decoded.found)):
        more = _places(draft, text, place, known, *where)
        if more is None:
            return False
        hits += more
    clean, found = taken_out(joined, hits, lambda _: REMOVED, lambda names: Finding("S5", min(names), "redact"))
    # What is left is read as it will be shown: what stood around a hit may be one now.
    if _look(draft, clean, views(clean), known, "").doubtful:
        return False
    draft.put(clean, found)
    return True


def _places(draft: Draft, text: str, place: Place, known: rules.RuleSet, *where: str) -> list[Hit] | None:
    """Hits in a text, as pieces of the joined strings; None where a place cannot be told."""
    shown = comparable(text)
    hits = known.search(shown, *where)
    if "text" in where:
        hits = _applying(draft, hits, _field_in(shown))
    if not hits:
        return []
    back = compared_view(text)
    if back is None:
        return None
    return [Hit(*place(*back.place(hit.start, hit.end)), hit.rule.id) for hit in hits]


def _same(start: int, end: int) -> Span:
    return start, end


def _applying(draft: Draft, hits: list[rules.Hit], field_of: Callable[[int], int]) -> list[rules.Hit]:
    """Those whose rules are for the field they stand in: for keys, or for any other text."""
    return [hit for hit in hits if ("keys" if draft.is_key(field_of(hit.start)) else "text") in hit.rule.applies]


def _field_in(joined: str) -> Callable[[int], int]:
    at = starts(joined)
    return lambda start: bisect_right(at, start) - 1
