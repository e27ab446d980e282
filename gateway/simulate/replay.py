"""Two runs over recorded calls, in order: the control run under the policies of then, and one under a candidate.

The control run goes by the record: a call that ran has run. Where policy decides otherwise than the record says, that
is drift, and tells how far the other run can be trusted. In the candidate's run the world is what the candidate makes
of it: a call it forbids leaves nothing behind; one that it permits anew is taken to succeed, at its declared cost and
with its declared labels. It never makes a call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from gateway.aggregates import Entry, Level
from gateway.model import Arguments, Call, Decision
from gateway.policy.aggregates import stem_of
from gateway.policy.bundle import PolicyBundle
from gateway.reliability.written import read_levels
from gateway.simulate.recorded import UNKNOWN_TOOL, Asked, Closed
from gateway.simulate.verdict import NO_SLOT, RATE_LIMITED, Changed, Decided, Verdict, changed
from gateway.simulate.world import Buckets, Course, World
from gateway.stages.ask import buckets, slots
from gateway.tool import Labels

Kind = Literal["same", "newly_permitted", "newly_forbidden", "obligations"]


@dataclass(frozen=True, slots=True)
class Compared:
    """A call under the candidate. `drift` is what the policies of then say of it now, where that is not on record.

    `after_divergence`: an earlier call of its session came out otherwise, so its agent might not have made this one.
    """

    asked: Asked
    kind: Kind
    verdict: Verdict
    obligations: tuple[Changed, ...] = ()
    after_divergence: bool = False
    drift: Verdict | None = None


@dataclass(slots=True)
class _Running:
    """A call that ran, until it ends: what the candidate would have it leave behind."""

    session: str
    happens: bool
    adds: Labels = frozenset()
    drops: Labels = frozenset()


@dataclass(frozen=True, slots=True)
class _Met:
    """What a call met in the control run: where that is not on record, and the rates.

    `moved` are levels that were changing at that moment: as the run has them, and as the record says they were.
    """

    drift: Verdict | None = None
    buckets: Buckets = ()
    decision: Decision | None = None
    moved: Mapping[str, tuple[Level, Level]] = field(default_factory=dict)

    def said(self, levels: dict[str, Level]) -> dict[str, Level]:
        """The levels of the other run, by the record where both runs have the same one."""
        for key, (had, said) in self.moved.items():
            if key in levels and _seen(levels[key]) == _seen(had):
                levels[key] = said
        return levels


def _seen(level: Level) -> tuple[float, bool]:
    return level.value, level.pending


class Replay:
    """Takes calls one by one, oldest first. `bundles` gives the policies of then by digest, None where there are none.

    Calls before `since` (unix seconds) make the world as it was then, for both runs, and are not compared.
    """

    def __init__(self, candidate: PolicyBundle, bundles: Mapping[str, PolicyBundle | None], since: float = 0.0) -> None:
        self._candidate, self._bundles, self._since = candidate, bundles, since
        loaded = [bundle for bundle in bundles.values() if bundle is not None]
        # For the digest of each policy those that declare state which it does not.
        self._beside = {
            own.digest: [each for each in loaded if each.windows.keys() - own.windows.keys()] for own in loaded
        }
        self._then, self._now = World(), World()
        self._courses: dict[str, Course] = {}
        self._running: dict[str, _Running] = {}
        self._decided = Decided()
        self._same: dict[tuple[object, ...], bool] = {}

    def take(self, asked: Asked) -> Compared | str | None:
        """What becomes of a call, or why nobody can tell; None before `since`."""
        warm = asked.at < self._since
        if asked.reason is not None:
            if asked.admitted:
                for world in (self._then, self._now):
                    world.admit(asked.id, asked.at, (), asked.reserves)
            return None if warm else asked.reason
        if asked.bundle is not None and self._bundles.get(asked.bundle) is None:
            return None if warm else "the policy of then is not kept, or does not load with these tools"
        compared = self._compare(asked, self._control(asked), warm)
        return None if warm else compared

    def close(self, closed: Closed) -> None:
        """How a call that ran has ended."""
        for world in (self._then, self._now):
            world.settle(closed.id, closed.ended, closed.at)
            world.leave(closed.id)
        running = self._running.pop(closed.id, None)
        if running is None or not closed.counted:
            return
        course = self._courses[running.session]
        if running.happens:
            course.ended(closed.labels, (closed.labels - running.drops) | running.adds)
        else:
            course.ended(closed.labels, frozenset())
            course.calls -= 1
            course.cost -= closed.cost

    # ── the control run ──────────────────────────────────────────────────────────────────────────────────────────

    def _control(self, asked: Asked) -> _Met:
        """What the call met then, as the policies of then say now."""
        bundle, call = self._bundles.get(asked.bundle or ""), asked.call
        if bundle is None or call is None:
            return _Met()
        levels = self._then.look(bundle.cells(call), asked.at)
        decision, moved = bundle.judge(call, levels), dict[str, Level]()
        met = _spends(decision)
        verdict = self._verdict(decision, met, asked, self._then, met)
        if verdict != asked.verdict and (said := read_levels(asked.reads)):
            moved = self._then.moving(levels, said, asked.at)
            decision = bundle.judge(call, levels | moved)
            met = _spends(decision)
            verdict = self._verdict(decision, met, asked, self._then, met)
        if asked.admitted:
            self._then.admit(asked.id, asked.at, met, self._entries(bundle, call, decision))
            self._then.enter(asked.id, slots(call)[0].key)
        drift = None if verdict == asked.verdict else verdict
        return _Met(drift, met, decision, {key: (levels[key], level) for key, level in moved.items()})

    def _entries(self, own: PolicyBundle, call: Call, decision: Decision) -> list[Entry]:
        """What the call adds under its policy, and to the state that those after it declared anew."""
        entries = list(decision.reserves if decision.problem is None else own.entries(call))
        for bundle in self._beside[own.digest]:
            there = own.windows.keys() | {stem_of(entry.cell.key) for entry in entries}
            entries += [entry for entry in bundle.entries(call) if stem_of(entry.cell.key) not in there]
        return entries

    def _verdict(self, decision: Decision, spends: Buckets, asked: Asked, world: World, then: Buckets) -> Verdict:
        full, was = None, asked.verdict
        if decision.problem is None and not (was.permitted and not asked.admitted):  # else it could not be recorded
            full = world.full(spends, asked.at, then, was.code != RATE_LIMITED)
        has_slot = asked.admitted or self._has_slot(decision.call, asked, world)
        return self._decided.verdict(decision, full, has_slot, asked.yes)

    def _has_slot(self, call: Call, asked: Asked, world: World) -> bool:
        """Whether a call that was not admitted then has a slot, by the calls on record that were under way."""
        own = slots(call)[0]
        whose, most = own.key, own.most
        if asked.verdict.code == NO_SLOT:  # the record knows how many there were; now there may be fewer
            return world.busy[whose] < self._then.busy[whose]
        return world is self._then or world.busy[whose] < most

    # ── the candidate ────────────────────────────────────────────────────────────────────────────────────────────

    def _compare(self, asked: Asked, met: _Met, warm: bool) -> Compared:
        course, spends = self._course(asked), met.buckets
        call, verdict, decision = asked.call, Verdict(False, UNKNOWN_TOOL), None
        if call is not None:
            call = course.call(call)
            call = call if asked.bundle is not None else self._found(call)
        if call is not None:
            decision = self._judged(call, asked, met)
            spends = spends if decision is met.decision else _spends(decision)
            verdict = self._verdict(decision, spends, asked, self._now, met.buckets)
        then = asked.verdict
        happens = asked.admitted if warm else verdict.permitted and (asked.admitted or not then.permitted)
        after = course.diverged
        if decision is not None and happens:
            entries = self._candidate.entries(decision.call) if warm else decision.reserves
            self._now.admit(asked.id, asked.at, spends, entries)
            if asked.admitted:
                self._now.enter(asked.id, slots(decision.call)[0].key)
        self._leaves(asked, decision, happens, course, warm)
        kind, obligations = _kind(then, verdict)
        return Compared(asked, kind, verdict, obligations, after, met.drift)

    def _judged(self, call: Call, asked: Asked, met: _Met) -> Decision:
        """What the candidate says of a call; what the policies of then said, where they are alike and see the same."""
        own, known = self._bundles.get(asked.bundle or ""), met.decision
        if own is not None and known is not None and call is asked.call and self._alike(own, call):
            levels = met.said(self._now.look([cell for cell, _ in known.reads], asked.at))
            if all(_seen(levels[cell.key]) == _seen(level) for cell, level in known.reads):
                return known
        return self._candidate.judge(call, met.said(self._now.look(self._candidate.cells(call), asked.at)))

    def _alike(self, own: PolicyBundle, call: Call) -> bool:
        principal, tool = call.caller.principal, call.tool
        key = own.digest, tool.digest, principal.tenant, principal.agent, principal.user, principal.groups
        found = self._same.get(key)
        if found is None:
            found = self._same[key] = self._candidate.alike(own, tool, principal)
        return found

    def _leaves(self, asked: Asked, decision: Decision | None, happens: bool, course: Course, warm: bool) -> None:
        """What the call leaves in its session: at its end on record, or at once where there is none."""
        if asked.admitted:
            running = self._running[asked.id] = _Running(asked.session, happens)
            if decision is not None and happens and not warm:
                running.adds, running.drops = _relabelled(asked, decision)
            course.diverged |= not happens
        elif happens and decision is not None:
            tool = decision.call.tool
            self._now.settle(asked.id, "done", asked.at)
            course.ended(frozenset(), tool.labels | decision.obligations.labels)
            course.calls += 1
            course.cost += tool.cost
            course.diverged = True

    def _course(self, asked: Asked) -> Course:
        course = self._courses.get(asked.session)
        if course is None:
            labels = asked.call.caller.session.labels if asked.call else ()
            course = self._courses[asked.session] = Course(set(labels))
        return course

    def _found(self, call: Call) -> Call | None:
        """A call of a tool that was hidden, as it comes before the candidate; None where it does not."""
        tool, principal = call.tool, call.caller.principal
        if tool.tenant not in (None, principal.tenant) or tool.name not in self._candidate.visible(principal):
            return None
        if not isinstance(call.arguments, dict) or tool.check.check(call.arguments):
            return None
        filled = Arguments(tool.check.fill(call.arguments))
        return Call(call.id, call.caller, tool, filled, call.now, call.seed)


def _relabelled(asked: Asked, decision: Decision) -> tuple[Labels, Labels]:
    """The labels that a result gets because a rule wants it now, and those it got because one wanted it then."""
    found = asked.verdict.obligations["labels"]
    then: Labels = frozenset(map(str, found)) if isinstance(found, list) else frozenset()
    now = decision.obligations.labels
    return now - then, then - now - decision.call.tool.labels


def _kind(then: Verdict, now: Verdict) -> tuple[Kind, tuple[Changed, ...]]:
    if then.permitted != now.permitted:
        return ("newly_permitted" if now.permitted else "newly_forbidden"), ()
    differ = tuple(changed(then, now)) if now.permitted else ()
    return ("obligations" if differ else "same"), differ


def _spends(decision: Decision) -> Buckets:
    """The rates that a permitted call spends, by the keys of their buckets."""
    return [(each.key, each.rate) for each in buckets(decision)]
