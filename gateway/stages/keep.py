"""What a screened result leaves behind: the files of the job and the whole of what was cut, kept as artifacts.

Each is judged by itself, as results are. A file is kept as it is or not at all: one that holds an issued secret or
tries to instruct its reader is never kept, nor one with a value that policy wants taken out, and nothing is kept of a
result that was held back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from gateway import strictjson
from gateway.artifacts import MAX_FILES, handle_of, is_file_name, media_type
from gateway.model import Artifact, Finding, Intent, RawOutput, SafeOutput
from gateway.obligations import Obligations
from gateway.ports import Artifacts, NotKept
from gateway.screening import Screener, rules, values
from gateway.screening.canonical import canonical, comparable, hidden
from gateway.screening.leaves import NotJson, gather
from gateway.screening.secrets import IssuedSecrets
from gateway.screening.views import NONE as NO_VIEWS
from gateway.screening.views import views
from gateway.stages.injection import STRICT
from gateway.tool import Labels

SUSPICIOUS = "suspicious"
JUDGED = 2 * 1024 * 1024  # bytes of a file up to which rules read it; a longer one counts as suspicious
TEXT_CUT, STRUCTURED_CUT = "text.too-large", "structured.too-large"
_ASCII = bytes(octet if 0x20 <= octet < 0x7F or octet == 0x0A else 0x20 for octet in range(256))
_SPACES = str.maketrans("_.", "  ")  # what a file's name has between words


@dataclass(slots=True)
class Pieces:
    """What may be kept, and what was found on the way."""

    kept: list[tuple[Artifact, bytes]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


class _Refused(Exception):
    """A piece that must not be kept."""

    def __init__(self, stage: str, rule: str) -> None:
        super().__init__(rule)
        # Without the file's name: places in what is not shown would only help to shape the next one.
        self.finding = Finding(stage, rule, "cut")


def leaves_something(raw: RawOutput, safe: SafeOutput) -> bool:
    """Whether there is anything to judge: nearly every call leaves nothing. What was held back leaves nothing."""
    if not (raw.files or safe.truncated):
        return False
    return safe.verdict.action not in ("quarantine", "block")


@dataclass(frozen=True, slots=True)
class _Judge:
    """What pieces are held against: the secrets that were issued, the rules, and what policy asks of the call."""

    forms: IssuedSecrets
    known: rules.RuleSet
    asked: Obligations

    def is_doubtful(self, name: str, content: bytes) -> bool:
        """Whether the piece is suspicious. Raises _Refused for what must not be kept at all."""
        if not is_file_name(name):
            raise _Refused("S0", "file.name")
        if self.forms.occur(name.encode()) or self.forms.occur(content):
            raise _Refused("S4", "file.secret")
        if self.asked.redact and self._holds_value(name, content):
            raise _Refused("S4", "file.value")
        best = rules.score(self.known.search(comparable(name.translate(_SPACES)), "keys"))
        doubtful = len(content) > JUDGED
        if not doubtful:
            found, doubtful = self._read(content)
            best = max(best, found)
        doubtful = doubtful or best >= rules.ANNOTATE
        if best >= rules.HIGH or (doubtful and self.asked.injection in STRICT):
            raise _Refused("S5", "file.instructs")
        return doubtful

    def _holds_value(self, name: str, content: bytes) -> bool:
        """Whether name or content hold what policy wants taken out; in a long file, or one of octets, as it is only."""
        is_text, kinds = _is_text(content), self.asked.redact
        plain = canonical(content.decode() if is_text else _letters(content))
        decoded = views(plain) if is_text and len(content) <= JUDGED else NO_VIEWS
        return values.occur(name, kinds, NO_VIEWS) or values.occur(plain, kinds, decoded)

    def _read(self, content: bytes) -> tuple[int, bool]:
        """The score of what stands in a file, and whether something in it could not be read. Raises _Refused."""
        is_text = _is_text(content)
        text = content.decode() if is_text else _letters(content)
        plain = canonical(text)
        decoded = views(plain) if is_text else NO_VIEWS
        if self.forms.redact(plain, (), decoded)[1]:
            raise _Refused("S4", "file.secret")
        best = rules.score(self.known.search(comparable(plain), "text"))
        if is_text and (leaves := _leaves(content)):
            best = max(best, rules.score(self.known.search(comparable(canonical(leaves)), "text", "keys")))
        spelled = hidden(text)
        for view in dict.fromkeys((*(view for view, _ in decoded.found), spelled)):
            best = max(best, rules.score(self.known.search(comparable(canonical(view)), "views")))
        return best, bool(spelled) or not decoded.complete


def judge(raw: RawOutput, safe: SafeOutput, intent: Intent, screener: Screener) -> Pieces:
    """The pieces that may be kept, of a result that may be shown. Linear in their size; for a thread of its own."""
    by = _Judge(screener.secrets, screener.rules, intent.obligations)
    own = {use.name for use in intent.call.tool.secrets}
    files = [(name, content, "allow") for name, content in raw.files.items()]
    pieces = Pieces()
    if len(files) > MAX_FILES:
        pieces.findings.append(Finding("S0", "file.too-many", "cut"))
    for name, content, done in (*_cut(raw, safe, by, own), *files[:MAX_FILES]):
        try:
            doubtful = by.is_doubtful(name, content)
        except _Refused as refused:
            pieces.findings.append(refused.finding)
            continue
        if doubtful:
            pieces.findings.append(Finding("S5", "file.suspicious", "annotate", f"/files/{name}"))
        labels = safe.verdict.labels | {SUSPICIOUS} if doubtful else safe.verdict.labels
        action = "annotate" if doubtful and done == "allow" else done
        pieces.kept.append((_artifact(name, content, labels, action, intent), content))
    return pieces


async def keep(pieces: Pieces, artifacts: Artifacts) -> tuple[Artifact, ...]:
    """Keeps them; what cannot be kept becomes a finding, and the result goes out without it."""
    there: list[Artifact] = []
    for artifact, content in pieces.kept:
        try:
            there.append(await artifacts.keep(artifact, content))
        except NotKept as refused:
            pieces.findings.append(Finding("S0", f"file.{refused.reason}", "cut", f"/files/{artifact.name}"))
    return tuple(there)


def _cut(raw: RawOutput, safe: SafeOutput, by: _Judge, own: set[str]) -> Iterator[tuple[str, bytes, str]]:
    """The whole of what was cut: name, content with secrets taken out, and what was done to it."""
    rules_met = {finding.rule for finding in safe.verdict.findings}
    if TEXT_CUT in rules_met:
        clean, found = by.forms.redact(canonical(raw.text), own)
        if by.asked.redact:
            clean, more = values.redact(clean, by.asked.redact, views(clean))
            found += more
        kind = raw.content_type.partition(";")[0].strip().lower()
        name = "result.json" if kind == "application/json" or kind.endswith("+json") else "result.txt"
        yield name, clean.encode(), "redact" if found else "allow"
    if STRUCTURED_CUT in rules_met:
        yield "structured.json", strictjson.canonical(raw.structured), "allow"


def _leaves(content: bytes) -> str:
    """The strings of a JSON file as they read once its escapes are gone; "" for any other file."""
    if not content.lstrip().startswith((b"{", b"[", b'"')):
        return ""
    try:
        return "\n".join(gather(strictjson.loads(content, max_bytes=JUDGED)).strings)
    except (strictjson.MalformedJson, NotJson):
        return ""


def _artifact(name: str, content: bytes, labels: Labels, action: str, intent: Intent) -> Artifact:
    call = intent.call
    kind = media_type(name, is_text=_is_text(content))
    owner = call.caller.principal.key
    return Artifact(handle_of(content), owner, name, len(content), kind, labels, action, call.id, call.now)


def _letters(content: bytes) -> str:
    """What stands in octets as ASCII, of one byte a letter or more; anything else is a space."""
    return content.replace(b"\0", b"").translate(_ASCII).decode()


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in content
