"""What came now held against what is on record, byte for byte. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from gateway.artifacts import handle_of
from gateway.model import RawOutput
from gateway.replay.answers import Result
from gateway.stages.keep import STRUCTURED_CUT, TEXT_CUT
from gateway.strictjson import canonical
from gateway.tool import Json

_BEFORE, _AFTER = 20, 60  # characters shown around the first one that differs
_NOTHING = "nothing"
# What is kept of a long result beside the files that the code left, by the finding that says so.
_WHOLES = {TEXT_CUT: ("result.txt", "result.json"), STRUCTURED_CUT: ("structured.json",)}


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it was. `where`: line and character of text, JSON Pointer (RFC 6901), name of a file."""

    what: Literal["text", "structured", "code", "detail", "file", "calls"]
    where: str
    recorded: str
    now: str

    def __str__(self) -> str:
        place = f" at {self.where}" if self.where else ""
        return f"{self.what}{place}: recorded {self.recorded}, now {self.now}"


def differences(was: Result, code: str | None, now: RawOutput) -> tuple[Difference, ...]:
    """All of them. `code` is how the code ended then, before anything was made of its result."""
    return (*_ending(was, code, now), *_text(was.raw.text, now.text), *_json(was, now), *_files(was, now.files))


def _ending(was: Result, code: str | None, now: RawOutput) -> Iterator[Difference]:
    ended = now.problem.code if now.problem else None
    if ended != code:
        yield Difference("code", "", code or "done", ended or "done")
    elif now.problem and was.problem and was.problem.code == code and was.problem.detail != now.problem.detail:
        yield Difference("detail", "", was.problem.detail, now.problem.detail)


def _text(was: str, now: str) -> Iterator[Difference]:
    if was == now:
        return
    both = zip(was, now, strict=False)
    at = next((at for at, (old, new) in enumerate(both) if old != new), min(len(was), len(now)))
    line, character = was.count("\n", 0, at) + 1, at - (was.rfind("\n", 0, at) + 1) + 1
    yield Difference("text", f"line {line}, character {character}", _around(was, at), _around(now, at))


def _around(text: str, at: int) -> str:
    return repr(text[max(0, at - _BEFORE) : at + _AFTER])


def _json(was: Result, now: RawOutput) -> Iterator[Difference]:
    found = _first(was.raw.structured, now.structured, "")
    if found is not None:
        pointer, old, new = found
        yield Difference("structured", pointer, old, new)


def _first(was: Json, now: Json, pointer: str) -> tuple[str, str, str] | None:
    """The first place where two values differ: its JSON Pointer and what stands there, as JSON."""
    if isinstance(was, dict) and isinstance(now, dict):
        for name in (*was, *(name for name in now if name not in was)):
            below = f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"
            if name not in was or name not in now:
                return below, _shown(was, name), _shown(now, name)
            if (found := _first(was[name], now[name], below)) is not None:
                return found
        return None
    if isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        items = enumerate(zip(was, now, strict=True))
        return next((found for at, (a, b) in items if (found := _first(a, b, f"{pointer}/{at}")) is not None), None)
    old, new = canonical(was), canonical(now)  # as Python has it 1, 1.0 and true are equal
    return None if old == new else (pointer, _cut(old), _cut(new))


def _shown(value: Mapping[str, Json], name: str) -> str:
    return _cut(canonical(value[name])) if name in value else _NOTHING


def _cut(spelled: bytes) -> str:
    text = spelled.decode()
    return text if len(text) <= _BEFORE + _AFTER else text[: _BEFORE + _AFTER] + "…"


def _files(was: Result, now: Mapping[str, bytes]) -> Iterator[Difference]:
    """Files, by what they hold: those on record that were not made again, and those made that nobody kept then."""
    made = {name: handle_of(content) for name, content in now.items()}
    handles, rules = set(made.values()), {finding.rule for finding in was.verdict.findings}
    wholes = {name for rule, names in _WHOLES.items() if rule in rules for name in names}
    for artifact in was.artifacts:
        if artifact.handle not in handles and artifact.name not in wholes:
            yield Difference("file", artifact.name, artifact.handle, made.get(artifact.name, _NOTHING))
    if _may_lack(was):
        return
    kept = {artifact.handle for artifact in was.artifacts}
    named = {artifact.name for artifact in was.artifacts}
    for name, handle in made.items():
        if handle not in kept and name not in named:
            yield Difference("file", name, _NOTHING, handle)


def _may_lack(was: Result) -> bool:
    """Whether files may have been made that were not kept."""
    held_back = was.verdict.action in ("quarantine", "block")
    return held_back or any(each.action == "cut" and each.rule.startswith("file.") for each in was.verdict.findings)
