"""The policy file: rules with what they stand on in comments, constants, tests. Text only; it judges nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from gateway.model import Principal
from gateway.suggest.cases import Case
from gateway.suggest.names import Constants
from gateway.suggest.permits import Draft
from gateway.suggest.seen import ELSEWHERE
from gateway.suggest.text import flow, quoted
from gateway.tool import Json

_HEAD = """\
# Suggested from what was really called: {calls} calls that were done, {first} to {last} (UTC).
# It permits those calls, and little else. That they were made does not say that they were right: read each rule, change
# what is too wide or too narrow, then run `toolgate check`, `toolgate test` and `toolgate simulate` over it."""


def written(drafts: Sequence[Draft], constants: Constants, cases: Sequence[Case], notes: Mapping[str, int]) -> str:
    """The whole file. `notes`: for each reason how many calls it says nothing of."""
    return "\n".join(_lines(drafts, constants, cases, notes)) + "\n"


def _lines(
    drafts: Sequence[Draft], constants: Constants, cases: Sequence[Case], notes: Mapping[str, int]
) -> Iterator[str]:
    times = [call.at for draft in drafts for call in draft.calls]
    yield _HEAD.format(calls=len(times), first=_day(min(times)), last=_day(max(times)))
    yield from (f"# Not in it: {line}" for line in noted(notes))
    yield from ("apiVersion: toolgate/v1", "kind: Policy", "id: suggested")
    if constants.known:
        yield "values:"
        yield from (f"  {name}: {flow(content)}" for name, content in constants.known.items())
    yield "rules:"
    for draft in drafts:
        yield from _rule(draft)
    if cases:
        yield "tests:"
        yield from map(_test, cases)


def noted(notes: Mapping[str, int]) -> list[str]:
    """For people: how many calls are left out, and why."""
    return [
        f"{count} {'record' if reason == ELSEWHERE else 'call'}{'' if count == 1 else 's'}: {reason}"
        for reason, count in sorted(notes.items())
    ]


def _rule(draft: Draft) -> Iterator[str]:
    principal, count = draft.calls[-1].principal, len(draft.calls)
    last = _day(max(call.at for call in draft.calls))
    times = "once" if count == 1 else f"{count} times"
    yield f"# seen {times} by agent {quoted(principal.agent)}, last {last}"
    if draft.bound.silent:
        yield f"# says nothing of {', '.join(draft.bound.silent)}"
    yield f"- id: {draft.id}"
    yield "  effect: permit"
    yield "  match: {" + ", ".join(f"{key}: {flow(names)}" for key, names in draft.match.items()) + "}"
    if draft.when:
        yield "  when:"
        yield from (f"  - '{clause}'" for clause in draft.when)  # of our words and names alone, without a '
    yield f"  with: {{limit: {{key: agent, calls: {draft.rate}/1m}}}}"


def _test(case: Case) -> str:
    expect = f"{{permit: {case.permit}}}" if case.permit else "{deny: no_permit}"
    call = flow({case.tool: dict(case.arguments)})
    return f"- {{name: {quoted(case.name)}, as: {flow(_caller(case.principal))}, call: {call}, expect: {expect}}}"


def _caller(principal: Principal) -> dict[str, Json]:
    said: dict[str, Json] = {"agent": principal.agent, "tenant": principal.tenant}
    if principal.user is not None:
        said["user"] = principal.user
    if principal.groups:
        said["groups"] = sorted(principal.groups)
    return said


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(at))
