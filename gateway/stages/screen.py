"""Stage 9: a tool's result becomes the one thing that may reach a model. The only maker of `SafeOutput`.

Whatever came back goes the same way: text, structured output with its keys, and the failure's own words. It never
shows what it held back, nor the rule that held it back: agents read errors, and attackers read agents.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from gateway.model import Finding, Intent, RawOutput, SafeOutput, Verdict
from gateway.ports import Artifacts
from gateway.problems import problem
from gateway.screening import Screener, Shown, values
from gateway.screening.canonical import canonical, hidden, is_plain, well_formed
from gateway.screening.leaves import Leaves, NotJson, gather
from gateway.screening.scrub import scrubbed
from gateway.screening.secrets import IssuedSecrets
from gateway.screening.views import Views, views
from gateway.stages.draft import OWN, Draft
from gateway.stages.injection import judge as judge_injection
from gateway.stages.inputs import labels_of
from gateway.stages.keep import STRUCTURED_CUT, SUSPICIOUS, TEXT_CUT, judge, keep, leaves_something
from gateway.tool import Tool

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


async def screen(raw: RawOutput, intent: Intent, screener: Screener, artifacts: Artifacts) -> SafeOutput:
    """The result of one call, screened; a large one in a thread, so that other calls go on meanwhile.

    What it leaves behind is kept as artifacts, whose labels are labels of the result too. A result on record that is
    shown again stays as it was.
    """
    if len(raw.text) <= _APART:
        safe = screened(raw, intent, screener)
    else:
        safe = await asyncio.to_thread(screened, raw, intent, screener)
    if screener.shown is not None:
        return _again(screener.shown, safe)
    if not leaves_something(raw, safe):
        return safe
    pieces = await asyncio.to_thread(judge, raw, safe, intent, screener)
    kept = await keep(pieces, artifacts)
    findings = [*safe.verdict.findings, *pieces.findings]
    labels = safe.verdict.labels.union(*(artifact.labels for artifact in kept))
    return replace(safe, verdict=Verdict(_strongest(findings), labels, tuple(findings)), artifacts=kept)


def _again(shown: Shown, safe: SafeOutput) -> SafeOutput:
    shown.now(safe)
    return SafeOutput(
        shown.text, shown.structured, shown.problem, shown.verdict, safe.raw, shown.truncated, shown.artifacts
    )


def screened(raw: RawOutput, intent: Intent, screener: Screener) -> SafeOutput:
    """The result of one call, screened. Never raises, whatever the tool gave; linear in the size of the result.

    A result over the tool's limit is cut; structured output over it is left out.
    """
    tool, asked = intent.call.tool, intent.obligations
    labels = tool.labels | asked.labels | raw.labels | labels_of(intent.call)
    limit = _limit(tool.output_limit, asked.output, intent.lease.taken.granted.get("bytes"))
    forms = screener.secrets
    try:
        draft = _draft(raw, tool, limit, forms, asked.redact)
    except _Blocked as blocked:
        findings = (Finding("S0", blocked.problem.code, "block"),)
        verdict = Verdict("block", labels, findings)
        return SafeOutput(blocked.problem.detail, None, blocked.problem, verdict, scrubbed(raw, forms))
    decoded = _redact(draft, forms, {use.name for use in tool.secrets}, asked.redact)
    judge_injection(draft, decoded, screener.rules, hidden(raw.text), asked.injection)
    _cut(draft, limit)
    if draft.suspicious:
        labels |= {SUSPICIOUS}
    if draft.withheld:
        # Places in a text that is not shown would only help to shape the next one.
        draft.findings = [replace(each, path="", span=None) for each in draft.findings]
    verdict = Verdict(_strongest(draft.findings), labels, tuple(draft.findings))
    if draft.leaky:
        raw = scrubbed(raw, forms)
    if draft.withheld:
        return SafeOutput(WITHHELD, None, problem("output_withheld", WITHHELD), verdict, raw)
    text, detail, advice = draft.strings[:OWN]
    failure = draft.failure and replace(draft.failure, detail=detail, advice=advice or None, fix=())
    return SafeOutput(text, draft.structured, failure, verdict, raw, draft.truncated)


def _limit(own: int, *others: int | None) -> int:
    """Bytes that may be shown: the least of what the tool, policy and budgets give."""
    return min(own, *(each for each in others if each is not None)) if any(each is not None for each in others) else own


def _draft(raw: RawOutput, tool: Tool, limit: int, forms: IssuedSecrets, kinds: frozenset[str]) -> Draft:
    text = well_formed(raw.text)
    if _size(text) > HARD_LIMIT:
        raise _Blocked("output_too_large", TOO_LARGE)
    if not _is_text(raw.content_type):
        raise _Blocked("output_invalid", NOT_TEXT)
    numbers = forms.numeric  # another thread may issue one meanwhile
    try:
        leaves = gather(raw.structured, numbers)
    except NotJson:
        raise _Blocked("output_invalid", INVALID) from None
    if leaves.size > HARD_LIMIT:
        raise _Blocked("output_too_large", TOO_LARGE)
    if raw.problem is None and tool.output_check is not None and tool.output_check.check(raw.structured):
        raise _Blocked("output_invalid", INVALID)
    failure, structured = raw.problem, raw.structured
    # What a secret needs stays until it was looked for: one that the limit cuts in two would pass.
    start = _first(text, limit + max(8 * forms.longest, values.LONGEST if kinds else 0))
    strings = [start, failure.detail if failure else ""]
    strings.append((failure.advice or "") if failure else "")
    truncated = raw.truncated
    if leaves.size > limit:
        structured, leaves, truncated = None, Leaves(), True
    strings += leaves.strings
    if not is_plain("".join(strings)):
        strings = [canonical(string) for string in strings]
    shortened = len(start) < len(text)
    draft = Draft(strings, structured, leaves, numbers, failure, truncated, shortened)
    draft.leaky = shortened or structured is not raw.structured
    if truncated and not raw.truncated:
        draft.findings.append(Finding("S0", STRUCTURED_CUT, "cut"))
    return draft


def _redact(draft: Draft, forms: IssuedSecrets, own_names: set[str], kinds: frozenset[str]) -> Views:
    """Takes secrets out of all strings at once, so that one split over two fields is found; gives the views left.

    `kinds` are the kinds of values that policy wants taken out besides.
    """
    joined = draft.joined
    decoded = views(joined)
    clean, found = forms.redact(joined, own_names, decoded)
    if found:
        draft.leaky = True
        draft.put(clean, found[:_MOST_FOUND])
        decoded = views(clean)
    else:
        draft.settle()
    if kinds:
        clean, found = values.redact(clean, kinds, decoded)
        if found:
            draft.put(clean, found[:_MOST_FOUND])
            decoded = views(clean)
    return decoded


def _cut(draft: Draft, limit: int) -> None:
    text = draft.strings[0]
    draft.strings[0] = _first(text, limit)
    if draft.shortened or len(draft.strings[0]) < len(text):
        draft.truncated = True
        draft.findings.append(Finding("S0", TEXT_CUT, "cut"))


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
