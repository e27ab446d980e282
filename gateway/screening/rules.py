"""Rules that find injection which announces itself (screening step S5): versioned patterns with their own examples.

A rule file is checked when it is loaded: every pattern is linear (RE2), every rule finds its own attacks and none of
its own benign examples. Hits that stand close together in one field add up. It never acts on what it finds, and it
does not find a plain polite request: labels and policy are for that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import cast

from gateway import regex
from gateway.screening.canonical import canonical, comparable
from gateway.specs.yaml import Located, SpecError, SpecErrors, load, pointer
from gateway.tool import Json

BUNDLED = "rules-1.yaml"
HIGH = 3
ANNOTATE = 1
NEAR = 600  # characters: hits that start within this distance are one announcement
MAX_HITS = 64  # of one rule in one text; the score needs no more
MIN_EXAMPLES = 3

# A space in a pattern: what separates words of a sentence. Never what ends a sentence or a field, and never the
# brackets, dots and underscores that join the names of a program.
_GAP = r"(?:[\s\"'`*“”>,:+~-]+)"
_FIELDS = {"id", "version", "severity", "weight", "pattern", "applies", "message", "attack", "benign"}
_PLACES = {"text", "keys", "views"}
_ID = regex.compile(r"[a-z][a-z0-9-]*\.[a-z][a-z0-9-]*")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. A `high` rule weighs 3 or more and holds a result back alone; a `low` one weighs 1 or 2."""

    id: str
    severity: str
    weight: int
    pattern: regex.Pattern
    applies: frozenset[str]
    message: str


@dataclass(frozen=True, slots=True)
class Hit:
    """A rule that matched, and where in the text that was searched."""

    rule: Rule
    start: int
    end: int


class RuleSet:
    """Rules compiled into one set, so that a text is read once. `version` names the file and its digest."""

    __slots__ = ("_set", "rules", "version")

    def __init__(self, rules: Iterable[Rule], version: str) -> None:
        self.rules = tuple(rules)
        self.version = version
        self._set = regex.PatternSet()
        for rule in self.rules:
            self._set.add(rule.pattern.source)
        self._set.compile()

    def search(self, text: str, *where: str) -> list[Hit]:
        """The hits of rules that apply to one of `where` (text, keys, views) in a `comparable` text, by position."""
        matched = self._set.match(text)
        if not matched:
            return []
        rules = (self.rules[number] for number in matched)
        found = [hit for rule in rules if not rule.applies.isdisjoint(where) for hit in _hits(rule, text)]
        return sorted(found, key=lambda hit: hit.start)


def score(hits: list[Hit], field_of: Callable[[int], int] = lambda start: 0) -> int:
    """The highest sum of weights over hits that stand close together in one field, each rule counted once."""
    best = 0
    for at, first in enumerate(hits):
        weights: dict[str, int] = {}
        for hit in hits[at:]:
            if hit.start - first.start > NEAR:
                break
            if field_of(hit.start) == field_of(first.start):
                weights[hit.rule.id] = hit.rule.weight
        best = max(best, sum(weights.values()))
    return best


def bundled() -> RuleSet:
    """The rules in the package."""
    raw = files("gateway.screening").joinpath("data", BUNDLED).read_bytes()
    return load_rules(raw, BUNDLED)


def load_rules(raw: bytes, file: str) -> RuleSet:
    """The rules of a file. Raises SpecError or SpecErrors with file and line: everything that is wrong, at once."""
    located = load(raw, file)
    document = located.value
    if not (isinstance(document, dict) and isinstance(document.get("rules"), list)):
        raise located.error("", "a rule file holds `version`, `terms` and a list of `rules`")
    terms = document.get("terms", {})
    if not (isinstance(terms, dict) and all(isinstance(text, str) for text in terms.values())):
        raise located.error("/terms", "terms are texts by name")
    rules: list[Rule] = []
    wrong: list[SpecError] = []
    for index in range(len(document["rules"])):
        try:
            rules.append(_rule(located, index, cast("dict[str, str]", terms)))
        except SpecErrors as errors:
            wrong += errors.findings
    wrong += _doubles(located, rules) if not wrong else []
    if wrong:
        raise SpecErrors(wrong)
    digest = hashlib.sha256(raw).hexdigest()[:12]
    return RuleSet(rules, f"rules {document.get('version')} / {digest}")


