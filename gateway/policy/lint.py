"""Policy that loads but probably does not say what its writer meant. Findings only: nothing here refuses a bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from gateway.globs import matches
from gateway.model import Effect
from gateway.obligations import Obligations
from gateway.policy import language
from gateway.policy.arguments import never_empty, required
from gateway.policy.compile import Placed
from gateway.policy.rules import Globs
from gateway.policy.syntax import Apply, Constant, Expr, Loop, Path, references, walk
from gateway.specs.fetch import FETCH
from gateway.specs.yaml import SpecError
from gateway.tool import SandboxBackend, Tool

_DANGEROUS = frozenset({"destructive", "exec"})


def lint(
    parts: Sequence[language.Part],
    placed: Sequence[Placed],
    tools: Sequence[Tool],
    given: Mapping[str, frozenset[str]],
) -> list[SpecError]:
    """All findings, by file and line. given: the guarantees of each sandbox backend that is known."""
    found = [finding for each in placed for check in _CHECKS for finding in check(each)]
    found += [finding for each in placed for finding in _glob(each, tools)]
    found += [finding for each in placed for finding in _shadowed(each, placed)]
    found += [finding for part in parts for finding in _unused(part, placed)]
    found += [finding for each in placed for finding in _not_given(each, given)]
    found += _unfetched(placed, tools)
    return sorted(found, key=lambda each: (each.file, each.line, each.column, each.sentence))


def _glob(placed: Placed, tools: Sequence[Tool]) -> Iterator[SpecError]:
    patterns = placed.rule.match.tools or ()
    for index, pattern in enumerate(patterns):
        if not any(matches(pattern, tool.name) for tool in tools):
            yield placed.error(f"{pattern!r} matches no loaded tool", "match", "tools", index)
    if not placed.tools and all(any(matches(each, tool.name) for tool in tools) for each in patterns):
        yield placed.error(f"the rule {placed.rule.id} is about no loaded tool", "match")


def _unfetched(placed: Sequence[Placed], tools: Sequence[Tool]) -> Iterator[SpecError]:
    """Networks of code that no rule lets anybody use."""
    permits = (each for each in placed if each.rule.effect is Effect.PERMIT)
    if any(tool.name == FETCH for each in permits for tool in each.tools):
        return
    for tool in tools:
        if isinstance(tool.backend, SandboxBackend) and tool.backend.network:
            file, _, line = tool.source.rpartition(":")
            sentence = f"no rule permits {FETCH}, so the code of {tool.name} fetches nothing, whatever its spec allows"
            yield SpecError(file, int(line), 1, sentence)


def _shadowed(placed: Placed, others: Sequence[Placed]) -> Iterator[SpecError]:
    rule = placed.rule
    if rule.effect is not Effect.PERMIT or not placed.tools:
        return
    for other in others:
        if other.rule.effect is Effect.FORBID and not other.rule.conditions and _covers(other, placed):
            yield placed.error(f"never permits: {other.rule.id} ({other.rule.source}) forbids all of it, always")


def _covers(forbid: Placed, permit: Placed) -> bool:
    wide, narrow = forbid.rule.match, permit.rule.match
    return (
        forbid.rule.part.tenant in (None, permit.rule.part.tenant)
        and {tool.name for tool in permit.tools} <= {tool.name for tool in forbid.tools}
        and all(_wider(getattr(wide, key), getattr(narrow, key)) for key in ("agents", "users", "groups", "tenants"))
    )


def _wider(wide: Globs | None, narrow: Globs | None) -> bool:
    return wide is None or (narrow is not None and all(any(matches(w, each) for w in wide) for each in narrow))


def _unused(part: language.Part, placed: Sequence[Placed]) -> Iterator[SpecError]:
    used = {
        each.path[0].rpartition(".")[2]
        for one in placed
        if one.part is part
        for _, each in one.references
        if ".v." in each.path[0]
    }
    for name in part.shape.values:
        if name not in used:
            yield part.error(f"the value {name!r} is never used: leave it out", "values", name)


def _unconstrained(placed: Placed) -> Iterator[SpecError]:
    rule = placed.rule
    if rule.effect is Effect.FORBID or rule.conditions or rule.obligations != Obligations():
        return
    for tool in placed.tools:
        if tool.effects & _DANGEROUS:
            effect = sorted(tool.effects & _DANGEROUS)[0]
            sentence = f"permits every call of {tool.name} ({effect}) unconditionally: add `when` or `with`"
            yield placed.error(sentence)
            return


def _unanchored(placed: Placed) -> Iterator[SpecError]:
    for number, expr in _expressions(placed):
        if not (isinstance(expr, Apply) and expr.function == "matches" and isinstance(expr.arguments[-1], Constant)):
            continue
        pattern = expr.arguments[-1].text or ""
        if not (pattern.startswith(("^", r"\A")) and pattern.endswith(("$", r"\z"))):
            sentence = f"matches() finds {pattern[:60]!r} anywhere in the text: write ^…$, or use a fact or =="
            yield placed.error(sentence, "when", number)


def _empty_all(placed: Placed) -> Iterator[SpecError]:
    sized = {path for _, expr in _expressions(placed) for path in _sized(expr)}
    for number, expr in _expressions(placed):
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


def _expressions(placed: Placed) -> Iterator[tuple[int, Expr]]:
    for number, condition in enumerate(placed.rule.conditions):
        for expr in walk(condition.program.expr):
            yield number, expr


def _remarks(placed: Placed) -> Iterator[SpecError]:
    yield from placed.remarks


_CHECKS: tuple[Callable[[Placed], Iterator[SpecError]], ...] = (
    _unconstrained,
    _unanchored,
    _empty_all,
    _optional,
    _sandboxes,
    _remarks,
)
