"""An explained decision as plain JSON: what determined it, every clause with the values it read, what came nearest.

One form for a decision just made, for one on record, and for a call that never came before policy; `words.py` says it
in sentences. For operators only: a caller sees the problem, never this. It never decides anything.

The form: `effect` (permit, forbid, or null where policy was not asked) · `permitted` (and nobody has to be asked first)
· `code`, `detail` and `rule` of the refusal · `bundle` · `call` · `rules` (what determined it) · `reasons` (every rule
looked at) · `nearest` permit · `obligations` · `reads` (of the past) · `shadow` (the whole decision with the rules in
shadow in force, and which keys differ) · `fix` (of arguments that do not fit). A value that was not there is
`{"absent": true}`, or has a text there, which says why the argument has no such meaning; an infinite one is
`{"never": true}`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from gateway.model import Decision, Principal, Problem, Reason
from gateway.reliability.written import written_levels
from gateway.tool import Json

Form = dict[str, Any]
NEVER: Mapping[str, Json] = {"never": True}
# Where an obligation's key in a policy file is not the name it is held under.
_HELD_AS = {"limit": "limits", "label": "labels", "network": "networks", "approval": "approvals"}
_DETERMINE = {"permit": ("true",), "forbid": ("true", "error")}
_COMPARED = ("effect", "code", "rules", "obligations")


def explained(decision: Decision, near: Sequence[Reason] = ()) -> Form:
    """A decision. `near` are the rules about the tool that are not about this caller (`Bundle.near`)."""
    call = decision.call
    form = _decided(decision, near)
    form["call"] = _call(call.tool.name, call.caller.principal, call.caller.session.id)
    if decision.shadow is not None:
        form["shadow"] = _beside(form, _decided(decision.shadow, near))
    return form


def recorded(record: Mapping[str, Json], content: Json) -> Form | None:
    """A decision on record, from one line and its content alone; None when policy was not asked."""
    decision, kept = _part(record, "decision"), content if isinstance(content, Mapping) else {}
    if not decision:
        return None
    principal = _part(record, "principal")
    said = {"detail": kept.get("detail"), "rule": decision.get("rule"), "bundle": decision.get("bundle_digest")}
    form = _form(decision, said, _list(kept, "reasons"), _part(kept, "reads"))
    if not form["reasons"]:  # where policy wants no content on record, its names are
        form["rules"] = [{"rule": rule, "source": None} for rule in _list(decision, "rules")]
    approved = _list(_part(record, "approval"), "by")
    if approved:
        form |= {"permitted": form["effect"] == "permit", "approved": approved}
    form["call"] = {
        "tool": _part(record, "tool").get("name"),
        "agent": principal.get("agent"),
        "user": principal.get("user"),
        "tenant": record.get("tenant"),
        "session": record.get("session_id"),
    }
    shadow = _part(decision, "shadow")
    if shadow:
        detail = kept.get("shadow_detail")
        said = {"detail": detail, "rule": shadow.get("rule"), "bundle": shadow.get("bundle_digest")}
        form["shadow"] = _beside(form, _form(shadow, said, _list(kept, "shadow_reasons"), {}))
    return form


def refused(
    tool: str, principal: Principal, session: str, bundle: str, problem: Problem, near: Sequence[Reason] = ()
) -> Form:
    """A call that policy was not asked about: its tool is hidden from the caller, or its arguments do not fit."""
    said = {"detail": problem.detail, "rule": problem.rule, "bundle": bundle}
    form = _form({"code": problem.code}, said, [_plain(reason) for reason in near], {})
    form["call"] = _call(tool, principal, session)
    form["fix"] = [_plain(fix) for fix in problem.fix]
    return form


def _decided(decision: Decision, near: Sequence[Reason]) -> Form:
    problem = decision.problem
    said = {
        "detail": problem.detail if problem else None,
        "rule": problem.rule if problem else None,
        "bundle": decision.bundle,
    }
    made = {
        "effect": decision.effect.value,
        "code": problem.code if problem else None,
        "obligations": _plain(decision.obligations),
    }
    reads = written_levels(decision.reads)
    return _form(made, said, [_plain(each) for each in decision.reasons], reads, [_plain(each) for each in near])


def _form(
    decision: Mapping[str, Any], said: Form, looked: Sequence[Any], reads: Mapping[str, Any], near: Sequence[Any] = ()
) -> Form:
    effect, code = decision.get("effect"), decision.get("code")
    reasons = [_reason(reason) for reason in looked]
    determine = _DETERMINE.get(str(effect), ())
    part = said["rule"] if code == "no_permit" else None
    obligations = _obligations(_part(decision, "obligations"))
    return {
        "effect": effect,
        "permitted": effect == "permit" and not any(each["key"] == "approval" for each in obligations),
        "code": code,
        **said,
        "rules": [_place(each) for each in reasons if each["effect"] == effect and each["result"] in determine],
        "reasons": reasons,
        "nearest": None if effect == "permit" else _nearest(reasons, [_reason(each) for each in near], part),
        "obligations": obligations,
        "reads": {
            name: {"value": _value(_part(reads, name).get("value"), name), "version": _part(reads, name).get("version")}
            for name in reads
        },
        "shadow": None,
    }


def _beside(live: Form, shadow: Form) -> Form:
    """The shadow decision, and in which of the things that matter it differs from the one in force."""
    del shadow["shadow"], shadow["reads"]  # it has none of its own; what it read of the past stands in its clauses
    return shadow | {"differs": [key for key in _COMPARED if shadow[key] != live[key]]}


def _nearest(reasons: Sequence[Form], near: Sequence[Form], part: str | None) -> Form | None:
    """The permit with the fewest clauses that are not true, and the first of those: what the call lacks.

    Where one part had to permit and did not, a permit of that part; those with a true one are content.
    """
    permits = [each for each in reasons if each["effect"] == "permit"]
    content = {_file(each) for each in permits if each["result"] == "true"}
    if content and part is None:
        return None
    wanted = {_file(each) for each in near if each["rule"] == part}
    for several in (permits, [each for each in near if each["effect"] == "permit"]):
        able = [each for each in several if _lacking(each) and _file(each) not in content]
        able = [each for each in able if _file(each) in wanted] or able
        if able:
            best = min(able, key=lambda each: len(_lacking(each)))
            return _place(best) | {"clause": _lacking(best)[0]}
    return None


def _lacking(reason: Form) -> list[Form]:
    """The clauses that are not true, false before those in error: that is what decided."""
    return sorted(
        (each for each in reason["clauses"] if each["result"] != "true"),
        key=lambda each: str(each["result"]) == "error",
    )


def _place(reason: Form) -> Form:
    return {"rule": reason["rule"], "source": reason["source"]}


def _file(reason: Form) -> str:
    return str(reason["source"]).rpartition(":")[0]


def _reason(reason: Mapping[str, Any]) -> Form:
    said = {key: reason.get(key) for key in ("rule", "source", "effect", "result", "message")}
    return said | {"clauses": [_clause(clause) for clause in _list(reason, "clauses")]}


def _clause(clause: Mapping[str, Any]) -> Form:
    values = {name: _value(value, name) for name, value in _part(clause, "values").items()}
    return {"text": clause.get("text"), "result": clause.get("result"), "values": values}


def _value(value: Json, name: str) -> Json:
    """A value that was read. JSON has no infinity: in a record it is null or a word, as no other state is."""
    if (name.startswith("state.") and value in (None, "infinite")) or (isinstance(value, float) and math.isinf(value)):
        return dict(NEVER)
    return value


def _obligations(duties: Mapping[str, Any]) -> list[Form]:
    """Each key that some rule gives, with its merged value and the rules it came from."""
    return [
        {"key": key, "value": duties.get(_HELD_AS.get(key, key.rpartition(".")[2])), "rules": list(rules)}
        for key, rules in _part(duties, "origin").items()
    ]


def _call(tool: str, principal: Principal, session: str) -> Form:
    return {
        "tool": tool,
        "agent": principal.agent,
        "user": principal.user,
        "tenant": principal.tenant,
        "session": session,
    }


def _part(value: Any, key: str) -> Mapping[str, Any]:
    part = value.get(key) if isinstance(value, Mapping) else None
    return part if isinstance(part, Mapping) else {}


def _list(value: Any, key: str) -> list[Any]:
    part = value.get(key) if isinstance(value, Mapping) else None
    return part if isinstance(part, list) else []


def _plain(value: object) -> Any:
    """Our frozen dataclasses as they are read back from a record."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return value
