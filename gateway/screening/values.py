"""Values of well-known forms (screening step S4): e-mail addresses, and credentials that their form gives away.

Found as they are, in the decoded views of a text, and as key and value of JSON. Patterns are linear (RE2). It never
guesses from entropy alone: a value that is only random counts when something says that it is a password or a key. What
is split, reversed or in words ("ann at example dot org") is not found; secrets that the gateway issued are
(`secrets.py`), in every form.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from functools import lru_cache
from math import log2

from gateway import regex
from gateway.model import Finding
from gateway.screening.pieces import Hit, taken_out
from gateway.screening.views import Views

EMAIL, SECRET = "email", "secret"
LONGEST = 8 * 1024  # characters: of a longer value the cut of a long text may leave a part

_URL64 = "[A-Za-z0-9_-]"
_KEY = r"-----BEGIN (?:[A-Z0-9]+ ){0,4}PRIVATE KEY(?: BLOCK)?-----"
_BREAK = r"(?:\s|\\[nr]|[\"'+,\x00])*"
_TOKENS = (
    r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b",  # AWS
    r"gh[opsur]_[A-Za-z0-9]{36,255}",
    r"github_pat_[A-Za-z0-9_]{40,255}",
    rf"gl(?:pat|oas|ptt|dt|rt|cbt|ft|imt|agent|soat|ffct)-{_URL64}{{20,}}(?:\.{_URL64}+)*",  # GitLab
    r"xox[abeoprs]-[0-9]{8,}-[A-Za-z0-9-]{10,}",  # Slack, and the next three
    r"xoxe(?:\.xox[bp])?-[0-9]-[A-Za-z0-9]{50,}",
    r"xapp-[0-9]-[A-Z0-9]{8,}-[0-9]{8,}-[a-f0-9]{32,}",
    r"hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9+/]{40,}",
    r"[rs]k_(?:live|test)_[A-Za-z0-9]{16,}",  # Stripe, and the next
    r"whsec_[A-Za-z0-9+/=]{32,}",
    rf"AIza{_URL64}{{35}}",  # Google, and the next two
    rf"ya29\.{_URL64}{{20,}}",
    rf"GOCSPX-{_URL64}{{28}}",
    rf"sk-(?:proj|svcacct|admin)-{_URL64}{{40,}}",  # OpenAI, and the next
    r"\bsk-[A-Za-z0-9]{20}(?:T3BlbkFJ[A-Za-z0-9]{20}|[A-Za-z0-9]{28})\b",
    rf"sk-ant-[a-z0-9]+-{_URL64}{{40,}}",
    r"sk-or-v1-[0-9a-f]{64}",
    r"\bhf_[A-Za-z]{34}\b",
    r"npm_[A-Za-z0-9]{36}",
    rf"pypi-AgE{_URL64}{{50,}}",
    rf"SG\.{_URL64}{{22}}\.{_URL64}{{43}}",
    r"\bSK[0-9a-f]{32}\b",
    r"do[opr]_v1_[a-f0-9]{64}",
    r"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}",
    r"\bdapi[0-9a-f]{32}\b",
    rf"hv[bs]\.{_URL64}{{24,}}",
    rf"dckr_(?:pat|oat)_{_URL64}{{27,}}",
    r"ATATT3[A-Za-z0-9_=-]{100,}",
    r"lin_api_[A-Za-z0-9]{40}",
    rf"\b[0-9]{{8,10}}:AA{_URL64}{{33}}\b",  # Telegram
    r"AccountKey=[A-Za-z0-9+/]{86}==",
    r"AGE-SECRET-KEY-1[A-Z0-9]{58}",
    rf"tg_(?:agent|operator|admin)_{_URL64}{{43}}",  # the gateway's own
    rf"\beyJ{_URL64}{{10,}}\.{_URL64}*\.{_URL64}{{8,}}(?:\.{_URL64}+){{0,2}}",  # JSON Web Tokens
    rf"{_KEY}(?s:.*?)[A-Za-z0-9+/=]{{40}}(?s:.*?)-----END (?:[A-Z0-9]+ ){{0,4}}PRIVATE KEY(?: BLOCK)?-----",
    # Where the end was cut off: lines of base64.
    rf"{_KEY}{_BREAK}(?:(?:Proc-Type|DEK-Info|Version|Comment): [^\n]*\s*)*"
    rf"(?:[A-Za-z0-9+/=]{{40,}}{_BREAK})+[A-Za-z0-9+/=]*",
)
# With the wide and small forms of `@` and `.` that people type where those are the usual ones.
_ADDRESS = r"[\p{L}\p{M}\p{N}._%+'-]+[@＠﹫](?:[\p{L}\p{N}][\p{L}\p{M}\p{N}-]*[.。．｡])+[\p{L}\p{M}]{2,63}"
_ATS = "@＠﹫"

# What says that a value follows which is secret: in code, in settings, in a query, as a key of JSON.
_SAYS = (
    r"(?i)(?:pass(?:word|wd|phrase)?|pwd|secret|token|(?:api|access|account|auth|client|private|secret|signing)[_.-]?key"
    r"|credentials?|authorization)[\"'`]?(?:\s|\x00)*(?:=>|:=|[=:\x00])(?:\s|\x00)*(?:(?:bearer|basic) )?"
)
_VALUE = r"^[\"'`]?[^\s\"'`<>{}()\[\],;&=:\x00]{16,}={0,2}"
_QUOTES = "\"'`"
# `scheme://user:password@`
_LOGIN = r"\b[A-Za-z][A-Za-z0-9+.-]*://[^\s:/@\"',<>\x00]*:[^\s/@\"',<>\x00]{8,}@"
_MOST_LOOKED_AT = 256  # characters of a value
_MIN_BITS = 3.4  # a character, by Shannon, over the value's own letters


def redact(text: str, kinds: Collection[str], decoded: Views) -> tuple[str, list[Finding]]:
    """The canonical `text` with each value of these kinds replaced, and one finding for each place.

    `decoded` are the views of `text`; of an encoded value the whole encoded piece goes. Spans count characters of the
    text returned.
    """
    hits = _find(text, kinds)
    for view, place in decoded.found:
        hits += [Hit(*place(hit.start, hit.end), hit.name) for hit in _find(view, kinds)]
    if not hits:
        return text, []
    return taken_out(text, hits, lambda names: f"[redacted:{max(names)}]", _finding)


def occur(text: str, kinds: Collection[str], decoded: Views) -> bool:
    """Whether `text` or one of its views holds a value of these kinds."""
    return any(_find(each, kinds) for each in (text, *(view for view, _ in decoded.found)))


def _finding(names: set[str]) -> Finding:
    return Finding("S4", f"value.{max(names)}", "redact")


def _find(text: str, kinds: Collection[str]) -> list[Hit]:
    return [Hit(*span, kind) for kind in sorted(kinds) for span in _FINDERS[kind](text)]


def _emails(text: str) -> Iterator[tuple[int, int]]:
    return _compiled(_ADDRESS).finditer(text) if any(at in text for at in _ATS) else iter(())


def _secrets(text: str) -> Iterator[tuple[int, int]]:
    known = _known()
    for number in known.match(text):
        if number < len(_TOKENS):
            yield from _compiled(_TOKENS[number]).finditer(text)
        elif number == len(_TOKENS):
            yield from _assigned(text)
        else:
            yield from _logins(text)


def _assigned(text: str) -> Iterator[tuple[int, int]]:
    for _, end in _compiled(_SAYS).finditer(text):
        found = _compiled(_VALUE).search(text[end : end + _MOST_LOOKED_AT])
        if found is not None:
            quoted = text[end] in _QUOTES
            start, stop = end + quoted, end + found[1]
            if _is_random(text[start:stop]) and (quoted or not _is_name(text[start:stop], text[stop : stop + 1])):
                yield start, stop


def _logins(text: str) -> Iterator[tuple[int, int]]:
    for start, end in _compiled(_LOGIN).finditer(text):
        colon = text.index(":", text.index("://", start) + 3)
        if _is_random(text[colon + 1 : end - 1]):
            yield colon + 1, end - 1


def _is_name(code: str, after: str) -> bool:
    """Whether this is what a program calls something, and not a value: `base64.b64encode(`, `keys.Ed25519Key`."""
    return after == "(" or ("." in code and all(part.isidentifier() for part in code.split(".") if part))


def _is_random(value: str) -> bool:
    """Digits among letters, in no order: what nobody writes by hand. Names, paths, numbers and versions are not."""
    digits = sum(char.isdigit() for char in value)
    letters = sum(char.isalpha() for char in value)
    if digits < 2 or letters < 4 or "://" in value or "$" in value or "%" in value:
        return False
    counts = Counter(value).values()
    bits = -sum(count / len(value) * log2(count / len(value)) for count in counts)
    return bits >= min(_MIN_BITS, log2(len(value)) - 0.75)


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> regex.Pattern:
    return regex.compile(pattern)


@lru_cache(maxsize=1)
def _known() -> regex.PatternSet:
    """All that says "secret", in one pass; compiled when it is first asked for."""
    known = regex.PatternSet()
    for pattern in (*_TOKENS, _SAYS, _LOGIN):
        known.add(pattern)
    known.compile()
    return known


_FINDERS: dict[str, Callable[[str], Iterator[tuple[int, int]]]] = {EMAIL: _emails, SECRET: _secrets}
