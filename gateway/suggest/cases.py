"""Tests of a permit: a few calls as they were really made, and some that nobody made, which it must refuse.

A call with a value that looks like a credential is never one of them. Whether the refused ones are refused is for the
bundle to say (`run.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gateway.model import Principal
from gateway.suggest.permits import Draft
from gateway.suggest.seen import Seen
from gateway.suggest.text import Unwritable, flow
from gateway.suggest.values import is_secret
from gateway.tool import Json

_REAL, _LONGEST, _REFUSED, _LOOKED_AT = 3, 2000, 8, 200


@dataclass(frozen=True, slots=True)
class Case:
    """`permit` names the rule; a case without it wants `no_permit`."""

    name: str
    principal: Principal
    tool: str
    arguments: Mapping[str, Json]
    permit: str | None


def cases_of(draft: Draft) -> list[Case]:
    """The shortest real calls that differ, then what goes beyond them in one way each."""
    samples = _samples(draft.calls)
    real = [_case(call, call.arguments, f"{draft.id} {number}", draft.id) for number, call in enumerate(samples, 1)]
    return real + list(_refused(draft, samples))[:_REFUSED]


def _samples(calls: Sequence[Seen]) -> list[Seen]:
    found: dict[str, Seen] = {}
    for call in calls:
        if len(found) == _LOOKED_AT:
            break
        try:
            written = flow(call.arguments)
        except Unwritable:
            continue
        if len(written) <= _LONGEST and written not in found and not is_secret(dict(call.arguments)):
            found[written] = call
    return [found[written] for written in sorted(found, key=lambda each: (len(each), each))[:_REAL]]


def _refused(draft: Draft, samples: Sequence[Seen]) -> Iterator[Case]:
    for beyond in draft.bound.beyond:
        for call in samples:
            changed = replaced(call.arguments, beyond.path, beyond.value)
            if changed is not None:
                where = ".".join(beyond.path)
                yield _case(call, changed, f"{draft.id}: {beyond.what} ({where})", None)
                break


def _case(call: Seen, arguments: Mapping[str, Json], name: str, permit: str | None) -> Case:
    return Case(name, call.principal, call.tool.name, arguments, permit)


def replaced(arguments: Mapping[str, Json], path: Sequence[str], value: Json) -> dict[str, Json] | None:
    """The arguments with another value at a path; None where there is no such place in them."""
    name, *rest = path
    if not rest:
        return {**arguments, name: value}
    inner = arguments.get(name)
    changed = replaced(inner, rest, value) if isinstance(inner, dict) else None
    return None if changed is None else {**arguments, name: changed}