def _hits(rule: Rule, text: str) -> Iterator[Hit]:
    for number, (start, end) in enumerate(rule.pattern.finditer(text)):
        if number == MAX_HITS:
            return
        yield Hit(rule, start, end)


def _rule(located: Located, index: int, terms: dict[str, str]) -> Rule:
    at = pointer("rules", index)
    entry = cast("list[Json]", cast("dict[str, Json]", located.value)["rules"])[index]
    if not isinstance(entry, dict) or set(entry) != _FIELDS:
        raise SpecErrors([located.error(at, f"a rule has exactly these fields: {', '.join(sorted(_FIELDS))}")])
    wrong = [located.error(f"{at}/{name}", sentence) for name, sentence in _faults(entry)]
    if wrong:
        raise SpecErrors(wrong)
    try:
        pattern = regex.compile(_expanded(entry["pattern"], terms))
    except regex.BadPattern as error:
        raise SpecErrors([located.error(f"{at}/pattern", f"not a linear pattern: {error.reason}")]) from None
    wrong = [
        located.error(f"{at}/{name}/{number}", sentence)
        for name, expected, sentence in (
            ("attack", True, "the rule does not find its own attack"),
            ("benign", False, "the rule finds its own benign example"),
        )
        for number, example in enumerate(entry[name])
        if (pattern.search(comparable(canonical(example))) is not None) is not expected
    ]
    if wrong:
        raise SpecErrors(wrong)
    return Rule(
        id=f"{entry['id']}@{entry['version']}",
        severity=entry["severity"],
        weight=entry["weight"],
        pattern=pattern,
        applies=frozenset(entry["applies"]),
        message=entry["message"],
    )


def _faults(entry: dict[str, Json]) -> Iterator[tuple[str, str]]:
    if not (isinstance(entry["id"], str) and _ID.fullmatch(entry["id"])):
        yield "id", "an id is `class.name` in small letters"
    if not _is_count(entry["version"]):
        yield "version", "a version is a number from 1"
    if entry["severity"] not in ("high", "low"):
        yield "severity", "severity is `high` or `low`"
    elif not _is_count(entry["weight"]) or (entry["severity"] == "high") != (cast(int, entry["weight"]) >= HIGH):
        yield "weight", f"a high rule weighs {HIGH} or more, a low one from {ANNOTATE} to {HIGH - 1}"
    for name in ("pattern", "message"):
        if not (isinstance(entry[name], str) and entry[name]):
            yield name, f"{name} is a text"
    if not (_is_texts(entry["applies"], 1) and set(cast("list[str]", entry["applies"])) <= _PLACES):
        yield "applies", f"applies lists some of {', '.join(sorted(_PLACES))}"
    for name in ("attack", "benign"):
        if not _is_texts(entry[name], MIN_EXAMPLES):
            yield name, f"at least {MIN_EXAMPLES} examples, each a text"


def _is_count(value: Json) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_texts(value: Json, least: int) -> bool:
    return isinstance(value, list) and len(value) >= least and all(isinstance(item, str) for item in value)


def _expanded(pattern: str, terms: dict[str, str]) -> str:
    for name, text in terms.items():
        pattern = pattern.replace("{{" + name + "}}", text)
    return "(?i)" + pattern.replace(" ", _GAP)


def _doubles(located: Located, rules: list[Rule]) -> list[SpecError]:
    seen: set[str] = set()
    wrong = []
    for index, rule in enumerate(rules):
        if rule.id in seen:
            wrong.append(located.error(pointer("rules", index, "id"), "this id and version stand twice"))
        seen.add(rule.id)
    return wrong
