"""What a simulation found: counts, the differences grouped by rule with examples, as JSON and as lines for people.

It never judges whether a difference is wanted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from gateway.simulate.recorded import Asked
from gateway.simulate.replay import Compared
from gateway.simulate.verdict import Changed, Verdict
from gateway.tool import Json

CLASSES = ("newly-permitted", "newly-forbidden", "obligations", "drift", "not-replayable")
_TITLES = {
    "drift": "drift: decided otherwise under the policy of then",
    "newly-permitted": "newly permitted",
    "newly-forbidden": "newly forbidden",
    "obligations": "obligations changed",
}
_EXAMPLES = 2


@dataclass(slots=True)
class Group:
    """Differences of one class that go back to the same rule: from what to what, how many, and of whom."""

    rule: str
    before: Json
    after: Json
    key: str | None = None
    count: int = 0
    after_divergence: int = 0
    examples: list[str] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)
    tools: set[str] = field(default_factory=set)

    def add(self, asked: Asked, after_divergence: bool) -> None:
        """Counts one call more."""
        self.count += 1
        self.after_divergence += after_divergence
        if len(self.examples) < _EXAMPLES:
            self.examples.append(asked.id)
        self.agents.add(asked.agent)
        self.tools.add(asked.tool)


class Report:
    """Made call by call; `found` says of each class of `CLASSES` how many calls are in it.

    `elsewhere` is how many records of the time are archived, and so not here: nobody looked at them.
    """

    def __init__(self, candidate: str) -> None:
        self.candidate = candidate
        self.calls = self.same = self.unasked = self.elsewhere = 0
        self.unreplayable: Counter[str] = Counter()
        self.changes: list[dict[str, Json]] = []
        self._sessions: set[str] = set()
        self._calls: Counter[str] = Counter()
        self._groups: dict[str, dict[str, Group]] = {name: {} for name in _TITLES}

    @property
    def found(self) -> Mapping[str, int]:
        """How many calls there are of each class; each archived record may be one that is not replayable."""
        unknown = self.unreplayable.total() + self.elsewhere
        return {**{name: self._calls[name] for name in _TITLES}, "not-replayable": unknown}

    def add(self, compared: Compared) -> None:
        """One call that could be decided again."""
        asked, then, now = compared.asked, compared.asked.verdict, compared.verdict
        self.calls += 1
        self._sessions.add(asked.session)
        if compared.drift is not None:
            self._differs("drift", compared, then, compared.drift)
        if compared.kind == "same":
            self.same += 1
        elif compared.kind == "obligations":
            self._obliged(compared)
        else:
            self._differs(compared.kind.replace("_", "-"), compared, then, now)

    def skip(self, reason: str) -> None:
        """One call that could not."""
        self.calls += 1
        self.unreplayable[reason] += 1

    def groups(self, name: str) -> list[Group]:
        """The groups of a class, the largest first."""
        return sorted(self._groups[name].values(), key=lambda group: -group.count)

    def _differs(self, name: str, compared: Compared, then: Verdict, now: Verdict) -> None:
        before, after = _said(then), _said(now)
        # What takes a permission away, or took it until now, is what a reader looks for.
        rule = then.why if name == "newly-permitted" else now.why
        group = self._groups[name].setdefault(f"{rule}\x1f{before}\x1f{after}", Group(rule, before, after))
        self._count(name, compared, {"rule": rule, "before": before, "after": after})
        group.add(compared.asked, compared.after_divergence)

    def _obliged(self, compared: Compared) -> None:
        keys: list[Json] = [_as_json(each) for each in compared.obligations]
        self._count("obligations", compared, {"obligations": keys})
        for each in compared.obligations:
            name = f"{each.rule}\x1f{each.key}\x1f{json.dumps([each.before, each.after])}"
            group = Group(each.rule, each.before, each.after, each.key)
            self._groups["obligations"].setdefault(name, group).add(compared.asked, compared.after_divergence)

    def _count(self, name: str, compared: Compared, more: dict[str, Json]) -> None:
        asked = compared.asked
        self._calls[name] += 1
        said: dict[str, Json] = {"class": name, "call_id": asked.id, "agent": asked.agent, "tool": asked.tool}
        self.changes.append(said | more | {"after_divergence": compared.after_divergence})

    def as_json(self) -> dict[str, Json]:
        """All of it: every call that differs too."""
        groups: dict[str, Json] = {name: [_grouped(group) for group in self.groups(name)] for name in _TITLES}
        return {
            "candidate": self.candidate,
            "calls": self.calls,
            "sessions": len(self._sessions),
            "same": self.same,
            "never_before_policy": self.unasked,
            "records_elsewhere": self.elsewhere,
            "found": dict(self.found),
            "groups": groups,
            "not_replayable": dict(self.unreplayable),
            "changes": list(self.changes),
        }

    def lines(self) -> Iterator[str]:
        """For people: drift first, because it tells how far the rest can be trusted."""
        yield f"{self.calls} calls in {len(self._sessions)} sessions, under {self.candidate}"
        for name, title in _TITLES.items():
            yield f"{title}: {self._calls[name]}"
            for group in self.groups(name):
                yield from _lines(group)
        yield f"the same: {self.same}"
        if self.unasked:
            yield f"refused before policy is asked, then as now: {self.unasked}"
        yield f"not replayable: {self.unreplayable.total()}"
        for reason, count in self.unreplayable.most_common():
            yield f"  {count} × {reason}"
        if self.elsewhere:
            yield f"not on record here: {self.elsewhere} records, which were archived"


def _said(verdict: Verdict) -> str:
    return f"permit {verdict.why}" if verdict.permitted else f"refuse {verdict.why}"


def _as_json(each: Changed) -> Json:
    return {"key": each.key, "before": each.before, "after": each.after, "rule": each.rule}


def _grouped(group: Group) -> Json:
    return {
        "rule": group.rule,
        "key": group.key,
        "before": group.before,
        "after": group.after,
        "count": group.count,
        "after_divergence": group.after_divergence,
        "examples": list(group.examples),
        "agents": sorted(group.agents),
        "tools": sorted(group.tools),
    }


def _lines(group: Group) -> Iterator[str]:
    if group.key is not None:
        yield f"  {group.rule}: {group.key} {json.dumps(group.before)} → {json.dumps(group.after)}: {group.count} ×"
    else:
        yield f"  {group.rule}: {group.before} → {group.after}: {group.count} ×"
    after = f"; {group.after_divergence} after a divergence" if group.after_divergence else ""
    yield f"    agents {', '.join(sorted(group.agents))}; tools {', '.join(sorted(group.tools))}{after}"
    yield f"    for example {', '.join(group.examples)}"
