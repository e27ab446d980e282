"""Stage 9: a tool's result becomes the one thing that may reach a model. The only maker of `SafeOutput`.

Whatever came back goes the same way: text, structured output with its keys, and the failure's own words. It never
shows what it held back, nor the rule that held it back: agents read errors, and attackers read agents.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from dataclasses import dataclass, field, replace

from gateway.model import Finding, Intent, Problem, RawOutput, SafeOutput, Verdict
from gateway.ports import Artifacts
from gateway.problems import problem
from gateway.screening import Screener, rules
from gateway.screening.canonical import canonical, comparable, hidden, is_plain, well_formed
from gateway.screening.leaves import SEPARATOR, Leaves, NotJson, gather, pointer, rebuild
from gateway.screening.secrets import SecretForms
from gateway.screening.views import Views, views
from gateway.stages.inputs import labels_of
from gateway.stages.keep import STRUCTURED_CUT, SUSPICIOUS, TEXT_CUT, judge, keep, leaves_something
from gateway.tool import Json, Tool

HARD_LIMIT = 2 * 1024 * 1024  # bytes
_MOST_FOUND = 128  # secrets told of, as of rules; all are taken out
_APART = 64 * 1024  # characters
WITHHELD = "The tool ran, but its result was withheld because it tries to instruct the reader."
TOO_LARGE = "The tool ran, but its result is larger than 2 MiB and was not kept."
INVALID = "The tool ran, but its result does not have the declared form."
NOT_TEXT = "The tool ran, but its result is not text or JSON."

_ORDER = ("allow", "annotate", "redact", "cut", "quarantine", "block")


class _Blocked(Exception):
    """The result breaks its spec: nothing of it may be shown."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(code)
        self.problem = problem(code, sentence)


@dataclass(slots=True)
class _Draft:
    """A result on its way: `strings` are text, detail and advice of the failure, then the strings of `structured`."""

    strings: list[str]
    structured: Json
    leaves: Leaves
    numbers: bool
    failure: Problem | None
    truncated: bool
    shortened: bool  # the text, by us
    findings: list[Finding] = field(default_factory=list)
    suspicious: bool = False
    withheld: bool = False


_OWN = 3  # strings before those of the structured output


async def screen(raw: RawOutput, intent: Intent, screener: Screener, artifacts: Artifacts) -> SafeOutput:
    """The result of one call, screened; a large one in a thread, so that other calls go on meanwhile.

    What it leaves behind is kept as artifacts, whose labels are labels of the result too.
    """
    if len(raw.text) <= _APART:
        safe = screened(raw, intent, screener)
    else:
        safe = await asyncio.to_thread(screened, raw, intent, screener)
    if not leaves_something(raw, safe):
        return safe
    pieces = await asyncio.to_thread(judge, raw, safe, intent, screener)
    kept = await keep(pieces, artifacts)
    findings = [*safe.verdict.findings, *pieces.findings]
    labels = safe.verdict.labels.union(*(artifact.labels for artifact in kept))
    return replace(safe, verdict=Verdict(_strongest(findings), labels, tuple(findings)), artifacts=kept)


def screened(raw: RawOutput, intent: Intent, screener: Screener) -> SafeOutput:
    """The result of one call, screened. Never raises, whatever the tool gave; linear in the size of the result.

    A result over the tool's limit is cut; structured output over it is left out.
    """
    tool, asked = intent.call.tool, intent.obligations
    labels = tool.labels | asked.labels | raw.labels | labels_of(intent.call)
    limit = tool.output_limit if asked.output is None else min(tool.output_limit, asked.output)
    forms = screener.secrets()
    try:
        draft = _draft(raw, tool, limit, forms)
    except _Blocked as blocked:
        findings = (Finding("S0", blocked.problem.code, "block"),)
        return SafeOutput(blocked.problem.detail, None, blocked.problem, Verdict("block", labels, findings), raw)
    decoded = _redact(draft, forms, {use.name for use in tool.secrets})
    _judge(draft, decoded, screener.rules, hidden(raw.text))
    _cut(draft, limit)
    if draft.suspicious:
        labels |= {SUSPICIOUS}
    if draft.withheld:
        # Places in a text that is not shown would only help to shape the next one.
        draft.findings = [replace(each, path="", span=None) for each in draft.findings]
    verdict = Verdict(_strongest(draft.findings), labels, tuple(draft.findings))
    if draft.withheld:
        return SafeOutput(WITHHELD, None, problem("output_withheld", WITHHELD), verdict, raw)
    text, detail, advice = draft.strings[:_OWN]
    failure = draft.failure and replace(draft.failure, detail=detail, advice=advice or None, fix=())
    return SafeOutput(text, draft.structured, failure, verdict, raw, draft.truncated)


