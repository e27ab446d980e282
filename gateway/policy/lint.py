"""Policy that loads but probably does not say what its writer meant. Findings only: nothing here refuses a bundle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set

from gateway.globs import matches
from gateway.model import Effect
from gateway.obligations import Obligations
from gateway.policy import language
from gateway.policy.arguments import never_empty, required
from gateway.policy.compile import Placed
from gateway.policy.rules import Globs, Match
from gateway.policy.shapes import KINDS
from gateway.policy.syntax import Apply, Constant, Expr, Loop, Path, references, walk
from gateway.specs.fetch import FETCH
from gateway.specs.yaml import SpecError
from gateway.tool import SandboxBackend, Tool

_DANGEROUS = frozenset({"destructive", "exec"})
Parts = Sequence[tuple[int, Expr]]  # (number of the clause, a part of its expression), all of a rule


def lint(
    parts: Sequence[language.Part],
    placed: Sequence[Placed],
    tools: Sequence[Tool],
    given: Mapping[str, frozenset[str]],
) -> list[SpecError]:
    """All findings, by file and line. given: the guarantees of each sandbox backend that is known."""
    found = [finding for each in placed for finding in _of_rule(each)]
    found += _glob(placed, tools)
    found += _fed(parts, tools)
    found += _shadowed(placed)
    found += _twins(placed)
    found += _alone_in_shadow(placed)
    found += _unused(parts, placed)
    found += _sums_of_sessions(parts, placed)
    found += [finding for each in placed for finding in _not_given(each, given)]
    found += _unfetched(placed, tools)
    return sorted(found, key=lambda each: (each.file, each.line, each.column, each.sentence))


# ── between rules, tools and declarations ────────────────────────────────────────────────────────────────────────────


def _glob(placed: Sequence[Placed], tools: Sequence[Tool]) -> Iterator[SpecError]:
    names = {tool.name for tool in tools}
    known = {each: _meets(each, names) for one in placed for each in one.rule.match.tools or ()}
    for each in placed:
        patterns = each.rule.match.tools or ()
        for index, pattern in enumerate(patterns):
            if not known[pattern]:
                yield each.error(f"{pattern!r} matches no loaded tool", "match", "tools", index)
        if not each.tools and all(known[pattern] for pattern in patterns):
            yield each.error(f"the rule {each.rule.id} is about no loaded tool", "match")


def _meets(pattern: str, names: Set[str]) -> bool:
    return pattern in names or ("*" in pattern and any(matches(pattern, name) for name in names))


def _fed(parts: Sequence[language.Part], tools: Sequence[Tool]) -> Iterator[SpecError]:
    """Aggregates of calls that nobody can make: a cap over them never fills."""
    names = {tool.name for tool in tools}
    for part in parts:
        for name, shape in part.shape.state.items():
            kind = next(kind for kind in KINDS if getattr(shape, kind) is not None)
            given = getattr(shape, kind)
            key, about = ("of", shape.of) if isinstance(given, str) else (kind, given)
            for index, pattern in enumerate(about.tools or () if about else ()):
                if not _meets(pattern, names):
                    sentence = f"{pattern!r} matches no loaded tool, so {name!r} counts no calls of it"
                    yield part.error(sentence, "state", name, key, "tools", index)


def _unfetched(placed: Sequence[Placed], tools: Sequence[Tool]) -> Iterator[SpecError]:
    """Networks of code that no rule lets anybody use."""
    permits = (each for each in placed if each.rule.effect is Effect.PERMIT and not each.rule.shadow)
    if any(tool.name == FETCH for each in permits for tool in each.tools):
        return
    for tool in tools:
        if isinstance(tool.backend, SandboxBackend) and tool.backend.network:
            file, _, line = tool.source.rpartition(":")
            sentence = f"no rule permits {FETCH}, so the code of {tool.name} fetches nothing, whatever its spec allows"
            yield SpecError(file, int(line) if line.isdecimal() else 1, 1, sentence)


def _shadowed(placed: Sequence[Placed]) -> Iterator[SpecError]:
    """Permits under a forbid that always holds. One in shadow forbids nothing."""
    above: dict[str, list[Placed]] = {}
    for each in placed:
        if each.rule.effect is Effect.FORBID and not each.rule.conditions and not each.rule.shadow:
            for name in {tool.name for tool in each.tools}:
                above.setdefault(name, []).append(each)
    for each in placed:
        if each.rule.effect is Effect.PERMIT and each.tools:
            for other in above.get(each.tools[0].name, ()):
                if _covers(other, each):
                    yield each.error(f"never permits: {other.rule.id} ({other.rule.source}) forbids all of it, always")


def _covers(forbid: Placed, permit: Placed) -> bool:
    wide, narrow = forbid.rule.match, permit.rule.match
    return (
        forbid.rule.part.tenant in (None, permit.rule.part.tenant)
        and {tool.name for tool in permit.tools} <= {tool.name for tool in forbid.tools}
        and all(_wider(getattr(wide, key), getattr(narrow, key)) for key in ("agents", "users", "groups", "tenants"))
    )


def _wider(wide: Globs | None, narrow: Globs | None) -> bool:
    return wide is None or (narrow is not None and all(any(matches(w, each) for w in wide) for each in narrow))


def _twins(placed: Sequence[Placed]) -> Iterator[SpecError]:
    """Rules of one part that say the same of the same calls, or the contrary."""
    first: dict[tuple[int, Match, tuple[str, ...], bool], list[Placed]] = {}
    for each in placed:
        rule = each.rule
        clauses = tuple(condition.text.strip() for condition in rule.conditions)
        before = first.setdefault((id(each.part), rule.match, clauses, rule.shadow), [])
        for other in before:
            if rule.effect is not other.rule.effect:
                # Without conditions, the finding of a forbid that always holds has said it.
                if clauses:
                    permit, forbid = (each, other) if rule.effect is Effect.PERMIT else (other, each)
                    yield permit.error(f"never permits: {forbid.rule.id} ({forbid.rule.source}) forbids exactly this")
            elif each.shape.with_ == other.shape.with_:
                yield each.error(f"says what {other.rule.id} ({other.rule.source}) says: leave one of them out")
                break
        before.append(each)


def _alone_in_shadow(placed: Sequence[Placed]) -> Iterator[SpecError]:
    """A permit in shadow permits nothing: told where nothing else does."""
    permits = [each for each in placed if each.rule.effect is Effect.PERMIT]
    permitted = {tool.name for each in permits if not each.rule.shadow for tool in each.tools}
    for each in permits:
        tool = next((tool for tool in each.tools if tool.name not in permitted), None)
        if each.rule.shadow and tool is not None:
            sentence = f"in shadow it permits nothing, and no rule in force permits {tool.name}: every call is refused"
            yield each.error(sentence)


def _unused(parts: Sequence[language.Part], placed: Sequence[Placed]) -> Iterator[SpecError]:
    """Values and aggregates that no expression of their part names."""
    used: dict[int, set[str]] = {}
    for each in placed:
        found = used.setdefault(id(each.part), set())
        found.update(one.path[0].partition(".")[2] for _, one in each.references)
        found.update(one.path[0].partition(".")[2] for one in each.asking)
    for part in parts:
        names = used.get(id(part), set())
        for name in part.shape.values:
            if f"v.{name}" not in names:
                yield part.error(f"the value {name!r} is never used: leave it out", "values", name)
        for name in part.shape.state:
            if f"state.{name}" not in names:
                yield part.error(f"the aggregate {name!r} is never used: leave it out", "state", name)


def _sums_of_sessions(parts: Sequence[language.Part], placed: Sequence[Placed]) -> Iterator[SpecError]:
    """Caps that an agent takes off by opening another session."""
    read = {(id(each.part), name.rpartition(".")[2]) for each in placed for name in each.states}
    for part in parts:
        for name, shape in part.shape.state.items():
            if shape.sum is not None and shape.over == "session" and (id(part), name) in read:
                yield part.error(f"a new session resets the sum {name!r}: say over: user", "state", name)


# ── of one rule ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _of_rule(placed: Placed) -> Iterator[SpecError]:
    parts = [
        (number, expr)
        for number, condition in enumerate(placed.rule.conditions)
        for expr in walk(condition.program.expr)
    ]
    yield from _unconstrained(placed)
    yield from _unanchored(placed, parts)
    yield from _empty_all(placed, parts)
    yield from _optional(placed)
    yield from _sandboxes(placed)
    yield from placed.remarks


def _unconstrained(placed: Placed) -> Iterator[SpecError]:
    rule = placed.rule
    if rule.effect is Effect.FORBID or rule.shadow or rule.conditions or rule.obligations != Obligations():
        return
    for tool in placed.tools:
        if tool.effects & _DANGEROUS:
            effect = sorted(tool.effects & _DANGEROUS)[0]
            sentence = f"permits every call of {tool.name} ({effect}) unconditionally: add `when` or `with`"
            yield placed.error(sentence)
            return


def _unanchored(placed: Placed, parts: Parts) -> Iterator[SpecError]:
    for number, expr in parts:
        if not (isinstance(expr, Apply) and expr.function == "matches" and isinstance(expr.arguments[-1], Constant)):
            continue
        pattern = expr.arguments[-1].text or ""
        if not (pattern.startswith(("^", r"\A")) and pattern.endswith(("$", r"\z"))):
            sentence = f"matches() finds {pattern[:60]!r} anywhere in the text: write ^…$, or use a fact or =="
            yield placed.error(sentence, "when", number)


def _empty_all(placed: Placed, parts: Parts) -> Iterator[SpecError]:
    sized = {path for _, expr in parts for path in _sized(expr)}
    for number, expr in parts:
        if not (isinstance(expr, Loop) and expr.universal):
            continue
        paths = [each.path for each in references(expr.over)]
        for path in paths:
            if path in sized or path[0] not in ("args", "arg", "session.labels", "principal.groups"):
                continue
            if placed.tools and all(never_empty(("args", *path[1:]), tool) for tool in placed.tools):
                continue
            name = ".".join(path)
            yield placed.error(
                f"all() over an empty list is true: write size({name}) > 0 && … before it", "when", number
            )


def _sized(expr: Expr) -> Iterator[Path]:
    if isinstance(expr, Apply) and expr.function == "size":
        for argument in expr.arguments:
            yield from (each.path for each in references(argument))


def _optional(placed: Placed) -> Iterator[SpecError]:
    tested = {each.path for _, each in placed.references if each.tested}
    seen: set[str] = set()
    for number, each in placed.references:
        path = each.path[:2]
        if each.path[0] not in ("args", "arg") or len(path) < 2 or path in tested or path[1] in seen:
            continue
        tool = next((tool for tool in placed.tools if not required(("args", path[1]), tool)), None)
        if tool is not None:
            seen.add(path[1])
            name = ".".join(path)
            yield placed.error(
                f"a call of {tool.name} may leave {path[1]!r} out, and then this clause is an error:"
                f" write has({name}) && …, or give the argument a default",
                "when",
                number,
            )


def _sandboxes(placed: Placed) -> Iterator[SpecError]:
    asked = placed.rule.obligations
    for tool in placed.tools:
        own = tool.backend.backend if isinstance(tool.backend, SandboxBackend) else None
        runs = f"runs in {own}" if own else "runs in no sandbox"
        said = f"{tool.name} {runs}, so this obligation refuses every call of it"
        if asked.backends is not None and own not in asked.backends:
            yield placed.error(said, "with", "sandbox", "backends")
        elif asked.require and own is None:
            yield placed.error(said, "with", "sandbox", "require")


def _not_given(placed: Placed, given: Mapping[str, frozenset[str]]) -> Iterator[SpecError]:
    """Guarantees that no sandbox of a tool gives."""
    for tool in placed.tools:
        own = tool.backend.backend if isinstance(tool.backend, SandboxBackend) else ""
        missing = placed.rule.obligations.require - given.get(own, placed.rule.obligations.require)
        if missing:
            sentence = f"{own} does not guarantee {', '.join(sorted(missing))}, so every call of {tool.name} is refused"
            yield placed.error(sentence, "with", "sandbox", "require")
