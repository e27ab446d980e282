"""An explained decision (`explain.py`) in lines for people who have not seen the policy.

The first line says all in one sentence; what follows is the evidence. It never decides and never looks anything up.
Whoever prints the lines makes them safe for a terminal: names and values in them were written by others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gateway.policy.explain import Form
from gateway.policy.near import MATCH
from gateway.tool import Json

_UNITS = {"timeout": " s", "limits.output": " bytes"}


def lines(form: Form) -> list[str]:
    """All lines: the sentence, then every rule and clause, obligations, what was read of the past, and the shadow."""
    said = [sentence(form), *_details(form)]
    shadow = form["shadow"]
    if shadow is None:
        return said
    if not shadow["differs"]:
        return [*said, f"in shadow: the same ({_bundle(form, shadow)})"]
    beside = shadow | {"call": form["call"], "reads": {}}
    said.append(f"in shadow: {sentence(beside)} ({_bundle(form, shadow)}; not in force)")
    seen = [_skeleton(reason) for reason in form["reasons"]]
    fresh = [reason for reason in shadow["reasons"] if _skeleton(reason) not in seen]
    return said + [f"  {line}" for line in _details(beside | {"reasons": fresh, "bundle": None})]


def sentence(form: Form) -> str:
    """What came out and why, in one sentence."""
    call, code = form["call"], form["code"]
    who = _who(call)
    if form["effect"] == "permit":
        named = [_rule(each) for each in form["rules"]]
        first = _permitted(form)
        return f"{first}: {_and(named)} {'permits' if len(named) == 1 else 'permit'} {call['tool']} for {who}"
    if code == "unknown_tool":
        return f"refused: {call['tool']} is not visible to {who}: {_hidden(form)}"
    if code == "invalid_arguments":
        return f"refused: the arguments do not fit {call['tool']}: {form['detail']}".removesuffix(".")
    if code == "forbidden":
        return _forbidden(form, who)
    if code == "no_permit":
        part = form["rule"]
        first = f"the part {part} has to permit by itself, and no rule of it permits" if part else "no rule permits"
        return f"refused: {first} {call['tool']} for {who}{_nearest(form)}"
    blamed = [each for each in form["reasons"] if each["result"] == "error" and each["effect"] == "forbid"]
    if code == "policy_error" and blamed:
        unjudged = f"{_rule(blamed[0])} forbids {call['tool']} for {who}{_unjudged(blamed[0])}"
        return f"refused: it cannot be told whether {unjudged}"
    said = str(form["detail"] or code)
    return f"refused: {said[:1].lower()}{said[1:].removesuffix('.')}{_nearest(form)}"


def value(shown: Json) -> str:
    """A value that was read, as it stands in a sentence."""
    if isinstance(shown, Mapping) and len(shown) == 1:
        ((word, why),) = shown.items()
        if word in ("absent", "never"):
            return f"{word}: {why}" if isinstance(why, str) else str(word)
    if isinstance(shown, float):
        return f"{shown:.15g}" if shown % 1 else f"{shown:.1f}"
    return json.dumps(shown, ensure_ascii=False)


# ── the sentence ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _who(call: Mapping[str, Any]) -> str:
    more = [f"user {call['user']}"] if call.get("user") else []
    more += [f"tenant {call['tenant']}"] if call.get("tenant") not in (None, "default") else []
    return f"agent {call['agent']} ({', '.join(more)})" if more else f"agent {call['agent']}"


def _permitted(form: Form) -> str:
    if not form["permitted"]:
        return f"not yet permitted: {_asks(form)}"
    said = [str(each.get("person") or "the requester") for each in form.get("approved", ())]
    return f"permitted with a yes by {_and(said)}" if said else "permitted"


def _asks(form: Form) -> str:
    owed = [_duty(each["key"], each["value"]) for each in form["obligations"] if each["key"] == "approval"]
    return f"it needs a yes by {_and(owed)}"


def _rule(reason: Mapping[str, Any]) -> str:
    return f"{reason['rule']} ({reason['source']})" if reason["source"] else str(reason["rule"])


def _and(words: Sequence[str]) -> str:
    return " and ".join(words) if len(words) < 3 else f"{', '.join(words[:-1])} and {words[-1]}"


def _forbidden(form: Form, who: str) -> str:
    forbids = [each for each in form["reasons"] if each["effect"] == "forbid" and each["result"] == "true"]
    tool = form["call"]["tool"]
    if not forbids:
        return f"refused: {form['rule'] or 'a rule'} forbids {tool} for {who}"
    first = forbids[0]
    because = _and([_read(each) for each in first["clauses"]])
    said = f". It says: {first['message']}" if first["message"] else ""
    return f"refused: {_rule(first)} forbids {tool} for {who}{f', because {because}' if because else ''}{said}"


def _read(clause: Mapping[str, Any]) -> str:
    """A clause and what it read, for a sentence."""
    values = _values(clause)
    return f"{clause['text']} ({values})" if values else str(clause["text"])


def _values(clause: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} is {value(shown)}" for name, shown in clause["values"].items())


def _unjudged(reason: Mapping[str, Any]) -> str:
    clause = next((each for each in reason["clauses"] if each["result"] == "error"), None)
    return f": {_read(clause)}" if clause else ""


def _nearest(form: Form) -> str:
    nearest = form["nearest"]
    return f": the nearest, {_rule(nearest)}, {lacks(nearest['clause'])}" if nearest else ""


def lacks(clause: Mapping[str, Any]) -> str:
    """What a permit wants that the call has not."""
    text, values = str(clause["text"]), _values(clause)
    if text.startswith(MATCH):
        return f"is for {text.removeprefix(MATCH)} only; {values}"
    if clause["result"] == "error":
        return f"wants {text}, which cannot be judged; {values}"
    return f"wants {text}; {values}" if values else f"wants {text}"


def _hidden(form: Form) -> str:
    """Why a tool is not visible: what forbids it always, else whom its permits are for."""
    forbid = next((each for each in form["reasons"] if each["effect"] == "forbid"), None)
    nearest = form["nearest"]
    if forbid is not None and forbid["clauses"]:
        closed = f"the part {_rule(forbid)} has to permit it by itself"
        return f"{closed}{_nearest(form) or ', and has no rule about it'}"
    if forbid is not None:
        said = f". It says: {forbid['message']}" if forbid["message"] else ""
        return f"{_rule(forbid)} forbids it whatever the arguments are{said}"
    if nearest is not None:
        return f"{_rule(nearest)} {lacks(nearest['clause'])}"
    return str(form["detail"])


# ── the details ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _details(form: Form) -> Iterator[str]:
    if form["bundle"]:
        yield f"bundle {form['bundle']}"
    if form["code"]:
        yield f"code {form['code']}" + (f": {form['detail']}" if form["detail"] else "")
    for reason in form["reasons"]:
        yield f"{reason['effect']} {_rule(reason)}: {reason['result']}"
        for clause in reason["clauses"]:
            read = ", ".join(f"{name} = {value(shown)}" for name, shown in clause["values"].items())
            yield f"  {clause['result']:5} {clause['text']}" + (f"  [{read}]" if read else "")
    for name, level in form["reads"].items():
        yield f"read {name} = {value(level['value'])} (version {level['version']})"
    for duty in form["obligations"]:
        yield f"obligation {duty['key']}: {_duty(duty['key'], duty['value'])}, from {_and(duty['rules'])}"


def _duty(key: str, owed: Any) -> str:
    """What a permitted call has to obey, with its unit."""
    if key == "limit":
        return _and(
            [f"{each['rate']['calls']} calls in {each['rate']['per']:.15g} s by {each['key']}" for each in owed]
        )
    if key == "approval":
        return _and([f"{' or '.join(each['by'])} within {each['ttl']:.15g} s" for each in owed])
    if key == "network":
        return _and([f"one of {', '.join(entries)}" for entries in owed])
    if key == "cache":
        return "on" if owed else "off"
    if isinstance(owed, list):
        return ", ".join(map(str, owed))
    return f"{owed:.15g}{_UNITS.get(key, '')}" if isinstance(owed, int | float) else str(owed)


def _bundle(live: Form, shadow: Form) -> str:
    return "the candidate bundle" if shadow["bundle"] != live["bundle"] else "with the rules in shadow in force"


def _skeleton(reason: Mapping[str, Any]) -> tuple[Any, ...]:
    return reason["rule"], reason["source"], reason["result"]