def _draft(raw: RawOutput, tool: Tool, limit: int, forms: SecretForms) -> _Draft:
    text = well_formed(raw.text)
    if _size(text) > HARD_LIMIT:
        raise _Blocked("output_too_large", TOO_LARGE)
    if not _is_text(raw.content_type):
        raise _Blocked("output_invalid", NOT_TEXT)
    try:
        leaves = gather(raw.structured, forms.numeric)
    except NotJson:
        raise _Blocked("output_invalid", INVALID) from None
    if leaves.size > HARD_LIMIT:
        raise _Blocked("output_too_large", TOO_LARGE)
    if raw.problem is None and tool.output_check is not None and tool.output_check.check(raw.structured):
        raise _Blocked("output_invalid", INVALID)
    failure, structured = raw.problem, raw.structured
    # What a secret needs stays until it was looked for: one that the limit cuts in two would pass.
    start = _first(text, limit + 8 * forms.longest)
    strings = [start, failure.detail if failure else ""]
    strings.append((failure.advice or "") if failure else "")
    truncated = raw.truncated
    if leaves.size > limit:
        structured, leaves, truncated = None, Leaves(), True
    strings += leaves.strings
    if not is_plain("".join(strings)):
        strings = [canonical(string) for string in strings]
    draft = _Draft(strings, structured, leaves, forms.numeric, failure, truncated, len(start) < len(text))
    if truncated and not raw.truncated:
        draft.findings.append(Finding("S0", STRUCTURED_CUT, "cut"))
    return draft


def _redact(draft: _Draft, forms: SecretForms, own_names: set[str]) -> Views:
    """Takes secrets out of all strings at once, so that one split over two fields is found; gives the views left."""
    joined = SEPARATOR.join(draft.strings)
    decoded = views(joined)
    clean, found = forms.redact(joined, own_names, decoded)
    if found:
        draft.strings = clean.split(SEPARATOR)
        decoded = views(clean)
    if draft.structured is not None and (found or draft.strings[_OWN:] != draft.leaves.strings):
        draft.structured = rebuild(draft.structured, draft.strings[_OWN:], draft.numbers)
    draft.findings += _placed(found[:_MOST_FOUND], draft)
    return decoded


def _judge(draft: _Draft, decoded: Views, known: rules.RuleSet, spelled: str) -> None:
    joined = SEPARATOR.join(draft.strings)
    shown = comparable(joined)
    hits = known.search(shown, "text", "keys")
    best = _judge_shown(draft, hits, shown, exact=shown is joined) if hits else 0
    for text in dict.fromkeys((*(text for text, _ in decoded.found), *([spelled] if spelled else ()))):
        best = max(best, _judge_view(draft, text, known))
    if spelled:
        draft.findings.append(Finding("S1", "hidden.message", "annotate"))
    if not decoded.complete:
        draft.findings.append(Finding("S3", "views.incomplete", "annotate"))
    draft.suspicious = best >= rules.ANNOTATE or bool(spelled) or not decoded.complete
    draft.withheld = best >= rules.HIGH


def _judge_shown(draft: _Draft, hits: list[rules.Hit], shown: str, *, exact: bool) -> int:
    """The score of hits in the joined strings, by field; `exact` when their places are those of the strings."""
    starts = _starts(shown)

    def field_of(start: int) -> int:
        return bisect_right(starts, start) - 1

    def applies(hit: rules.Hit) -> bool:
        return ("keys" if field_of(hit.start) - _OWN in draft.leaves.keys else "text") in hit.rule.applies

    hits = [hit for hit in hits if applies(hit)]
    best = rules.score(hits, field_of)
    action = "quarantine" if best >= rules.HIGH else "annotate"
    spans = [Finding("S5", hit.rule.id, action, span=(hit.start, hit.end)) for hit in hits]
    draft.findings += _placed(spans, draft) if exact else [replace(each, span=None) for each in spans]
    return best


def _judge_view(draft: _Draft, text: str, known: rules.RuleSet) -> int:
    hits = known.search(comparable(canonical(text)), "views")
    best = rules.score(hits)
    action = "quarantine" if best >= rules.HIGH else "annotate"
    draft.findings += [Finding("S5", rule, action) for rule in dict.fromkeys(hit.rule.id for hit in hits)]
    return best


def _cut(draft: _Draft, limit: int) -> None:
    text = draft.strings[0]
    draft.strings[0] = _first(text, limit)
    if draft.shortened or len(draft.strings[0]) < len(text):
        draft.truncated = True
        draft.findings.append(Finding("S0", TEXT_CUT, "cut"))


def _placed(found: list[Finding], draft: _Draft) -> list[Finding]:
    """Findings in the joined strings as findings in the field they stand in."""
    if not found:
        return []
    starts = _starts(SEPARATOR.join(draft.strings))
    placed = []
    for each in found:
        start, end = each.span or (0, 0)
        number = bisect_right(starts, start) - 1
        path = pointer(draft.structured, number - _OWN, draft.numbers) if number >= _OWN else ""
        placed.append(replace(each, path=path, span=(start - starts[number], end - starts[number])))
    return placed


def _starts(joined: str) -> list[int]:
    starts = [0]
    while (at := joined.find(SEPARATOR, starts[-1])) >= 0:
        starts.append(at + len(SEPARATOR))
    return starts


def _is_text(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind.startswith("text/") or kind == "application/json" or kind.endswith("+json")


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _first(text: str, limit: int) -> str:
    """As much of the text as fits `limit` bytes of UTF-8, cut between characters."""
    if len(text) * 4 <= limit or _size(text) <= limit:
        return text
    return text.encode()[: max(limit, 0)].decode(errors="ignore")


def _strongest(findings: list[Finding]) -> str:
    return max((each.action for each in findings), key=_ORDER.index, default="allow")
